//! References: what keeps a folio while nothing maps it.
//!
//! Linux: include/linux/mm.h `folio_get`, `folio_put`.

use super::Folio;
use crate::{
    Frames,
    meta::{Counts, Kind, Mapping, Meta, flags},
};
use anonmem_hal::{Machine, Order, Pfn};
use anonmem_sync::Ordering;
use core::{fmt, mem::ManuallyDrop};

/// One reference to a folio.
pub struct FolioRef<'f, M: Machine> {
    pub(super) frames: &'f Frames<M>,
    pub(super) head: Pfn,
}

impl<'f, M: Machine> FolioRef<'f, M> {
    /// The folio.
    #[inline]
    pub fn folio(&self) -> Folio<'f, M> {
        Folio { frames: self.frames, head: self.head }
    }

    /// Its first frame.
    pub fn pfn(&self) -> Pfn {
        self.head
    }

    /// Makes a page of a shared object read as zeroes, for all who map it. Programs may be using it.
    ///
    /// # Panics
    /// If it is none, or a large one.
    pub fn zero_of_object(&self) {
        let folio = self.folio();
        let of_object = matches!(folio.mapping(), Mapping::Shm(_)) && folio.owned_order() == Order::ZERO;
        assert!(of_object, "{folio:?} is no page of an object");
        // SAFETY: the reference keeps the frame a page of the object, whose bytes are programs' alone.
        unsafe { self.frames.machine().zero(self.head, Order::ZERO) };
    }

    /// Gives up the type; [`from_raw`](Self::from_raw) takes the reference back.
    pub fn into_raw(self) -> Pfn {
        ManuallyDrop::new(self).head
    }

    /// Takes back a reference that [`into_raw`](Self::into_raw) gave up.
    ///
    /// # Safety
    /// `head` came from `into_raw` of the same `frames`, and is taken back once.
    pub unsafe fn from_raw(frames: &'f Frames<M>, head: Pfn) -> Self {
        Self { frames, head }
    }
}

impl<M: Machine> Clone for FolioRef<'_, M> {
    fn clone(&self) -> Self {
        let old = Counts(self.folio().meta().counts.fetch_add(Counts::REF, Ordering::Relaxed));
        assert!(old.has_room(), "2^20 references to one folio");
        Self { ..*self }
    }
}

impl<M: Machine> Drop for FolioRef<'_, M> {
    #[inline]
    fn drop(&mut self) {
        // AcqRel pairs with itself: whoever brings the word to 0 sees all that the others did.
        let old = self.folio().meta().counts.fetch_sub(Counts::REF, Ordering::AcqRel);
        anonmem_hal::debug_check!(M, Counts(old).refs() > 0, "a reference too many was dropped");
        if old == Counts::REF {
            self.frames.free_folio(self.head);
        }
    }
}

impl<M: Machine> fmt::Debug for FolioRef<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.folio().fmt(f)
    }
}

impl<M: Machine> Frames<M> {
    /// Takes a reference to the folio of `page`, if it has an owner.
    #[doc(alias = "folio_try_get")]
    pub fn try_get(&self, page: Pfn) -> Option<FolioRef<'_, M>> {
        let folio = self.folio(page)?;
        // Acquire pairs with the Release with which the folio was published: its fields are seen.
        let got = folio.meta().counts.fetch_update(Ordering::Acquire, |c| {
            let counts = Counts(c);
            (counts.is_counted() && counts.has_room()).then_some(c + Counts::REF)
        });
        got.ok()?;
        let reference = FolioRef { frames: self, head: folio.head };
        // The frame may have been freed and become part of another folio before the count was taken.
        (self.folio(page) == Some(folio)).then_some(reference)
    }

    /// Frees a folio whose counts reached 0. The caller is the one who brought them there.
    #[inline(never)]
    pub(super) fn free_folio(&self, head: Pfn) {
        let meta = self.meta(head);
        assert_freeable(meta);
        self.free_block(head, meta.owned().order());
    }
}

impl<M: Machine> Frames<M> {
    /// Puts many references at once. What that frees goes to this CPU's list under one hold of its lock.
    ///
    /// # Safety
    /// Each of `heads` came from [`FolioRef::into_raw`] of the same `frames`, and is taken back once.
    #[doc(alias = "free_pages_and_swap_cache")]
    pub unsafe fn put_many(&self, heads: impl Iterator<Item = Pfn>) {
        let mut freed = self.free_many();
        for head in heads {
            let meta = self.meta(head);
            // AcqRel as for a single reference: pairs with the other drops, so that the last one sees what
            // they did.
            let old = meta.counts.fetch_sub(Counts::REF, Ordering::AcqRel);
            anonmem_hal::debug_check!(M, Counts(old).refs() > 0, "a reference too many was dropped");
            if old == Counts::REF {
                assert_freeable(meta);
                freed.add(head);
            }
        }
    }
}

/// What must hold of a folio whose counts have reached 0.
#[inline]
fn assert_freeable<M: Machine>(meta: &Meta<M>) {
    anonmem_hal::debug_check_eq!(M, meta.owned().kind(), Kind::Folio);
    // In every build: whoever has the lock would unlock what the frame has become.
    assert!(meta.flags.peek() & flags::LOCKED == 0, "freeing a locked folio");
    anonmem_hal::debug_check_eq!(M, meta.private.peek(), 0, "freeing a folio in the swap cache");
}
