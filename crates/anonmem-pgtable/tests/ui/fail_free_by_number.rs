//! That a number names a page table, or a frame of the kernel's, gives no right to free it.
#![forbid(unsafe_code)]

use anonmem_frame::Frames;
use anonmem_hal::{Machine, Order, Pfn};

fn table<M: Machine>(frames: &Frames<M>, root: Pfn) {
    drop(frames.table_frame(root));
}

fn kernel<M: Machine>(frames: &Frames<M>, heap: Pfn) {
    drop(frames.kernel_frames(heap, Order::ZERO));
}

fn main() {}
