//! Mappings: the owner types that page-table entries hold, and the only ways from one to the other.
//!
//! ```text
//!   NewFolio ──into_exclusive_anon──▶ Exclusive ──try_dup──▶ Shared + Shared      fork
//!                                     ▲   │                                      
//!                                     │   └──try_share──▶ Shared                  KSM, swap, migration
//!                                     └──reuse── Shared                           COW, when it is alone
//!                                                │ ▲
//!                                           hold │ │ release                       migration
//!                                                ▼ │
//!                                          MigrationHold
//! ```
//!
//! PageAnonExclusive is the difference between [`Exclusive`] and [`Shared`]; the bit in the metadata only
//! remembers it while the owner lives in a page-table entry. The bit of a page is changed under the
//! page-table lock of its only mapping, in one operation with the folio's counts where both change.
//!
//! Linux: include/linux/rmap.h `folio_try_dup_anon_rmap_pte`, `folio_try_share_anon_rmap_pte`,
//! `folio_remove_rmap_pte`; mm/rmap.c `folio_move_anon_rmap`.

use super::{
    Folio, FolioGuard, FolioPin, FolioRef, look::note_unmapped, pin_protocol::pinned_after_clearing,
};
use crate::{
    Frames,
    meta::{Counts, Mapping, Stamp, TooManySharers},
};
use anonmem_hal::{Machine, Pfn};
use anonmem_sync::Ordering;
use core::{fmt, marker::PhantomData, mem::ManuallyDrop};

/// Counts one more mapping of a folio that is mapped or referenced already.
pub(super) fn add_map<M: Machine>(folio: Folio<'_, M>) -> Result<(), TooManySharers> {
    // Release pairs with the Acquire of `is_mapped`.
    let old = Counts(folio.meta().counts.fetch_add(Counts::MAP, Ordering::Release));
    anonmem_hal::debug_check!(M, old.total() != 0, "a mapping added to a free folio");
    if old.has_room() {
        return Ok(());
    }
    folio.meta().counts.fetch_sub(Counts::MAP, Ordering::Relaxed);
    Err(TooManySharers)
}

/// The exclusive bit of `page`, to be taken away in one operation with a count of `folio`, which holds it: 0
/// if the page is not the first of the folio, because then the bit is in a word of its own and has been taken
/// away.
#[inline(always)]
pub(super) fn take_exclusive<M: Machine>(folio: Folio<'_, M>, page: Pfn) -> u64 {
    if folio.head == page {
        return Counts::EXCLUSIVE;
    }
    folio.frames.meta(page).counts.fetch_and(!Counts::EXCLUSIVE, Ordering::Relaxed);
    0
}

macro_rules! mapping_owner {
    ($(#[$doc:meta])* $name:ident, |$folio:ident, $page:ident| $mark:expr) => {
        $(#[$doc])*
        #[must_use = "a mapping must be installed into an entry or unmapped"]
        pub struct $name<'f, M: Machine> {
            pub(super) frames: &'f Frames<M>,
            pub(super) page: Pfn,
        }

        impl<'f, M: Machine> $name<'f, M> {
            /// The page that is mapped.
            pub fn pfn(&self) -> Pfn {
                self.page
            }

            /// The folio that holds it.
            pub fn folio(&self) -> Folio<'f, M> {
                self.frames.folio_of_owned(self.page)
            }

            /// The frames that the page is one of.
            #[inline(always)]
            pub fn frames(&self) -> &'f Frames<M> {
                self.frames
            }

            /// Hands the mapping to a page-table entry, which owns it from now on.
            pub fn into_entry(self) -> Pfn {
                ManuallyDrop::new(self).page
            }

            /// Takes the mapping back from the entry that owned it.
            ///
            /// # Safety
            /// `page` came from `into_entry` (or from `dup`, `reuse` and the like of its reference types) of
            /// the same `frames` and of this type, and the entry was cleared.
            pub unsafe fn from_entry(frames: &'f Frames<M>, page: Pfn) -> Self {
                Self { frames, page }
            }

            /// What of the folio's word is this mapping's.
            #[inline(always)]
            pub(super) fn counted($folio: Folio<'f, M>, $page: Pfn) -> u64 {
                Counts::MAP + $mark
            }

            /// Uncounts the mapping. The reference that remains may be put only when no translation to
            /// the page is left in any TLB.
            #[doc(alias = "folio_remove_rmap_pte")]
            #[inline]
            pub fn unmap(self) -> FolioRef<'f, M> {
                let this = ManuallyDrop::new(self);
                let folio = this.folio();
                // Release: what was done through the mapping comes before its end (pairs with the Acquire
                // of whoever finds the folio unmapped, or of the last put).
                let by = Counts::REF.wrapping_sub(Self::counted(folio, this.page));
                let old = folio.meta().counts.fetch_add(by, Ordering::Release);
                anonmem_hal::debug_check!(M, Counts(old).maps() > 0, "a mapping too many was removed");
                note_unmapped(folio, Counts(old), 1);
                FolioRef { frames: this.frames, head: folio.head }
            }
        }

        impl<'f, M: Machine> $name<'f, M> {
            /// Uncounts the mapping and puts a reference to the same folio, in one step: no translation to
            /// the page is left that came from this mapping.
            ///
            /// # Panics
            /// If the reference is to another folio.
            #[inline]
            pub fn unmap_and_put(self, reference: FolioRef<'f, M>) {
                let folio = self.folio();
                assert!(reference.folio() == folio, "a mapping and a reference of two folios");
                let (this, _reference) = (ManuallyDrop::new(self), ManuallyDrop::new(reference));
                // AcqRel as for a reference: pairs with the other drops, so that the last one sees what they
                // did.
                let by = Self::counted(folio, this.page) + Counts::REF;
                let old = folio.meta().counts.fetch_sub(by, Ordering::AcqRel);
                anonmem_hal::debug_check!(M, Counts(old).maps() > 0 && Counts(old).refs() > 0, "a count too many was removed");
                if old == by {
                    this.frames.free_folio(folio.head);
                }
            }

            /// [`unmap`](Self::unmap) if the page is a folio of its own; else the mapping again, for a run of
            /// them.
            ///
            /// # Errors
            /// The mapping.
            #[inline(always)]
            pub fn unmap_one_page(self) -> Result<FolioRef<'f, M>, Self> {
                if !self.frames.is_one_page(self.page) {
                    return Err(self);
                }
                let this = ManuallyDrop::new(self);
                let folio = Folio { frames: this.frames, head: this.page };
                // Release: as in `unmap`.
                let by = Counts::REF.wrapping_sub(Self::counted(folio, this.page));
                let old = folio.meta().counts.fetch_add(by, Ordering::Release);
                anonmem_hal::debug_check!(M, Counts(old).maps() > 0, "a mapping too many was removed");
                Ok(FolioRef { frames: this.frames, head: folio.head })
            }

            /// [`unmap_untranslated`](Self::unmap_untranslated) if the page is a folio of its own; else the
            /// mapping again.
            ///
            /// # Errors
            /// The mapping.
            #[inline(always)]
            pub fn unmap_untranslated_one_page(self) -> Result<Option<FolioRef<'f, M>>, Self> {
                if !self.frames.is_one_page(self.page) {
                    return Err(self);
                }
                let head = self.page;
                Ok(self.unmap_untranslated_of(head))
            }

            /// [`unmap`](Self::unmap) for where no translation to the page is left in any TLB, and none can
            /// be made: if others have the page, the mapping goes in one step. `None` then; else the
            /// reference.
            #[inline]
            pub fn unmap_untranslated(self) -> Option<FolioRef<'f, M>> {
                let head = self.folio().head;
                self.unmap_untranslated_of(head)
            }

            /// The same for a page of the folio that starts at `head`.
            #[inline(always)]
            fn unmap_untranslated_of(self, head: Pfn) -> Option<FolioRef<'f, M>> {
                let folio = Folio { frames: self.frames, head };
                // Only a hint: whoever else had it may let go just now, and then we are the last.
                if folio.counts().is_one_map() {
                    let this = ManuallyDrop::new(self);
                    let by = Counts::REF.wrapping_sub(Self::counted(folio, this.page));
                    // Release: as in `unmap`.
                    folio.meta().counts.fetch_add(by, Ordering::Release);
                    return Some(FolioRef { frames: this.frames, head });
                }
                let this = ManuallyDrop::new(self);
                // AcqRel as for a reference: pairs with the other drops, so that the last one sees what they
                // did.
                let by = Self::counted(folio, this.page);
                let old = folio.meta().counts.fetch_sub(by, Ordering::AcqRel);
                anonmem_hal::debug_check!(M, Counts(old).maps() > 0, "a mapping too many was removed");
                if old == by {
                    this.frames.free_folio(folio.head);
                }
                None
            }
        }

        impl<M: Machine> Drop for $name<'_, M> {
            fn drop(&mut self) {
                // Not installed after all: no translation was ever made.
                drop(Self { frames: self.frames, page: self.page }.unmap());
            }
        }
    };
}

mapping_owner! {
    /// A mapping of an anonymous page that has no other: writable without asking.
    Exclusive, |folio, page| take_exclusive(folio, page)
}
mapping_owner! {
    /// A mapping of an anonymous page that others may map too: writing copies.
    Shared, |_folio, _page| 0
}
mapping_owner! {
    /// A mapping of a page of a shared object: writable if the VMA is.
    ShmMap, |_folio, _page| 0
}

mapping_owner! {
    /// A mapping of a page that is on its way to another frame: what a migration entry owns of the old one.
    ///
    /// It goes on counting as a mapping, so that the folio's anon_vma is found and lives
    /// (`folio_lock_anon_vma_read`), and so that whoever moves the page sees all of it in one word: its own
    /// reference, and a mapping for every entry that waits. Whether the entry was exclusive or writable, the
    /// entry says ([`MigrationBits`](anonmem_hal::MigrationBits)).
    MigrationHold, |_folio, _page| 0
}

impl<'f, M: Machine> Shared<'f, M> {
    /// Turns the mapping into what a migration entry owns.
    pub fn hold(self) -> MigrationHold<'f, M> {
        let this = ManuallyDrop::new(self);
        MigrationHold { frames: this.frames, page: this.page }
    }
}

impl<'f, M: Machine> MigrationHold<'f, M> {
    /// Turns it into a mapping again: the page stays where it is.
    pub fn release(self) -> Shared<'f, M> {
        let this = ManuallyDrop::new(self);
        Shared { frames: this.frames, page: this.page }
    }
}

/// A look at the hold that a locked migration entry owns.
pub struct MigrationHoldRef<'e, 'f, M: Machine> {
    frames: &'f Frames<M>,
    page: Pfn,
    /// The lock of the entry.
    _entry: PhantomData<&'e ()>,
}

impl<'f, M: Machine> MigrationHoldRef<'_, 'f, M> {
    /// The owner in the entry for `page`, for as long as the page-table lock is held.
    ///
    /// # Safety
    /// A migration entry under a page-table lock that is held for `'e` owns a hold on `page`.
    pub unsafe fn of_entry(frames: &'f Frames<M>, page: Pfn) -> Self {
        Self { frames, page, _entry: PhantomData }
    }

    /// The old page.
    pub fn pfn(&self) -> Pfn {
        self.page
    }

    /// Its folio.
    pub fn folio(&self) -> Folio<'f, M> {
        self.frames.folio_of_owned(self.page)
    }

    /// For fork: one more entry that waits for the page.
    ///
    /// # Errors
    /// [`TooManySharers`].
    pub fn try_dup(&self) -> Result<MigrationHold<'f, M>, TooManySharers> {
        add_map(self.folio())?;
        Ok(MigrationHold { frames: self.frames, page: self.page })
    }
}

impl<'f, M: Machine> Exclusive<'f, M> {
    /// Makes it shared: `folio_try_share_anon_rmap_pte`. The entry that it came from is cleared: the sharer's
    /// half of [`pin_protocol`](super::pin_protocol).
    ///
    /// # Errors
    /// The page itself, if it may be pinned: put it back.
    pub fn try_share(self) -> Result<Shared<'f, M>, Self> {
        if pinned_after_clearing(&self.folio().meta().counts) {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        this.frames.meta(this.page).counts.fetch_and(!Counts::EXCLUSIVE, Ordering::Relaxed);
        Ok(Shared { frames: this.frames, page: this.page })
    }
}

impl<M: Machine> Exclusive<'_, M> {
    /// Asks whether the page may go to another address (UFFDIO_MOVE). The entry that it came from is cleared,
    /// so that a pin is seen that was taken before: the sharer's half of
    /// [`pin_protocol`](super::pin_protocol).
    ///
    /// # Errors
    /// The page itself, if it may be pinned: put it back. Nothing of it has changed.
    pub fn try_move(self) -> Result<Self, Self> {
        if pinned_after_clearing(&self.folio().meta().counts) { Err(self) } else { Ok(self) }
    }
}

/// A look at an exclusive mapping that a locked entry owns.
pub struct ExclusiveRef<'e, 'f, M: Machine> {
    frames: &'f Frames<M>,
    page: Pfn,
    /// The lock of the entry.
    _entry: PhantomData<&'e ()>,
}

impl<'e, 'f, M: Machine> ExclusiveRef<'e, 'f, M> {
    /// The owner in the entry for `page`, for as long as the page-table lock is held.
    ///
    /// # Safety
    /// A present entry under a page-table lock that is held for `'e` owns an exclusive mapping of `page`.
    pub unsafe fn of_entry(frames: &'f Frames<M>, page: Pfn) -> Self {
        Self { frames, page, _entry: PhantomData }
    }

    /// The page.
    pub fn pfn(&self) -> Pfn {
        self.page
    }

    /// Its folio.
    pub fn folio(&self) -> Folio<'f, M> {
        self.frames.folio_of_owned(self.page)
    }

    /// For fork: both this mapping and the one returned are shared from now on. The caller write-protects
    /// this entry before it lets go of the page-table lock.
    ///
    /// # Errors
    /// [`DupError::MaybePinned`]: copy the page for the child. [`DupError::TooManySharers`].
    #[doc(alias = "folio_try_dup_anon_rmap_pte")]
    #[inline]
    pub fn try_dup(self) -> Result<Shared<'f, M>, DupError> {
        let folio = self.folio();
        self.try_dup_of(folio)
    }

    /// The same, of the folio that holds the page.
    #[inline(always)]
    pub(super) fn try_dup_of(self, folio: Folio<'f, M>) -> Result<Shared<'f, M>, DupError> {
        if folio.maybe_pinned() {
            return Err(DupError::MaybePinned);
        }
        let by = Counts::MAP.wrapping_sub(take_exclusive(folio, self.page));
        // Release, as for every mapping that is added: pairs with the Acquire of `is_mapped`.
        let old = Counts(folio.meta().counts.fetch_add(by, Ordering::Release));
        anonmem_hal::debug_check!(M, old.maps() != 0, "a page was exclusive without a mapping");
        if !old.has_room() {
            self.undo_dup(by);
            return Err(DupError::TooManySharers);
        }
        Ok(Shared { frames: self.frames, page: self.page })
    }

    /// Takes back what `try_dup` added, and makes the page exclusive again.
    #[cold]
    fn undo_dup(&self, by: u64) {
        let folio = self.folio();
        folio.meta().counts.fetch_sub(by, Ordering::Relaxed);
        self.frames.meta(self.page).counts.fetch_or(Counts::EXCLUSIVE, Ordering::Relaxed);
    }

    /// Pins the page for as long as the pin lives.
    ///
    /// # Errors
    /// [`TooManySharers`] if it is pinned 2^16 times already.
    pub fn pin(&self) -> Result<FolioPin<'f, M>, TooManySharers> {
        let folio = self.folio();
        // Relaxed: the page-table lock orders this with fork and unmap.
        let old = Counts(folio.meta().counts.fetch_add(Counts::PIN, Ordering::Relaxed));
        let pin = FolioPin { frames: self.frames, page: self.page };
        // One that does not fit is dropped: there is headroom for one of every CPU.
        old.has_room().then_some(pin).ok_or(TooManySharers)
    }

    /// Takes a reference, to keep the page while the page-table lock is dropped.
    pub fn get(&self) -> FolioRef<'f, M> {
        get(self.frames, self.page)
    }
}

/// Why a mapping cannot be shared with a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DupError {
    /// The page may be pinned: the child gets a copy.
    MaybePinned,
    /// The page has 2^27 mappings.
    TooManySharers,
}

impl fmt::Display for DupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MaybePinned => f.write_str("the page may be pinned"),
            Self::TooManySharers => TooManySharers.fmt(f),
        }
    }
}

impl core::error::Error for DupError {}

/// Others have a count of the folio, or it is a merged one: its mappings are not made exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAlone;

impl fmt::Display for NotAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("others may have the folio, too")
    }
}

impl core::error::Error for NotAlone {}

/// A look at a shared mapping that a locked entry owns.
pub struct SharedRef<'e, 'f, M: Machine> {
    frames: &'f Frames<M>,
    page: Pfn,
    /// The lock of the entry.
    _entry: PhantomData<&'e ()>,
}

impl<'e, 'f, M: Machine> SharedRef<'e, 'f, M> {
    /// The owner in the entry for `page`, for as long as the page-table lock is held.
    ///
    /// # Safety
    /// A present entry under a page-table lock that is held for `'e` owns a shared mapping of `page`.
    pub unsafe fn of_entry(frames: &'f Frames<M>, page: Pfn) -> Self {
        Self { frames, page, _entry: PhantomData }
    }

    /// The page.
    pub fn pfn(&self) -> Pfn {
        self.page
    }

    /// Its folio.
    pub fn folio(&self) -> Folio<'f, M> {
        self.frames.folio_of_owned(self.page)
    }

    /// For fork: one more shared mapping.
    ///
    /// # Errors
    /// [`TooManySharers`].
    #[inline]
    pub fn try_dup(self) -> Result<Shared<'f, M>, TooManySharers> {
        add_map(self.folio())?;
        Ok(Shared { frames: self.frames, page: self.page })
    }

    /// Takes a reference, to keep the page while the page-table lock is dropped.
    pub fn get(&self) -> FolioRef<'f, M> {
        get(self.frames, self.page)
    }

    /// Whether this mapping is all there is: the first half of `wp_can_reuse_anon_folio`, cheap and without
    /// the folio lock; [`reuse`](Self::reuse) decides.
    #[inline]
    pub fn looks_reusable(&self) -> bool {
        self.folio().counts().is_one_map()
    }

    /// Makes the mapping exclusive and its anon_vma the given one: it is the only one, and nobody else has a
    /// reference through which it could be duplicated.
    ///
    /// `lock` is the lock of this folio: while it is held no swap-cache user can add a mapping. `anon_vma` is
    /// that of the VMA that maps the page (`folio_move_anon_rmap`), so that later forks of others do not
    /// lengthen its walks.
    ///
    /// # Errors
    /// [`NotAlone`].
    #[doc(alias = "folio_move_anon_rmap")]
    pub fn reuse(&self, lock: &FolioGuard<'_, M>, anon_vma: Stamp) -> Result<(), NotAlone> {
        let folio = self.folio();
        assert!(lock.folio() == folio, "reuse under another folio's lock");
        // Acquire pairs with the Release of the last `unmap`: what the former sharers did is over.
        let counts = Counts(folio.meta().counts.load(Ordering::Acquire));
        if !counts.is_one_map()
            || folio.owned_order().get() != 0
            || matches!(folio.mapping(), Mapping::Ksm(_))
        {
            return Err(NotAlone);
        }
        folio.set_mapping(Mapping::Anon(anon_vma), folio.index());
        folio.meta().counts.fetch_or(Counts::EXCLUSIVE, Ordering::Relaxed);
        Ok(())
    }

    /// [`reuse`](Self::reuse) of a page that belongs to `anon_vma` already: nothing changes but the word that
    /// says that there is one mapping and nothing else, so no folio lock is needed. Whoever could bring
    /// another mapping has a count of the folio (faults on swap entries: a reference) or needs this entry's
    /// lock (fork). Whoever takes a reference later finds the page exclusive under that lock. Returns whether
    /// it is ours.
    #[inline]
    pub fn reuse_own(&self, anon_vma: Stamp) -> bool {
        let folio = self.folio();
        // A page of a larger folio has its bit elsewhere; `mapping` is stable, because only the only mapper
        // changes it.
        if folio.owned_order().get() != 0 || !folio.mapping_word().has(anon_vma) {
            return false;
        }
        let ours = Counts::MAP + Counts::EXCLUSIVE;
        // Acquire pairs with the Release of the last `unmap`: what the former sharers did is over.
        folio.meta().counts.compare_exchange(Counts::MAP, ours, Ordering::Acquire).is_ok()
    }
}

fn get<M: Machine>(frames: &Frames<M>, page: Pfn) -> FolioRef<'_, M> {
    let folio = frames.folio_of_owned(page);
    let old = Counts(folio.meta().counts.fetch_add(Counts::REF, Ordering::Relaxed));
    assert!(old.has_room(), "2^20 references to one folio");
    FolioRef { frames, head: folio.head }
}
