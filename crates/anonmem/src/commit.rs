//! Promises of memory: how much may be mapped writable that nobody may ever touch.
//!
//! Every private writable mapping and every shared object is charged when it is made, and the charge is taken back with it.
//! What a charge is asked depends on the mode, which can be changed while programs run: nothing that was promised is taken back.
//!
//! Locks: none. The sum is one atomic word; two that race for the last page may both be refused, never both be served.
//!
//! Linux: mm/util.c `__vm_enough_memory`, `vm_commit_limit`; /proc/sys/vm/overcommit_memory, overcommit_ratio. Differs: nothing is
//! held back for the administrator (`admin_reserve_kbytes`) or the user (`user_reserve_kbytes`).

use crate::{error::Error, vm::Vm};
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
    mode: Atomic<u32, M>,
    percent: Atomic<u32, M>,
}

impl<M: Machine> OvercommitPolicy<M> {
    pub(crate) fn new(mode: Overcommit) -> Self {
        let policy = Self { mode: Atomic::new(0), percent: Atomic::new(DEFAULT_RATIO) };
        policy.set(mode);
        policy
    }

    fn set(&self, mode: Overcommit) {
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

    // Peeks: a setting that an administrator changes orders nothing, so a case of the lab has nothing to explore.
    fn get(&self) -> Overcommit {
        match self.mode.peek() {
            0 => Overcommit::Heuristic,
            1 => Overcommit::Always,
            _ => Overcommit::Never { percent: self.percent.peek() },
        }
    }
}

impl<M: Machine> Vm<M> {
    /// The mode of promising memory that is in force.
    #[doc(alias = "sysctl_overcommit_memory")]
    pub fn overcommit(&self) -> Overcommit {
        self.overcommit.get()
    }

    /// Changes the mode. What has been promised stays promised.
    pub fn set_overcommit(&self, mode: Overcommit) {
        self.overcommit.set(mode);
    }

    /// The percentage of memory that may be promised in mode `Never`.
    #[doc(alias = "sysctl_overcommit_ratio")]
    pub fn overcommit_ratio(&self) -> u32 {
        self.overcommit.percent.peek()
    }

    /// Changes the percentage, whatever the mode is.
    pub fn set_overcommit_ratio(&self, percent: u32) {
        self.overcommit.percent.store(percent, Ordering::Relaxed);
    }

    /// Pages that may be promised in all in mode `Never` (`CommitLimit`).
    #[doc(alias = "vm_commit_limit")]
    pub fn commit_limit(&self) -> u64 {
        self.machine().nr_frames() * u64::from(self.overcommit_ratio()) / 100 + self.swap_pages()
    }

    fn swap_pages(&self) -> u64 {
        self.swap_devices().map(|device| device.pages).sum()
    }

    /// Promises `pages` more.
    ///
    /// # Errors
    /// [`Error::Limit`] if the overcommit mode forbids it.
    #[doc(alias = "__vm_enough_memory")]
    pub(crate) fn commit(&self, pages: u64) -> Result<(), Error> {
        let before = self.committed.fetch_add(pages as i64, Ordering::Relaxed).max(0) as u64;
        let fits = match self.overcommit() {
            Overcommit::Always => true,
            Overcommit::Heuristic => {
                let frames = self.machine().nr_frames();
                pages <= frames || pages <= frames + self.swap_pages()
            }
            Overcommit::Never { .. } => before + pages <= self.commit_limit(),
        };
        if fits {
            return Ok(());
        }
        self.uncommit(pages);
        Err(Error::COMMIT_LIMIT)
    }

    /// Takes back a promise of `pages`.
    #[doc(alias = "vm_unacct_memory")]
    pub(crate) fn uncommit(&self, pages: u64) {
        self.committed.fetch_sub(pages as i64, Ordering::Relaxed);
    }
}
