//! Pinning what entries map without any lock.
//!
//! The steps are those of [`pin_protocol`], which says against whom each of them is. Pages are pinned in
//! batches of one table: one walk, one fence and one more look at the table's entry serve for all of them.
//! A folio of several pages gets one pin, and is taken to be mapped whole. Only its first entry is read
//! before the pin is counted; what the others say is read once, after it. Where that was wrong, the walk goes
//! on with a look at each entry before.
//!
//! ```text
//!   walk to the table      once a batch
//!   B1 B2 B3  pin_runs     one entry and one atomic operation a folio; the list owns the pin
//!   fence                  once a batch
//!   B4 B5     held_of      each entry read; the metadata only where an entry does not allow to write
//!   C2                     once a batch; what did not hold is cut off the list
//! ```
//!
//! B5 asks nothing of a page whose entry allows to write: such a page is its program's alone, or a shared
//! object's. Whoever takes the exclusive mark away cleared the entry before (B4), or is a fork (C2).
//!
//! Linux: mm/gup.c `gup_fast_pte_range`, `gup_must_unshare`.

use crate::{
    space::AddressSpace,
    table::{entries, span},
};
use anonmem_frame::{Frames, Mapping, PinAccess, PinList, PinnedRuns, RunsEnd, TakenPin, pin_protocol};
use anonmem_hal::{Arch, Entry, Machine, NrPages, Pfn, Present, Va, VaRange};
use anonmem_sync::{Atomic, Ordering, RcuGuard};

/// Runs that are pinned before they are looked at again.
const BATCH: usize = 64;
/// Room that [`AddressSpace::pin_fast`] goes far with where folios are large: a node of a list has it.
pub const PIN_FAST_ROOM: u64 = 16;

/// How far pinning without a lock came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinnedFast {
    /// The first address whose page is not pinned.
    pub end: Va,
    /// Whether one of the pages may be dropped unless it is written (`MADV_FREE`).
    pub any_lazyfree: bool,
}

impl<M: Machine> AddressSpace<M> {
    /// Pins the pages of `range` from its start on, as far as that goes without any lock and without a fault,
    /// and as there is room in `pins`. No node of the list is allocated.
    ///
    /// # Locks
    /// None.
    ///
    /// # Safety
    /// The read section is of the domain that the space's tables wait for
    /// ([`DeadTables`](crate::DeadTables)), and the root is not freed before it ends.
    #[doc(alias = "gup_fast")]
    pub unsafe fn pin_fast<'f>(
        &self,
        frames: &'f Frames<M>,
        rcu: &RcuGuard<'_, M>,
        range: VaRange,
        access: PinAccess,
        pins: &mut PinList<'f, M>,
    ) -> PinnedFast {
        assert!(pins.is_of(frames), "a list of other frames");
        let (any_lazyfree, guess) = (false, Guess::Whole);
        let mut walk = FastWalk { space: self, frames, rcu, access, pins, any_lazyfree, guess };
        let mut va = range.start;
        while va < range.end {
            let table_end = va.align_down(span::<M>()).0.saturating_add(span::<M>());
            let part = VaRange { start: va, end: Va(table_end).min(range.end) };
            let held = walk.pin_part(part).unwrap_or(0);
            va = va.page_after(held);
            if held == 0 {
                break;
            }
        }
        PinnedFast { end: va, any_lazyfree: walk.any_lazyfree }
    }
}

/// What was pinned of a batch, a run for each pin: what the first entry of a run said, and its pages.
struct Runs {
    said: [u64; BATCH],
    pages: [u16; BATCH],
    count: usize,
    /// The pages of all of them.
    total: usize,
}

/// How many pages of a folio are pinned with the one that an entry maps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guess {
    /// As many as the folio has: most folios are mapped whole.
    Whole,
    /// As many as the entries say that follow: some folio was not mapped whole.
    AsSeen,
}

impl Guess {
    /// How many of the pages that entries map are taken, of a folio that has `most` from the first on, whose
    /// entry said `said`.
    #[inline(always)]
    fn pages_of<M: Machine>(self, words: &[Atomic<u64, M>], said: u64, most: u64) -> u64 {
        match self {
            Self::Whole => most.min(words.len() as u64),
            Self::AsSeen => follow(words, said, 1, most) as u64,
        }
    }
}

/// A walk over tables in a read section.
struct FastWalk<'w, 'f, 'r, M: Machine> {
    space: &'w AddressSpace<M>,
    frames: &'f Frames<M>,
    rcu: &'w RcuGuard<'r, M>,
    access: PinAccess,
    pins: &'w mut PinList<'f, M>,
    any_lazyfree: bool,
    guess: Guess,
}

/// The entry of a table above the last level that a walk came to, and what it said.
struct Upper<'f, M> {
    word: &'f Atomic<u64, M>,
    raw: u64,
}

impl<M: Machine> Upper<'_, M> {
    /// Whether it says the same but for what the hardware sets.
    fn still_says_so(&self) -> bool {
        // Acquire: as in every walk.
        let now = M::Arch::decode_entry(self.word.load(Ordering::Acquire), 1);
        match (now, M::Arch::decode_entry(self.raw, 1)) {
            (Entry::Table(now), Entry::Table(then)) => now == then,
            (Entry::Leaf(now), Entry::Leaf(then)) => {
                now == Present { young: now.young, dirty: now.dirty, ..then }
            }
            (Entry::None | Entry::Migration { .. } | Entry::Table(_) | Entry::Leaf(_), _) => false,
        }
    }
}

impl<'f, M: Machine> FastWalk<'_, 'f, '_, M> {
    /// Pins pages of what one table covers; returns how many, or `None` if there is nothing to walk to.
    fn pin_part(&mut self, part: VaRange) -> Option<u64> {
        // C1
        let seen = self.space.sharing().try_begin()?;
        let upper = self.upper(part.start)?;
        let before = self.pins.pages().0;
        let held = match M::Arch::decode_entry(upper.raw, 1) {
            Entry::Table(table) => self.pin_entries(table, &upper, part),
            Entry::Leaf(leaf) => self.pin_leaf(leaf, &upper, part),
            Entry::None | Entry::Migration { .. } => return None,
        };
        // C2
        let held = if self.space.sharing().retry(seen) { 0 } else { held };
        // Unpins the others.
        self.pins.truncate(NrPages(before + held));
        Some(held)
    }

    /// The entry for `va` in the table above the last level. The read section keeps that one.
    #[inline(always)]
    fn upper(&self, va: Va) -> Option<Upper<'f, M>> {
        let _kept_by = self.rcu;
        let table = self.space.upper(self.frames, va)?;
        let word = &entries(self.frames, table)[M::Arch::index(va, 1)];
        // Acquire: as in every walk.
        Some(Upper { word, raw: word.load(Ordering::Acquire) })
    }

    /// Pins pages of one table, a batch of runs at most; returns how many pages may be kept.
    fn pin_entries(&mut self, table: Pfn, upper: &Upper<'f, M>, part: VaRange) -> u64 {
        let first = M::Arch::index(part.start, 0);
        let words = &entries(self.frames, table)[first..first + part.pages().0 as usize];
        let mut runs = Runs { said: [0; BATCH], pages: [1; BATCH], count: 0, total: 0 };
        match self.access {
            PinAccess::Read => self.pin_runs(words, &mut runs, M::Arch::pte_readable),
            PinAccess::Write => self.pin_runs(words, &mut runs, M::Arch::pte_writable),
        }
        pin_protocol::pins_are_counted::<M>();
        let held = if upper.still_says_so() { self.held_of(words, &runs) } else { 0 };
        if held < runs.total {
            self.guess = Guess::AsSeen;
        }
        held as u64
    }

    /// B1 to B3: pins the pages of the entries, up to the first that does not allow the access, or has no
    /// page that can be pinned.
    // A function of its own: the compiler keeps what the loop needs in registers.
    #[inline(never)]
    fn pin_runs(&mut self, words: &[Atomic<u64, M>], runs: &mut Runs, allowed: impl Fn(u64) -> bool) {
        let mut large = false;
        while runs.total < words.len() && runs.count < BATCH {
            let left = &words[runs.total..];
            let pinned = match large {
                false => self.pin_singles(left, runs, &allowed),
                true => self.pin_larges(left, runs, &allowed),
            };
            self.any_lazyfree |= pinned.any_lazyfree;
            runs.count += pinned.runs;
            runs.total += pinned.pages;
            match pinned.end {
                RunsEnd::Full => {}
                RunsEnd::Refused => break,
                RunsEnd::Other(taken) => {
                    large = taken.pages() > 1;
                    self.pin_run(taken, words, runs);
                }
            }
        }
    }

    /// The same of folios of one page.
    #[inline(always)]
    fn pin_singles(
        &mut self,
        left: &[Atomic<u64, M>],
        runs: &mut Runs,
        allowed: impl Fn(u64) -> bool,
    ) -> PinnedRuns<'f, M> {
        let pages = left.iter().zip(&mut runs.said[runs.count..]).map(|(word, said)| {
            // Acquire pairs with the Release with which entries are filled: the page's metadata are seen.
            *said = word.load(Ordering::Acquire);
            allowed(*said).then(|| M::Arch::pte_readable_page(*said))
        });
        self.pins.pin_singles(pages)
    }

    /// The same of folios of several pages.
    #[inline(never)]
    fn pin_larges(
        &mut self,
        left: &[Atomic<u64, M>],
        runs: &mut Runs,
        allowed: impl Fn(u64) -> bool,
    ) -> PinnedRuns<'f, M> {
        let most = BATCH - runs.count;
        let (said, taken, guess) = (&mut runs.said[runs.count..], &mut runs.pages[runs.count..], self.guess);
        let page = |run: usize, page: usize| {
            // Acquire: as above.
            let raw = left.get(page)?.load(Ordering::Acquire);
            said[run] = raw;
            allowed(raw).then(|| (M::Arch::pte_readable_page(raw), raw))
        };
        let pages_of = |run: usize, page: usize, said: u64, most: u64| {
            let pages = guess.pages_of(&left[page..], said, most);
            taken[run] = pages as u16;
            pages
        };
        self.pins.pin_larges(most, page, pages_of)
    }

    /// Adds the pages of a folio from the pinned one on, which the next entry maps.
    #[cold]
    fn pin_run(&mut self, taken: TakenPin<'f, M>, words: &[Atomic<u64, M>], runs: &mut Runs) {
        // The pin keeps the folio what it is.
        let pages = self.guess.pages_of(&words[runs.total..], runs.said[runs.count], taken.pages());
        self.any_lazyfree |= taken.is_lazyfree();
        let room = self.pins.push_taken(taken, NrPages(pages));
        anonmem_hal::debug_check!(M, room.is_ok(), "there was room for a run");
        runs.pages[runs.count] = pages as u16;
        runs.count += 1;
        runs.total += pages as usize;
    }

    /// B4 and B5: how many of the first pages may be kept.
    #[inline(never)]
    fn held_of(&self, words: &[Atomic<u64, M>], runs: &Runs) -> usize {
        if runs.count < runs.total {
            return self.held_of_runs(words, runs);
        }
        let mut held = 0;
        for (word, &said) in words.iter().zip(&runs.said[..runs.count]) {
            let own = || M::Arch::pte_writable(said) || self.own_of(said, 1) == 1;
            if !follows(word, said, 0) || !own() {
                break;
            }
            held += 1;
        }
        held
    }

    /// The same where runs have several pages.
    #[inline(never)]
    fn held_of_runs(&self, words: &[Atomic<u64, M>], runs: &Runs) -> usize {
        let mut held = 0;
        for (&said, &pages) in runs.said[..runs.count].iter().zip(&runs.pages) {
            let pages = usize::from(pages);
            let words = &words[held..held + pages];
            let mut same = if all_follow(words, said) { pages } else { follow(words, said, 0, pages as u64) };
            if !M::Arch::pte_writable(said) {
                same = self.own_of(said, same);
            }
            held += same;
            if same < pages {
                break;
            }
        }
        held
    }

    /// B5: how many of the first `pages` pages from that of an entry on, which does not allow to write, are
    /// nobody else's, or a shared object's. A list of what may be pinned, not of what may not.
    #[cold]
    fn own_of(&self, said: u64, pages: usize) -> usize {
        let first = M::Arch::pte_readable_page(said);
        let own = |page| {
            self.frames.page_is_exclusive(page)
                || matches!(self.frames.folio_of_owned(page).mapping(), Mapping::Shm(_))
        };
        (0..pages).find(|&nth| !own(first.offset(nth as u64))).unwrap_or(pages)
    }

    /// The same for pages of a leaf. The steps are the same, with the leaf in the entry's place, and its
    /// first page's bit for all. They get one pin.
    #[cold]
    #[doc(alias = "gup_fast_pmd_leaf")]
    fn pin_leaf(&mut self, leaf: Present, upper: &Upper<'f, M>, part: VaRange) -> u64 {
        let allowed = leaf.prot.read && (self.access == PinAccess::Read || leaf.prot.write);
        if !allowed || self.pins.room() == 0 {
            return 0;
        }
        let first = leaf.pfn.offset(part.start.page() % M::Arch::ENTRIES as u64);
        let Some(taken) = self.frames.try_pin_pages(first) else { return 0 };
        self.any_lazyfree |= taken.is_lazyfree();
        pin_protocol::pins_are_counted::<M>();
        // A leaf that was split is none any more, and the pages' own bits count.
        if !upper.still_says_so() || !self.frames.page_is_exclusive(leaf.pfn) {
            return 0;
        }
        // The leaf says that the folio has all of them.
        if self.pins.push_taken(taken, part.pages()).is_err() { 0 } else { part.pages().0 }
    }
}

/// Whether the entry says now what the first of its run said, but for what the hardware sets.
#[inline(always)]
fn follows<M: Machine>(word: &Atomic<u64, M>, said: u64, nth: u64) -> bool {
    // Acquire: pairs with the Release of whoever filled the entry with the same bits, and shared the page
    // before.
    M::Arch::pte_follows(word.load(Ordering::Acquire), said, nth)
}

/// Whether entries say what the first said, to the bit and a frame further each: what nearly all do. What the
/// hardware sets is not passed over here.
#[inline(always)]
fn all_follow<M: Machine>(words: &[Atomic<u64, M>], said: u64) -> bool {
    let (step, mut wanted, mut differ) = (M::Arch::pte_step(said), said, 0);
    let (fours, rest) = words.as_chunks::<4>();
    // Acquire: as in `follows`.
    let mut look = |word: &Atomic<u64, M>| {
        differ |= word.load(Ordering::Acquire) ^ wanted;
        wanted = wanted.wrapping_add(step);
    };
    fours.iter().for_each(|four| four.iter().for_each(&mut look));
    rest.iter().for_each(look);
    differ == 0
}

/// How many entries say what the first said of as many pages that follow one another, at most `most`. The
/// first `seen` of them were looked at.
#[inline(always)]
fn follow<M: Machine>(words: &[Atomic<u64, M>], said: u64, seen: usize, most: u64) -> usize {
    let words = &words[..words.len().min(most as usize)];
    let mut nth = seen;
    while nth < words.len() && follows(&words[nth], said, nth as u64) {
        nth += 1;
    }
    nth
}
