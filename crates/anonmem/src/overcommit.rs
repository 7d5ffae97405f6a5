//! The modes of promising memory, and the one that is in force.

use anonmem_hal::Machine;
use anonmem_sync::{Atomic, Ordering};

/// How much may be promised. Linux: /proc/sys/vm/overcommit_memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overcommit {
    /// 0: refuse only what could never fit.
    Heuristic,
    /// 1: promise everything.
    Always,
    /// 2: never promise more than `percent` of memory, and swap.
    Never {
        /// `overcommit_ratio`: 50 on Linux.
        percent: u32,
    },
}

/// `overcommit_ratio` unless told otherwise.
const DEFAULT_RATIO: u32 = 50;

/// The mode in force, and the percentage of `Never` whether that is the mode or not.
pub(crate) struct OvercommitPolicy<M: Machine> {
    pub(crate) mode: Atomic<u32, M>,
    pub(crate) percent: Atomic<u32, M>,
}

impl<M: Machine> OvercommitPolicy<M> {
    pub(crate) fn new(mode: Overcommit) -> Self {
        let policy = Self { mode: Atomic::new(0), percent: Atomic::new(DEFAULT_RATIO) };
        policy.set(mode);
        policy
    }

    pub(crate) fn set(&self, mode: Overcommit) {
        let number = match mode {
            Overcommit::Heuristic => 0,
            Overcommit::Always => 1,
            Overcommit::Never { percent } => {
                self.percent.store(percent, Ordering::Relaxed);
                2
            }
        };
        self.mode.store(number, Ordering::Relaxed);
    }

    /// The mode. Peeks: a setting that an administrator changes orders nothing, so a case of the lab has
    /// nothing to explore.
    pub(crate) fn get(&self) -> Overcommit {
        match self.mode.peek() {
            0 => Overcommit::Heuristic,
            1 => Overcommit::Always,
            _ => Overcommit::Never { percent: self.percent.peek() },
        }
    }
}
