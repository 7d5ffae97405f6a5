//! Two machines for the same work: one that counts accesses to shared words, one that takes the time.

use crate::{clock::cpu_ns, ours::Kind};
use anonmem_hal::Probe;
use anonmem_hosted::Checks;
use std::{cell::Cell, hint::black_box, sync::atomic::Ordering};

thread_local!(static STEPS: Cell<u64> = const { Cell::new(0) });

fn step() {
    STEPS.set(STEPS.get() + 1);
}

/// A machine that says what something costs.
pub(super) trait Meter: Checks {
    /// In what.
    const UNIT: &str;

    /// What `f` costs; what `f` returns is dropped afterwards. May call it many times.
    fn cost<T>(f: impl FnMut() -> T) -> u64;

    /// What `f` costs, of which many calls may be measured together.
    fn cost_of_each(f: impl FnMut()) -> u64;

    /// What `f`, which can be done once, costs.
    fn cost_once(f: impl FnOnce()) -> u64;

    /// Notes that so many words were read that are none of the memory manager's.
    #[cfg(feature = "rmap-family")]
    fn touch(words: u64);
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

/// The bench's machine, with its steps counted.
#[derive(Debug)]
pub(super) enum Counted {}

impl Checks for Counted {
    const CHECKED: bool = false;
    const CPUS: usize = Kind::CPUS;
    type Cpus = anonmem_hal::UpTo<64>;
    type ReverseMap = <Kind as Checks>::ReverseMap;
    type Probe = Steps;
}

impl Meter for Counted {
    const UNIT: &str = "steps";

    fn cost<T>(mut f: impl FnMut() -> T) -> u64 {
        let before = STEPS.get();
        let kept = f();
        let steps = STEPS.get() - before;
        drop(kept);
        steps
    }

    fn cost_of_each(f: impl FnMut()) -> u64 {
        Self::cost(f)
    }

    fn cost_once(f: impl FnOnce()) -> u64 {
        let before = STEPS.get();
        f();
        STEPS.get() - before
    }

    #[cfg(feature = "rmap-family")]
    fn touch(words: u64) {
        STEPS.set(STEPS.get() + words);
    }
}

/// Samples of one cost: at least so many, and more if they are short.
const LEAST: usize = 9;
const MOST: usize = 201;
/// Nanoseconds for the samples of one cost.
const ENOUGH: u64 = 40_000_000;
/// Nanoseconds that a sample of many calls lasts at least.
const LONG: u64 = 200_000;

/// Without a probe, time is taken.
impl Meter for Kind {
    const UNIT: &str = "ns";

    fn cost<T>(mut f: impl FnMut() -> T) -> u64 {
        let clock = median(|| one(|| ()).1);
        median(|| {
            let (kept, ns) = one(&mut f);
            drop(kept);
            ns.saturating_sub(clock)
        })
    }

    fn cost_of_each(mut f: impl FnMut()) -> u64 {
        let many = |n: u64, f: &mut dyn FnMut()| one(|| (0..n).for_each(|_| f())).1;
        let mut n = 1;
        while many(n, &mut f) < LONG {
            n *= 2;
        }
        median(|| many(n, &mut f) / n)
    }

    fn cost_once(f: impl FnOnce()) -> u64 {
        one(f).1
    }

    #[cfg(feature = "rmap-family")]
    fn touch(_: u64) {}
}

/// What `f` returns, and the nanoseconds of this thread's CPU time that it took.
fn one<T>(f: impl FnOnce() -> T) -> (T, u64) {
    let start = cpu_ns();
    let kept = black_box(f());
    (kept, cpu_ns() - start)
}

/// The middle one of many samples.
fn median(mut sample: impl FnMut() -> u64) -> u64 {
    let start = cpu_ns();
    let mut samples = Vec::new();
    while samples.len() < LEAST || (samples.len() < MOST && cpu_ns() - start < ENOUGH) {
        samples.push(sample());
    }
    samples.sort_unstable();
    samples[samples.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_that_of_one_call_and_what_is_returned_is_dropped_outside() {
        struct Slow;
        impl Drop for Slow {
            fn drop(&mut self) {
                STEPS.set(STEPS.get() + 1);
            }
        }
        let before = STEPS.get();
        assert_eq!(Counted::cost(|| Slow), 0);
        assert_eq!(STEPS.get(), before + 1);
        let mut calls = 0;
        Kind::cost(|| calls += 1);
        assert!((LEAST..=MOST).contains(&calls));
    }
}
