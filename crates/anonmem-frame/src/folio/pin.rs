//! Pins: what keeps a page at its place while a device, or another program, reads and writes it.
//!
//! Linux: mm/gup.c `try_grab_folio_fast`, `gup_put_folio`.

use super::{Folio, pin_protocol};
use crate::{
    Frames,
    meta::{Counts, TooManySharers},
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

impl<M: Machine> Frames<M> {
    /// Pins the folio of `page`, if it has an owner and room for a pin, without any lock: the caller goes on
    /// as [`pin_protocol`] says, and keeps the pin only if the page turns out to be the one that it meant,
    /// and exclusive.
    #[doc(alias = "try_grab_folio_fast")]
    #[inline]
    pub fn try_pin(&self, page: Pfn) -> Option<FolioPin<'_, M>> {
        let folio = self.folio(page)?;
        if !pin_protocol::try_count(&folio.meta().counts) {
            return None;
        }
        let pin = FolioPin { frames: self, page: folio.head };
        // The frame may have been freed and become part of another folio before the pin was counted.
        if self.folio(page) != Some(folio) {
            return None;
        }
        let _ = ManuallyDrop::new(pin);
        Some(FolioPin { frames: self, page })
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
    fn drop(&mut self) {
        let folio = self.folio();
        // AcqRel as for a reference; the Release also pairs with the pin check of fork.
        let old = folio.meta().counts.fetch_sub(Counts::PIN, Ordering::AcqRel);
        anonmem_hal::debug_check!(M, Counts(old).pins() > 0, "a pin too many was dropped");
        if old == Counts::PIN {
            self.frames.free_folio(folio.head);
        }
    }
}
