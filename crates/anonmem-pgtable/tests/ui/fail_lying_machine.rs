//! What locks and flushes rely on, safe code cannot promise.
#![forbid(unsafe_code)]

use anonmem_hal::{CpuSet, FlushRange, Mmu, Pfn, Va};

struct Liar;

impl Mmu for Liar {
    fn flush(&self, _: CpuSet<'_>, _: Pfn, _: FlushRange) {}
    fn flush_local(&self, _: Pfn, _: Va) {}
}

fn main() {}
