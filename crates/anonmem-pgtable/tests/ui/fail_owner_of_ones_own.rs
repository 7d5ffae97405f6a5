//! Entries own what the owner types say, and nothing that a user makes up.

use anonmem_hal::{Pte, SoftLeaf, SwapBits, SwapEntry};
use anonmem_pgtable::EntryOwner;

struct Mine(SwapEntry);

impl EntryOwner for Mine {
    type Says = SwapBits;

    fn into_pte(self, bits: SwapBits) -> Pte {
        Pte::Soft(SoftLeaf::Swap { entry: self.0, bits })
    }

    fn home(&self) -> Option<*const ()> {
        None
    }
}

fn main() {}
