//! What KSM has saved, and what it costs.
//!
//! Nothing of this is counted where pages come and go: how many pages a stable node's page stands for is how
//! many map it. Whoever asks pays for a look at every node, or at a program's page tables.
//!
//! Linux: Documentation/admin-guide/mm/ksm.rst; mm/ksm.c `ksm_process_profit`. Differs: exact at any time; a
//! mapping that came by fork is counted like any other.

use super::{node::StableNode, settings::KsmSettings, stable::SameBytes, unmerge::is_merged};
use crate::{error::Error, mm::Mm, rmap::machine::Machine, vm::Vm};
use anonmem_frame::Mapping;
use anonmem_hal::{Arch, PAGE_SIZE, Va, VaRange};
use anonmem_pgtable::{Locked, Mapped, Walked};
use anonmem_sync::Ordering;

/// What KSM has done, at one time. The first eleven are Linux's, in /sys/kernel/mm/ksm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KsmStats {
    /// Pages that stand for several.
    pub pages_shared: u64,
    /// How many more they stand for: pages that were saved.
    pub pages_sharing: u64,
    /// Pages that were looked at in the last sweep and have no equal.
    pub pages_unshared: u64,
    /// Pages that were new in the last sweep, or had changed.
    pub pages_volatile: u64,
    /// Pages that were passed over because nothing came of them so often.
    pub pages_skipped: u64,
    /// Pages that were looked at.
    pub pages_scanned: u64,
    /// Sweeps over all frames.
    pub full_scans: u64,
    /// Contents that so many map that they have more than one page.
    pub stable_node_chains: u64,
    /// The pages that those have.
    pub stable_node_dups: u64,
    /// Pages that were given up for the zero page, and still are.
    pub zero_pages: u64,
    /// Bytes saved, less what the scanner needs for itself.
    pub general_profit: i64,
    /// Pages that were merged, ever.
    pub merged: u64,
    /// Pages that were given up for the zero page, ever.
    pub zeroed: u64,
    /// Pages that were to be merged and were not, ever, because somebody used them or wrote to them.
    pub refused: u64,
    /// Bytes that the scanner needs for itself.
    pub overhead: u64,
}

/// What KSM has saved of one program. Linux: /proc/PID/ksm_stat.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KsmUsage {
    /// Pages that are merged with others.
    pub merging: u64,
    /// Pages that were given up for the zero page.
    pub zero: u64,
}

impl<M: Machine> Vm<M> {
    /// What KSM has done. Looks at every stable node, and at the page tables of all programs.
    ///
    /// # Locks
    /// The caller holds none. Takes the scanner's lock and mmap locks for reading. Sleeps.
    pub fn ksm_stats(&self) -> KsmStats {
        let counts = &self.ksm.counts;
        let zero_pages = self.ksm_zero_pages();
        let _lock = self.ksm.lock.read();
        let mut stats = KsmStats {
            pages_skipped: counts.skipped.load(Ordering::Relaxed),
            pages_scanned: counts.scanned.load(Ordering::Relaxed),
            full_scans: self.ksm.sweep.get(),
            zero_pages,
            merged: counts.merged.load(Ordering::Relaxed),
            zeroed: counts.zeroed.load(Ordering::Relaxed),
            refused: counts.refused.load(Ordering::Relaxed),
            ..KsmStats::default()
        };
        let of_sweep = |last: &anonmem_sync::Atomic<u64, M>, now: &anonmem_sync::Atomic<u64, M>| {
            if stats.full_scans > 0 { last.load(Ordering::Relaxed) } else { now.load(Ordering::Relaxed) }
        };
        stats.pages_unshared = of_sweep(&counts.last_unshared, &counts.unshared);
        stats.pages_volatile = of_sweep(&counts.last_changed, &counts.changed);
        self.ksm.for_each_stable(self, |pages, maps, same| {
            stats.pages_shared += pages;
            // Of a large one a part may be mapped nowhere.
            stats.pages_sharing += maps.saturating_sub(pages);
            stats.stable_node_chains += u64::from(same == SameBytes::First);
            stats.stable_node_dups += u64::from(same != SameBytes::Alone);
        });
        let nodes = self.stable_nodes.live() * size_of::<StableNode<M>>() as u64;
        stats.overhead = nodes + self.ksm.table.len() * 8;
        let saved = (stats.pages_sharing + zero_pages) * PAGE_SIZE as u64;
        stats.general_profit = saved as i64 - stats.overhead as i64;
        stats
    }

    /// Pages that were given up for the zero page, and still are.
    fn ksm_zero_pages(&self) -> u64 {
        let mut zero = 0;
        self.mms.for_each_live(&self.frames, |id, _| {
            if let Some(mm) = self.try_user(id) {
                zero += mm.ksm_usage().zero;
            }
        });
        zero
    }

    /// What KSM was told.
    pub fn ksm_settings(&self) -> KsmSettings {
        self.ksm.settings.get()
    }

    /// Tells KSM. How many may share a page, and who with whom, can be changed only while nothing is merged.
    ///
    /// # Locks
    /// The caller holds none. Takes the scanner's lock. Sleeps.
    ///
    /// # Errors
    /// [`Error::Invalid`] if fewer than two may share a page; [`Error::Busy`] if pages are merged already.
    pub fn set_ksm(&self, settings: KsmSettings) -> Result<(), Error> {
        if settings.max_page_sharing < 2 {
            return Err(Error::Invalid("a merged page has at least two mappings"));
        }
        let _scanning = self.ksm.lock.write();
        let old = self.ksm.settings.get();
        let same = (settings.max_page_sharing, settings.domains) == (old.max_page_sharing, old.domains);
        if !same {
            let left: u64 = (0..self.ksm.buckets()).map(|bucket| self.ksm.prune(self, bucket)).sum();
            if left > 0 {
                return Err(Error::Busy);
            }
        }
        self.ksm.settings.set(settings);
        Ok(())
    }
}

impl<M: Machine> Mm<'_, M> {
    /// What KSM has saved of it. Looks at all of its page tables.
    ///
    /// # Locks
    /// The mmap lock for reading.
    #[doc(alias = "ksm_process_profit")]
    pub fn ksm_usage(&self) -> KsmUsage {
        let guard = self.read();
        let (slot, mut usage) = (guard.slot(), KsmUsage::default());
        let all = VaRange { start: Va(0), end: M::Arch::USER_END };
        for (found, part) in slot.space.parts(&self.vm.frames, &guard, all) {
            let table = match found {
                Walked::Table(table) => table,
                Walked::Leaf(place) => match place.lock() {
                    Locked::Leaf(leaf) => {
                        usage.merging += if is_merged(&leaf) { part.pages().0 } else { 0 };
                        continue;
                    }
                    Locked::Table(table) => table,
                    Locked::None => continue,
                },
            };
            let entries = table.lock();
            let mut va = entries.next_used(part);
            while va < part.end {
                match entries.mapped(va) {
                    Mapped::Shared(page, _) => {
                        usage.merging += u64::from(matches!(page.folio().mapping(), Mapping::Ksm(_)));
                    }
                    Mapped::Zero(present) => usage.zero += u64::from(present.dirty),
                    Mapped::None | Mapped::Exclusive(..) | Mapped::Shm(_) => {}
                    Mapped::Swap(..) | Mapped::Migration(..) | Mapped::Marker(_) => {}
                }
                va = entries.next_used(VaRange { start: va.next_page(), end: part.end });
            }
        }
        usage
    }
}
