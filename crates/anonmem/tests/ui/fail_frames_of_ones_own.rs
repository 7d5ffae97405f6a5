//! A device that keeps pages in memory writes to the frames that it is given: safe code cannot give it any.
#![forbid(unsafe_code)]

use anonmem::hal::{FrameAlloc, Pfn};

struct TheZeroPage(Pfn);

impl FrameAlloc for TheZeroPage {
    fn alloc_frame(&self) -> Option<Pfn> {
        Some(self.0)
    }
}

fn main() {}
