//! Pages that nobody else has go from entries to entries, many under one flush (UFFDIO_MOVE).
//!
//! ```text
//!   each folio   all its entries follow one another, exclusive, and their places are empty?
//!                its counts are frozen: whoever has a pin or a reference is seen by that     (`frozen_maps`)
//!                its entries are cleared
//!   one flush
//!   each folio   its new entries are filled, it says where it is, its counts come back
//! ```
//!
//! A single page is exclusive if its word says so. The pages of a large folio are if their entries allow to
//! write; a folio whose entries do not is left to the caller.
//!
//! Linux: mm/userfaultfd.c `move_present_ptes`, which takes a reference and the folio lock of each page.

use crate::{guard::PteGuard, space::CanInstall, table::PteTable, word::take};
use anonmem_frame::{Frames, Stamp};
use anonmem_hal::{Arch, Machine, Pfn, Present, Protection, Pte, Va, VaRange};
use anonmem_sync::{Atomic, Ordering};

/// The most pages that go under one flush.
const MOST: usize = 128;

/// Where pages go, and what they say there.
#[derive(Clone, Copy, Debug)]
pub struct Destination {
    /// The first address.
    pub first: Va,
    /// The permissions of its VMA.
    pub prot: Protection,
    /// What finds the mappings there.
    pub anon_vma: Stamp,
    /// The linear index of the first address.
    pub index: u64,
}

impl<'a, M: Machine, G: CanInstall<M>> PteGuard<'a, M, G> {
    /// Moves pages from the first of `window` on to the empty entries from `to` on, which are of the other
    /// table, locked, or of this one. Ends at the first page that somebody else may have, or that has no
    /// place; returns how many have moved. `flush` forgets the translations of what it is told.
    #[doc(alias = "move_present_ptes")]
    pub fn move_alone(
        &mut self,
        window: VaRange,
        other: Option<&mut Self>,
        to: Destination,
        flush: impl FnOnce(VaRange),
    ) -> u64 {
        let table: PteTable<'a, M, G> = other.as_ref().map_or(self.table, |other| other.table);
        assert!(core::ptr::eq(table.frames, self.frames()), "a table of other frames");
        let most = window.pages().0.min(MOST as u64);
        let window = VaRange { start: window.start, end: window.start.page_after(most) };
        let target = VaRange { start: to.first, end: to.first.page_after(most) };
        let words =
            Move { frames: self.frames(), src: self.table.words_of(window), dst: table.words_of(target) };
        let flush = |taken| flush(VaRange { start: window.start, end: window.start.page_after(taken) });
        // A call for one page should not pay for the room that many need.
        let taken = if most == 1 { words.run::<1>(to, flush) } else { words.run::<MOST>(to, flush) };
        // In one table nothing was lost or won.
        if let Some(other) = other {
            self.count_used(-(taken as i64));
            other.count_used(taken as i64);
        }
        taken
    }
}

/// Entries of locked tables, and their places.
struct Move<'a, M: Machine> {
    frames: &'a Frames<M>,
    src: &'a [Atomic<u64, M>],
    dst: &'a [Atomic<u64, M>],
}

impl<M: Machine> Move<'_, M> {
    /// Moves what can go of the first `N` pages; returns how many.
    #[inline(always)]
    fn run<const N: usize>(&self, to: Destination, flush: impl FnOnce(u64)) -> u64 {
        let mut said = [0; N];
        let taken = self.take(&mut said);
        if taken > 0 {
            flush(taken as u64);
            self.fill(&said[..taken], to);
        }
        taken as u64
    }

    /// Freezes folios and clears their entries, as many as can go; notes what the entries said, and returns
    /// how many.
    #[inline(always)]
    fn take(&self, said: &mut [u64]) -> usize {
        let mut taken = 0;
        while let Some(pages) = self.freeze(taken) {
            let words = &self.src[taken..taken + pages];
            for (said, word) in said[taken..taken + pages].iter_mut().zip(words) {
                *said = take(word);
            }
            taken += pages;
        }
        taken
    }

    /// Freezes the folio whose first page the entry number `at` maps, if all of it can go; its pages.
    #[inline(always)]
    fn freeze(&self, at: usize) -> Option<usize> {
        // Relaxed, here and below: both tables are locked.
        let said = self.src.get(at)?.load(Ordering::Relaxed);
        if !M::Arch::pte_readable(said) || self.dst[at].load(Ordering::Relaxed) != 0 {
            return None;
        }
        let first = M::Arch::pte_readable_page(said);
        let pages = match self.frames.is_one_page(first) {
            true => 1,
            false => self.all_of_folio(first, said, at)?,
        };
        // SAFETY: these entries map the pages, one each, all of the folio's, and are locked; several allow to
        // write.
        unsafe { self.frames.freeze_mappings(first, pages as u64) }.then_some(pages)
    }

    /// The pages of the large folio that begins with `first`, if the entries from number `at` on, which allow
    /// to write, map all of them, and all have a place.
    #[inline(never)]
    fn all_of_folio(&self, first: Pfn, said: u64, at: usize) -> Option<usize> {
        let folio = self.frames.folio_of_owned(first);
        let pages = folio.owned_order().pages() as usize;
        if folio.pfn() != first || !M::Arch::pte_writable(said) {
            return None;
        }
        let (src, dst) = (self.src.get(at..at + pages)?, &self.dst[at..at + pages]);
        let mut in_use = 0;
        for (nth, word) in src.iter().enumerate() {
            in_use |= dst[nth].load(Ordering::Relaxed);
            if !M::Arch::pte_follows(word.load(Ordering::Relaxed), said, nth as u64) {
                return None;
            }
        }
        (in_use == 0).then_some(pages)
    }

    /// Fills the places with what the entries said, and gives the folios their counts back.
    #[inline(always)]
    fn fill(&self, said: &[u64], to: Destination) {
        let mut at = 0;
        while at < said.len() {
            let first = M::Arch::pte_readable_page(said[at]);
            let pages = match self.frames.is_one_page(first) {
                true => 1,
                false => self.frames.folio_of_owned(first).owned_order().pages() as usize,
            };
            for (word, &said) in self.dst[at..at + pages].iter().zip(&said[at..at + pages]) {
                // Release: the page's contents come before its mapping, as whenever an entry is filled.
                word.store(arrived::<M>(said, to.prot), Ordering::Release);
            }
            // SAFETY: it was frozen by `take`, and its new entries own its mappings. The tables are still
            // locked.
            unsafe { self.frames.thaw_mappings(first, pages as u64, to.anon_vma, to.index + at as u64) };
            at += pages;
        }
    }
}

/// What the entry says at its new address: with the permissions there, and of no userfaultfd.
#[inline(always)]
fn arrived<M: Machine>(said: u64, prot: Protection) -> u64 {
    if M::Arch::pte_plain(said) {
        M::Arch::pte_modify(said, prot)
    } else {
        arrived_otherwise::<M>(said, prot)
    }
}

#[cold]
fn arrived_otherwise<M: Machine>(said: u64, prot: Protection) -> u64 {
    match M::Arch::decode_pte(said) {
        Pte::Present(said) => M::Arch::encode_pte(Pte::Present(Present { prot, uffd_wp: false, ..said })),
        Pte::None | Pte::Soft(_) => unreachable!("an entry that was taken maps a page"),
    }
}
