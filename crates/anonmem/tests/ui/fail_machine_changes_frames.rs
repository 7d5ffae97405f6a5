//! Whoever has a memory manager has its machine; but a number that names a frame, a slot or a list of locks
//! gives no right to change it.
#![forbid(unsafe_code)]

use anonmem::{
    Machine, Vm,
    hal::{FrameAlloc, HeldLocks, Order, Pfn, SourceId},
};

fn memory<M: Machine>(vm: &Vm<M>, frame: Pfn) {
    vm.machine().zero(frame, Order::ZERO);
    vm.machine().copy(frame, Pfn(0), Order::ZERO);
    vm.machine().write_bytes(frame, 0, &[7]);
    vm.machine().allocated(frame, Order::ZERO);
    vm.machine().freed(frame, Order::ZERO);
}

fn translations<M: Machine>(vm: &Vm<M>, root: Pfn) {
    vm.machine().init_root(root);
}

fn sources<M: Machine>(vm: &Vm<M>, source: SourceId, frame: Pfn) {
    let _ = vm.machine().fill(source, 0, frame);
}

fn devices<M: Machine>(vm: &Vm<M>, frame: Pfn, frames: &dyn FrameAlloc) {
    let _ = vm.machine().swap_write(0, 0, Order::ZERO, frame, frames);
    let _ = vm.machine().swap_read(0, 0, Order::ZERO, frame);
    vm.machine().swap_discard(0, 0, frames);
}

fn locks<M: Machine>() {
    M::with_held_locks(&mut |held| *held = HeldLocks::NONE);
}

fn main() {}
