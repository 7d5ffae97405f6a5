//! A frozen folio comes back with the count that it had, and with no other.

use anonmem_frame::{Counts, FolioGuard, FolioRef};
use anonmem_hal::Machine;

fn forge<'f, M: Machine>(lock: &FolioGuard<'f, M>, page: FolioRef<'f, M>) {
    if let Ok(frozen) = lock.freeze(page) {
        frozen.unfreeze(Counts::from_bits(1 << 27 | 1));
    }
}

fn main() {}
