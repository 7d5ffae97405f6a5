//! Vector clocks over the CPUs of a scenario.

use crate::limits::MAX_CPUS;

/// How many events of each CPU are known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(align(16))]
pub struct Clock(pub [u16; MAX_CPUS]);

impl Clock {
    /// Nothing is known.
    pub const ZERO: Self = Self([0; MAX_CPUS]);

    /// Adds what `other` knows.
    #[inline]
    pub fn join(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = (*mine).max(theirs);
        }
    }

    /// Whether event number `n` of `cpu` is known.
    #[inline]
    pub fn knows(&self, cpu: usize, n: u16) -> bool {
        self.0[cpu] >= n
    }

    /// Whether everything that `other` knows is known.
    #[inline]
    pub fn covers(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(mine, theirs)| *mine >= theirs)
    }

    /// The first CPU of whom `other` knows an event that is not known here.
    pub fn first_unknown_of(&self, other: &Self) -> Option<usize> {
        (0..MAX_CPUS).find(|&cpu| self.0[cpu] < other.0[cpu])
    }
}
