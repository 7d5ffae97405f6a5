//! Translations of entries that were cleared and are flushed later, many at once.
//!
//! Reclaim unmaps page after page and owns each until it is written; one flush for all comes before.
//! Meanwhile a cleared entry does not mean that no CPU uses the page any more. Whoever relies on that asks
//! [`PteGuard::is_flush_deferred`], and flushes himself.
//!
//! A batch leaves its mark in each table (`anonmem_frame::Turn`). A table has room for one. So whoever finds
//! that of another batch, which is under way, flushes all of the table, and puts his own in its place.
//!
//! Linux: mm/rmap.c `set_tlb_ubc_flush_pending`, `try_to_unmap_flush`, `flush_tlb_batched_pending`. Differs:
//! the address spaces are remembered with their ranges, instead of the CPUs. The tables say whether a batch
//! is under way, instead of the address space.

use crate::{
    guard::PteGuard,
    space::{AddressSpace, StableVma},
};
use anonmem_frame::{Frames, Turn, UNKNOWN_TURN};
use anonmem_hal::{FlushRange, Machine, Va, VaRange};

/// Address spaces that a batch remembers; one more makes it flush.
const SPACES: usize = 4;

/// Flushes that were put off.
#[must_use = "flush() makes the CPUs forget"]
pub struct TlbBatch<'f, M: Machine> {
    frames: &'f Frames<M>,
    spaces: [Option<(&'f AddressSpace<M>, VaRange)>; SPACES],
    /// What its marks say, from the first entry to the flush.
    turn: Option<Turn>,
}

impl<'f, M: Machine> TlbBatch<'f, M> {
    /// An empty one.
    pub fn new(frames: &'f Frames<M>) -> Self {
        Self { frames, spaces: [None; SPACES], turn: None }
    }

    /// Notes that the entry for `va` of `space` is about to be cleared, under the lock of its table.
    #[doc(alias = "set_tlb_ubc_flush_pending")]
    pub fn note<G: StableVma<M>>(
        &mut self,
        space: &'f AddressSpace<M>,
        entries: &mut PteGuard<'_, M, G>,
        va: Va,
    ) {
        self.note_range(space, VaRange::page(va));
        self.turn = self.turn.take().or_else(|| self.frames.take_turn());
        let mark = self.turn.as_ref().map_or(UNKNOWN_TURN, Turn::mark);
        if entries.mark() == mark {
            return;
        }
        if entries.is_flush_deferred() {
            space.flush(self.frames, FlushRange::Range(entries.table().range()));
        }
        entries.set_mark(mark);
    }

    fn note_range(&mut self, space: &'f AddressSpace<M>, page: VaRange) {
        let same = |s: &&mut (&'f AddressSpace<M>, VaRange)| core::ptr::eq(s.0, space);
        if let Some((_, range)) = self.spaces.iter_mut().flatten().find(same) {
            *range = VaRange { start: range.start.min(page.start), end: range.end.max(page.end) };
            return;
        }
        if self.spaces.iter().all(Option::is_some) {
            self.flush();
        }
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
        }
        if let Some(turn) = self.turn.take() {
            self.frames.end_turn(turn);
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
