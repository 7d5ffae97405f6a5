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

use crate::{
    guard::PteGuard,
    space::CanInstall,
    table::PteTable,
    word::{pages_of, take},
};
use anonmem_frame::{Frames, Stamp};
use anonmem_hal::{Arch, Machine, Pfn, Present, Protection, Pte, Va, VaRange};
use anonmem_sync::{Atomic, Ordering};
use core::ops::Range;

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
    /// Moves the pages of `window` to the empty entries from `to` on, which are of the other table, locked,
    /// or of this one. Ends at the first page that somebody else may have, or that has no place; returns how
    /// many have moved. `flush` forgets the translations of what it is told.
    #[doc(alias = "move_present_ptes")]
    pub fn move_alone(
        &mut self,
        window: VaRange,
        other: Option<&mut Self>,
        to: Destination,
        flush: impl Fn(VaRange),
    ) -> u64 {
        let table: PteTable<'a, M, G> = other.as_ref().map_or(self.table, |other| other.table);
        assert!(core::ptr::eq(table.frames, self.frames()), "a table of other frames");
        let target = VaRange { start: to.first, end: Va(to.first.0 + window.len()) };
        let words =
            Move { frames: self.frames(), src: self.table.words_of(window), dst: table.words_of(target) };
        let flush = |pages: Range<usize>| flush(pages_of(window, pages.start, pages.end));
        // A call for one page should not pay for the room that many need.
        let taken = match words.src.len() {
            1 => words.run::<1>(0, to, &flush),
            _ => words.run_all(to, &flush),
        } as u64;
        // In one table nothing was lost or won.
        if let Some(other) = other {
            self.count_used(-(taken as i64));
            other.count_used(taken as i64);
        }
        taken
    }
}

/// A folio that goes.
struct Frozen {
    pages: usize,
    alike: Alike,
}

/// Whether what the first entry of a folio says, a frame further each, all others say, and no hardware
/// changes them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alike {
    /// It is so.
    Yes,
    /// It is not, or there are no others.
    No,
}

/// Entries of locked tables, and their places.
struct Move<'a, M: Machine> {
    frames: &'a Frames<M>,
    src: &'a [Atomic<u64, M>],
    dst: &'a [Atomic<u64, M>],
}

impl<M: Machine> Move<'_, M> {
    /// Moves what can go, [`MOST`] pages under one flush; returns how many.
    #[inline(never)]
    fn run_all(&self, to: Destination, flush: &impl Fn(Range<usize>)) -> usize {
        let mut taken = 0;
        while taken < self.src.len() {
            match self.run::<MOST>(taken, to, flush) {
                0 => break,
                more => taken += more,
            }
        }
        taken
    }

    /// Moves what can go of the `N` pages from number `first` on; returns how many.
    #[inline(always)]
    fn run<const N: usize>(&self, first: usize, to: Destination, flush: &impl Fn(Range<usize>)) -> usize {
        let end = self.src.len().min(first + N);
        let part = Self { frames: self.frames, src: &self.src[first..end], dst: &self.dst[first..end] };
        let mut said = [0; N];
        let taken = part.take(&mut said);
        if taken > 0 {
            flush(first..first + taken);
            part.fill(&said[..taken], Destination { index: to.index + first as u64, ..to });
        }
        taken
    }

    /// Freezes folios and clears their entries, as many as can go; notes what the entries said, and returns
    /// how many.
    #[inline(always)]
    fn take(&self, said: &mut [u64]) -> usize {
        let mut taken = 0;
        while let Some(Frozen { pages, alike }) = self.freeze(taken) {
            match pages {
                1 => said[taken] = take(&self.src[taken]),
                _ => take_folio(&self.src[taken..taken + pages], &mut said[taken..taken + pages], alike),
            }
            taken += pages;
        }
        taken
    }

    /// Freezes the folio whose first page the entry number `at` maps, if all of it can go.
    #[inline(always)]
    fn freeze(&self, at: usize) -> Option<Frozen> {
        // Relaxed, here and below: both tables are locked.
        let said = self.src.get(at)?.load(Ordering::Relaxed);
        if !M::Arch::pte_readable(said) || self.dst[at].load(Ordering::Relaxed) != 0 {
            return None;
        }
        let first = M::Arch::pte_readable_page(said);
        let folio = match self.frames.is_one_page(first) {
            true => Frozen { pages: 1, alike: Alike::No },
            false => self.all_of_folio(first, said, at)?,
        };
        // SAFETY: these entries map the pages, one each, all of the folio's, and are locked; several allow to
        // write.
        unsafe { self.frames.freeze_mappings(first, folio.pages as u64) }.then_some(folio)
    }

    /// The large folio that begins with `first`, if the entries from number `at` on, which allow to write,
    /// map all of it, and all have a place.
    #[inline(never)]
    fn all_of_folio(&self, first: Pfn, said: u64, at: usize) -> Option<Frozen> {
        let folio = self.frames.folio_of_owned(first);
        let pages = folio.owned_order().pages() as usize;
        if folio.pfn() != first || !M::Arch::pte_writable(said) {
            return None;
        }
        let (src, dst) = (self.src.get(at..at + pages)?, &self.dst[at..at + pages]);
        let (alike, in_use) = look_over(said, src, dst);
        let follows = |(nth, word): (u64, &Atomic<u64, M>)| {
            M::Arch::pte_follows(word.load(Ordering::Relaxed), said, nth)
        };
        let all = alike == Alike::Yes || (0..).zip(src).all(follows);
        (in_use == 0 && all).then_some(Frozen { pages, alike })
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
            match pages {
                // Release: the page's contents come before its mapping, as whenever an entry is filled.
                1 => self.dst[at].store(arrived::<M>(said[at], to.prot), Ordering::Release),
                _ => fill_folio(&self.dst[at..at + pages], &said[at..at + pages], to.prot),
            }
            // SAFETY: it was frozen by `take`, and its new entries own its mappings. The tables are still
            // locked.
            unsafe { self.frames.thaw_mappings(first, pages as u64, to.anon_vma, to.index + at as u64) };
            at += pages;
        }
    }
}

/// Clears the entries of a large folio, and notes what they said.
#[inline(never)]
fn take_folio<M: Machine>(words: &[Atomic<u64, M>], said: &mut [u64], alike: Alike) {
    match alike {
        Alike::Yes => {
            // The first one tells of them all: the others' places stay 0.
            said[0] = words[0].load(Ordering::Relaxed);
            // No hardware writes to an entry that has all its bits.
            words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        Alike::No => said.iter_mut().zip(words).for_each(|(said, word)| *said = take(word)),
    }
}

/// Fills the places of a large folio.
#[inline(never)]
fn fill_folio<M: Machine>(words: &[Atomic<u64, M>], said: &[u64], prot: Protection) {
    if said[1] != 0 {
        for (word, &said) in words.iter().zip(said) {
            // Release: as for a single page.
            word.store(arrived::<M>(said, prot), Ordering::Release);
        }
        return;
    }
    let mut now = arrived::<M>(said[0], prot);
    let step = M::Arch::pte_step(now);
    for word in words {
        // Release: as for a single page.
        word.store(now, Ordering::Release);
        now = now.wrapping_add(step);
    }
}

/// Whether the entries of consecutive pages say what the first, `said`, does, to the bit, and the hardware
/// has set all that it sets: what nearly all folios are. And what is at their places: 0 if nothing is.
#[inline(always)]
fn look_over<M: Machine>(said: u64, src: &[Atomic<u64, M>], dst: &[Atomic<u64, M>]) -> (Alike, u64) {
    let (step, settled) = (M::Arch::pte_step(said), M::Arch::pte_settled(said));
    let (mut wanted, mut differ, mut in_use) = (said, 0, 0);
    for (word, place) in src.iter().zip(dst) {
        differ |= word.load(Ordering::Relaxed) ^ wanted;
        in_use |= place.load(Ordering::Relaxed);
        wanted = wanted.wrapping_add(step);
    }
    (if settled && differ == 0 { Alike::Yes } else { Alike::No }, in_use)
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
