//! The lock of a page table, and its count of entries, are its walkers' alone.
#![forbid(unsafe_code)]

use anonmem::{Machine, Mm, Vm};

fn forget_entries<M: Machine>(vm: &Vm<M>, mm: &Mm<'_, M>) {
    vm.frames().table_words(mm.root()).used().set(0);
}

fn main() {}
