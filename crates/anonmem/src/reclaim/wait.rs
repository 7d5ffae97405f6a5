//! Asking for memory while others reclaim.
//!
//! Reclaimers keep what they unmap locked until all of it has left. With little memory that may be everything
//! there is. Whoever finds nothing then waits for what they bring, and runs out of memory only if nobody
//! brings any.
//!
//! Page tables that were unlinked come back, too. But an attempt that fails unlinks those that it has made,
//! so they are a reason to try again a few times only.
//!
//! Reclaimers count on words of their CPUs, and only who waits adds these up. A batch ends on the word that
//! it began on, so that none of them is ever less than what is under way there.
//!
//! Linux: mm/vmscan.c `too_many_isolated`, `throttle_direct_reclaim`; mm/page_alloc.c `should_reclaim_retry`.
//! Differs: tries sixteen times where only tables come back; otherwise waits for the others instead.

use crate::{
    error::Error,
    reclaim::{SWAP_CLUSTER_MAX, laps::Found},
    rmap::machine::Machine,
    vm::Vm,
};
use anonmem_hal::{CpuId, NodeSet};
use anonmem_sync::{Ordering, yield_now};

/// How often an operation tries again, one time after the other, because page tables came back and nothing
/// else did: they may be those of its own last attempt. Linux: `MAX_RECLAIM_RETRIES`.
const TABLE_RETRIES: u32 = 16;

/// What reclaim has freed.
enum Freed {
    /// Pages, or others have.
    Pages,
    /// Page tables whose grace period has passed.
    Tables,
    Nothing,
}

/// What came of a search for memory, of certain nodes perhaps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Some of their pages are free.
    Here,
    /// Others have freed some, of whatever node.
    Elsewhere,
    /// Nobody has freed any.
    None,
}

impl<M: Machine> Vm<M> {
    /// Runs an operation that leaves nothing behind when memory runs out, until it has enough or none comes
    /// back.
    ///
    /// # Locks
    /// As [`reclaim_some`](Self::reclaim_some); `attempt` has let go of its own when it returns an error.
    ///
    /// # Errors
    /// Those of `attempt`.
    #[inline]
    pub(crate) fn reclaiming<T>(&self, mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        let mut tables = 0;
        loop {
            let result = attempt();
            if !matches!(result, Err(Error::OutOfMemory)) {
                return result;
            }
            match self.free_some() {
                Freed::Pages => tables = 0,
                Freed::Tables if tables < TABLE_RETRIES => tables += 1,
                Freed::Tables | Freed::Nothing => return result,
            }
        }
    }

    /// Frees some memory if any can be freed, or waits until others have; returns whether some was.
    ///
    /// For a kernel whose own allocation failed: it asks and tries again until the answer is `false`. What
    /// ends address spaces or mappings when it fails tries a limited number of times: their tables come back.
    /// Whatever came free may be somebody else's by then. One call looks for 32 pages (`SWAP_CLUSTER_MAX`).
    ///
    /// # Locks
    /// The caller may hold the mmap lock; no folio, anon_vma or spin lock. Sleeps.
    #[doc(alias = "try_to_free_pages")]
    pub fn reclaim_some(&self) -> bool {
        !matches!(self.free_some(), Freed::Nothing)
    }

    fn free_some(&self) -> Freed {
        // Names have run out, and not memory: no page that leaves would help.
        if self.frames.is_out_of_names() && !self.frames.is_at_reserve() {
            return Freed::Nothing;
        }
        let before = self.freed_ever();
        let tables = self.reap();
        match self.look_until_over(self.nodes_of_memory.all(), before) {
            Progress::Here | Progress::Elsewhere => Freed::Pages,
            Progress::None if tables > 0 => Freed::Tables,
            Progress::None => match self.wait_for_others(before) {
                Progress::None => Freed::Nothing,
                Progress::Here | Progress::Elsewhere => Freed::Pages,
            },
        }
    }

    /// Frees some memory of certain nodes, and of no other, or waits until others have freed some anywhere.
    ///
    /// # Locks
    /// As [`reclaim_some`](Self::reclaim_some).
    pub(super) fn reclaim_on(&self, nodes: NodeSet) -> Progress {
        let before = self.freed_ever();
        self.reap();
        match self.look_until_over(nodes, before) {
            Progress::None => self.wait_for_others(before),
            progress @ (Progress::Here | Progress::Elsewhere) => progress,
        }
    }

    /// Looks for pages that can leave, a limited number of frames at a time. Between two looks others run,
    /// and a background task looks, too.
    fn look_until_over(&self, nodes: NodeSet, before: u64) -> Progress {
        let (mut search, all) = (self.search(nodes), nodes == self.nodes_of_memory.all());
        loop {
            match self.look(&mut search, SWAP_CLUSTER_MAX as u64) {
                Found::Pages(_) => return Progress::Here,
                Found::Nothing => return Progress::None,
                // Of certain nodes that says nothing; and what others free may be gone at once.
                Found::NotYet if all && self.freed_ever() != before && !self.frames.is_at_reserve() => {
                    return Progress::Elsewhere;
                }
                Found::NotYet => {
                    self.kswapd_helps(nodes, 0);
                    yield_now::<M>();
                }
            }
        }
    }

    /// Waits while pages are on their way out: whether any have become free.
    fn wait_for_others(&self, before: u64) -> Progress {
        let freed = || self.freed_ever() != before;
        self.reclaimers.wait_until(&|| !self.is_batch_under_way() || freed());
        if freed() { Progress::Elsewhere } else { Progress::None }
    }

    /// A batch begins: the CPU that it is counted on.
    pub(super) fn begin_batch(&self) -> CpuId {
        let cpu = M::current_cpu();
        self.cpus.of(cpu).batches.fetch_add(1, Ordering::Relaxed);
        cpu
    }

    /// A batch ends: what it kept is unlocked.
    pub(super) fn end_batch(&self, cpu: CpuId) {
        // Release pairs with the Acquire of whoever waits.
        self.cpus.of(cpu).batches.fetch_sub(1, Ordering::Release);
        self.reclaimers.wake_all();
    }

    /// Somebody has freed some pages.
    pub(super) fn note_freed(&self, pages: u64) {
        if pages > 0 {
            // Release pairs with the Acquire of whoever waits: the pages are free.
            self.cpus.this().freed.fetch_add(pages, Ordering::Release);
            self.reclaimers.wake_all();
        }
    }

    /// Pages freed by all reclaimers, ever: more, if any were freed since it was asked last.
    fn freed_ever(&self) -> u64 {
        // Acquire pairs with the Release of `note_freed`: what came back is there.
        self.cpus.iter().fold(0, |sum, cpu| sum.wrapping_add(cpu.freed.load(Ordering::Acquire)))
    }

    fn is_batch_under_way(&self) -> bool {
        // Acquire pairs with the Release of `end_batch`.
        self.cpus.iter().any(|cpu| cpu.batches.load(Ordering::Acquire) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::TABLE_RETRIES;
    use crate::{
        Error,
        testing::{P, RW, World, pages},
        vma::Backing,
    };

    /// Every attempt gives back a table, which comes back before the next one.
    #[test]
    fn an_operation_gives_up_when_only_tables_come_back() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            let mut attempts = 0;
            let result: Result<(), Error> = w.vm.reclaiming(|| {
                attempts += 1;
                assert!(attempts < 1000, "its own tables let it try for ever");
                mm.map_raw(pages(16, 1), RW, Backing::Anonymous);
                mm.store(16 * P, 7).unwrap();
                mm.munmap(pages(16, 1)).unwrap();
                Err(Error::OutOfMemory)
            });
            assert_eq!((result, attempts), (Err(Error::OutOfMemory), 1 + TABLE_RETRIES));
            w.vm.validate().unwrap();
        });
    }
}
