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
    word::{pages_of, take, take_seen},
};
use anonmem_frame::{Frames, FrozenMaps, MappedFolio, Stamp};
use anonmem_hal::{Arch, Machine, Present, Protection, Pte, Va, VaRange};
use anonmem_sync::{Atomic, Ordering};
use core::{mem::MaybeUninit, ops::Range, slice};

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
        let places =
            if other.as_ref().is_some_and(|other| other.is_empty()) { Places::Empty } else { Places::Any };
        assert!(core::ptr::eq(table.frames, self.frames()), "a table of other frames");
        let flush = |pages: Range<usize>| flush(pages_of(window, pages.start, pages.end));
        // A call for one page should not pay for the room that many need.
        let taken = if window.pages().0 == 1 {
            let [src, dst] = [self.table.word(window.start), table.word(to.first)].map(slice::from_ref);
            Move { frames: self.frames(), src, dst, places }.run_one(to, &flush)
        } else {
            let target = VaRange { start: to.first, end: Va(to.first.0 + window.len()) };
            let (src, dst) = (self.table.words_of(window), table.words_of(target));
            Move { frames: self.frames(), src, dst, places }.run_all(to, &flush)
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
struct Went<'a, M: Machine> {
    folio: FrozenMaps<'a, M>,
    /// What its first entry said.
    said: u64,
    alike: Alike,
}

/// Whether what the first entry of a folio says, a frame further each, all others say, and no hardware
/// changes them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alike {
    /// It is so.
    Yes,
    /// It is not.
    No,
}

/// Room for what goes under one flush.
struct Room<'r, 'a, M: Machine> {
    /// Folios, each at the number of its first page. Not filled beforehand: that takes longer than to move
    /// one.
    folios: &'r mut [MaybeUninit<Went<'a, M>>],
    /// What the entries said of folios whose entries are not alike.
    said: &'r mut [u64],
}

/// Entries of locked tables, and their places.
struct Move<'a, M: Machine> {
    frames: &'a Frames<M>,
    src: &'a [Atomic<u64, M>],
    dst: &'a [Atomic<u64, M>],
    places: Places,
}

/// What is known of the places without a look at each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Places {
    /// No entry of their table was in use when it was locked.
    Empty,
    /// Nothing.
    Any,
}

impl<'a, M: Machine> Move<'a, M> {
    /// Moves what can go, [`MOST`] pages under one flush; returns how many.
    #[inline(never)]
    fn run_all(&self, to: Destination, flush: &impl Fn(Range<usize>)) -> usize {
        let mut folios = [const { MaybeUninit::uninit() }; MOST];
        let mut said = [0; MOST];
        let (mut taken, mut room) = (0, Room { folios: &mut folios, said: &mut said });
        while taken < self.src.len() {
            match self.run(taken, &mut room, to, flush) {
                0 => break,
                more => taken += more,
            }
        }
        taken
    }

    /// Moves the only page, if it is a folio of its own; returns how many have moved.
    #[inline(always)]
    fn run_one(&self, to: Destination, flush: &impl Fn(Range<usize>)) -> usize {
        let Some(went) = self.look(0).and_then(|found| self.take_page(0, found)) else { return 0 };
        flush(0..1);
        self.fill_page(0, went, to.prot, (to.anon_vma, to.index));
        1
    }

    /// Moves what can go of the pages from number `first` on, as many as there is room for; returns how many.
    #[inline(always)]
    fn run(
        &self,
        first: usize,
        room: &mut Room<'_, 'a, M>,
        to: Destination,
        flush: &impl Fn(Range<usize>),
    ) -> usize {
        let end = self.src.len().min(first + room.folios.len());
        let part = Self { src: &self.src[first..end], dst: &self.dst[first..end], ..*self };
        let taken = part.take(room);
        if taken > 0 {
            flush(first..first + taken);
            part.fill(room, taken, Destination { index: to.index + first as u64, ..to });
        }
        taken
    }

    /// Freezes folios and clears their entries, as many as can go; returns how many pages that are.
    #[inline(always)]
    fn take(&self, room: &mut Room<'_, 'a, M>) -> usize {
        let mut at = 0;
        loop {
            let before = at;
            at = self.take_pages(at, room);
            if at < self.src.len() {
                at = self.take_folios(at, room);
            }
            if at == before || at == self.src.len() {
                return at;
            }
        }
    }

    /// Takes single pages, from the entry number `at` on; returns the number of the first that is none, or
    /// stays.
    #[inline(always)]
    fn take_pages(&self, mut at: usize, room: &mut Room<'_, 'a, M>) -> usize {
        while let Some(found) = self.look(at)
            && let Some(went) = self.take_page(at, found)
        {
            room.folios[at].write(went);
            at += 1;
        }
        at
    }

    /// Freezes a folio that is one page, and clears its entry, which has the number `at` and says `said`.
    #[inline(always)]
    fn take_page(&self, at: usize, (said, folio): (u64, MappedFolio<'a, M>)) -> Option<Went<'a, M>> {
        if folio.pages() > 1 {
            return None;
        }
        // SAFETY: the entry maps the page, and is locked.
        let folio = unsafe { folio.freeze() }?;
        Some(Went { folio, said: take_seen(&self.src[at], said), alike: Alike::Yes })
    }

    /// The same for large folios, if the entries of each, which allow to write, map all of it, and all have a
    /// place.
    #[inline(never)]
    fn take_folios(&self, mut at: usize, room: &mut Room<'_, 'a, M>) -> usize {
        while let Some((said, folio)) = self.look(at)
            && folio.pages() > 1
            && M::Arch::pte_writable(said)
        {
            let range = at..at + folio.pages();
            let (Some(src), Some(dst)) = (self.src.get(range.clone()), self.dst.get(range.clone())) else {
                break;
            };
            if self.places == Places::Any && !all_empty(dst) {
                break;
            }
            let Some(alike) = alike(said, src) else { break };
            // SAFETY: these entries map the pages, one each, all of the folio's, and are locked; they allow
            // to write.
            let Some(folio) = (unsafe { folio.freeze() }) else { break };
            match alike {
                // No hardware writes to an entry that has all its bits.
                Alike::Yes => for_each(src, |word| word.store(0, Ordering::Relaxed)),
                Alike::No => take_each(src, &mut room.said[range.clone()]),
            }
            room.folios[at].write(Went { folio, said, alike });
            at = range.end;
        }
        at
    }

    /// What the entry number `at` says, and the folio that begins with its page, if there is room for that.
    #[inline(always)]
    fn look(&self, at: usize) -> Option<(u64, MappedFolio<'a, M>)> {
        // Relaxed, here and below: both tables are locked.
        let said = self.src.get(at)?.load(Ordering::Relaxed);
        if !M::Arch::pte_readable(said) || self.dst[at].load(Ordering::Relaxed) != 0 {
            return None;
        }
        Some((said, self.frames.folio_from(M::Arch::pte_readable_page(said))?))
    }

    /// Fills the places with what the entries said, and gives the folios their counts back.
    #[inline(always)]
    fn fill(&self, room: &mut Room<'_, 'a, M>, taken: usize, to: Destination) {
        let mut at = 0;
        // Values of their own: the compiler keeps what follows from them in registers.
        let (prot, anon_vma, index) = (to.prot, to.anon_vma, to.index);
        while at < taken {
            // SAFETY: `take` has put a folio there, which goes from here once.
            let went = unsafe { room.folios[at].assume_init_read() };
            if went.folio.pages() > 1 {
                at = self.fill_folios(at, went, room, taken, to);
            } else {
                self.fill_page(at, went, prot, (anon_vma, index + at as u64));
                at += 1;
            }
        }
    }

    /// Fills the place number `at` of a page that went, and gives it its count back.
    #[inline(always)]
    fn fill_page(&self, at: usize, went: Went<'a, M>, prot: Protection, (anon_vma, index): (Stamp, u64)) {
        // Release: the page's contents come before its mapping, as whenever an entry is filled.
        self.dst[at].store(arrived::<M>(went.said, prot), Ordering::Release);
        // SAFETY: its new entry owns its mapping. The tables are still locked.
        unsafe { went.folio.thaw(anon_vma, index) };
    }

    /// The same for the large folio `went`, and for those behind it; returns the number of the page after
    /// them.
    #[inline(never)]
    fn fill_folios(
        &self,
        mut at: usize,
        mut went: Went<'a, M>,
        room: &mut Room<'_, 'a, M>,
        taken: usize,
        to: Destination,
    ) -> usize {
        loop {
            let range = at..at + went.folio.pages();
            match went.alike {
                Alike::Yes => fill_alike(&self.dst[range.clone()], arrived::<M>(went.said, to.prot)),
                Alike::No => fill_each(&self.dst[range.clone()], &room.said[range.clone()], to.prot),
            }
            // SAFETY: its new entries own its mappings. The tables are still locked.
            unsafe { went.folio.thaw(to.anon_vma, to.index + at as u64) };
            at = range.end;
            // SAFETY: as in `fill`; a look takes nothing.
            if at == taken || unsafe { room.folios[at].assume_init_ref() }.folio.pages() == 1 {
                return at;
            }
            // SAFETY: as in `fill`.
            went = unsafe { room.folios[at].assume_init_read() };
        }
    }
}

/// Clears the entries of a large folio that differ, and notes what they said.
#[cold]
fn take_each<M: Machine>(words: &[Atomic<u64, M>], said: &mut [u64]) {
    said.iter_mut().zip(words).for_each(|(said, word)| *said = take(word));
}

/// Fills the places of a large folio with what its entries said, a frame further each.
#[inline(always)]
fn fill_alike<M: Machine>(words: &[Atomic<u64, M>], first: u64) {
    let (mut now, step) = (first, M::Arch::pte_step(first));
    for_each(words, |word| {
        anonmem_hal::debug_check_eq!(M, word.load(Ordering::Relaxed), 0, "what takes a page is in use");
        // Release: as for a single page.
        word.store(now, Ordering::Release);
        now = now.wrapping_add(step);
    });
}

/// The same if they differed.
#[cold]
fn fill_each<M: Machine>(words: &[Atomic<u64, M>], said: &[u64], prot: Protection) {
    for (word, &said) in words.iter().zip(said) {
        // Release: as for a single page.
        word.store(arrived::<M>(said, prot), Ordering::Release);
    }
}

/// Whether the entries of the pages that follow one another say what the first, `said`, does, to the bit, and
/// the hardware has set all that it sets: what nearly all folios are. `None` if they say it of other pages.
#[inline(always)]
fn alike<M: Machine>(said: u64, words: &[Atomic<u64, M>]) -> Option<Alike> {
    if M::Arch::pte_settled(said) && all_equal(said, words) {
        return Some(Alike::Yes);
    }
    follow(said, words).then_some(Alike::No)
}

/// Whether nothing is there.
#[inline(always)]
fn all_empty<M: Machine>(words: &[Atomic<u64, M>]) -> bool {
    let mut in_use = 0;
    for_each(words, |word| in_use |= word.load(Ordering::Relaxed));
    in_use == 0
}

/// Whether the entries say exactly what the first, `said`, does, a frame further each.
#[inline(always)]
fn all_equal<M: Machine>(said: u64, words: &[Atomic<u64, M>]) -> bool {
    let (mut wanted, step) = (said, M::Arch::pte_step(said));
    let mut next_is_equal = |word: &Atomic<u64, M>| {
        let equal = word.load(Ordering::Relaxed) == wanted;
        wanted = wanted.wrapping_add(step);
        equal
    };
    let (sixteens, rest) = words.as_chunks::<16>();
    sixteens.iter().all(|words| words.iter().all(&mut next_is_equal)) && rest.iter().all(next_is_equal)
}

/// Whether the entries say what the first, `said`, does, but for what the hardware sets.
#[cold]
fn follow<M: Machine>(said: u64, words: &[Atomic<u64, M>]) -> bool {
    let follows =
        |(nth, word): (u64, &Atomic<u64, M>)| M::Arch::pte_follows(word.load(Ordering::Relaxed), said, nth);
    (0..).zip(words).all(follows)
}

/// Calls `f` with each word. Sixteen at a time, the pages of 64 KiB: to count them takes as long as `f` does.
#[inline(always)]
fn for_each<M: Machine>(words: &[Atomic<u64, M>], mut f: impl FnMut(&Atomic<u64, M>)) {
    let (sixteens, rest) = words.as_chunks::<16>();
    sixteens.iter().for_each(|words| words.iter().for_each(&mut f));
    rest.iter().for_each(f);
}

/// What the entry says at its new address: with the permissions there, of no userfaultfd, and soft-dirty,
/// because the page is new there.
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
        Pte::Present(said) => {
            let (uffd_wp, soft_clean) = (false, false);
            M::Arch::encode_pte(Pte::Present(Present { prot, uffd_wp, soft_clean, ..said }))
        }
        Pte::None | Pte::Soft(_) => unreachable!("an entry that was taken maps a page"),
    }
}
