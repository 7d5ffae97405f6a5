//! Words of an array may be in use: safe code cannot free them.
#![forbid(unsafe_code)]

use anonmem_frame::{FrameArray, Frames, SwapSlots};
use anonmem_hal::Machine;
use anonmem_sync::Ordering;

fn array<M: Machine>(frames: &Frames<M>, array: &FrameArray<M>) {
    let word = array.get(frames, 0);
    array.free(frames);
    word.store(7, Ordering::Relaxed);
}

fn slots<M: Machine>(frames: &Frames<M>, slots: &SwapSlots<M>) {
    slots.free(frames);
}

fn main() {}
