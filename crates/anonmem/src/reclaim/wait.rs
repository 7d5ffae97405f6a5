//! Asking for memory while others reclaim.
//!
//! Reclaimers keep what they unmap locked until all of it has left. With little memory that may be everything
//! there is. Whoever finds nothing then waits for what they bring, and runs out of memory only if nobody
//! brings any.
//!
//! Linux: mm/vmscan.c `too_many_isolated`, `throttle_direct_reclaim`; mm/page_alloc.c `should_reclaim_retry`.
//! Differs: waits for the others instead of trying sixteen times.

use crate::{error::Error, reclaim::SWAP_CLUSTER_MAX, rmap::machine::Machine, vm::Vm};
use anonmem_sync::Ordering;

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
        loop {
            match attempt() {
                Err(Error::OutOfMemory) if self.reclaim_some() => {}
                result => return result,
            }
        }
    }

    /// Frees some memory if any can be freed, or waits until others have; returns whether some was.
    ///
    /// For a kernel whose own allocation failed: it asks and tries again until the answer is `false`.
    /// Whatever came free may be somebody else's by then. One call looks for 32 pages (`SWAP_CLUSTER_MAX`).
    ///
    /// # Locks
    /// The caller may hold the mmap lock; no folio, anon_vma or spin lock. Sleeps.
    #[doc(alias = "try_to_free_pages")]
    pub fn reclaim_some(&self) -> bool {
        let all = &self.reclaimers;
        let before = all.freed.load(Ordering::Relaxed);
        self.reap();
        if self.shrink(SWAP_CLUSTER_MAX as u64) > 0 {
            return true;
        }
        // Acquire pairs with the Release of `freed`, and the second with that of `end`: what came back is
        // there.
        let freed = || all.freed.load(Ordering::Acquire) != before;
        all.queue.wait_until(&|| all.batches.load(Ordering::Acquire) == 0 || freed());
        freed()
    }
}
