//! Runs of mappings: the owner of what several entries for one folio owned.
//!
//! A folio counts all its mappings in one word. So the mappings of a run of entries that are cleared together
//! are uncounted together, and become *one* reference that waits for the flush. That is `+REF - n * MAP`: one
//! atomic operation and one slot of the gather, however long the run is.
//!
//! Linux: mm/rmap.c `folio_remove_rmap_ptes`; include/linux/rmap.h `folio_try_dup_anon_rmap_ptes`.

use super::{
    DupError, Exclusive, ExclusiveRef, Folio, FolioRef, Shared, ShmMap,
    look::note_unmapped,
    pin_protocol::pinned_after_clearing,
    rmap::{MigrationHold, add_map, take_exclusive},
};
use crate::{
    Frames,
    meta::{Counts, Meta, TooManySharers},
};
use anonmem_hal::{Machine, Pfn};
use anonmem_sync::Ordering;
use core::mem::ManuallyDrop;

/// Mappings of consecutive pages of one folio, whose entries were cleared.
#[must_use = "the mappings have to be uncounted"]
pub struct MapRun<'f, M: Machine> {
    frames: &'f Frames<M>,
    first: Pfn,
    len: u64,
    /// What of the folio's word is theirs.
    by: u64,
    /// The page after the folio's last: a run is made longer page by page, and the folio stays what it is.
    end: Pfn,
}

macro_rules! run_of {
    ($name:ident) => {
        impl<'f, M: Machine> From<$name<'f, M>> for MapRun<'f, M> {
            #[inline]
            fn from(map: $name<'f, M>) -> Self {
                let map = ManuallyDrop::new(map);
                let folio = map.folio();
                let by = $name::counted(folio, map.page);
                Self { frames: map.frames, first: map.page, len: 1, by, end: end_of(folio) }
            }
        }
    };
}
run_of!(Exclusive);
run_of!(Shared);
run_of!(ShmMap);
run_of!(MigrationHold);

impl<'f, M: Machine> MapRun<'f, M> {
    /// Those of `len` pages from `first` on, of which `by` is what they are of the folio's word.
    pub(super) fn new(frames: &'f Frames<M>, first: Pfn, len: u64, by: u64) -> Self {
        Self { frames, first, len, by, end: end_of(frames.folio_of_owned(first)) }
    }

    /// The number of mappings.
    pub fn pages(&self) -> u64 {
        self.len
    }

    /// The folio that holds the pages.
    pub fn folio(&self) -> Folio<'f, M> {
        self.frames.folio_of_owned(self.first)
    }

    /// How many pages longer the run may get.
    #[inline]
    pub fn room(&self) -> u64 {
        self.end.0 - self.first.offset(self.len).0
    }

    /// The page that would make the run longer; `None` at the end of the folio.
    pub fn next(&self) -> Option<Pfn> {
        let next = self.first.offset(self.len);
        (next < self.end).then_some(next)
    }

    /// Adds the mapping of the next page.
    ///
    /// # Panics
    /// If it is another page's.
    pub fn push(&mut self, map: impl Into<Self>) {
        let map = ManuallyDrop::new(map.into());
        assert!(
            core::ptr::eq(self.frames, map.frames) && self.next() == Some(map.first),
            "a mapping that is not the run's next"
        );
        self.len += map.len;
        self.by = self.by.wrapping_add(map.by);
    }

    /// Adds the mappings of the next `pages` pages.
    ///
    /// # Panics
    /// If the folio ends before.
    ///
    /// # Safety
    /// Entries under a page-table lock that is held owned a mapping each of these pages, and were cleared.
    #[inline]
    pub unsafe fn push_pages(&mut self, pages: u64) {
        assert!(pages <= self.room(), "a run of more pages than the folio has");
        // None of them is the folio's first, which the run may begin with.
        share_tails(self.frames, self.first.offset(self.len), pages);
        self.len += pages;
        self.by = self.by.wrapping_add(pages * Counts::MAP);
    }

    /// Uncounts the mappings. The reference that remains may be put only when no translation to the pages is
    /// left in any TLB.
    #[doc(alias = "folio_remove_rmap_ptes")]
    #[inline]
    pub fn unmap(self) -> FolioRef<'f, M> {
        let this = ManuallyDrop::new(self);
        let folio = this.folio();
        // Release pairs with the Acquire of whoever finds the folio unmapped, as for a single mapping.
        let old = folio.meta().counts.fetch_add(Counts::REF.wrapping_sub(this.by), Ordering::Release);
        anonmem_hal::debug_check!(M, Counts(old).maps() >= this.len, "mappings too many were removed");
        note_unmapped(folio, Counts(old), this.len);
        FolioRef { frames: this.frames, head: folio.head }
    }

    /// [`unmap`](Self::unmap) for where no translation to the pages is left in any TLB, and none can be made:
    /// if others have the folio, the mappings go in one step. `None` then; else the reference.
    #[inline]
    pub fn unmap_untranslated(self) -> Option<FolioRef<'f, M>> {
        let folio = self.folio();
        // Only a hint: whoever else had it may let go just now, and then we are the last.
        if folio.counts().0 == self.by {
            return Some(self.unmap());
        }
        let this = ManuallyDrop::new(self);
        // AcqRel as for a reference: pairs with the other drops, so that the last one sees what they did.
        let old = folio.meta().counts.fetch_sub(this.by, Ordering::AcqRel);
        anonmem_hal::debug_check!(M, Counts(old).maps() >= this.len, "mappings too many were removed");
        if old == this.by {
            this.frames.free_folio(folio.head);
        } else {
            // A folio of others by now, or free: only a hint.
            note_unmapped(folio, Counts(old), this.len);
        }
        None
    }
}

impl<M: Machine> Drop for MapRun<'_, M> {
    fn drop(&mut self) {
        let Self { frames, first, len, by, end } = *self;
        drop(Self { frames, first, len, by, end }.unmap());
    }
}

/// The page after the last of a folio that somebody owns a count of.
#[inline]
fn end_of<M: Machine>(folio: Folio<'_, M>) -> Pfn {
    folio.pfn().offset(folio.owned_order().pages())
}

/// The mappings of the pages of a large folio, each exclusive, and each for an entry to own: of a new one, or
/// of one whose entries were cleared.
#[must_use = "the mappings must be installed into entries or unmapped"]
pub struct NewAnonPages<'f, M: Machine> {
    frames: &'f Frames<M>,
    next: Pfn,
    end: Pfn,
}

impl<'f, M: Machine> NewAnonPages<'f, M> {
    /// The caller has counted a mapping of each of the `pages` pages from `first` on.
    pub(super) fn new(frames: &'f Frames<M>, first: Pfn, pages: u64) -> Self {
        Self { frames, next: first, end: first.offset(pages) }
    }

    /// The frames that the pages are of.
    #[inline(always)]
    pub fn frames(&self) -> &'f Frames<M> {
        self.frames
    }

    /// Hands the mappings to entries, which own them from now on: the first page, and how many.
    #[inline]
    pub fn into_entries(self) -> (Pfn, u64) {
        let this = ManuallyDrop::new(self);
        (this.next, this.end.0 - this.next.0)
    }

    /// Takes the mappings back from the entries of the `pages` pages from `first` on.
    ///
    /// # Safety
    /// The entries owned an exclusive mapping each of these pages, which are of one folio, and were cleared.
    pub unsafe fn from_entries(frames: &'f Frames<M>, first: Pfn, pages: u64) -> Self {
        Self::new(frames, first, pages)
    }

    /// Asks whether the pages may go to other addresses, as [`Exclusive::try_move`] does of one. The entries
    /// that they came from are cleared.
    pub fn may_move(&self) -> bool {
        !pinned_after_clearing(&self.frames.folio_of_owned(self.next).meta().counts)
    }
}

impl<'f, M: Machine> Iterator for NewAnonPages<'f, M> {
    type Item = Exclusive<'f, M>;

    fn next(&mut self) -> Option<Exclusive<'f, M>> {
        if self.next == self.end {
            return None;
        }
        let page = self.next;
        self.next = page.offset(1);
        Some(Exclusive { frames: self.frames, page })
    }
}

impl<M: Machine> Drop for NewAnonPages<'_, M> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

/// Shares an anonymous page that an entry maps, and that is a folio of its own, for another entry to own:
/// fork. `None` if the page is not anonymous.
///
/// # Errors
/// As [`ExclusiveRef::try_dup`](super::ExclusiveRef::try_dup); nothing has changed.
///
/// # Safety
/// An entry under a page-table lock that is held owns a mapping of the page.
#[doc(alias = "folio_try_dup_anon_rmap_pte")]
#[inline(always)]
pub unsafe fn try_dup_page<M: Machine>(frames: &Frames<M>, page: Pfn) -> Option<Result<(), DupError>> {
    anonmem_hal::debug_check!(M, frames.is_one_page(page));
    let folio = Folio { frames, head: page };
    if frames.page_is_exclusive(page) {
        // SAFETY: the caller's promise.
        let page = unsafe { ExclusiveRef::of_entry(frames, page) };
        return Some(page.try_dup_of(folio).map(|map| {
            // It is the entry's.
            map.into_entry();
        }));
    }
    folio.is_anon().then(|| add_map(folio).map_err(|TooManySharers| DupError::TooManySharers))
}

/// Shares the pages from `first` on that `len` entries map, for as many other entries to own: fork of a large
/// folio. The entries say the same of whether their pages are exclusive; no page is exclusive any more
/// afterwards.
///
/// # Errors
/// As [`ExclusiveRef::try_dup`](super::ExclusiveRef::try_dup); nothing has changed.
///
/// # Safety
/// Entries under a page-table lock that is held own mappings of the pages, which are of one folio.
#[doc(alias = "folio_try_dup_anon_rmap_ptes")]
pub unsafe fn try_dup_run<M: Machine>(frames: &Frames<M>, first: Pfn, len: u64) -> Result<(), DupError> {
    let folio = frames.folio_of_owned(first);
    let exclusive = frames.page_is_exclusive(first);
    if exclusive && folio.maybe_pinned() {
        return Err(DupError::MaybePinned);
    }
    let taken = if exclusive { take_exclusive(folio, first) } else { 0 };
    // Behind the last frame there is none to look at.
    if exclusive && len > 1 {
        for meta in frames.metas(first.offset(1), len - 1) {
            // As in `share_tails`; the caller says that all of them are exclusive.
            anonmem_hal::debug_check_eq!(
                M,
                meta.counts.load(Ordering::Relaxed),
                Counts::EXCLUSIVE,
                "a tail is shared"
            );
            meta.counts.store(0, Ordering::Relaxed);
        }
    }
    let by = (len * Counts::MAP).wrapping_sub(taken);
    // Release, as for every mapping that is added: pairs with the Acquire of `is_mapped`.
    let old = Counts(folio.meta().counts.fetch_add(by, Ordering::Release));
    if old.has_room() {
        return Ok(());
    }
    folio.meta().counts.fetch_sub(by, Ordering::Relaxed);
    if exclusive {
        for meta in frames.metas(first, len) {
            meta.counts.fetch_or(Counts::EXCLUSIVE, Ordering::Relaxed);
        }
    }
    Err(DupError::TooManySharers)
}

/// Takes the exclusive bits of `pages` pages from `first` on away, none of which is its folio's first.
///
/// The bit is all that the word of a tail holds, and it changes under the page-table lock of its page's only
/// entry, which the caller holds: no atomic operation is needed. Of pages that others map, too, it is clear,
/// and nothing is written.
#[inline]
fn share_tails<M: Machine>(frames: &Frames<M>, first: Pfn, pages: u64) {
    let metas = frames.metas(first, pages);
    let word = |meta: &Meta<M>| meta.counts.load(Ordering::Relaxed);
    let clear = |meta: &Meta<M>| {
        anonmem_hal::debug_check!(M, word(meta) & !Counts::EXCLUSIVE == 0, "a tail has counts");
        meta.counts.store(0, Ordering::Relaxed);
    };
    // Where the first is exclusive, so are the others, most likely: they need not be asked.
    match metas.first().is_some_and(|meta| word(meta) != 0) {
        true => metas.iter().for_each(clear),
        false => metas.iter().filter(|meta| word(meta) != 0).for_each(clear),
    }
}
