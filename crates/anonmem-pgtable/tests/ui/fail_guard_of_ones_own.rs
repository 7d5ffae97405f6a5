//! What a guard promises about page tables, safe code cannot promise.
#![forbid(unsafe_code)]

use anonmem_hal::Machine;
use anonmem_pgtable::{AddressSpace, CanInstall, StableVma};

struct Mine;

impl<M: Machine> StableVma<M> for Mine {
    fn opens(&self, _: &AddressSpace<M>) -> bool {
        true
    }
}

impl<M: Machine> CanInstall<M> for Mine {}

fn main() {}
