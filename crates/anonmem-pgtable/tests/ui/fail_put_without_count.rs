//! A swap slot's count is dropped by its owner, not by its number.

use anonmem_frame::{Frames, SwapSlots};
use anonmem_hal::Machine;

fn put<M: Machine>(slots: &SwapSlots<M>, frames: &Frames<M>) {
    let _ = slots.put(frames, 7);
}

fn main() {}
