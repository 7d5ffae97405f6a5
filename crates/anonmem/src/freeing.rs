//! That nobody uses an array any more: with `promises.rs`, the only `unsafe` of this crate.
//!
//! An array of words is found without locks, by whoever is a user of what it belongs to. That no user is left
//! is a fact about who ends it, and no type can say it. So it is written here, once for each array.
#![allow(unsafe_code)]

use anonmem_frame::{FrameArray, Frames, SwapSlots};
use anonmem_hal::Machine;

/// Frees the words of a swap device. The caller alone may change the device's state, and it has no user:
/// `get_user` gives none until the device is on again, and a slot is looked at by users and by owners of a
/// count, of which there is none either.
pub(crate) fn free_slots<M: Machine>(frames: &Frames<M>, slots: &SwapSlots<M>, cluster_free: &FrameArray<M>) {
    // SAFETY: as above.
    unsafe { slots.free(frames) };
    // SAFETY: whoever counts a cluster's free slots has claimed one of its slots, or gives one back; both
    // are users.
    unsafe { cluster_free.free(frames) };
}

/// Frees the table of candidates. The caller holds the scanner's lock for writing, which whoever looks at
/// the table holds, too.
pub(crate) fn free_candidates<M: Machine>(frames: &Frames<M>, table: &FrameArray<M>) {
    // SAFETY: as above.
    unsafe { table.free(frames) };
}
