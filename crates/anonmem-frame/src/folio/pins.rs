//! Lists of pins: what a pinned range of addresses owns.
//!
//! A [`PinList`] has no heap to stand on. Its runs lie in nodes of a slab, twenty-two a node, and each run is
//! a word:
//!
//! | bits | meaning |
//! |---|---|
//! | 0-15 | pages of the run, minus one |
//! | 16-63 | the first page |
//!
//! A run is of one folio and owns one pin of it, however long it is. A run of the zero page owns nothing: the
//! zero page is nobody's and never goes away.
//!
//! The slab is this file's alone ([`PinNodes`]): a node has one list, and nobody else finds its runs.

use super::{Folio, FolioPin, KeptFolio, TakenPin};
use crate::{
    Frames, OutOfMemory, fields,
    handle::{Handle, Link},
    meta::TooManySharers,
    place::{Field, Place},
    slab::{Slab, SlabItem},
    validate::Inconsistency,
};
use anonmem_hal::{Machine, NrPages, Pfn};
use anonmem_sync::{Plain, init_fields};
use core::{
    fmt,
    mem::{ManuallyDrop, MaybeUninit},
};

/// Runs of a node, which has 192 bytes: as much as a single page takes that is pinned alone.
const RUNS: usize = 22;
/// The most pages of a run.
const MAX_RUN: u64 = 1 << 16;

/// Tells the names of nodes from those of other objects.
#[derive(Debug)]
pub enum PinTag {}

/// Some runs of a list. Its list's owner alone touches it.
struct PinNode<M> {
    next: Plain<Link<PinTag>, M>,
    len: Plain<u32, M>,
    runs: [Plain<u64, M>; RUNS],
}

impl<M: Machine> SlabItem<M> for PinNode<M> {
    type Tag = PinTag;
    const NAME: &'static str = "pin_node";
    const FIELDS: &'static [Field] = fields! {
        next, len, runs[size_of::<u64>()],
    };
    fn new() -> Self {
        Self { next: Plain::new(Link::NONE), len: Plain::new(0), runs: [const { Plain::new(0) }; RUNS] }
    }
}

/// Where lists keep their runs.
pub struct PinNodes<M: Machine> {
    slab: Slab<M, PinNode<M>>,
}

impl<M: Machine> PinNodes<M> {
    /// Makes an empty slab of them, where it is to stay.
    pub fn init<'s>(slot: &'s mut MaybeUninit<Self>, frames: &Frames<M>) -> &'s mut Self {
        init_fields!(slot, { slab <- |slab| Slab::init(slab, frames) })
    }

    /// The same, as a value.
    pub fn new(frames: &Frames<M>) -> Self {
        Self { slab: Slab::new(frames) }
    }

    /// Calls `f` with every run of every list. Exact only at rest.
    pub fn for_each_run(&self, frames: &Frames<M>, mut f: impl FnMut(PinnedRun)) {
        self.slab.for_each_live(frames, |_, node| {
            node.runs[..node.len.peek() as usize].iter().for_each(|run| f(PinnedRun::decode(run.peek())));
        });
    }

    /// Nodes in use.
    pub fn live(&self) -> u64 {
        self.slab.live()
    }

    /// Checks that every node is in use or free, at rest.
    ///
    /// # Errors
    /// The first thing that does not add up.
    pub fn validate(&self, frames: &Frames<M>) -> Result<(), Inconsistency> {
        self.slab.validate(frames)
    }

    /// What `address` is, if it is in a node.
    pub fn place_of(&self, frames: &Frames<M>, address: usize) -> Option<Place> {
        self.slab.place_of(frames, address)
    }
}

/// Consecutive pages of one folio that are pinned together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinnedRun {
    /// The first page.
    pub first: Pfn,
    /// How many.
    pub pages: NrPages,
}

impl PinnedRun {
    fn decode(word: u64) -> Self {
        Self { first: Pfn(word >> 16), pages: NrPages((word & (MAX_RUN - 1)) + 1) }
    }

    fn encode(self) -> u64 {
        self.first.0 << 16 | (self.pages.0 - 1)
    }

    /// The page after the last.
    fn end(self) -> Pfn {
        self.first.offset(self.pages.0)
    }

    /// Its first `pages` pages, and the rest.
    fn split(self, pages: u64) -> (Self, Self) {
        let rest = self.pages.0 - pages;
        (
            Self { first: self.first, pages: NrPages(pages) },
            Self { first: self.first.offset(pages), pages: NrPages(rest) },
        )
    }
}

/// Why a list cannot be split, or be longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PinListError {
    /// No frame for a node.
    OutOfMemory,
    /// The folio at the split is pinned 2^16 times.
    TooManyPins,
}

impl fmt::Display for PinListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => OutOfMemory.fmt(f),
            Self::TooManyPins => f.write_str("the folio is pinned as often as can be counted"),
        }
    }
}

impl core::error::Error for PinListError {}

impl From<OutOfMemory> for PinListError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<TooManySharers> for PinListError {
    fn from(TooManySharers: TooManySharers) -> Self {
        Self::TooManyPins
    }
}

/// What pinned pages are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PinAccess {
    /// To be read.
    Read,
    /// To be written, and read.
    Write,
}

/// How far pinning came that takes no lock ([`PinList::pin_singles`], [`PinList::pin_larges`]).
#[derive(Debug)]
#[must_use = "a pin that was taken on the way may be in it"]
pub struct PinnedRuns<'f, M: Machine> {
    /// Runs that are pinned.
    pub runs: usize,
    /// Their pages.
    pub pages: usize,
    /// Whether one of the pages may be dropped unless it is written (`MADV_FREE`).
    pub any_lazyfree: bool,
    /// Why it ended there.
    pub end: RunsEnd<'f, M>,
}

/// Why no more runs were pinned.
#[derive(Debug)]
pub enum RunsEnd<'f, M: Machine> {
    /// They are as many as were asked for, or a node is full: ask again.
    Full,
    /// The next page is not to be pinned, or cannot be, or there is no room.
    Refused,
    /// The next page does not begin a folio of the kind that was asked for: it has another number of pages,
    /// or the page is in the middle of it. It is pinned, and in no list.
    Other(TakenPin<'f, M>),
}

impl<M: Machine> PinnedRuns<'_, M> {
    const NONE: Self = Self { runs: 0, pages: 0, any_lazyfree: false, end: RunsEnd::Full };
}

/// Runs of pages, each with its pin. Dropping the list unpins them.
pub struct PinList<'f, M: Machine> {
    frames: &'f Frames<M>,
    nodes: &'f PinNodes<M>,
    first: Link<PinTag>,
    /// The node that is being filled; empty ones may follow.
    last: Link<PinTag>,
    /// The same node, looked up.
    filling: Option<&'f PinNode<M>>,
    /// The empty nodes after it.
    spare: u64,
    pages: u64,
    access: PinAccess,
}

impl<'f, M: Machine> PinList<'f, M> {
    /// A list without runs, for pins that are taken for `access`.
    pub fn new(frames: &'f Frames<M>, nodes: &'f PinNodes<M>, access: PinAccess) -> Self {
        Self { frames, nodes, first: Link::NONE, last: Link::NONE, filling: None, spare: 0, pages: 0, access }
    }

    /// Whether its pages are of these frames.
    pub fn is_of(&self, frames: &Frames<M>) -> bool {
        core::ptr::eq(self.frames, frames)
    }

    /// The pages of all runs.
    pub fn pages(&self) -> NrPages {
        NrPages(self.pages)
    }

    /// Makes room for `runs` more runs, so that as many [`push`](Self::push) cannot fail.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn reserve(&mut self, runs: u64) -> Result<(), OutOfMemory> {
        if self.room() >= runs {
            return Ok(());
        }
        let mut end = self.last;
        while let Some(next) = end.get().and_then(|id| self.node(id).next.get().get()) {
            end = next.into();
        }
        while self.room() < runs {
            end = self.append(end)?;
        }
        Ok(())
    }

    /// How many more runs there is room for.
    pub fn room(&self) -> u64 {
        let here = self.filling.map_or(0, |node| RUNS as u64 - u64::from(node.len.get()));
        here + self.spare * RUNS as u64
    }

    fn count_spare(&self) -> u64 {
        let next = |id| self.node(id).next.get().get();
        core::iter::successors(self.last.get(), |&id| next(id)).skip(1).count() as u64
    }

    /// Adds a page. It becomes part of the last run if that ends before it in the same folio.
    ///
    /// # Errors
    /// [`OutOfMemory`]; the page is unpinned.
    ///
    /// # Panics
    /// If the pin is of other frames.
    pub fn push(&mut self, pin: FolioPin<'_, M>) -> Result<(), OutOfMemory> {
        self.push_pages(pin, NrPages(1))
    }

    /// Adds `pages` pages of one folio from the pinned one on: their pin is one, however many they are. They
    /// become part of the last run if that ends before them in the same folio.
    ///
    /// # Errors
    /// [`OutOfMemory`]; the pages are unpinned.
    ///
    /// # Panics
    /// If the pin is of other frames, or the folio has fewer pages.
    pub fn push_pages(&mut self, pin: FolioPin<'_, M>, pages: NrPages) -> Result<(), OutOfMemory> {
        assert!(core::ptr::eq(pin.frames, self.frames), "a pin of other frames");
        let page = pin.pfn();
        if !self.frames.is_one_page(page) || pages.0 != 1 {
            assert!(pages.0 <= pin.folio().owned_pages_from(page), "a run of more than one folio");
            if self.lengthen(pin.folio(), page, pages) {
                // The run has a pin of the folio.
                drop(pin);
                return Ok(());
            }
        }
        self.push_run(PinnedRun { first: page, pages })?;
        // The run owns the pin.
        let _ = ManuallyDrop::new(pin);
        Ok(())
    }

    /// Adds the `pages` pages from one on that was pinned without a lock.
    ///
    /// # Errors
    /// [`OutOfMemory`]; the pages are unpinned.
    ///
    /// # Panics
    /// If the pin is of other frames, or the folio has fewer pages.
    #[inline(always)]
    pub fn push_taken(&mut self, taken: TakenPin<'_, M>, pages: NrPages) -> Result<(), OutOfMemory> {
        assert!(pages.0 <= taken.pages, "a run of more than one folio");
        // What begins a folio does not go on with the last run.
        if pages.0 != 1 && !taken.first {
            return self.push_pages(taken.pin, pages);
        }
        assert!(core::ptr::eq(taken.pin.frames, self.frames), "a pin of other frames");
        self.push_run(PinnedRun { first: taken.pin.page, pages })?;
        // The run owns the pin.
        let _ = ManuallyDrop::new(taken.pin);
        Ok(())
    }

    /// Pins single pages without a lock, each a run of its own: `pages`, as far as they are to be pinned. The
    /// caller looks at what is pinned again, as [`pin_protocol`](super::pin_protocol) says. No node is
    /// allocated.
    #[inline(always)]
    pub fn pin_singles(&mut self, pages: impl Iterator<Item = Option<Pfn>>) -> PinnedRuns<'f, M> {
        let mut done = PinnedRuns::NONE;
        let Some((node, len)) = self.node_with_room() else {
            return PinnedRuns { end: RunsEnd::Refused, ..done };
        };
        let memmap = self.frames.memmap.here();
        for (word, page) in node.runs[len..].iter().zip(pages) {
            let Some(page) = page else {
                done.end = RunsEnd::Refused;
                break;
            };
            let Some(taken) = self.frames.try_pin_head(&memmap, page) else {
                done.end = self.frames.try_pin_tail(page).map_or(RunsEnd::Refused, RunsEnd::Other);
                break;
            };
            if taken.pages != 1 {
                done.end = RunsEnd::Other(taken);
                break;
            }
            done.any_lazyfree |= taken.is_lazyfree();
            word.set(PinnedRun { first: page, pages: NrPages(1) }.encode());
            // The run owns the pin.
            let _ = ManuallyDrop::new(taken.pin);
            done.runs += 1;
        }
        done.pages = done.runs;
        node.len.set((len + done.runs) as u32);
        self.pages += done.pages as u64;
        done
    }

    /// The same of folios of several pages, `most` at most, each a run from its first page on. `page` says
    /// which page comes after so many runs and pages, and what is known of it; `pages_of`, how many pages of
    /// a folio become a run, which has so many.
    ///
    /// # Panics
    /// If a run is to have no page, or more than the folio has.
    #[inline(always)]
    pub fn pin_larges<T>(
        &mut self,
        most: usize,
        mut page: impl FnMut(usize, usize) -> Option<(Pfn, T)>,
        mut pages_of: impl FnMut(usize, usize, T, u64) -> u64,
    ) -> PinnedRuns<'f, M> {
        let mut done = PinnedRuns::NONE;
        let Some((node, len)) = self.node_with_room() else {
            return PinnedRuns { end: RunsEnd::Refused, ..done };
        };
        let memmap = self.frames.memmap.here();
        for word in node.runs[len..].iter().take(most) {
            let Some((first, known)) = page(done.runs, done.pages) else {
                done.end = RunsEnd::Refused;
                break;
            };
            let Some(taken) = self.frames.try_pin_head(&memmap, first) else {
                done.end = self.frames.try_pin_tail(first).map_or(RunsEnd::Refused, RunsEnd::Other);
                break;
            };
            if taken.pages == 1 {
                done.end = RunsEnd::Other(taken);
                break;
            }
            let pages = pages_of(done.runs, done.pages, known, taken.pages);
            assert!(pages.wrapping_sub(1) < taken.pages, "a run of more than one folio");
            done.any_lazyfree |= taken.is_lazyfree();
            word.set(PinnedRun { first, pages: NrPages(pages) }.encode());
            // The run owns the pin.
            let _ = ManuallyDrop::new(taken.pin);
            done.runs += 1;
            done.pages += pages as usize;
        }
        node.len.set((len + done.runs) as u32);
        self.pages += done.pages as u64;
        done
    }

    /// The node that the next run goes to, and how many it has; `None` if there is no room.
    #[inline(always)]
    fn node_with_room(&mut self) -> Option<(&'f PinNode<M>, usize)> {
        if let Some(node) = self.filling {
            let len = node.len.get() as usize;
            if len < RUNS {
                return Some((node, len));
            }
        }
        if self.spare == 0 { None } else { self.next_node().ok().map(|node| (node, 0)) }
    }

    /// Adds the zero page, which is not pinned.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn push_zero(&mut self) -> Result<(), OutOfMemory> {
        self.push_run(PinnedRun { first: self.frames.zero_page(), pages: NrPages(1) })
    }

    /// The runs, in the order in which they were added.
    pub fn runs(&self) -> impl Iterator<Item = PinnedRun> {
        let (mut at, mut next) = (self.first, 0);
        core::iter::from_fn(move || {
            loop {
                let node = self.node(at.get()?);
                if next < node.len.get() as usize {
                    next += 1;
                    return Some(PinnedRun::decode(node.runs[next - 1].get()));
                }
                (at, next) = (node.next.get(), 0);
            }
        })
    }

    /// The folio of a run of this list; `None` for the zero page.
    ///
    /// # Panics
    /// If no such page is pinned.
    pub fn folio(&self, run: PinnedRun) -> Option<Folio<'f, M>> {
        if run.first == self.frames.zero_page() {
            return None;
        }
        assert!(self.runs().any(|own| own == run), "a run of another list");
        Some(self.frames.folio_of_owned(run.first))
    }

    /// Copies bytes to page number `nth` of the list, from byte `offset` on, as a device does. Programs may
    /// be using them.
    ///
    /// # Panics
    /// If they do not all lie in the page, there are fewer pages, or it is the zero page. If the list is for
    /// reading, too: others may share its pages, who are to see nothing of it.
    pub fn write(&self, nth: u64, offset: usize, from: &[u8]) {
        assert!(self.access == PinAccess::Write, "pages that are pinned to be read are written");
        let page = self.page(nth).expect("a page of the list");
        assert!(page != self.frames.zero_page(), "the zero page is written");
        // SAFETY: the list has a pin of the page, so that its bytes are programs' and devices' alone.
        unsafe { self.frames.machine().write_bytes(page, offset, from) };
    }

    /// Page number `nth` of the list.
    fn page(&self, mut nth: u64) -> Option<Pfn> {
        self.runs().find_map(|run| {
            let here = (nth < run.pages.0).then(|| run.first.offset(nth));
            nth = nth.wrapping_sub(run.pages.0);
            here
        })
    }

    /// Calls `f` with the folio of every run but those of the zero page.
    pub fn for_each_folio(&self, mut f: impl FnMut(&KeptFolio<'_, 'f, M>)) {
        for run in self.runs().filter(|run| run.first != self.frames.zero_page()) {
            // The run owns a pin of it.
            f(&KeptFolio::new(self.frames.folio_of_owned(run.first)));
        }
    }

    /// Unpins the pages from number `at` on. The room that they had stays. A run that is cut keeps its pin.
    pub fn truncate(&mut self, at: NrPages) {
        if at.0 >= self.pages {
            return;
        }
        let (mut left, mut link) = (at.0, self.first);
        self.pages = at.0;
        self.fill(self.first);
        while let Some(id) = link.get() {
            let node = self.node(id);
            let mut kept = 0;
            for word in &node.runs[..node.len.get() as usize] {
                let run = PinnedRun::decode(word.get());
                if left == 0 {
                    self.unpin(run);
                    continue;
                }
                let pages = left.min(run.pages.0);
                word.set(PinnedRun { first: run.first, pages: NrPages(pages) }.encode());
                left -= pages;
                kept += 1;
            }
            node.len.set(kept);
            if kept > 0 {
                self.fill(link);
            }
            link = node.next.get();
        }
        self.spare = self.count_spare();
    }

    /// Takes the pages from number `at` on away, as a list of their own. A run that is cut needs a second
    /// pin.
    ///
    /// # Errors
    /// [`PinListError`]; the list is as it was.
    ///
    /// # Panics
    /// If there are fewer pages.
    pub fn split_off(&mut self, at: NrPages) -> Result<Self, PinListError> {
        assert!(at.0 <= self.pages, "a list of {} pages is split at {}", self.pages, at.0);
        let mut rest = Self::new(self.frames, self.nodes, self.access);
        let (mut link, mut left) = (self.first, at.0);
        while let Some(id) = link.get() {
            let node = self.node(id);
            let len = node.len.get() as usize;
            for i in 0..len {
                let run = PinnedRun::decode(node.runs[i].get());
                if left < run.pages.0 {
                    self.split_node(id, i, left, &mut rest)?;
                    rest.pages = self.pages - at.0;
                    self.pages = at.0;
                    return Ok(rest);
                }
                left -= run.pages.0;
            }
            link = node.next.get();
        }
        Ok(rest)
    }

    /// Moves what comes after the first `keep` pages of run `i` of a node to `rest`, which is empty.
    fn split_node(
        &mut self,
        id: Handle<PinTag>,
        i: usize,
        keep: u64,
        rest: &mut Self,
    ) -> Result<(), PinListError> {
        // All that may fail comes first.
        rest.append(Link::NONE)?;
        let (node, new) = (self.node(id), self.node(rest.first.get().expect("just made")));
        let run = PinnedRun::decode(node.runs[i].get());
        let mut kept = i;
        let mut moved = 0;
        let mut take = |run: PinnedRun| {
            new.runs[moved].set(run.encode());
            moved += 1;
        };
        if keep == 0 {
            take(run);
        } else {
            let (ours, theirs) = run.split(keep);
            if run.first != self.frames.zero_page() {
                let another = self.frames.folio_of_owned(run.first).pin_again(theirs.first)?;
                // The run that is cut off owns it.
                let _ = ManuallyDrop::new(another);
            }
            node.runs[i].set(ours.encode());
            kept += 1;
            take(theirs);
        }
        (i + 1..node.len.get() as usize).for_each(|i| take(PinnedRun::decode(node.runs[i].get())));
        new.len.set(moved as u32);
        new.next.set(node.next.get());
        node.len.set(kept as u32);
        node.next.set(Link::NONE);
        // The node that was being filled went along, unless it is this one.
        rest.fill(if self.last == Link::from(id) { rest.first } else { self.last });
        self.fill(id.into());
        (self.spare, rest.spare) = (self.count_spare(), rest.count_spare());
        Ok(())
    }

    /// Makes the last run longer by `pages` pages of `folio` from `page` on, if it ends there.
    fn lengthen(&mut self, folio: Folio<'_, M>, page: Pfn, pages: NrPages) -> bool {
        if page == folio.head {
            return false;
        }
        let Some(node) = self.last.get().map(|id| self.node(id)) else { return false };
        let Some(last) = (node.len.get() as usize).checked_sub(1) else { return false };
        let run = PinnedRun::decode(node.runs[last].get());
        if run.end() != page || run.first < folio.head || run.pages.0 + pages.0 > MAX_RUN {
            return false;
        }
        node.runs[last].set(PinnedRun { pages: NrPages(run.pages.0 + pages.0), ..run }.encode());
        self.pages += pages.0;
        true
    }

    #[inline(always)]
    fn push_run(&mut self, run: PinnedRun) -> Result<(), OutOfMemory> {
        if let Some(node) = self.filling {
            let len = node.len.get();
            if let Some(word) = node.runs.get(len as usize) {
                word.set(run.encode());
                node.len.set(len + 1);
                self.pages += run.pages.0;
                return Ok(());
            }
        }
        let node = self.next_node()?;
        node.runs[0].set(run.encode());
        node.len.set(1);
        self.pages += run.pages.0;
        Ok(())
    }

    /// Goes on to the node that the next run goes to, where the last is full or there is none.
    #[inline(never)]
    fn next_node(&mut self) -> Result<&'f PinNode<M>, OutOfMemory> {
        let next = match self.last.get() {
            Some(id) => self.node(id).next.get(),
            None => self.first,
        };
        let next = match next.get() {
            Some(_) => next,
            None => self.append(self.last)?,
        };
        // The first node of a list is being filled as soon as it is there.
        if self.last != next {
            self.spare -= 1;
            self.fill(next);
        }
        Ok(self.filling.expect("there or just made"))
    }

    /// Says which node is being filled.
    fn fill(&mut self, node: Link<PinTag>) {
        self.last = node;
        self.filling = node.get().map(|id| self.node(id));
    }

    /// Links an empty node behind `end`, the last node, or as the first.
    fn append(&mut self, end: Link<PinTag>) -> Result<Link<PinTag>, OutOfMemory> {
        let id = self.nodes.slab.alloc(self.frames)?;
        let node = self.node(id);
        node.next.set(Link::NONE);
        node.len.set(0);
        match end.get() {
            Some(end) => {
                self.node(end).next.set(id.into());
                self.spare += 1;
            }
            None => {
                self.first = id.into();
                self.fill(self.first);
            }
        }
        Ok(id.into())
    }

    /// Takes the pin of a run away, if it has one.
    #[inline]
    fn unpin(&self, run: PinnedRun) {
        if run.first != self.frames.zero_page() {
            drop(FolioPin { frames: self.frames, page: run.first });
        }
    }

    fn node(&self, id: Handle<PinTag>) -> &'f PinNode<M> {
        self.nodes.slab.get(self.frames, id)
    }
}

impl<M: Machine> Drop for PinList<'_, M> {
    fn drop(&mut self) {
        let mut at = self.first;
        while let Some(id) = at.get() {
            let node = self.node(id);
            for run in &node.runs[..node.len.get() as usize] {
                self.unpin(PinnedRun::decode(run.get()));
            }
            at = node.next.get();
            self.nodes.slab.free(self.frames, id);
        }
    }
}

#[cfg(test)]
#[path = "pins_tests.rs"]
mod tests;
