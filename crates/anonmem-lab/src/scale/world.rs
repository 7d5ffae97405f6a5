//! The state that both orders of a pair start from.
//!
//! A side of a pair is one CPU and what is its own: an address space or a part of one, a table's worth of
//! pages in a mapping that both sides share, another one in a mapping of its own, a userfaultfd. Everything
//! is warm: each CPU has run programs before, so that its lists of pages and slots are neither empty nor
//! full.

use super::{
    Op, Relation,
    ops::{Fork, Step},
    side::{HEAP, RW, Side, TABLE, sides},
};
use crate::{Sim, cases::kernel::Kernel};
use anonmem::{LockMode, PinFlags, UffdFeatures, Unpin};
use anonmem_hal::Order;

/// Enough that a CPU's list of free pages holds a batch of eight.
const FRAMES: u64 = 4096;
/// Slots of the swap device: each CPU has a cluster of its own. docs/scale.md says why there are three.
const SWAP: u64 = 3 * 512;
/// Pages that each CPU takes and gives back before: its list is half full then.
const WARM_PAGES: usize = 12;
/// The state before `ops`, those of side 0 and of side 1.
pub(super) fn build(relation: Relation, mode: LockMode, ops: [&Op; 2]) -> Kernel {
    let kernel = Kernel::new(FRAMES, mode);
    kernel.swap_on(0, SWAP);
    let both = sides(relation);
    match relation {
        Relation::Threads => kernel.spawn(0, &[0, 1]),
        Relation::Family => {
            kernel.spawn(0, &[0]);
            lay_out(&kernel, both[0], both);
            Sim::on_cpu(0, || kernel.fork(0, 1, &[1])).expect("frames");
        }
        Relation::Strangers => both.iter().for_each(|side| kernel.spawn(side.mm, &[side.number as u32])),
    }
    for side in both {
        Sim::on_cpu(side.number, || {
            warm_up(&kernel, side);
            if relation != Relation::Family {
                lay_out(&kernel, side, both);
            }
        });
    }
    prepare(&kernel, both, ops);
    kernel
}

/// Maps what both operations find: a mapping with a table for each side, and one for this side alone.
fn lay_out(kernel: &Kernel, side: Side, both: [Side; 2]) {
    if !kernel.is_mapped(side.mm, 0) {
        kernel.map(side.mm, 0, 2 * TABLE, RW);
        for other in both {
            kernel.store_here(side.mm, other.common(0), 0, 1).expect("frames");
        }
    }
    kernel.map(side.mm, side.own(0), 1, RW);
    kernel.store_here(side.mm, side.own(0), 0, 1).expect("frames");
}

/// Lets a CPU's lists come to the state that they are in most of the time.
fn warm_up(kernel: &Kernel, side: Side) {
    let pages: Vec<_> =
        (0..WARM_PAGES).map(|_| kernel.vm.frames().alloc_kernel(Order::ZERO).expect("frames")).collect();
    drop(pages);
    // A child that maps, swaps and pins takes one of every object, and gives it back.
    let child = side.child();
    kernel.fork(side.mm, child, &[side.number as u32]).expect("frames");
    kernel.map(child, HEAP, 1, RW);
    kernel.store_here(child, HEAP, 0, 1).expect("frames");
    kernel.page_out(child, HEAP);
    kernel.store_here(child, HEAP, 0, 2).expect("frames");
    kernel.pin(side.number, child, HEAP, PinFlags::WRITE).expect("present");
    kernel.unpin(side.number, Unpin::Dirty);
    kernel.exit(child);
    kernel.vm.drain();
}

/// What must be there before each operation: before the forks that one of them may need, and after.
///
/// Children that only end come first: they share pages with their parents, and none of those that the other
/// operation is about.
fn prepare(kernel: &Kernel, both: [Side; 2], ops: [&Op; 2]) {
    let each = |step: fn(&Op) -> Step| {
        for (side, op) in both.into_iter().zip(ops) {
            Sim::on_cpu(side.number, || step(op)(kernel, side));
        }
    };
    let forks = |which: Fork| {
        for (side, op) in both.into_iter().zip(ops).filter(|(_, op)| op.fork == which) {
            let forked = Sim::on_cpu(side.number, || kernel.fork(side.mm, side.child(), &[]));
            forked.unwrap_or_else(|e| panic!("{} has frames: {e:?}", op.name));
        }
    };
    forks(Fork::First);
    each(|op| op.before_fork);
    forks(Fork::Child);
    for (side, _) in both.into_iter().zip(ops).filter(|(_, op)| op.needs_uffd) {
        kernel.userfaultfd_of(side.number, side.mm, UffdFeatures::empty());
    }
    each(|op| op.after_fork);
}
