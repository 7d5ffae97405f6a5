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

use crate::{
    Frames,
    meta::{Counts, Kind, Mapping, MappingWord, Meta, Stamp},
};
use anonmem_hal::{Machine, Pfn};
use anonmem_sync::Ordering;
use core::fmt;

/// A folio that somebody owns mappings of, found by its first page.
pub struct MappedFolio<'f, M: Machine> {
    meta: &'f Meta<M>,
    pages: u32,
}

impl<M: Machine> Frames<M> {
    /// The folio that begins with `first`, a page that somebody owns a count of; `None` if it is a later page
    /// of one.
    #[inline(always)]
    pub fn folio_from(&self, first: Pfn) -> Option<MappedFolio<'_, M>> {
        let meta = self.meta(first);
        let what = meta.owned();
        if what.is_one_page() {
            return Some(MappedFolio { meta, pages: 1 });
        }
        what.is(Kind::Folio).then(|| MappedFolio { meta, pages: what.order().pages() as u32 })
    }
}

impl<'f, M: Machine> MappedFolio<'f, M> {
    /// Its pages.
    #[inline(always)]
    pub const fn pages(&self) -> usize {
        self.pages as usize
    }

    /// Freezes the folio, if it has exclusive mappings of its pages and nothing else.
    ///
    /// # Safety
    /// The entries that own a mapping each of its pages are under one page-table lock. It is held until
    /// [`thaw`](FrozenMaps::thaw). If there are several, they allow to write, so that each of their pages is
    /// exclusive.
    #[inline(always)]
    pub unsafe fn freeze(self) -> Option<FrozenMaps<'f, M>> {
        let meta = self.meta;
        let all = all_of(self.pages);
        // Acquire pairs with the Releases of those who had a count.
        let alone = meta.counts.load(Ordering::Relaxed) == all
            && meta.counts.compare_exchange(all, 0, Ordering::Acquire).is_ok();
        alone.then_some(FrozenMaps { meta, pages: self.pages })
    }
}

/// A folio whose counts are frozen.
#[must_use = "a folio whose counts do not come back is lost"]
pub struct FrozenMaps<'f, M: Machine> {
    meta: &'f Meta<M>,
    pages: u32,
}

impl<M: Machine> FrozenMaps<'_, M> {
    /// Its pages.
    #[inline(always)]
    pub const fn pages(&self) -> usize {
        self.pages as usize
    }

    /// Gives the folio its mappings back, and says where it is found now.
    ///
    /// # Safety
    /// As many entries own its mappings again.
    #[inline(always)]
    pub unsafe fn thaw(self, anon_vma: Stamp, index: u64) {
        let meta = self.meta;
        anonmem_hal::debug_check!(
            M,
            matches!(MappingWord(meta.mapping.load(Ordering::Relaxed)).decode(), Mapping::Anon(_)),
            "a page of nobody is frozen"
        );
        meta.set_mapping(Mapping::Anon(anon_vma), index);
        // Release pairs with the Acquire of the next who takes a count: he finds the folio where it is now,
        // and the entries that it was at before cleared.
        meta.counts.store(all_of(self.pages), Ordering::Release);
    }
}

impl<M: Machine> fmt::Debug for MappedFolio<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a mapped folio of {} pages", self.pages)
    }
}

impl<M: Machine> fmt::Debug for FrozenMaps<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a frozen folio of {} pages", self.pages)
    }
}

/// The counts of a folio that has exclusive mappings of its `pages` pages, and nothing else.
#[inline(always)]
const fn all_of(pages: u32) -> u64 {
    pages as u64 * Counts::MAP + Counts::EXCLUSIVE
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
        let freeze = || unsafe { frames.folio_from(pfn).unwrap().freeze() };
        let pin = frames.try_pin(pfn).unwrap();
        assert!(freeze().is_none(), "it is pinned");
        drop(pin);
        let reference = frames.try_get(pfn).unwrap();
        assert!(freeze().is_none(), "somebody has a reference");
        drop(reference);
        let frozen = freeze().unwrap();
        assert!(frames.try_pin(pfn).is_none() && frames.try_get(pfn).is_none());
        // SAFETY: as above.
        unsafe { frozen.thaw(new, 4) };
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
        assert!(frames.folio_from(head.offset(2)).is_none(), "it begins before");
        // SAFETY: as above.
        let freeze = || unsafe { frames.folio_from(head).unwrap().freeze() };
        let frozen = freeze().unwrap();
        assert_eq!(frozen.pages(), 4);
        assert!(frames.try_pin(head.offset(2)).is_none());
        // SAFETY: as above.
        unsafe { frozen.thaw(anon_vma, 8) };
        assert!(frames.page_is_exclusive(head.offset(3)) && frames.try_pin(head.offset(2)).is_some());
        drop(maps.pop());
        assert!(freeze().is_none(), "a page of it is not mapped");
    }
}
