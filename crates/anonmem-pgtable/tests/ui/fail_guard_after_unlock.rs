//! A guard that was unlocked is gone.

use anonmem_hal::{Machine, Va};
use anonmem_pgtable::{PteGuard, StableVma};

fn late<M: Machine, G: StableVma<M>>(mut entries: PteGuard<'_, M, G>) {
    let _snapshot = entries.unlock(Va(0));
    entries.clear_dirty(Va(0));
}

fn main() {}
