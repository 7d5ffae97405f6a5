//! Pins: what keeps a page at its place while a device, or another program, reads and writes it.
//!
//! Linux: mm/gup.c `try_grab_folio_fast`, `gup_put_folio`.

use super::{Folio, pin_protocol};
use crate::{
    Frames,
    memmap::Memmap,
    meta::{Counts, Kind, TooManySharers, Use},
};
use anonmem_hal::{Machine, Pfn};
use anonmem_sync::Ordering;
use core::mem::ManuallyDrop;

/// One pin: the page's bytes may be read or written by a device at any time. It is kept only of pages that
/// were exclusive, or a shared object's, when it was taken; while it exists, fork copies and reclaim leaves
/// the page alone.
pub struct FolioPin<'f, M: Machine> {
    pub(super) frames: &'f Frames<M>,
    pub(super) page: Pfn,
}

impl<'f, M: Machine> FolioPin<'f, M> {
    /// The pinned page.
    pub fn pfn(&self) -> Pfn {
        self.page
    }

    /// The folio that holds it.
    pub fn folio(&self) -> Folio<'f, M> {
        self.frames.folio_of_owned(self.page)
    }
}

/// A pin that was taken without a lock, and what the metadata of its folio said then.
pub struct TakenPin<'f, M: Machine> {
    pub(super) pin: FolioPin<'f, M>,
    pub(super) pages: u64,
    /// Whether the page is the first of its folio.
    pub(super) first: bool,
    lazyfree: bool,
}

impl<'f, M: Machine> TakenPin<'f, M> {
    /// The pin alone.
    pub fn into_pin(self) -> FolioPin<'f, M> {
        self.pin
    }

    /// The pinned page.
    pub fn pfn(&self) -> Pfn {
        self.pin.page
    }

    /// How many pages the folio has from the pinned one on.
    #[inline(always)]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether the folio may be dropped unless it is written (`MADV_FREE`).
    #[inline(always)]
    pub const fn is_lazyfree(&self) -> bool {
        self.lazyfree
    }
}

impl<M: Machine> Frames<M> {
    /// Pins the folio of `page`, if it has an owner and room for a pin, without any lock: the caller goes on
    /// as [`pin_protocol`] says, and keeps the pin only if the page turns out to be the one that it meant,
    /// and exclusive.
    #[doc(alias = "try_grab_folio_fast")]
    #[inline]
    pub fn try_pin(&self, page: Pfn) -> Option<FolioPin<'_, M>> {
        self.try_pin_pages(page).map(TakenPin::into_pin)
    }

    /// [`try_pin`](Self::try_pin) for whoever pins the pages after `page`, too.
    #[inline]
    pub fn try_pin_pages(&self, page: Pfn) -> Option<TakenPin<'_, M>> {
        self.try_pin_head(&self.memmap, page).or_else(|| self.try_pin_tail(page))
    }

    /// The same of a page that is the first of its folio.
    #[inline(always)]
    pub(super) fn try_pin_head(&self, memmap: &Memmap<M>, page: Pfn) -> Option<TakenPin<'_, M>> {
        let meta = memmap.at(memmap.index(page));
        // Only the first frame of a folio has counts, so a pin that counts says that this is one.
        if !pin_protocol::try_count(&meta.counts) {
            return None;
        }
        let what = meta.look();
        let pin = FolioPin { frames: self, page };
        if what.is_one_page() {
            return Some(TakenPin { pin, pages: 1, first: true, lazyfree: what.is_lazyfree() });
        }
        pin.of_large(what)
    }

    /// The same for a page that is not the first of its folio, or of none, or that cannot be pinned.
    #[cold]
    pub(super) fn try_pin_tail(&self, page: Pfn) -> Option<TakenPin<'_, M>> {
        let folio = self.folio(page)?;
        if folio.head == page || !pin_protocol::try_count(&folio.meta().counts) {
            return None;
        }
        let pin = FolioPin { frames: self, page: folio.head };
        // The frame may have been freed and become part of another folio before the pin was counted.
        if self.folio(page) != Some(folio) {
            return None;
        }
        let _ = ManuallyDrop::new(pin);
        let pin = FolioPin { frames: self, page };
        let (pages, lazyfree) = (folio.owned_pages_from(page), folio.is_lazyfree());
        Some(TakenPin { pin, pages, first: false, lazyfree })
    }

    /// Takes a pin of the folio that begins with `head` away.
    #[inline]
    fn unpin(&self, head: Pfn) {
        // AcqRel as for a reference; the Release also pairs with the pin check of fork.
        let old = self.meta(head).counts.fetch_sub(Counts::PIN, Ordering::AcqRel);
        anonmem_hal::debug_check!(M, Counts(old).pins() > 0, "a pin too many was dropped");
        if old == Counts::PIN {
            self.free_folio(head);
        }
    }
}

impl<'f, M: Machine> FolioPin<'f, M> {
    /// The pin of the first page of a folio of several, of which the metadata said `what`, or of what is
    /// about to be a folio.
    #[inline]
    fn of_large(self, what: Use) -> Option<TakenPin<'f, M>> {
        if what.is(Kind::Folio) {
            let (pages, lazyfree) = (what.order().pages(), what.is_lazyfree());
            return Some(TakenPin { pin: self, pages, first: true, lazyfree });
        }
        // A split gives its pieces their counts first: the frame is still said to be a tail.
        let pin = ManuallyDrop::new(self);
        pin.frames.unpin(pin.page);
        None
    }
}

impl<'f, M: Machine> Folio<'f, M> {
    /// Pins a page of a folio that is pinned: the caller has a pin of it.
    pub(super) fn pin_again(self, page: Pfn) -> Result<FolioPin<'f, M>, TooManySharers> {
        anonmem_hal::debug_check!(M, self.counts().pins() > 0, "another pin of a folio that has none");
        if pin_protocol::try_count(&self.meta().counts) {
            Ok(FolioPin { frames: self.frames, page })
        } else {
            Err(TooManySharers)
        }
    }
}

impl<M: Machine> Drop for FolioPin<'_, M> {
    #[inline]
    fn drop(&mut self) {
        self.frames.unpin(self.folio().head);
    }
}
