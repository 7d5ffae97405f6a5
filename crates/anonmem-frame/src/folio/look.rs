//! A look at a folio: what its metadata says, to whoever asks.
//!
//! Nothing can be changed through a [`Folio`], and it keeps nothing: what it says may be old when it is used.
//! Whoever owns a count relies on kind and order; everybody else asks again after taking one.
//!
//! Linux: include/linux/mm.h `page_folio`, include/linux/page-flags.h.

use crate::{
    Frames,
    meta::{Counts, Kind, Mapping, MappingWord, Meta, decode_entry, flags},
};
use anonmem_hal::{Machine, NrPages, Order, Pfn, SwapEntry};
use anonmem_sync::Ordering;
use core::fmt;

/// The bits of a [note](Folio::note).
pub const NOTE_BITS: u32 = flags::NOTE_BITS;

/// A look at the folio that holds a frame. Owns no count.
pub struct Folio<'f, M: Machine> {
    pub(super) frames: &'f Frames<M>,
    pub(super) head: Pfn,
}

impl<M: Machine> Clone for Folio<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Machine> Copy for Folio<'_, M> {}

impl<M: Machine> PartialEq for Folio<'_, M> {
    fn eq(&self, other: &Self) -> bool {
        self.head == other.head && core::ptr::eq(self.frames, other.frames)
    }
}

impl<M: Machine> Frames<M> {
    /// The folio that `pfn` is a page of, if the frame belongs to one just now.
    #[doc(alias = "page_folio")]
    #[inline]
    pub fn folio(&self, pfn: Pfn) -> Option<Folio<'_, M>> {
        let meta = self.meta(pfn);
        let what = meta.look();
        if what.is(Kind::Folio) {
            Some(Folio { frames: self, head: pfn })
        } else if what.is(Kind::Tail) {
            self.folio_of_tail(pfn, meta)
        } else {
            None
        }
    }

    /// The folio of a tail that nobody holds. What a tail says outlives its folio, and its words may change
    /// one by one under this look, so the head has to agree.
    fn folio_of_tail(&self, pfn: Pfn, tail: &Meta<M>) -> Option<Folio<'_, M>> {
        let head = self.head_of_tail(tail);
        let what = self.memmap.get(self.memmap.find(head)?)?.look();
        let inside = what.is(Kind::Folio) && pfn.0.wrapping_sub(head.0) < what.order().pages();
        inside.then_some(Folio { frames: self, head })
    }

    fn head_of_tail(&self, tail: &Meta<M>) -> Pfn {
        Pfn(tail.mapping.load(Ordering::Relaxed))
    }

    /// Whether the page, which somebody owns a count of, is a folio of its own: no batch of entries is longer
    /// than one.
    #[inline(always)]
    pub fn is_one_page(&self, page: Pfn) -> bool {
        self.meta(page).owned().is_one_page()
    }

    /// The folio of a page that somebody owns a count of, so that it cannot go away.
    #[inline]
    pub fn folio_of_owned(&self, page: Pfn) -> Folio<'_, M> {
        let meta = self.meta(page);
        let head = if meta.owned().is(Kind::Tail) { self.head_of_tail(meta) } else { page };
        anonmem_hal::debug_check_eq!(
            M,
            self.meta(head).owned().kind(),
            Kind::Folio,
            "an owner of a frame that is no folio"
        );
        Folio { frames: self, head }
    }

    /// Whether the page is marked exclusive (Linux: `PageAnonExclusive`).
    #[inline]
    pub fn page_is_exclusive(&self, page: Pfn) -> bool {
        Counts(self.meta(page).counts.load(Ordering::Relaxed)).is_exclusive()
    }
}

impl<M: Machine> Frames<M> {
    /// How many of the `pages` pages from `first` on say the same as the first of whether they are exclusive.
    #[inline]
    pub fn exclusive_alike(&self, first: Pfn, pages: u64) -> u64 {
        let is_exclusive = |meta: &Meta<M>| Counts(meta.counts.load(Ordering::Relaxed)).is_exclusive();
        let exclusive = self.page_is_exclusive(first);
        let differs = |meta| is_exclusive(meta) != exclusive;
        self.metas(first, pages).iter().position(differs).map_or(pages, |nth| nth as u64)
    }
}

impl<'f, M: Machine> Folio<'f, M> {
    #[inline]
    pub(crate) fn meta(&self) -> &'f Meta<M> {
        self.frames.meta(self.head)
    }

    /// The allocator that the folio is from.
    pub fn frames(&self) -> &'f Frames<M> {
        self.frames
    }

    /// Its first frame.
    pub fn pfn(&self) -> Pfn {
        self.head
    }

    /// Its size, as of now.
    #[track_caller]
    pub fn order(&self) -> Order {
        self.meta().look().order()
    }

    /// Its size, for whoever owns a count of it.
    #[inline]
    pub fn owned_order(&self) -> Order {
        self.meta().owned().order()
    }

    /// Its size in pages, as of now.
    #[track_caller]
    pub fn nr_pages(&self) -> NrPages {
        NrPages(self.order().pages())
    }

    /// Whether `page` is one of its pages, for whoever owns a count of it.
    #[inline]
    pub fn owned_has(&self, page: Pfn) -> bool {
        page.0.wrapping_sub(self.head.0) < self.owned_order().pages()
    }

    /// How many pages it has from `page` on, which is one of them, for whoever owns a count of it.
    #[inline]
    pub fn owned_pages_from(&self, page: Pfn) -> u64 {
        self.head.0 + self.owned_order().pages() - page.0
    }

    /// Its counts.
    #[inline]
    pub fn counts(&self) -> Counts {
        Counts(self.meta().counts.load(Ordering::Relaxed))
    }

    /// Whether any page of it is mapped. Acquire pairs with the Release of the adds of `rmap`, so that
    /// a `mapping` word loaded afterwards is at least as new as the mapping that was seen (the order that
    /// `folio_lock_anon_vma_read` needs).
    #[doc(alias = "folio_mapped")]
    #[inline]
    pub fn is_mapped(&self) -> bool {
        Counts(self.meta().counts.load(Ordering::Acquire)).maps() != 0
    }

    /// Whether it may be pinned. Exact if the caller holds the page-table lock of its only mapping and
    /// has closed the door to GUP-fast.
    #[doc(alias = "folio_maybe_dma_pinned")]
    pub fn maybe_pinned(&self) -> bool {
        self.counts().pins() != 0
    }

    /// The mapping word as it is now, for lock-and-recheck.
    #[inline]
    pub fn mapping_word(&self) -> MappingWord {
        // Acquire pairs with the Release of `set_mapping`: the object named is seen initialised.
        MappingWord(self.meta().mapping.load(Ordering::Acquire))
    }

    /// What it belongs to, as of now.
    pub fn mapping(&self) -> Mapping {
        self.mapping_word().decode()
    }

    /// Whether it belongs to an anon_vma or a KSM stable node.
    #[doc(alias = "folio_test_anon")]
    #[inline]
    pub fn is_anon(&self) -> bool {
        self.mapping_word().is_anon()
    }

    /// Its index in pages (for anonymous memory: the linear page index in its anon_vma). Stable under the
    /// anon_vma lock or the folio lock.
    pub fn index(&self) -> u64 {
        self.mapping_word().index_high() | u64::from(self.meta().aux.load(Ordering::Relaxed))
    }

    /// The swap slot that it is or was the cached page of; the slot's word says which.
    #[inline]
    pub fn swap_entry(&self) -> Option<SwapEntry> {
        // Acquire pairs with the Release of `FolioGuard::set_swap_entry`.
        decode_entry(self.meta().private.load(Ordering::Acquire))
    }

    /// How many sweeps of reclaim in a row found it unused, up to 3.
    pub fn idle(&self) -> u32 {
        self.meta().flags.load(Ordering::Relaxed) >> flags::IDLE_SHIFT & 3
    }

    /// Whether a scan found it accessed since reclaim came by last.
    #[doc(alias = "folio_test_referenced")]
    pub fn is_referenced(&self) -> bool {
        self.meta().flags.load(Ordering::Relaxed) & flags::REFERENCED != 0
    }

    /// Whether somebody holds its lock, as of now (Linux: `PG_locked`).
    pub fn is_locked(&self) -> bool {
        self.meta().flags.load(Ordering::Relaxed) & flags::LOCKED != 0
    }

    /// What a sweep over all pages has kept of it: [`NOTE_BITS`] bits, 0 of a new page.
    pub fn note(&self) -> u32 {
        self.meta().flags.load(Ordering::Relaxed) >> flags::NOTE_SHIFT & ((1 << flags::NOTE_BITS) - 1)
    }

    /// Whether it may be dropped instead of swapped (`MADV_FREE`) unless written since.
    pub fn is_lazyfree(&self) -> bool {
        self.meta().flags.load(Ordering::Relaxed) & flags::LAZYFREE != 0
    }

    pub(super) fn set_mapping(&self, mapping: Mapping, index: u64) {
        self.meta().set_mapping(mapping, index);
    }
}

impl<M: Machine> fmt::Debug for Folio<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folio {:#x} ({:?}, {:?})", self.head.0, self.counts(), self.mapping())
    }
}

impl<M: Machine> Frames<M> {
    /// Says that there may be partly mapped folios that were not split.
    pub fn set_partly_mapped_hint(&self) {
        if self.partly_mapped.load(Ordering::Relaxed) == 0 {
            self.partly_mapped.store(1, Ordering::Relaxed);
        }
    }
}

/// Notes that mappings of `folio` went whose counts were `old`, if that leaves a part of it unmapped.
// What the frame is by now may be anything: an order is read, and nothing is asked of it.
#[inline]
pub(super) fn note_unmapped<M: Machine>(folio: Folio<'_, M>, old: Counts, pages: u64) {
    let left = old.maps().wrapping_sub(pages);
    let order = Kind::order_of(folio.meta().flags.load(Ordering::Relaxed));
    if left != 0 && left >> order == 0 {
        folio.frames.set_partly_mapped_hint();
        let counter = folio.frames.cpu_words.this().became_partly_mapped.get(usize::from(order));
        if let Some(counter) = counter.filter(|_| old.maps() >> order != 0) {
            counter.add_unobserved(1);
        }
    }
}
