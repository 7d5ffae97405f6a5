//! Folios of which most was never touched.
//!
//! A large folio that a fault took is of use where the program goes on beside the page that trapped. Where it
//! does not, the rest is memory that nobody has touched. Such folios are split when memory is short, and what
//! is untouched is given back. Its entries become empty, as they would be if the folio had been a page.
//!
//! What is untouched, the entries say: neither accessed nor dirty. A leaf has one bit of each for all of its
//! pages. Of a leaf, its contents tell: pages of zeroes pass for untouched. Either way a page goes only if it
//! is all zeroes after its entry was cleared and flushed, so that no store is lost.
//!
//! A folio that was used since it was last looked at is spared, as in the clock. If no device is there to
//! swap to, the second round spares none.
//!
//! Locks: as for reclaim.
//!
//! Linux: mm/huge_memory.c `thp_underused`, `deferred_split_scan`; mm/migrate.c
//! `try_to_map_unused_to_zeropage`. Differs: untouched instead of all zeroes; no queue.

use crate::{
    events::Event,
    reclaim::{
        laps::{Found, MOST_LOOKED, Search},
        shrink::Age,
    },
    rmap::{
        Rmap,
        hit::Form,
        machine::Machine,
        reverse_map::ReverseMap,
        unmap::{UnmapTo, Unmapped, try_to_unmap},
    },
    thp::stats::FolioEvent,
    vm::Vm,
};
use anonmem_frame::{FolioGuard, FolioOwner, FolioRef, Kind};
use anonmem_hal::{MAX_ORDER, NrPages, Order, Pfn};
use anonmem_pgtable::TlbBatch;
use anonmem_sync::yield_now;
use core::ops::ControlFlow;

/// Frames that are looked at for one call, if pages can leave to a device instead.
const PATIENCE: u64 = 1_024;
/// Times that the hand goes around in vain at most. In the last lap no folio is spared.
const LAPS: u64 = 2;

impl<M: Machine> Vm<M> {
    /// How many pages of large folios nobody has touched, as far as can be told, for each order: looks at all
    /// frames and entries. Times the size of a page, these are the bytes that short memory gets back.
    ///
    /// # Locks
    /// The caller holds no folio, anon_vma or spin lock.
    pub fn untouched_pages(&self) -> [NrPages; MAX_ORDER as usize + 1] {
        let mut sums = [NrPages(0); MAX_ORDER as usize + 1];
        self.frames.for_each_frame(|pfn, kind, order| {
            if kind == Kind::Folio
                && order != Order::ZERO
                && let Some(page) = self.large_folio(pfn)
                && let Some(lock) = page.try_lock()
            {
                sums[usize::from(page.folio().owned_order().get())].0 += self.untouched_of(&lock);
            }
        });
        sums
    }

    /// The large folio that begins with the frame, if one does.
    fn large_folio(&self, pfn: Pfn) -> Option<FolioRef<'_, M>> {
        self.frames.try_get(pfn).filter(|page| page.pfn() == pfn && page.folio().is_large())
    }

    /// How many pages of a locked folio look untouched.
    fn untouched_of(&self, lock: &FolioGuard<'_, M>) -> u64 {
        let folio = lock.folio();
        let Some(guard) = Rmap::<M>::lock(self, folio) else { return 0 };
        let mut untouched = 0;
        let _ = Rmap::<M>::walk(&guard, folio, Form::Present, |hit| {
            untouched += hit.untouched().unwrap_or_else(|| {
                let pages = (0..hit.pages).map(|nth| hit.page.offset(nth));
                pages.filter(|&page| self.machine().is_zero(page)).count() as u64
            });
            ControlFlow::<()>::Continue(())
        });
        untouched
    }

    /// Splits folios of which most is untouched, until `want` pages are free or there are no more of them.
    /// Returns how many pages that freed.
    ///
    /// # Locks
    /// The caller holds no folio, anon_vma or spin lock.
    #[doc(alias = "deferred_split_scan")]
    pub fn give_back_untouched(&self, want: u64) -> u64 {
        let mut search = self.search(self.nodes_of_memory.all());
        let mut freed = 0;
        while freed < want {
            match self.look_for_untouched(&mut search, want - freed) {
                Found::Pages(pages) => freed += pages,
                Found::NotYet => yield_now::<M>(),
                Found::Nothing => break,
            }
        }
        freed
    }

    /// Looks at a limited number of frames for such folios on the nodes of the search.
    pub(super) fn look_for_untouched(&self, search: &mut Search, want: u64) -> Found {
        let (hand, frames) = (&self.clock.large, self.machine().nr_frames());
        if !self.clock.may_be_untouched() {
            return Found::Nothing;
        }
        let (began, seeker) =
            *search.untouched.get_or_insert_with(|| (hand.at(), self.clock.seek_untouched()));
        let can_leave = self.swap.any_open();
        let most = if can_leave { PATIENCE } else { MOST_LOOKED };
        let (mut freed, mut left) = (0, most.min(frames));
        while left > 0 && freed < want {
            let laps = hand.laps(began, frames);
            if laps >= LAPS && !can_leave {
                self.clock.none_untouched(seeker);
                return if freed == 0 { Found::Nothing } else { Found::Pages(freed) };
            }
            let age = if laps + 1 < LAPS || can_leave { Age::Idle } else { Age::Any };
            let pfn = self.machine().base_pfn().offset(hand.next(frames));
            left -= 1;
            if self.frames.kind(pfn) == Kind::Folio
                && self.nodes_of_memory.have(&self.frames, search.nodes, pfn)
                && let Some(page) = self.large_folio(pfn)
            {
                freed += self.split_if_untouched(page, age);
            }
        }
        // Where there is one, there may be more; and those of other nodes were not looked at.
        if freed > 0 || can_leave || search.nodes != self.nodes_of_memory.all() {
            self.clock.note_untouched();
        }
        if freed > 0 {
            hand.note_success();
        }
        match freed {
            0 if can_leave => Found::Nothing,
            0 => Found::NotYet,
            pages => Found::Pages(pages),
        }
    }

    /// Splits one folio, if most of it is untouched; returns how many pages that freed.
    fn split_if_untouched(&self, page: FolioRef<'_, M>, age: Age) -> u64 {
        let folio = page.folio();
        let (order, head) = (folio.owned_order(), folio.pfn());
        if !folio.is_anon() || !folio.is_likely_alone() || folio.swap_entry().is_some() {
            return 0;
        }
        if age == Age::Idle && self.was_used_lately(&page) {
            return 0;
        }
        let Some(lock) = page.try_lock() else {
            self.clock.note_untouched();
            return 0;
        };
        if self.untouched_of(&lock) * 2 <= order.pages() {
            return 0;
        }
        // It may be unpinned when memory is short again.
        if folio.maybe_pinned() {
            self.count(Event::ReclaimPinned);
            self.clock.note_untouched();
            return 0;
        }
        if self.split_folio(&lock, &page, Order::ZERO).is_err() {
            self.clock.note_untouched();
            return 0;
        }
        drop(lock);
        drop(page);
        self.count_folio(order, FolioEvent::SplitUntouched);
        let mut tlb = TlbBatch::new(&self.frames);
        let freed =
            (0..order.pages()).filter(|&nth| self.drop_if_zero(head.offset(nth), &mut tlb)).count() as u64;
        tlb.flush();
        freed
    }

    /// Drops what was a page of a large folio, if it is all zeroes; returns whether it is free.
    fn drop_if_zero<'v>(&'v self, pfn: Pfn, tlb: &mut TlbBatch<'v, M>) -> bool {
        // Only a hint, so that other pages keep their translations.
        if !self.machine().is_zero(pfn) {
            return false;
        }
        let found = self.frames.try_get(pfn).filter(|page| page.pfn() == pfn && !page.folio().is_large());
        let Some(page) = found else { return false };
        let Some(lock) = page.try_lock() else { return false };
        let refs = page.folio().counts().refs();
        refs == 1
            && page.folio().is_anon()
            && try_to_unmap(self, &lock, &UnmapTo::Untouched, tlb) == Unmapped::All
    }
}
