//! A range of addresses whose pages are pinned: the owner of its pins.
//!
//! A [`PinnedRange`] is its own builder. While it is made it owns what has been pinned so far, and an error
//! releases that as any drop does. It does not keep the address space: pages stay pinned when their mapping
//! goes, and when the program ends.
//!
//! Linux: mm/gup.c `unpin_user_page_range_dirty_lock`; `mm->pinned_vm`.

use crate::{
    error::Error,
    mm::{Mm, MmGrab},
    rmap::machine::Machine,
};
use anonmem_frame::{Folio, FolioOwner, PinAccess, PinList, PinListError, PinnedRun};
use anonmem_hal::{NrPages, PAGE_SHIFT, PAGE_SIZE, Va, VaRange};
use anonmem_sync::Ordering;

/// What unpinning says of the pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unpin {
    /// Nobody wrote to them through their pins.
    Clean,
    /// Somebody may have: nothing drops them for not being written.
    Dirty,
}

/// Pages that stay where they are, each run of one folio with a pin. Dropping it unpins them.
#[must_use = "the pages are unpinned when it drops"]
pub struct PinnedRange<'v, M: Machine> {
    pins: PinList<'v, M>,
    /// The addresses of the pages that are pinned.
    range: VaRange,
    unpin: Unpin,
    /// What long-term pins are charged to.
    charge: Option<Charge<'v, M>>,
}

/// The first pages of a range that was to be pinned.
#[derive(Debug)]
#[must_use = "the pages are unpinned when it drops"]
pub struct PartlyPinned<'v, M: Machine> {
    /// What is pinned.
    pub pinned: PinnedRange<'v, M>,
    /// Why the page after it is not; `None` if there was none to pin.
    pub stopped: Option<Error>,
}

impl<'v, M: Machine> PinnedRange<'v, M> {
    /// One without pages, which begins at `start`.
    pub(super) fn new(mm: &Mm<'v, M>, start: Va, access: PinAccess, charge: Option<Charge<'v, M>>) -> Self {
        let pins = PinList::new(&mm.vm.frames, &mm.vm.pins, access);
        Self { pins, range: VaRange { start, end: start }, unpin: Unpin::Clean, charge }
    }

    /// The addresses whose pages are pinned.
    pub fn range(&self) -> VaRange {
        self.range
    }

    /// The number of pages.
    pub fn pages(&self) -> NrPages {
        self.pins.pages()
    }

    /// The runs of pages, in the order of their addresses. The zero page, which nobody may write to, is a run
    /// without a pin.
    pub fn runs(&self) -> impl Iterator<Item = PinnedRun> {
        self.pins.runs()
    }

    /// The folio of one of the runs; `None` for the zero page.
    ///
    /// # Panics
    /// If the run is none of them.
    pub fn folio(&self, run: PinnedRun) -> Option<Folio<'v, M>> {
        self.pins.folio(run)
    }

    /// Copies bytes to the pages from `at` on, as a device does: whatever the mapping allows, and while
    /// programs are using them. [`Unpin::Dirty`] says so to the memory manager.
    ///
    /// # Panics
    /// If they do not all lie in the range, or they were not pinned for writing.
    pub fn write(&self, at: Va, mut from: &[u8]) {
        let inside = at >= self.range.start && self.range.end.0.saturating_sub(at.0) >= from.len() as u64;
        assert!(inside, "{} bytes at {at:?} are written through a pin of {:?}", from.len(), self.range);
        let mut page = at.page() - self.range.start.page();
        let mut offset = at.page_offset();
        while !from.is_empty() {
            let (here, rest) = from.split_at(from.len().min(PAGE_SIZE - offset));
            self.pins.write(page, offset, here);
            (page, offset, from) = (page + 1, 0, rest);
        }
    }

    /// Says what to do when the pages are unpinned. A device that wrote to them says [`Unpin::Dirty`].
    pub fn set_unpin(&mut self, unpin: Unpin) {
        self.unpin = unpin;
    }

    /// Takes the pages from `at` on away, as a range of their own.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Limit`] if `at` is inside of a folio that cannot be pinned once more;
    /// [`Error::Invalid`] if `at` is outside of the range or no page's address. Nothing has changed then.
    pub fn split_off(&mut self, at: Va) -> Result<Self, Error> {
        if !at.is_page_aligned() || at < self.range.start || at > self.range.end {
            return Err(Error::Invalid("a pinned range is split at an address outside of it"));
        }
        let keep = NrPages((at.0 - self.range.start.0) >> PAGE_SHIFT);
        let pins = self.pins.split_off(keep).map_err(|why| match why {
            PinListError::OutOfMemory => Error::OutOfMemory,
            PinListError::TooManyPins => Error::PINS,
        })?;
        let charge = self.charge.as_mut().map(|charge| charge.split_off(pins.pages()));
        let rest = VaRange { start: at, end: self.range.end };
        self.range.end = at;
        Ok(Self { pins, range: rest, unpin: self.unpin, charge })
    }

    /// Charges no more than what is pinned.
    pub(super) fn charge_only_what_is_there(&mut self) {
        let pages = self.pages();
        if let Some(charge) = &mut self.charge {
            drop(charge.split_off(NrPages(charge.pages - pages.0)));
        }
    }

    /// The list, to add the pages to that follow [`range`](Self::range).
    pub(super) fn list(&mut self) -> &mut PinList<'v, M> {
        &mut self.pins
    }

    /// Notes the pages that were added to the list.
    pub(super) fn lengthen(&mut self) {
        self.range.end = Va(self.range.start.0 + (self.pins.pages().0 << PAGE_SHIFT));
    }
}

impl<M: Machine> Drop for PinnedRange<'_, M> {
    #[doc(alias = "unpin_user_pages_dirty_lock")]
    fn drop(&mut self) {
        match self.unpin {
            Unpin::Clean => {}
            // While they are pinned: afterwards reclaim might drop what it takes for unwritten.
            Unpin::Dirty => self.pins.for_each_folio(|folio| mark_written(folio)),
        }
    }
}

/// A page's bytes are worth keeping, whatever its entries say (`MADV_FREE`).
#[doc(alias = "folio_mark_dirty")]
pub(super) fn mark_written<'f, M: Machine>(page: &impl FolioOwner<'f, M>) {
    if page.is_lazyfree() {
        page.clear_lazyfree();
    }
}

/// Pages that count as pinned for long, against the limit on locked memory.
#[doc(alias = "pinned_vm")]
pub(super) struct Charge<'v, M: Machine> {
    to: MmGrab<'v, M>,
    pages: u64,
}

impl<'v, M: Machine> Charge<'v, M> {
    /// Charges `pages` to an address space.
    ///
    /// # Locks
    /// The mmap lock for reading, to look the limit up.
    ///
    /// # Errors
    /// [`Error::Limit`] if more would be pinned than may be locked.
    pub(super) fn new(mm: &Mm<'v, M>, pages: NrPages) -> Result<Self, Error> {
        let limit = mm.read().slot().locked_limit.get();
        let more = |pinned: u64| pinned.checked_add(pages.0).filter(|&sum| sum <= limit);
        // Relaxed: the count says nothing of anything else.
        mm.slot().pinned.fetch_update(Ordering::Relaxed, more).map_err(|_| Error::LOCKED)?;
        Ok(Self { to: mm.grab(), pages: pages.0 })
    }

    /// The part for the last `pages` of them.
    fn split_off(&mut self, pages: NrPages) -> Self {
        self.pages -= pages.0;
        Self { to: self.to.clone(), pages: pages.0 }
    }
}

impl<M: Machine> Drop for Charge<'_, M> {
    fn drop(&mut self) {
        self.to.slot().pinned.fetch_sub(self.pages, Ordering::Relaxed);
    }
}
