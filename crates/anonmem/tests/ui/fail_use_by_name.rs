//! A use of a shared object is counted by the memory manager alone.
#![forbid(unsafe_code)]

use anonmem::{Machine, SharedObject, ShmId, Vm};

fn forge<'v, M: Machine>(vm: &'v Vm<M>, id: ShmId) -> SharedObject<'v, M> {
    SharedObject { vm, id }
}

fn main() {}
