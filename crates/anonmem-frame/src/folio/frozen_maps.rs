//! Folios whose mappings are frozen while they go from some entries to others (UFFDIO_MOVE).
//!
//! Whoever maps a folio alone, and holds the lock of all its entries, finds all its counts there: a mapping
//! for each page. Then nobody else has the folio. Nobody has its lock either, which takes a count. One
//! compare-exchange takes the counts away, and until they are given back nobody gets a reference or a pin:
//!
//! ```text
//!   n MAP + EXCLUSIVE ──cmpxchg (Acquire)──▶ 0 ── entries, anon_vma, index ──store (Release)──▶ the same
//! ```
//!
//! * *Pins without a lock*: a pin that was counted before makes the exchange fail. One that is counted after
//!   the counts are back acquires them. So it finds the old entry cleared when it looks again.
//! * *Walks of the reverse map* begin with a reference. Whoever has one makes the exchange fail. Whoever gets
//!   one later finds where the folio is now.
//! * *Reclaim, KSM and compaction* that come by meanwhile find nothing to take, as of a folio that is split.
//!
//! Linux has nothing like it: `folio_ref_freeze` needs an isolated folio, and move_pages_ptes takes the folio
//! lock and a reference of each page.

use super::Folio;
use crate::{
    Frames,
    meta::{Counts, Kind, Mapping, Stamp},
};
use anonmem_hal::{Machine, Pfn};
use anonmem_sync::Ordering;

impl<M: Machine> Frames<M> {
    /// Freezes a folio of `pages` pages that begins with `first`, if it has exclusive mappings of them and
    /// nothing else. Returns whether it is frozen.
    ///
    /// # Safety
    /// The entries that own a mapping each of the pages from `first` on, all of the folio's, are under one
    /// page-table lock. It is held until [`thaw_mappings`](Self::thaw_mappings). If there are several, they
    /// allow to write, so that each of their pages is exclusive.
    #[inline(always)]
    pub unsafe fn freeze_mappings(&self, first: Pfn, pages: u64) -> bool {
        let meta = self.meta(first);
        anonmem_hal::debug_check!(
            M,
            meta.owned().is(Kind::Folio) && meta.owned().order().pages() == pages,
            "a folio of another size is frozen"
        );
        let all = all_of(pages);
        // Acquire pairs with the Releases of those who had a count.
        meta.counts.load(Ordering::Relaxed) == all
            && meta.counts.compare_exchange(all, 0, Ordering::Acquire).is_ok()
    }

    /// Gives the folio its mappings back, and says where it is found now.
    ///
    /// # Safety
    /// [`freeze_mappings`](Self::freeze_mappings) froze it, and as many entries own its mappings again.
    #[inline(always)]
    pub unsafe fn thaw_mappings(&self, first: Pfn, pages: u64, anon_vma: Stamp, index: u64) {
        let folio = Folio { frames: self, head: first };
        anonmem_hal::debug_check!(
            M,
            matches!(folio.mapping(), Mapping::Anon(_)),
            "a page of nobody is frozen"
        );
        folio.set_mapping(Mapping::Anon(anon_vma), index);
        // Release pairs with the Acquire of the next who takes a count: he finds the folio where it is now,
        // and the entries that it was at before cleared.
        folio.meta().counts.store(all_of(pages), Ordering::Release);
    }
}

/// The counts of a folio that has exclusive mappings of its `pages` pages, and nothing else.
#[inline(always)]
const fn all_of(pages: u64) -> u64 {
    pages * Counts::MAP + Counts::EXCLUSIVE
}

#[cfg(test)]
mod tests {
    use crate::{Counts, Frames, RawHandle, Stamp, testing::TestMachine};
    use anonmem_hal::Order;

    #[test]
    fn who_maps_a_page_alone_may_freeze_it_and_others_find_nothing_meanwhile() {
        let frames = Frames::<TestMachine>::new(TestMachine::new(16, 256)).unwrap();
        let [old, new] = [1, 2].map(|n| Stamp::from(RawHandle::new(n).unwrap()));
        let page = frames.alloc(Order::ZERO).unwrap().into_exclusive_anon(old, 3);
        let pfn = page.pfn();
        // SAFETY: here and below: the mapping is ours, and nobody else knows the frame.
        let freeze = |pages| unsafe { frames.freeze_mappings(pfn, pages) };
        let pin = frames.try_pin(pfn).unwrap();
        assert!(!freeze(1), "it is pinned");
        drop(pin);
        let reference = frames.try_get(pfn).unwrap();
        assert!(!freeze(1), "somebody has a reference");
        drop(reference);
        assert!(freeze(1));
        assert!(frames.try_pin(pfn).is_none() && frames.try_get(pfn).is_none());
        // SAFETY: as above.
        unsafe { frames.thaw_mappings(pfn, 1, new, 4) };
        let folio = page.folio();
        assert_eq!((folio.index(), folio.counts()), (4, Counts(Counts::MAP | Counts::EXCLUSIVE)));
        assert!(frames.try_get(pfn).is_some());
    }

    #[test]
    fn a_large_folio_is_frozen_whole_or_not_at_all() {
        let frames = Frames::<TestMachine>::new(TestMachine::new(16, 256)).unwrap();
        let anon_vma = Stamp::from(RawHandle::new(1).unwrap());
        let mut pages = frames.alloc(Order::new(2)).unwrap().into_exclusive_anon_pages(anon_vma, 0);
        let mut maps = std::vec::Vec::from_iter(pages.by_ref());
        let head = maps[0].pfn();
        // SAFETY: as above.
        assert!(unsafe { frames.freeze_mappings(head, 4) });
        assert!(frames.try_pin(head.offset(2)).is_none());
        // SAFETY: as above.
        unsafe { frames.thaw_mappings(head, 4, anon_vma, 8) };
        assert!(frames.page_is_exclusive(head.offset(3)) && frames.try_pin(head.offset(2)).is_some());
        drop(maps.pop());
        // SAFETY: as above.
        assert!(!unsafe { frames.freeze_mappings(head, 4) }, "a page of it is not mapped");
    }
}
