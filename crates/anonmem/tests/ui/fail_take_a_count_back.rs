//! A count that was given up cannot be taken back by its number.
#![forbid(unsafe_code)]

use anonmem::{Machine, SharedObject, Vm};

fn twice<M: Machine>(vm: &Vm<M>, object: &SharedObject<'_, M>) {
    let head = object.page_at(0).unwrap().into_raw();
    vm.frames().put_many([head, head].into_iter());
}

fn main() {}
