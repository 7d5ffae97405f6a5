//! Owners of a swap slot that nobody is: only unsafe code counts some.
#![forbid(unsafe_code)]

use anonmem::{Machine, Vm, hal::SwapEntry};

fn forge<M: Machine>(vm: &Vm<M>, entry: SwapEntry) {
    let forged = vm.forge_swap_owners(entry, 1);
    vm.unforge_swap_owners(entry, forged + 1);
}

fn main() {}
