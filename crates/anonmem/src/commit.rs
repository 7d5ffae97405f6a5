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
//! overcommit_ratio, overcommit_kbytes. Differs: nothing is held back for the administrator
//! (`admin_reserve_kbytes`) or the user (`user_reserve_kbytes`).

use crate::{error::Error, objects::Objects, overcommit::Overcommit};
use anonmem_hal::{Machine, PAGE_SHIFT};
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
        self.overcommit.set_percent(percent);
    }

    /// The kilobytes that may be promised in mode `Never` instead of a percentage; zero if that counts.
    #[doc(alias = "sysctl_overcommit_kbytes")]
    pub fn overcommit_kbytes(&self) -> u64 {
        self.overcommit.kbytes.peek()
    }

    /// Changes the number, whatever the mode is. The percentage is zero then.
    pub fn set_overcommit_kbytes(&self, kbytes: u64) {
        self.overcommit.set_kbytes(kbytes);
    }

    /// The most mappings of one address space.
    #[doc(alias = "sysctl_max_map_count")]
    pub fn max_map_count(&self) -> u64 {
        // Peeks: a setting that an administrator changes orders nothing.
        self.max_map_count.peek().into()
    }

    /// Changes it. Who has more keeps them.
    pub fn set_max_map_count(&self, count: u32) {
        self.max_map_count.store(count, Ordering::Relaxed);
    }

    /// Pages that may be promised in all in mode `Never` (`CommitLimit`).
    #[doc(alias = "vm_commit_limit")]
    pub fn commit_limit(&self) -> u64 {
        let memory = match self.overcommit_kbytes() {
            0 => self.machine().nr_frames() * u64::from(self.overcommit_ratio()) / 100,
            kbytes => kbytes >> (PAGE_SHIFT - 10),
        };
        memory + self.swap_pages()
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
