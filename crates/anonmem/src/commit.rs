//! Promises of memory: how much may be mapped writable that nobody may ever touch.
//!
//! Every private writable mapping and every shared object is charged when it is made, and the charge is taken
//! back with it. What a charge is asked depends on the mode, which can be changed while programs run: nothing
//! that was promised is taken back.
//!
//! Locks: none. Each CPU has a word of its own (`cpu.rs`), and whoever is asked a limit adds all up. Two
//! that race for the last page may both be refused, never both be served.
//!
//! Linux: mm/util.c `__vm_enough_memory`, `vm_commit_limit`; /proc/sys/vm/overcommit_memory,
//! overcommit_ratio. Differs: nothing is held back for the administrator (`admin_reserve_kbytes`) or the user
//! (`user_reserve_kbytes`).

use crate::{error::Error, objects::Objects, overcommit::Overcommit};
use anonmem_hal::Machine;
use anonmem_sync::{Ordering, fence};

impl<M: Machine> Objects<M> {
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
        self.cpus.this().committed.fetch_add(pages as i64, Ordering::Relaxed);
        let fits = match self.overcommit() {
            Overcommit::Always => true,
            Overcommit::Heuristic => {
                let frames = self.machine().nr_frames();
                pages <= frames || pages <= frames + self.swap_pages()
            }
            Overcommit::Never { .. } => {
                // SeqCst pairs with itself: of two that promise at a time, one at least counts the other's.
                fence::<M>(Ordering::SeqCst);
                self.committed().max(0) as u64 <= self.commit_limit()
            }
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
        self.cpus.this().committed.fetch_sub(pages as i64, Ordering::Relaxed);
    }

    /// Pages promised to all address spaces and shared objects.
    pub(crate) fn committed(&self) -> i64 {
        self.cpus.iter().map(|cpu| cpu.committed.load(Ordering::Relaxed)).sum()
    }
}
