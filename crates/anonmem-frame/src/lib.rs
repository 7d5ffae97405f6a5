//! Frames: their metadata, who owns which count, how they are allocated, and slabs made of them.
//!
//! - [`meta`]: 32 bytes per frame, and what they mean.
//! - [`frames`]: the allocator's front: blocks of frames, page tables, the kernel's own.
//! - `zone`, `buddy`; `pcp`, `magazine`: its two layers, free blocks and each CPU's free pages.
//! - `fresh`: memory that is on no list yet; `set_aside`: frames for slabs, where there are very many.
//! - `offline`: frames out of use, and back.
//! - `class`, [`usage`]: what memory is used for, and the watermarks.
//! - [`validate`]: recounting all of it.
//! - [`swap`]: swap slots, which are the swap cache too; `swap_count`: the owner of one count of a slot.
//! - `swap_io`: pages on their way to a device and back.
//! - [`slab`]: type-stable objects, and [`handle`]: their names.
//! - [`place`], `address`: what an address is, in words.
//! - [`mod@array`]: arrays of words made of frames.
//! - [`folio`]: the owner types. A count has one owner type and none stands in for another.
//!
//! `unsafe` is allowed here; there is no `alloc`.
#![no_std]
#![warn(missing_debug_implementations)]

#[cfg(test)]
extern crate std;

mod address;
#[doc(hidden)]
pub mod array;
mod buddy;
mod class;
mod debug;
pub mod folio;
#[doc(hidden)]
pub mod frames;
#[cfg(test)]
mod frames_tests;
mod fresh;
#[doc(hidden)]
pub mod handle;
mod magazine;
mod memmap;
#[doc(hidden)]
pub mod meta;
mod offline;
mod owned;
mod page_set;
mod pcp;
#[doc(hidden)]
pub mod place;
mod put_off;
mod set_aside;
#[doc(hidden)]
pub mod slab;
#[cfg(test)]
mod slab_tests;
#[doc(hidden)]
pub mod swap;
mod swap_count;
mod swap_io;
#[cfg(test)]
mod testing;
#[doc(hidden)]
pub mod usage;
#[doc(hidden)]
pub mod validate;
mod within;
mod zone;

pub use array::FrameArray;
pub use class::Watermarks;
pub use folio::{
    DupError, EachMapping, Exclusive, ExclusiveRef, ExclusiveWhole, ExclusiveWholeRef, Folio, FolioGuard,
    FolioOwner, FolioPin, FolioRef, FrozenFolio, GrowingFolio, HoldWhole, HoldWholeRef, LargeUsage, MapRun,
    MigrationHold, MigrationHoldRef, NOTE_BITS, NewFolio, NotAlone, PinAccess, PinList, PinListError,
    PinnedRun, Shared, SharedRef, SharedWhole, SharedWholeRef, ShmMap, SplitRefused, SplitTurn,
};
#[doc(hidden)]
pub use folio::{
    FrozenMaps, KeptFolio, MappedFolio, NewAnonPages, PinNodes, PinTag, PinnedRuns, RunsEnd, TakenPin,
    pin_protocol, try_dup_page, try_dup_run, try_dup_whole,
};
#[doc(hidden)]
pub use frames::TableWords;
pub use frames::{Frames, FramesError, MAX_FRAMES, OutOfMemory};
pub use handle::{Handle, Link, RawHandle};
#[doc(hidden)]
pub use meta::META_BYTES;
pub use meta::{ANON_INDEXES, Counts, Kind, Mapping, MappingWord, Stamp, TooManySharers};
pub use offline::OutFor;
pub use owned::OwnedFrames;
#[doc(hidden)]
pub use page_set::PageSet;
pub use place::{Field, Place};
#[doc(hidden)]
pub use put_off::{Turn, UNKNOWN_TURN};
pub use slab::{Slab, SlabItem};
pub use swap::{EvictionStamp, SlotPut, SlotState, SwapSlots};
#[doc(hidden)]
pub use swap::{FreedSlot, SlotCountOverflow, Stored};
pub use swap_count::{SwapCount, SwapCountRef, SwapCounts};
pub use usage::Usage;
pub use validate::Inconsistency;
pub use within::Search;
