//! Mappings: the owner types that page-table entries hold, and the only ways from one to the other.
//!
//! ```text
//!   NewFolio ──into_exclusive_anon──▶ Exclusive ──try_dup──▶ Shared + Shared      fork
//!                                     ▲   │                                      
//!                                     │   └──try_share──▶ Shared                  KSM, swap, migration
//!                                     └──reuse── Shared                           COW, when it is alone
//! ```
//!
//! PageAnonExclusive is the difference between [`Exclusive`] and [`Shared`]; the bit in the metadata only
//! remembers it while the owner lives in a page-table entry. The bit of a page is changed under the
//! page-table lock of its only mapping.
//!
//! Linux: include/linux/rmap.h `folio_try_dup_anon_rmap_pte`, `folio_try_share_anon_rmap_pte`,
//! `folio_remove_rmap_pte`; mm/rmap.c `folio_move_anon_rmap`.

use super::{Folio, FolioGuard, FolioPin, FolioRef};
use crate::{
    Frames,
    handle::RawHandle,
    meta::{Counts, Mapping, flags},
};
use anonmem_hal::{Machine, Pfn};
use anonmem_sync::Ordering;
use core::{marker::PhantomData, mem::ManuallyDrop};

/// A page has as many mappings as can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManySharers;

/// Counts one more mapping of a folio that is mapped or referenced already.
pub(super) fn add_map<M: Machine>(folio: Folio<'_, M>) -> Result<(), TooManySharers> {
    // Release pairs with the Acquire of `is_mapped`.
    let old = Counts(folio.meta().counts.fetch_add(Counts::MAP, Ordering::Release));
    debug_assert!(old.total() != 0, "a mapping added to a free folio");
    if old.has_room() {
        return Ok(());
    }
    folio.meta().counts.fetch_sub(Counts::MAP, Ordering::Relaxed);
    Err(TooManySharers)
}

macro_rules! mapping_owner {
    ($(#[$doc:meta])* $name:ident) => {
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

            /// Uncounts the mapping. The reference that remains may be put only when no translation to
            /// the page is left in any TLB.
            #[doc(alias = "folio_remove_rmap_pte")]
            #[inline]
            pub fn unmap(self) -> FolioRef<'f, M> {
                let this = ManuallyDrop::new(self);
                let folio = this.folio();
                // Release: what was done through the mapping comes before its end (pairs with the Acquire
                // of whoever finds the folio unmapped, or of the last put).
                let old = folio.meta().counts.fetch_add(Counts::REF - Counts::MAP, Ordering::Release);
                debug_assert!(Counts(old).maps() > 0, "a mapping too many was removed");
                FolioRef { frames: this.frames, head: folio.head }
            }
        }

        impl<'f, M: Machine> $name<'f, M> {
            /// Uncounts the mapping and puts a reference to the same folio, in one step: no translation to the page is
            /// left that came from this mapping.
            ///
            /// # Panics
            /// If the reference is to another folio.
            #[inline]
            pub fn unmap_and_put(self, reference: FolioRef<'f, M>) {
                let folio = self.folio();
                assert!(reference.folio() == folio, "a mapping and a reference of two folios");
                let (this, _reference) = (ManuallyDrop::new(self), ManuallyDrop::new(reference));
                // AcqRel as for a reference: pairs with the other drops, so that the last one sees what they did.
                let old = folio.meta().counts.fetch_sub(Counts::MAP + Counts::REF, Ordering::AcqRel);
                debug_assert!(Counts(old).maps() > 0 && Counts(old).refs() > 0, "a count too many was removed");
                if old == Counts::MAP + Counts::REF {
                    this.frames.free_folio(folio.head);
                }
            }

            /// [`unmap`](Self::unmap) for where no translation to the page is left in any TLB, and none can be made:
            /// if others have the page, the mapping goes in one step. `None` then; else the reference.
            #[inline]
            pub fn unmap_untranslated(self) -> Option<FolioRef<'f, M>> {
                let folio = self.folio();
                // Only a hint: whoever else had it may let go just now, and then we are the last.
                if folio.counts().total() == 1 {
                    return Some(self.unmap());
                }
                let this = ManuallyDrop::new(self);
                // AcqRel as for a reference: pairs with the other drops, so that the last one sees what they did.
                let old = folio.meta().counts.fetch_sub(Counts::MAP, Ordering::AcqRel);
                debug_assert!(Counts(old).maps() > 0, "a mapping too many was removed");
                if old == Counts::MAP {
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
    Exclusive
}
mapping_owner! {
    /// A mapping of an anonymous page that others may map too: writing copies.
    Shared
}
mapping_owner! {
    /// A mapping of a page of a shared object: writable if the VMA is.
    ShmMap
}

impl<'f, M: Machine> Exclusive<'f, M> {
    /// Makes it shared: `folio_try_share_anon_rmap_pte`. The entry it came from is cleared and flushed.
    ///
    /// # Errors
    /// The page itself, if it may be pinned: put it back.
    pub fn try_share(self) -> Result<Shared<'f, M>, Self> {
        if self.folio().maybe_pinned() {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        this.frames.meta(this.page).flags.fetch_and(!flags::EXCLUSIVE, Ordering::Relaxed);
        Ok(Shared { frames: this.frames, page: this.page })
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
        if folio.maybe_pinned() {
            return Err(DupError::MaybePinned);
        }
        add_map(folio).map_err(|TooManySharers| DupError::TooManySharers)?;
        self.frames.meta(self.page).flags.fetch_and(!flags::EXCLUSIVE, Ordering::Relaxed);
        Ok(Shared { frames: self.frames, page: self.page })
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
        if old.has_room() { Ok(pin) } else { Err(TooManySharers) }
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
    /// The page has 2^28 mappings.
    TooManySharers,
}

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
        self.folio().counts().total() == 1
    }

    /// Makes the mapping exclusive and its anon_vma the given one: it is the only one, and nobody else has a
    /// reference through which it could be duplicated.
    ///
    /// `lock` is the lock of this folio: while it is held no swap-cache user can add a mapping. `anon_vma` is
    /// that of the VMA that maps the page (`folio_move_anon_rmap`), so that later forks of others do not lengthen its walks.
    ///
    /// # Errors
    /// `Err(())`: others have a count.
    #[doc(alias = "folio_move_anon_rmap")]
    #[allow(clippy::result_unit_err)]
    pub fn reuse(&self, lock: &FolioGuard<'_, M>, anon_vma: RawHandle) -> Result<(), ()> {
        let folio = self.folio();
        assert!(lock.folio() == folio, "reuse under another folio's lock");
        // Acquire pairs with the Release of the last `unmap`: what the former sharers did is over.
        let counts = Counts(folio.meta().counts.load(Ordering::Acquire));
        if counts.total() != 1 || folio.order().get() != 0 || matches!(folio.mapping(), Mapping::Ksm(_)) {
            return Err(());
        }
        folio.set_mapping(Mapping::Anon(anon_vma), folio.index());
        self.frames.meta(self.page).flags.fetch_or(flags::EXCLUSIVE, Ordering::Relaxed);
        Ok(())
    }
}

fn get<M: Machine>(frames: &Frames<M>, page: Pfn) -> FolioRef<'_, M> {
    let folio = frames.folio_of_owned(page);
    let old = Counts(folio.meta().counts.fetch_add(Counts::REF, Ordering::Relaxed));
    assert!(old.has_room(), "2^20 references to one folio");
    FolioRef { frames, head: folio.head }
}
