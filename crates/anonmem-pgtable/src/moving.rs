//! A large folio goes to other addresses as a whole: from the entries of one range to those of another, or
//! from leaf to leaf.
//!
//! Only the addresses change: a folio that is exclusive has one address space, and its pages lie there in
//! order before and after. Between, the entries are empty, the old translations are flushed, and the owner of
//! all mappings is one value. Whether the folio is pinned is asked while they are empty, as [`pin_protocol`]
//! has it for whoever clears entries first.
//!
//! Linux: mm/huge_memory.c `move_pages_huge_pmd`. Folios behind runs of entries are split there.
//!
//! [`pin_protocol`]: anonmem_frame::pin_protocol

use crate::words::TableWords as _;
use crate::{
    deposit::Deposits,
    free::lock_uppers,
    guard::PteGuard,
    leaf::{LeafGuard, LeafPlace},
    owned::Attrs,
    owned_leaf::ClearedLeaf,
    space::{CanInstall, StableVma},
    word::take,
};
use anonmem_frame::{Folio, FolioGuard, NewAnonPages, PageSet};
use anonmem_hal::{Arch, Entry, Machine, Present, Protection, Pte, Va, VaRange};
use anonmem_sync::Ordering;
use core::fmt;

/// All mappings of an exclusive folio, whose entries were cleared, and what these said.
#[must_use = "the pages are unmapped unless they are installed or put back"]
pub struct TakenFolio<'a, M: Machine> {
    folio: Folio<'a, M>,
    pages: NewAnonPages<'a, M>,
    /// What all entries said alike.
    said: Present,
    young: PageSet,
    dirty: PageSet,
}

impl<M: Machine> fmt::Debug for TakenFolio<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TakenFolio of {:?}", self.folio)
    }
}

impl<'a, M: Machine, G: StableVma<M>> PteGuard<'a, M, G> {
    /// Clears the entries of `range`, if they map all pages of one exclusive folio in order, and are alike
    /// but for what the hardware sets. The caller owes the TLB a flush.
    pub fn take_folio(&mut self, range: VaRange) -> Option<TakenFolio<'a, M>> {
        let batch = self.batch(range)?;
        let (frames, said) = (self.frames(), batch.present());
        let folio = frames.folio_of_owned(said.pfn);
        let whole = batch.range() == range
            && folio.pfn() == said.pfn
            && folio.owned_order().pages() == batch.pages()
            && range.pages().0 <= PageSet::MOST;
        if !whole || !folio.is_anon() || !frames.page_is_exclusive(said.pfn) {
            return None;
        }
        let (mut young, mut dirty) = (PageSet::EMPTY, PageSet::EMPTY);
        for (nth, word) in (0..).zip(self.table().words_of(range)) {
            // What the hardware has set by now.
            if let Pte::Present(present) = M::Arch::decode_pte(take(word)) {
                if present.young {
                    young.add(nth);
                }
                if present.dirty {
                    dirty.add(nth);
                }
            }
        }
        self.count_used(-(batch.pages() as i64));
        // SAFETY: the entries owned an exclusive mapping each of these pages, and were just cleared under the
        // lock.
        let pages = unsafe { NewAnonPages::from_entries(frames, said.pfn, batch.pages()) };
        Some(TakenFolio { folio, pages, said, young, dirty })
    }
}

impl<'a, M: Machine> TakenFolio<'a, M> {
    /// The folio.
    pub fn folio(&self) -> Folio<'a, M> {
        self.folio
    }

    /// Asks whether the folio may go to another address, while its entries are cleared.
    pub fn may_move(&self) -> bool {
        self.pages.may_move()
    }

    /// Gives the entries from `first` on, which were the folio's, what they said.
    pub fn put_back<G: StableVma<M>>(self, entries: &mut PteGuard<'a, M, G>, first: Va) {
        let says = self.said.into();
        self.fill(entries, first, says);
    }

    /// Gives the folio to the empty entries from `first` on, with the permissions of their VMA and without
    /// protection by a userfaultfd. What has moved is soft-dirty.
    pub fn install<G: CanInstall<M>>(self, entries: &mut PteGuard<'a, M, G>, first: Va, prot: Protection) {
        let says = Attrs { prot, uffd_wp: false, soft_clean: false, ..self.said.into() };
        self.fill(entries, first, says);
    }

    fn fill<G: StableVma<M>>(self, entries: &mut PteGuard<'a, M, G>, first: Va, says: Attrs) {
        for (nth, page) in (0..).zip(self.pages) {
            let attrs = Attrs { young: self.young.has(nth), dirty: self.dirty.has(nth), ..says };
            let pte = entries.entry_of(page, attrs);
            entries.fill(first.page_after(nth), pte);
        }
    }
}

/// Why a leaf stays where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeafStays {
    /// It is no longer there, or no longer exclusive.
    Changed,
    /// There is something where it was to go.
    Occupied,
    /// Its folio may be pinned.
    Pinned,
}

impl fmt::Display for LeafStays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "the leaf is gone, or no longer exclusive",
            Self::Occupied => "something is where the leaf was to go",
            Self::Pinned => "the folio of the leaf may be pinned",
        })
    }
}

impl core::error::Error for LeafStays {}

impl<'a, M: Machine, G: CanInstall<M>> LeafPlace<'a, M, G> {
    /// Moves the leaf that maps the folio which `lock` is the lock of to the empty place `to`, with the
    /// permissions of its VMA there, and calls `arrived` before anybody finds it. The table that is kept for
    /// it goes along.
    ///
    /// # Locks
    /// Those of both tables above, by address, also while `arrived` runs.
    ///
    /// # Errors
    /// [`LeafStays`]; nothing has changed.
    #[doc(alias = "move_pages_huge_pmd")]
    pub fn move_exclusive(
        self,
        to: Self,
        lock: &FolioGuard<'a, M>,
        prot: Protection,
        arrived: impl FnOnce(),
    ) -> Result<(), LeafStays> {
        let frames = self.frames;
        let (source_lock, target_lock) = lock_uppers(frames, self.upper, to.upper);
        if to.word.load(Ordering::Relaxed) != 0 {
            return Err(LeafStays::Occupied);
        }
        let same = match M::Arch::decode_entry(self.word.load(Ordering::Relaxed), 1) {
            Entry::Leaf(leaf) => leaf.pfn == lock.folio().pfn() && frames.page_is_exclusive(leaf.pfn),
            Entry::None | Entry::Table(_) | Entry::Migration { .. } => false,
        };
        if !same {
            return Err(LeafStays::Changed);
        }
        // It traps until the pins were asked. If it were empty, whoever walks without the lock would take it
        // for a hole, and it may come back. Who pins without a lock sees that it has changed.
        let mut leaf = LeafGuard::new(self, source_lock);
        let entry = leaf.make_trap();
        // SAFETY: the entry is part of a live table, and nobody else clears it under the lock. It is cleared
        // below, or gets back what it owned.
        let ClearedLeaf::Exclusive(whole, said) = (unsafe { ClearedLeaf::from_entry(frames, entry) }) else {
            unreachable!("the leaf was just looked at, and is locked")
        };
        let whole = match whole.try_move() {
            Ok(whole) => whole,
            Err(whole) => {
                // Release: as when it was filled.
                let back = self.entry_of(whole, said.into());
                self.word.store(M::Arch::encode_entry(back, 1), Ordering::Release);
                return Err(LeafStays::Pinned);
            }
        };
        self.word.store(0, Ordering::Relaxed);
        frames.table_used(self.upper).update(|n| n - 1);
        if let Some(target_lock) = &target_lock {
            let kept = leaf.deposits().pop();
            Deposits::of(frames, to.upper, target_lock).push(kept);
        }
        let says = Attrs { prot, uffd_wp: false, soft_clean: false, ..said.into() };
        // Release: the pages' contents come before their mapping.
        to.word.store(M::Arch::encode_entry(to.entry_of(whole, says), 1), Ordering::Release);
        frames.table_used(to.upper).update(|n| n + 1);
        arrived();
        Ok(())
    }
}
