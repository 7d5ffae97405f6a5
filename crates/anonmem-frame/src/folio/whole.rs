//! Mappings of whole folios: what a leaf above the last level owns.
//!
//! A leaf maps every page of one folio at once, and counts as *one mapping of each page*. These n mappings
//! are added and taken away in one atomic operation. So nothing is counted anew when a leaf becomes a table.
//! Whoever asks how often a folio is mapped need not know how. How many of the mappings are whole is a
//! statistic beside them, in the first tail.
//!
//! Whether the pages are exclusive is one bit, that of the *first* page. A leaf is exclusive or shared as a
//! whole, and the folio of an exclusive one has no other mapping. The other pages' bits are clear for as
//! long. So fork shares a leaf with one addition to one word. Where the leaf becomes a table, every page gets
//! a bit of its own ([`into_page_entries`](ExclusiveWhole::into_page_entries)). Those are stores, before
//! anybody can see the table: they cannot fail, and need no memory.
//!
//! Linux: include/linux/rmap.h `folio_try_dup_anon_rmap_pmd`, `folio_try_share_anon_rmap_pmd`;
//! mm/huge_memory.c `__split_huge_pmd_locked`. Differs: one mapping a page instead of one a leaf, and no
//! count per page.

use super::{
    DupError, Folio, FolioGuard, FolioPin, FolioRef, MapRun, NotAlone,
    pin_protocol::{self, pinned_after_clearing},
};
use crate::{
    Frames,
    meta::{Counts, Mapping, Stamp, TooManySharers},
};
use anonmem_hal::{Machine, Pfn};
use anonmem_sync::{Atomic, Ordering};
use core::{fmt, marker::PhantomData, mem::ManuallyDrop};

/// The number of leaves that map the large folio that starts at `head`.
pub(super) fn wholes<M: Machine>(frames: &Frames<M>, head: Pfn) -> &Atomic<u32, M> {
    &frames.meta(head.offset(1)).aux
}

/// Counts one leaf more that maps the folio. Relaxed: a statistic.
fn add_whole<M: Machine>(folio: Folio<'_, M>) {
    wholes(folio.frames, folio.head).fetch_add(1, Ordering::Relaxed);
}

/// Counts one leaf less.
fn remove_whole<M: Machine>(folio: Folio<'_, M>) {
    let old = wholes(folio.frames, folio.head).fetch_sub(1, Ordering::Relaxed);
    anonmem_hal::debug_check!(M, old > 0, "a leaf too many was removed");
}

/// What of the folio's word are the mappings of a leaf.
fn all_maps<M: Machine>(folio: Folio<'_, M>) -> u64 {
    folio.nr_pages().0 * Counts::MAP
}

impl<M: Machine> Folio<'_, M> {
    /// How many of its mappings are leaves, of which each maps all of it (Linux: `folio_entire_mapcount`).
    pub fn whole_mappings(&self) -> u64 {
        if self.order().get() == 0 {
            return 0;
        }
        u64::from(wholes(self.frames, self.head).load(Ordering::Relaxed))
    }
}

macro_rules! whole_owner {
    ($(#[$doc:meta])* $name:ident, $mark:expr) => {
        $(#[$doc])*
        #[must_use = "a mapping must be installed into an entry or unmapped"]
        pub struct $name<'f, M: Machine> {
            pub(super) frames: &'f Frames<M>,
            pub(super) head: Pfn,
        }

        impl<'f, M: Machine> $name<'f, M> {
            /// The folio's first page.
            pub fn pfn(&self) -> Pfn {
                self.head
            }

            /// The folio.
            pub fn folio(&self) -> Folio<'f, M> {
                self.frames.folio_of_owned(self.head)
            }

            /// The frames that the folio is of.
            pub fn frames(&self) -> &'f Frames<M> {
                self.frames
            }

            /// Hands the mappings to a leaf, which owns them from now on.
            pub fn into_entry(self) -> Pfn {
                ManuallyDrop::new(self).head
            }

            /// Takes the mappings back from the leaf that owned them.
            ///
            /// # Safety
            /// `head` came from `into_entry` of the same `frames` and of this type, or is that of a folio
            /// that [`try_dup_whole`] has mapped once more. The leaf was cleared.
            pub unsafe fn from_entry(frames: &'f Frames<M>, head: Pfn) -> Self {
                Self { frames, head }
            }

            /// Uncounts the mappings. The reference that remains may be put only when no translation to the
            /// pages is left in any TLB.
            #[doc(alias = "folio_remove_rmap_pmd")]
            pub fn unmap(self) -> FolioRef<'f, M> {
                MapRun::from(self).unmap()
            }
        }

        /// As a run, the mappings are those of pages, and no leaf's.
        impl<'f, M: Machine> From<$name<'f, M>> for MapRun<'f, M> {
            fn from(map: $name<'f, M>) -> Self {
                let map = ManuallyDrop::new(map);
                let folio = map.folio();
                remove_whole(folio);
                MapRun::new(map.frames, map.head, folio.nr_pages().0, all_maps(folio) + $mark)
            }
        }

        impl<M: Machine> fmt::Debug for $name<'_, M> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), " of {:?}"), self.folio())
            }
        }

        impl<M: Machine> Drop for $name<'_, M> {
            fn drop(&mut self) {
                // Not installed after all: no translation was ever made.
                drop(Self { frames: self.frames, head: self.head }.unmap());
            }
        }
    };
}

whole_owner! {
    /// The mappings of a whole anonymous folio that has no other: writable without asking.
    ExclusiveWhole, Counts::EXCLUSIVE
}
whole_owner! {
    /// The mappings of a whole anonymous folio that others may map too: writing takes it or copies of it.
    SharedWhole, 0
}
whole_owner! {
    /// The mappings of a whole folio that is on its way to other frames: what a migration entry above the
    /// last level owns of the old ones. They go on counting, as those of a
    /// [`MigrationHold`](super::MigrationHold) do.
    HoldWhole, 0
}

impl<M: Machine> ExclusiveWhole<'_, M> {
    /// Hands the mappings to as many entries of single pages, each exclusive: the leaf becomes a table, which
    /// nobody sees yet. Returns the first page.
    pub fn into_page_entries(self) -> Pfn {
        let this = ManuallyDrop::new(self);
        let folio = this.folio();
        remove_whole(folio);
        for page in (1..folio.nr_pages().0).map(|nth| this.head.offset(nth)) {
            // Relaxed: the Release with which the table is published comes after it. The first page's bit is
            // there.
            this.frames.meta(page).counts.store(Counts::EXCLUSIVE, Ordering::Relaxed);
        }
        this.head
    }
}

impl<'f, M: Machine> ExclusiveWhole<'f, M> {
    /// Takes the mappings of all pages of a folio from their entries: a table becomes a leaf, which nobody
    /// sees yet.
    ///
    /// # Safety
    /// Entries owned an exclusive mapping of each page of the large folio at `head`, and the table that they
    /// are in cannot be reached any more.
    pub unsafe fn from_page_entries(frames: &'f Frames<M>, head: Pfn) -> Self {
        let whole = Self { frames, head };
        let folio = whole.folio();
        for tail in frames.metas(head.offset(1), folio.nr_pages().0 - 1) {
            // The first page's bit says it of all of them. It is all that the word of a tail holds, and
            // changes under the lock of its entry's table. Relaxed: the Release with which the leaf is
            // published comes after it.
            tail.counts.store(0, Ordering::Relaxed);
        }
        add_whole(folio);
        whole
    }
}

macro_rules! pages_of_whole {
    ($name:ident) => {
        impl<M: Machine> $name<'_, M> {
            /// Hands the mappings to as many entries of single pages: the leaf becomes a table, which nobody
            /// sees yet. Returns the first page.
            pub fn into_page_entries(self) -> Pfn {
                let this = ManuallyDrop::new(self);
                remove_whole(this.folio());
                this.head
            }
        }
    };
}
pages_of_whole!(SharedWhole);
pages_of_whole!(HoldWhole);

impl<'f, M: Machine> ExclusiveWhole<'f, M> {
    /// Makes it shared: `folio_try_share_anon_rmap_pmd`. The leaf that it came from is cleared: the sharer's
    /// half of [`pin_protocol`].
    ///
    /// # Errors
    /// The mappings, if the folio may be pinned: put them back.
    pub fn try_share(self) -> Result<SharedWhole<'f, M>, Self> {
        let folio = self.folio();
        if pinned_after_clearing(&folio.meta().counts) {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        folio.meta().counts.fetch_and(!Counts::EXCLUSIVE, Ordering::Relaxed);
        Ok(SharedWhole { frames: this.frames, head: this.head })
    }

    /// Asks whether the folio may go to another address (UFFDIO_MOVE). The leaf that it came from is cleared.
    ///
    /// # Errors
    /// The mappings, if the folio may be pinned: put them back.
    pub fn try_move(self) -> Result<Self, Self> {
        if pinned_after_clearing(&self.folio().meta().counts) { Err(self) } else { Ok(self) }
    }
}

impl<'f, M: Machine> SharedWhole<'f, M> {
    /// Turns the mappings into what a migration entry owns.
    pub fn hold(self) -> HoldWhole<'f, M> {
        let this = ManuallyDrop::new(self);
        HoldWhole { frames: this.frames, head: this.head }
    }
}

impl<'f, M: Machine> HoldWhole<'f, M> {
    /// Turns it into mappings again: the folio stays where it is.
    pub fn release(self) -> SharedWhole<'f, M> {
        let this = ManuallyDrop::new(self);
        SharedWhole { frames: this.frames, head: this.head }
    }
}

macro_rules! whole_ref {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name<'e, 'f, M: Machine> {
            frames: &'f Frames<M>,
            head: Pfn,
            /// The lock of the entry.
            _entry: PhantomData<&'e ()>,
        }

        impl<M: Machine> fmt::Debug for $name<'_, '_, M> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), " of {:?}"), self.folio())
            }
        }

        impl<'f, M: Machine> $name<'_, 'f, M> {
            /// The owner in the leaf for the folio at `head`, for as long as the lock of its table is held.
            ///
            /// # Safety
            /// A leaf under a lock that is held for `'e` owns mappings of this kind of the folio.
            pub unsafe fn of_entry(frames: &'f Frames<M>, head: Pfn) -> Self {
                Self { frames, head, _entry: PhantomData }
            }

            /// The folio's first page.
            pub fn pfn(&self) -> Pfn {
                self.head
            }

            /// The folio.
            pub fn folio(&self) -> Folio<'f, M> {
                self.frames.folio_of_owned(self.head)
            }

            /// Takes a reference, to keep the folio while the lock is dropped.
            pub fn get(&self) -> FolioRef<'f, M> {
                let folio = self.folio();
                let old = Counts(folio.meta().counts.fetch_add(Counts::REF, Ordering::Relaxed));
                assert!(old.has_room(), "2^20 references to one folio");
                FolioRef { frames: self.frames, head: self.head }
            }
        }
    };
}

whole_ref! {
    /// A look at the exclusive mappings that a locked leaf owns.
    ExclusiveWholeRef
}
whole_ref! {
    /// A look at the shared mappings that a locked leaf owns.
    SharedWholeRef
}
whole_ref! {
    /// A look at what a locked migration entry above the last level owns.
    HoldWholeRef
}

impl<'f, M: Machine> ExclusiveWholeRef<'_, 'f, M> {
    /// Pins the `nth` page for as long as the pin lives.
    ///
    /// # Errors
    /// [`TooManySharers`] if the folio is pinned 2^16 times already.
    pub fn pin(&self, nth: u64) -> Result<FolioPin<'f, M>, TooManySharers> {
        let folio = self.folio();
        assert!(nth < folio.nr_pages().0, "page {nth} of {folio:?}");
        // The lock of the leaf orders this with fork and unmap.
        if pin_protocol::try_count(&folio.meta().counts) {
            Ok(FolioPin { frames: self.frames, page: self.head.offset(nth) })
        } else {
            Err(TooManySharers)
        }
    }
}

impl<'f, M: Machine> HoldWholeRef<'_, 'f, M> {
    /// For fork: one more entry that waits for the folio.
    ///
    /// # Errors
    /// [`TooManySharers`].
    pub fn try_dup(&self) -> Result<HoldWhole<'f, M>, TooManySharers> {
        add_all(self.folio(), 0).map_err(|_| TooManySharers)?;
        Ok(HoldWhole { frames: self.frames, head: self.head })
    }
}

impl<M: Machine> SharedWholeRef<'_, '_, M> {
    /// Whether these mappings are all there is: the first half of `wp_can_reuse_anon_folio`. It is cheap and
    /// without the folio lock; [`reuse`](Self::reuse) decides.
    pub fn looks_reusable(&self) -> bool {
        let folio = self.folio();
        folio.counts().0 == all_maps(folio)
    }

    /// Makes the mappings exclusive and their anon_vma the given one: they are the only ones, and nobody else
    /// has a reference through which they could be duplicated.
    ///
    /// As [`SharedRef::reuse`](super::SharedRef::reuse), for all pages at once.
    ///
    /// # Errors
    /// [`NotAlone`].
    #[doc(alias = "folio_move_anon_rmap")]
    pub fn reuse(&self, lock: &FolioGuard<'_, M>, anon_vma: Stamp) -> Result<(), NotAlone> {
        let folio = self.folio();
        assert!(lock.folio() == folio, "reuse under another folio's lock");
        // Acquire pairs with the Release of the last `unmap`: what the former sharers did is over.
        let counts = folio.meta().counts.load(Ordering::Acquire);
        if counts != all_maps(folio) || matches!(folio.mapping(), Mapping::Ksm(_)) {
            return Err(NotAlone);
        }
        folio.set_mapping(Mapping::Anon(anon_vma), folio.index());
        folio.meta().counts.fetch_or(Counts::EXCLUSIVE, Ordering::Relaxed);
        Ok(())
    }
}

/// Adds the mappings of one leaf more, and takes `mark` away.
fn add_all<M: Machine>(folio: Folio<'_, M>, mark: u64) -> Result<(), DupError> {
    let by = all_maps(folio).wrapping_sub(mark);
    // Release, as for every mapping that is added: pairs with the Acquire of `is_mapped`.
    let old = Counts(folio.meta().counts.fetch_add(by, Ordering::Release));
    anonmem_hal::debug_check!(M, old.maps() != 0, "a leaf was shared that has no mapping");
    if old.has_room() {
        add_whole(folio);
        return Ok(());
    }
    folio.meta().counts.fetch_sub(by, Ordering::Relaxed);
    Err(DupError::TooManySharers)
}

/// Shares the folio at `head` that a leaf maps, for another leaf to own: fork. It is not exclusive any more
/// afterwards. One addition to one word.
///
/// # Errors
/// As [`ExclusiveRef::try_dup`](super::ExclusiveRef::try_dup); nothing has changed.
///
/// # Safety
/// A leaf under a lock that is held owns mappings of the folio.
#[doc(alias = "folio_try_dup_anon_rmap_pmd")]
pub unsafe fn try_dup_whole<M: Machine>(frames: &Frames<M>, head: Pfn) -> Result<(), DupError> {
    let folio = frames.folio_of_owned(head);
    if !frames.page_is_exclusive(head) {
        return add_all(folio, 0);
    }
    if folio.maybe_pinned() {
        return Err(DupError::MaybePinned);
    }
    add_all(folio, Counts::EXCLUSIVE)
}
