//! What the memory manager counts does not outlive it.
#![forbid(unsafe_code)]

use anonmem::{Config, Machine, Mm, SharedObject, Vm};

fn object<M: Machine>(machine: M) -> SharedObject<'static, M> {
    let vm = Vm::new(machine, Config::default()).unwrap();
    vm.shm_new(1).unwrap()
}

fn space<M: Machine>(machine: M) -> Mm<'static, M> {
    let vm = Vm::new(machine, Config::default()).unwrap();
    vm.new_mm().unwrap()
}

fn main() {}
