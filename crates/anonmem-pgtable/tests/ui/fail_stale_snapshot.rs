//! A snapshot leads back to the lock once: after that it is stale.

use anonmem_hal::Machine;
use anonmem_pgtable::{PteSnapshot, StableVma};

fn twice<M: Machine, G: StableVma<M>>(snapshot: PteSnapshot<'_, M, G>) {
    drop(snapshot.lock_if_same());
    drop(snapshot.lock_if_same());
}

fn main() {}
