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

/// The mode in force, and what `Never` promises, whether that is the mode or not: a percentage of memory, or
/// a number of kilobytes where that is not zero.
pub(crate) struct OvercommitPolicy<M: Machine> {
    pub(crate) mode: Atomic<u32, M>,
    pub(crate) percent: Atomic<u32, M>,
    pub(crate) kbytes: Atomic<u64, M>,
}

impl<M: Machine> OvercommitPolicy<M> {
    pub(crate) fn new(mode: Overcommit) -> Self {
        let policy =
            Self { mode: Atomic::new(0), percent: Atomic::new(DEFAULT_RATIO), kbytes: Atomic::new(0) };
        policy.set(mode);
        policy
    }

    pub(crate) fn set(&self, mode: Overcommit) {
        let number = match mode {
            Overcommit::Heuristic => 0,
            Overcommit::Always => 1,
            Overcommit::Never { percent } => {
                if percent != self.percent.peek() {
                    self.set_percent(percent);
                }
                2
            }
        };
        self.mode.store(number, Ordering::Relaxed);
    }

    /// A percentage takes the place of a number.
    #[doc(alias = "overcommit_ratio_handler")]
    pub(crate) fn set_percent(&self, percent: u32) {
        self.percent.store(percent, Ordering::Relaxed);
        self.kbytes.store(0, Ordering::Relaxed);
    }

    /// A number takes the place of a percentage.
    #[doc(alias = "overcommit_kbytes_handler")]
    pub(crate) fn set_kbytes(&self, kbytes: u64) {
        self.kbytes.store(kbytes, Ordering::Relaxed);
        self.percent.store(0, Ordering::Relaxed);
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
