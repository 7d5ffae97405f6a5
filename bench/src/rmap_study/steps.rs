//! A machine whose accesses to shared words are counted.

use anonmem_hal::Probe;
use anonmem_hosted::Checks;
use std::{cell::Cell, marker::PhantomData, sync::atomic::Ordering};

thread_local!(static STEPS: Cell<u64> = const { Cell::new(0) });

fn step() {
    STEPS.set(STEPS.get() + 1);
}

/// The steps that `f` takes on this thread.
pub(super) fn steps_of(f: impl FnOnce()) -> u64 {
    let before = STEPS.get();
    f();
    STEPS.get() - before
}

/// Counts, and does what it is told.
#[derive(Debug)]
pub(super) enum Steps {}

impl Probe for Steps {
    const ACTIVE: bool = true;

    fn load(_at: usize, _order: Ordering, read: impl FnOnce() -> u64) -> u64 {
        step();
        read()
    }

    fn store(_at: usize, _order: Ordering, _value: u64, _old: impl FnOnce() -> u64, write: impl FnOnce()) {
        step();
        write();
    }

    fn rmw(_at: usize, _order: Ordering, op: impl FnOnce() -> (u64, Option<u64>)) -> (u64, Option<u64>) {
        step();
        op()
    }

    fn plain_read(_at: usize) {
        step();
    }

    fn plain_write(_at: usize) {
        step();
    }
}

/// A hosted machine whose steps are counted, with the reverse map `R`.
#[derive(Debug)]
pub(super) struct Counted<R>(PhantomData<fn() -> R>);

impl<R: 'static> Checks for Counted<R> {
    const CHECKED: bool = false;
    const CPUS: usize = 8;
    type ReverseMap = R;
    type Probe = Steps;
}
