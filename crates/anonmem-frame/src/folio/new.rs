//! Folios that nobody else can see yet, and what they become.
//!
//! Linux: mm/page_alloc.c `folio_alloc`; mm/rmap.c `folio_add_new_anon_rmap`.

use super::{Exclusive, ExclusiveWhole, Folio, FolioRef, NewAnonPages, whole::wholes};
use crate::{
    Frames, OutOfMemory,
    handle::RawHandle,
    meta::{Counts, Kind, Mapping, Stamp},
};
use anonmem_hal::{Machine, Order, Pfn, SourceError, SourceId};
use anonmem_sync::Ordering;
use core::{cell::Cell, marker::PhantomData, mem::ManuallyDrop};

impl<M: Machine> Frames<M> {
    /// Allocates 2^order frames for a folio. Their bytes are whatever they were.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    #[doc(alias = "folio_alloc")]
    #[inline]
    pub fn alloc(&self, order: Order) -> Result<NewFolio<'_, M>, OutOfMemory> {
        Ok(NewFolio::from_block(self, self.alloc_block(order, Kind::New)?))
    }
}

/// Frames that nobody else can see. Dropping it frees them.
pub struct NewFolio<'f, M: Machine> {
    pub(super) frames: &'f Frames<M>,
    pub(super) head: Pfn,
    /// One task at a time writes to it: a look at it is not shared.
    _not_sync: PhantomData<Cell<()>>,
}

impl<'f, M: Machine> NewFolio<'f, M> {
    /// Takes over a block of kind [`Kind::New`].
    pub(crate) fn from_block(frames: &'f Frames<M>, head: Pfn) -> Self {
        anonmem_hal::debug_check_eq!(M, frames.meta(head).owned().kind(), Kind::New);
        Self { frames, head, _not_sync: PhantomData }
    }

    /// The first frame.
    pub fn pfn(&self) -> Pfn {
        self.head
    }

    /// The size.
    pub fn order(&self) -> Order {
        self.frames.meta(self.head).owned().order()
    }

    /// Fills it with zeroes.
    pub fn zero(&self) {
        // SAFETY: the frames are this value's alone, which one task at a time may use.
        unsafe { self.frames.machine().zero(self.head, self.order()) };
    }

    /// Copies one page of another folio, whose owner may be writing to it meanwhile.
    ///
    /// # Panics
    /// If there is no such frame.
    pub fn copy_from(&self, page: Pfn) {
        anonmem_hal::debug_check_eq!(M, self.order(), Order::ZERO);
        self.copy_block(page, Order::ZERO);
    }

    /// Copies 2^`order` frames from `first` on, no more than it has.
    pub(super) fn copy_block(&self, first: Pfn, order: Order) {
        let there = self.frames.contains(first) && self.frames.contains(first.offset(order.pages() - 1));
        let apart = first.0.abs_diff(self.head.0) >= order.pages();
        assert!(there && apart, "{} frames from {:#x} on are none to copy", order.pages(), first.0);
        // SAFETY: all frames are the machine's; those that are written are this value's alone, as in `zero`,
        // and no others.
        unsafe { self.frames.machine().copy(self.head, first, order) };
    }

    /// Fills the page with that of `source` at byte `offset`. May sleep.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn fill_from(&self, source: SourceId, offset: u64) -> Result<(), SourceError> {
        // SAFETY: as in `zero`.
        unsafe { self.frames.machine().fill(source, offset, self.head) }
    }

    /// Copies bytes to its first page, from byte `offset` on.
    ///
    /// # Panics
    /// If they do not all lie in the page.
    pub fn write(&self, offset: usize, from: &[u8]) {
        // SAFETY: as in `zero`.
        unsafe { self.frames.machine().write_bytes(self.head, offset, from) };
    }

    /// Makes it an anonymous page, mapped once and exclusive: `folio_add_new_anon_rmap`.
    ///
    /// `anon_vma` finds the mapping that is about to be installed; `index` is the page's linear index in it.
    #[doc(alias = "folio_add_new_anon_rmap")]
    #[inline]
    pub fn into_exclusive_anon(self, anon_vma: Stamp, index: u64) -> Exclusive<'f, M> {
        anonmem_hal::debug_check_eq!(M, self.order(), Order::ZERO);
        let (frames, head) = self.publish(Mapping::Anon(anon_vma), index, Counts::MAP + Counts::EXCLUSIVE);
        Exclusive { frames, page: head }
    }

    /// Makes it an anonymous folio whose pages are all mapped once and exclusive: the mappings, in order.
    #[doc(alias = "folio_add_new_anon_rmap")]
    pub fn into_exclusive_anon_pages(self, anon_vma: Stamp, index: u64) -> NewAnonPages<'f, M> {
        let pages = self.order().pages();
        for meta in self.frames.metas(self.head.offset(1), pages - 1) {
            // Nobody sees the folio yet: the Release of `publish` comes after it.
            meta.counts.store(Counts::EXCLUSIVE, Ordering::Relaxed);
        }
        let counts = pages * Counts::MAP + Counts::EXCLUSIVE;
        let (frames, head) = self.publish(Mapping::Anon(anon_vma), index, counts);
        NewAnonPages::new(frames, head, pages)
    }

    /// Makes it an anonymous folio that one leaf maps, and nobody else: `folio_add_new_anon_rmap`.
    ///
    /// # Panics
    /// If it is a single page.
    #[doc(alias = "folio_add_new_anon_rmap")]
    pub fn into_exclusive_anon_whole(self, anon_vma: Stamp, index: u64) -> ExclusiveWhole<'f, M> {
        let order = self.order();
        assert!(order.get() > 0, "a leaf maps more than a page");
        // Nobody sees the folio yet: the Release of `publish` comes after it.
        wholes(self.frames, self.head).store(1, Ordering::Relaxed);
        let counts = order.pages() * Counts::MAP + Counts::EXCLUSIVE;
        let (frames, head) = self.publish(Mapping::Anon(anon_vma), index, counts);
        ExclusiveWhole { frames, head }
    }

    /// Makes it a page of a shared object.
    pub fn into_shm(self, object: RawHandle, index: u64) -> FolioRef<'f, M> {
        let (frames, head) = self.publish(Mapping::Shm(object), index, Counts::REF);
        FolioRef { frames, head }
    }

    /// Makes it a page that belongs to nothing, held by one reference: the zero page.
    pub fn into_reference(self) -> FolioRef<'f, M> {
        let (frames, head) = self.publish(Mapping::None, 0, Counts::REF);
        FolioRef { frames, head }
    }

    #[inline]
    fn publish(self, mapping: Mapping, index: u64, counts: u64) -> (&'f Frames<M>, Pfn) {
        let this = ManuallyDrop::new(self);
        let folio = Folio { frames: this.frames, head: this.head };
        let meta = folio.meta();
        meta.flags.store(Kind::Folio.bits(meta.owned().order()), Ordering::Relaxed);
        folio.set_mapping(mapping, index);
        // Release pairs with the Acquire of `try_get` and of `is_mapped`: whoever finds the folio alive
        // finds it complete.
        meta.counts.store(counts, Ordering::Release);
        (this.frames, this.head)
    }
}

impl<M: Machine> Drop for NewFolio<'_, M> {
    fn drop(&mut self) {
        self.frames.free_block(self.head, self.order());
    }
}
