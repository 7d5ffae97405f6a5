//! That a number names the root of an address space gives no right to free it.
#![forbid(unsafe_code)]

use anonmem::{Machine, Mm, Vm};

fn free<M: Machine>(vm: &Vm<M>, mm: &Mm<'_, M>) {
    drop(vm.frames().table_frame(mm.root()));
}

fn main() {}
