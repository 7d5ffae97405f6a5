//! Injected allocation failure.

use crate::random::next_random;
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// Which allocations fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FailurePlan {
    /// None.
    #[default]
    Off,
    /// The `n`-th from now (the next is 1), once.
    Nth(u64),
    /// The `n`-th from now and all after it.
    From(u64),
    /// One in `one_in`, drawn from `seed`.
    Random {
        /// The reciprocal of the probability.
        one_in: u64,
        /// The first state of the generator.
        seed: u64,
    },
}

/// Injects allocation failure. Only a checked machine asks it.
#[derive(Default)]
pub struct Failures {
    armed: AtomicBool,
    plan: Mutex<FailurePlan>,
    asked: AtomicU64,
    refused: AtomicU64,
}

impl Failures {
    /// Replaces the plan and restarts the counts.
    pub fn set(&self, plan: FailurePlan) {
        let mut current = self.lock();
        *current = plan;
        self.asked.store(0, Relaxed);
        self.refused.store(0, Relaxed);
        self.armed.store(plan != FailurePlan::Off, Relaxed);
    }

    /// Whether every allocation succeeds that can.
    pub fn is_off(&self) -> bool {
        !self.armed.load(Relaxed)
    }

    /// How many allocations were asked for since the plan was set.
    pub fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }

    /// How many of them failed.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, FailurePlan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the next allocation may succeed.
    pub(crate) fn admit(&self) -> bool {
        self.asked.fetch_add(1, Relaxed);
        if !self.armed.load(Relaxed) {
            return true;
        }
        let admitted = self.lock().decide();
        if !admitted {
            self.refused.fetch_add(1, Relaxed);
        }
        admitted
    }
}

impl FailurePlan {
    fn decide(&mut self) -> bool {
        match self {
            Self::Off => true,
            Self::Nth(n) => {
                *n = n.saturating_sub(1);
                let admitted = *n != 0;
                if !admitted {
                    *self = Self::Off;
                }
                admitted
            }
            Self::From(n) => {
                *n = n.saturating_sub(1);
                *n != 0
            }
            Self::Random { one_in, seed } => !next_random(seed).is_multiple_of(*one_in),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_plans_fail_what_they_say() {
        let failures = Failures::default();
        let five = |plan| {
            failures.set(plan);
            [(); 5].map(|()| failures.admit())
        };
        assert_eq!(five(FailurePlan::Off), [true; 5]);
        assert_eq!(five(FailurePlan::Nth(2)), [true, false, true, true, true]);
        assert_eq!(five(FailurePlan::From(4)), [true, true, true, false, false]);
        assert_eq!(five(FailurePlan::Random { one_in: 1, seed: 1 }), [false; 5]);
        assert_eq!((failures.asked(), failures.refused()), (5, 5));
    }
}
