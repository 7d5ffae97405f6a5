//! A name of a shared object is no use of it: nothing can be put that nobody counted.
#![forbid(unsafe_code)]

use anonmem::{Machine, ShmId, Vm};

fn put<M: Machine>(vm: &Vm<M>, id: ShmId) {
    vm.shm_put(id);
}

fn main() {}
