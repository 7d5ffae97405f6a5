//! Translations of entries that were cleared and are flushed later, many at once.
//!
//! Reclaim unmaps page after page and owns each until it is written; one flush for all comes before.
//! Meanwhile a cleared entry does not mean that no CPU uses the page any more. Whoever relies on that asks
//! [`AddressSpace::is_flush_deferred`] under the page-table lock, and flushes himself.
//!
//! Linux: mm/rmap.c `set_tlb_ubc_flush_pending`, `try_to_unmap_flush`, `flush_tlb_batched_pending`. Differs:
//! the address spaces are remembered with their ranges, instead of the CPUs. The count of unfinished batches
//! of a space tells whether one is under way.

use crate::space::AddressSpace;
use anonmem_frame::Frames;
use anonmem_hal::{FlushRange, Machine, Va, VaRange};

/// Address spaces that a batch remembers; one more makes it flush.
const SPACES: usize = 4;

/// Flushes that were put off.
#[must_use = "flush() makes the CPUs forget"]
pub struct TlbBatch<'f, M: Machine> {
    frames: &'f Frames<M>,
    spaces: [Option<(&'f AddressSpace<M>, VaRange)>; SPACES],
}

impl<'f, M: Machine> TlbBatch<'f, M> {
    /// An empty one.
    pub fn new(frames: &'f Frames<M>) -> Self {
        Self { frames, spaces: [None; SPACES] }
    }

    /// Notes that the entry for `va` of `space` was cleared, whose page-table lock is still held.
    #[doc(alias = "set_tlb_ubc_flush_pending")]
    pub fn note(&mut self, space: &'f AddressSpace<M>, va: Va) {
        let page = VaRange::page(va);
        let same = |s: &&mut (&'f AddressSpace<M>, VaRange)| core::ptr::eq(s.0, space);
        if let Some((_, range)) = self.spaces.iter_mut().flatten().find(same) {
            *range = VaRange { start: range.start.min(page.start), end: range.end.max(page.end) };
            return;
        }
        if self.spaces.iter().all(Option::is_some) {
            self.flush();
        }
        space.defer_flush();
        let free = self.spaces.iter_mut().find(|s| s.is_none());
        *free.expect("a full batch was flushed") = Some((space, page));
    }

    /// Makes every CPU forget what was noted.
    ///
    /// # Locks
    /// Page-table locks may be held.
    #[doc(alias = "try_to_unmap_flush")]
    pub fn flush(&mut self) {
        for (space, range) in self.spaces.iter_mut().filter_map(Option::take) {
            space.flush(self.frames, FlushRange::Range(range));
            space.flush_done();
        }
    }

    /// Whether nothing is put off.
    pub fn is_empty(&self) -> bool {
        self.spaces.iter().all(Option::is_none)
    }
}

impl<M: Machine> Drop for TlbBatch<'_, M> {
    fn drop(&mut self) {
        assert!(self.is_empty() || M::unwinding(), "a batch of flushes was dropped before it was flushed");
    }
}
