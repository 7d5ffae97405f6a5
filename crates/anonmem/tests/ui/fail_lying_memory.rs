//! That frames are there, and nobody else's, safe code cannot promise.
#![forbid(unsafe_code)]

use anonmem::hal::{Order, Pfn, PhysMem};
use core::ptr::NonNull;

struct Liar;

impl PhysMem for Liar {
    fn base_pfn(&self) -> Pfn {
        Pfn(0)
    }
    fn nr_frames(&self) -> u64 {
        1 << 20
    }
    fn memmap(&self) -> NonNull<u8> {
        NonNull::dangling()
    }
    fn direct_map(&self, _: Pfn) -> NonNull<u8> {
        NonNull::dangling()
    }
    unsafe fn zero(&self, _: Pfn, _: Order) {}
    unsafe fn copy(&self, _: Pfn, _: Pfn, _: Order) {}
}

fn main() {}
