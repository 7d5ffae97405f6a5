//! Lists of pins: what a pinned range of addresses owns.
//!
//! A [`PinList`] has no heap to stand on. Its runs lie in nodes of a slab, fourteen a node, and each run is a
//! word:
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

use super::{Folio, FolioPin, KeptFolio};
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

/// Runs of a node.
const RUNS: usize = 14;
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

/// Runs of pages, each with its pin. Dropping the list unpins them.
pub struct PinList<'f, M: Machine> {
    frames: &'f Frames<M>,
    nodes: &'f PinNodes<M>,
    first: Link<PinTag>,
    /// The node that is being filled; empty ones may follow.
    last: Link<PinTag>,
    pages: u64,
}

impl<'f, M: Machine> PinList<'f, M> {
    /// A list without runs.
    pub fn new(frames: &'f Frames<M>, nodes: &'f PinNodes<M>) -> Self {
        Self { frames, nodes, first: Link::NONE, last: Link::NONE, pages: 0 }
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
        let (mut end, mut room) = (self.last, self.room());
        while let Some(next) = end.get().and_then(|id| self.node(id).next.get().get()) {
            end = next.into();
        }
        while room < runs {
            end = self.append(end)?;
            room += RUNS as u64;
        }
        Ok(())
    }

    /// How many more runs there is room for.
    pub fn room(&self) -> u64 {
        let (mut at, mut room) = (self.last, 0);
        while let Some(node) = at.get() {
            room += (RUNS - self.node(node).len.get() as usize) as u64;
            at = self.node(node).next.get();
        }
        room
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

    /// Calls `f` with the folio of every run but those of the zero page.
    pub fn for_each_folio(&self, mut f: impl FnMut(&KeptFolio<'_, 'f, M>)) {
        for run in self.runs().filter(|run| run.first != self.frames.zero_page()) {
            // The run owns a pin of it.
            f(&KeptFolio::new(self.frames.folio_of_owned(run.first)));
        }
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
        let mut rest = Self::new(self.frames, self.nodes);
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
        rest.last = if self.last == Link::from(id) { rest.first } else { self.last };
        self.last = id.into();
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

    fn push_run(&mut self, run: PinnedRun) -> Result<(), OutOfMemory> {
        let id = self.node_with_room()?;
        let node = self.node(id);
        let len = node.len.get();
        node.runs[len as usize].set(run.encode());
        node.len.set(len + 1);
        self.pages += run.pages.0;
        Ok(())
    }

    /// The node that the next run goes to.
    fn node_with_room(&mut self) -> Result<Handle<PinTag>, OutOfMemory> {
        let has_room = |id: &Handle<PinTag>| (self.node(*id).len.get() as usize) < RUNS;
        if let Some(id) = self.last.get().filter(has_room) {
            return Ok(id);
        }
        let next = match self.last.get() {
            Some(id) => self.node(id).next.get(),
            None => self.first,
        };
        self.last = match next.get() {
            Some(_) => next,
            None => self.append(self.last)?,
        };
        Ok(self.last.get().expect("there or just made"))
    }

    /// Links an empty node behind `end`, the last node, or as the first.
    fn append(&mut self, end: Link<PinTag>) -> Result<Link<PinTag>, OutOfMemory> {
        let id = self.nodes.slab.alloc(self.frames)?;
        let node = self.node(id);
        node.next.set(Link::NONE);
        node.len.set(0);
        match end.get() {
            Some(end) => self.node(end).next.set(id.into()),
            None => (self.first, self.last) = (id.into(), id.into()),
        }
        Ok(id.into())
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
            for run in node.runs[..node.len.get() as usize].iter().map(|run| PinnedRun::decode(run.get())) {
                if run.first != self.frames.zero_page() {
                    // The run owned a pin.
                    drop(FolioPin { frames: self.frames, page: run.first });
                }
            }
            at = node.next.get();
            self.nodes.slab.free(self.frames, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counts, folio::FolioRef, testing::TestMachine};
    use anonmem_hal::Order;
    use std::{vec, vec::Vec};

    type M = TestMachine;

    fn world() -> (Frames<M>, PinNodes<M>) {
        let frames = Frames::new(TestMachine::new(16, 256)).unwrap();
        let nodes = PinNodes::new(&frames);
        (frames, nodes)
    }

    fn folio(frames: &Frames<M>, order: u8) -> FolioRef<'_, M> {
        frames.alloc(Order::new(order)).unwrap().into_reference()
    }

    fn pin_all<'f>(list: &mut PinList<'f, M>, frames: &'f Frames<M>, folio: &FolioRef<'f, M>) {
        for page in 0..folio.folio().nr_pages().0 {
            list.push(frames.try_pin(folio.pfn().offset(page)).unwrap()).unwrap();
        }
    }

    fn pins(folio: &FolioRef<'_, M>) -> u64 {
        folio.folio().counts().pins()
    }

    #[test]
    fn a_run_of_a_folio_has_one_pin_and_lists_unpin() {
        let (frames, nodes) = world();
        let (small, large) = (folio(&frames, 0), folio(&frames, 3));
        let mut list = PinList::new(&frames, &nodes);
        pin_all(&mut list, &frames, &small);
        pin_all(&mut list, &frames, &large);
        list.push_zero().unwrap();
        assert_eq!((pins(&small), pins(&large), list.pages()), (1, 1, NrPages(10)));
        let runs: Vec<_> = list.runs().map(|run| (run.first, run.pages.0)).collect();
        assert_eq!(runs, vec![(small.pfn(), 1), (large.pfn(), 8), (frames.zero_page(), 1)]);
        drop(list);
        assert_eq!((pins(&small), pins(&large), nodes.live()), (0, 0, 0));
    }

    #[test]
    fn lists_are_split_anywhere_and_lose_nothing() {
        let (frames, nodes) = world();
        let all = [0, 2, 0, 0, 3, 0].map(|order| folio(&frames, order));
        let singles: Vec<_> = (0..30).map(|_| folio(&frames, 0)).collect();
        let total = 1 + 4 + 1 + 1 + 8 + 1 + 30;
        for at in 0..=total {
            let mut list = PinList::new(&frames, &nodes);
            let folios = || all.iter().chain(&singles);
            folios().for_each(|folio| pin_all(&mut list, &frames, folio));
            let pages = |list: &PinList<'_, M>| -> Vec<Pfn> {
                list.runs().flat_map(|run| (0..run.pages.0).map(move |i| run.first.offset(i))).collect()
            };
            let before = pages(&list);
            let mut rest = list.split_off(NrPages(at)).unwrap();
            assert_eq!((list.pages().0, rest.pages().0), (at, total - at));
            assert_eq!([pages(&list), pages(&rest)].concat(), before, "split at {at}");
            // Both go on as lists.
            pin_all(&mut list, &frames, &singles[0]);
            pin_all(&mut rest, &frames, &singles[1]);
            drop(list);
            assert_eq!(folios().map(pins).sum::<u64>(), rest.runs().count() as u64, "split at {at}");
            drop(rest);
            assert_eq!((folios().map(pins).sum::<u64>(), nodes.live()), (0, 0));
        }
    }

    #[test]
    fn room_that_was_reserved_needs_no_memory_later() {
        let (frames, nodes) = world();
        let page = folio(&frames, 0);
        let mut list = PinList::new(&frames, &nodes);
        list.push_zero().unwrap();
        list.reserve(40).unwrap();
        frames.machine().admit_only(0);
        for _ in 0..40 {
            list.push(frames.try_pin(page.pfn()).unwrap()).unwrap();
        }
        let more = (0..RUNS).map_while(|_| list.push(frames.try_pin(page.pfn()).unwrap()).err());
        assert!(more.count() <= RUNS, "a push without memory fails and unpins");
        frames.machine().admit_only(-1);
        drop(list);
        assert_eq!((pins(&page), nodes.live()), (0, 0));
    }

    #[test]
    fn pins_end_in_an_error_before_they_are_too_many() {
        let (frames, nodes) = world();
        let page = folio(&frames, 1);
        let mut kept = Vec::new();
        while let Some(pin) = frames.try_pin(page.pfn()) {
            kept.push(pin);
        }
        assert!(kept.len() as u64 > 65_000 && kept.len() < 1 << 16, "{}", kept.len());
        assert_eq!((pins(&page), page.folio().counts().refs()), (kept.len() as u64, 1));
        // A run of two pages cannot be cut, and stays what it is.
        let mut list = PinList::new(&frames, &nodes);
        // To make the run longer takes a pin for a moment.
        kept.truncate(kept.len() - 2);
        pin_all(&mut list, &frames, &page);
        kept.push(frames.try_pin(page.pfn()).unwrap());
        assert!(matches!(list.split_off(NrPages(1)), Err(PinListError::TooManyPins)));
        assert_eq!((list.pages(), list.runs().count()), (NrPages(2), 1));
        drop((list, kept));
        assert_eq!(page.folio().counts(), Counts(Counts::REF));
    }
}
