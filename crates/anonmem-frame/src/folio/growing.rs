//! A folio whose pages are filled and mapped one after the other: collapse.
//!
//! Once a page of it is mapped, it is found like any folio of which a part is mapped nowhere. So whoever
//! gives up in the middle leaves such a folio behind, and splits it. It is locked throughout: who would write
//! it to swap, move it or merge it stays away.
//!
//! A page's bytes are complete before it is mapped. Nobody can have it until then.

use super::{Exclusive, Folio, FolioGuard, FolioRef, NewFolio, whole::wholes};
use crate::meta::{Counts, Kind, Mapping, Stamp};
use anonmem_hal::{Machine, Order, Pfn};
use anonmem_sync::Ordering;
use core::{cell::Cell, fmt, marker::PhantomData, mem::ManuallyDrop};

/// A folio that is locked, of which pages are mapped one by one.
pub struct GrowingFolio<'f, M: Machine> {
    // In this order: the lock is let go of before the reference.
    lock: FolioGuard<'f, M>,
    page: FolioRef<'f, M>,
    stamp: Stamp,
    index: u64,
    /// One task at a time fills it: a look at it is not shared.
    _not_sync: PhantomData<Cell<()>>,
}

impl<'f, M: Machine> NewFolio<'f, M> {
    /// Makes it a folio that is found through `stamp`, whose first page has `index`, and of which no page is
    /// mapped yet.
    pub fn into_growing(self, stamp: Stamp, index: u64) -> GrowingFolio<'f, M> {
        let this = ManuallyDrop::new(self);
        let (frames, head) = (this.frames, this.head);
        let (folio, order) = (Folio { frames, head }, this.order());
        if order.get() > 0 {
            // Nobody sees the folio yet: the Release below comes after it.
            wholes(frames, head).store(0, Ordering::Relaxed);
        }
        folio.meta().flags.store(Kind::Folio.bits(order), Ordering::Relaxed);
        folio.set_mapping(Mapping::Anon(stamp), index);
        // The counts are 0, so that nobody gets the folio, and its lock is free.
        let lock = FolioGuard::try_lock(folio).expect("a folio that nobody can get is locked");
        // Release pairs with the Acquire of `try_get`, as in `publish`.
        folio.meta().counts.store(Counts::REF, Ordering::Release);
        GrowingFolio { lock, page: FolioRef { frames, head }, stamp, index, _not_sync: PhantomData }
    }
}

impl<'f, M: Machine> GrowingFolio<'f, M> {
    /// Its lock.
    pub fn lock(&self) -> &FolioGuard<'f, M> {
        &self.lock
    }

    /// The reference that it is held by.
    pub fn page(&self) -> &FolioRef<'f, M> {
        &self.page
    }

    /// The `nth` page, which is not mapped.
    fn nth(&self, nth: u64) -> Pfn {
        let folio = self.lock.folio();
        assert!(nth < folio.owned_order().pages(), "page {nth} of {folio:?}");
        let page = folio.head.offset(nth);
        assert!(!folio.frames.page_is_exclusive(page), "page {nth} of {folio:?} is filled when it is mapped");
        page
    }

    /// Fills the `nth` page with the bytes of another page, which no CPU writes to any more.
    ///
    /// # Panics
    /// If it is mapped already, or the folio is smaller, or there is no such other frame.
    pub fn copy(&self, nth: u64, from: Pfn) {
        let (to, frames) = (self.nth(nth), self.page.frames);
        assert!(from != to && frames.contains(from), "{:#x} is no frame to copy", from.0);
        // SAFETY: the page is the folio's, which nobody has by it until it is mapped, and one task fills it.
        unsafe { frames.machine().copy(to, from, Order::ZERO) };
    }

    /// Fills the `nth` page with zeroes.
    ///
    /// # Panics
    /// As [`copy`](Self::copy).
    pub fn zero(&self, nth: u64) {
        let to = self.nth(nth);
        // SAFETY: as in `copy`.
        unsafe { self.page.frames.machine().zero(to, Order::ZERO) };
    }

    /// Maps the `nth` page, which is filled, for an entry that has it alone.
    ///
    /// # Panics
    /// If it is mapped already, or the folio is smaller.
    pub fn map(&self, nth: u64) -> Exclusive<'f, M> {
        self.lock.map_nth_exclusive(nth, self.stamp, self.index)
    }
}

impl<M: Machine> fmt::Debug for GrowingFolio<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a growing {:?}", self.lock.folio())
    }
}
