//! Pinning what entries map: under the lock of their table, or without any lock.
//!
//! Only pages that nobody else has are pinned: exclusive ones, and those of shared objects. What is shared,
//! or the zero page, has to be made the caller's own first, by a fault.
//!
//! Without a lock ([`AddressSpace::pin_fast`]) the steps are those of [`pin_protocol`], which says against
//! whom each of them is. Pages are pinned in batches, so that one fence and one look at the upper tables
//! serve for 64 of them. Pages of one folio that lie together get one pin, but each entry is looked at again.
//!
//! Linux: mm/gup.c `follow_page_pte`, `gup_fast_pte_range`.

use crate::{
    guard::PteGuard,
    leaf::LeafGuard,
    owned::Mapped,
    owned_leaf::MappedLeaf,
    space::{AddressSpace, StableVma},
    table::{entries, span},
};
use anonmem_frame::{FolioPin, Frames, Mapping, PinList, pin_protocol};
use anonmem_hal::{Arch, Entry, Machine, NrPages, PAGE_SIZE, Pfn, Present, Pte, Va, VaRange};
use anonmem_sync::{Atomic, Ordering, RcuGuard};

/// Pages that are pinned before they are looked at again.
const BATCH: u64 = 64;

/// What pinned pages are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PinAccess {
    /// To be read.
    Read,
    /// To be written, and read.
    Write,
}

/// What came of pinning the page of an entry.
pub enum PinEntry<'f, M: Machine> {
    /// It is pinned.
    Pinned(FolioPin<'f, M>),
    /// It is the zero page, which nobody pins.
    Zero,
    /// Others may have it: it must be made the entry's own first.
    Shared,
    /// It is pinned as often as can be counted.
    TooManyPins,
    /// There is no page.
    NoPage,
}

impl<'a, M: Machine, G: StableVma<M>> PteGuard<'a, M, G> {
    /// Pins the page of the entry for `va`, if it is nobody else's. Whether the entry allows what the page is
    /// wanted for, the caller asks.
    #[doc(alias = "follow_page_pte")]
    pub fn pin(&self, va: Va) -> PinEntry<'a, M> {
        match self.mapped(va) {
            Mapped::Exclusive(page, _) => page.pin().map_or(PinEntry::TooManyPins, PinEntry::Pinned),
            // The entry has a mapping of it, so it has an owner: what may fail is only the count.
            Mapped::Shm(present) => {
                self.frames().try_pin(present.pfn).map_or(PinEntry::TooManyPins, PinEntry::Pinned)
            }
            Mapped::Zero(_) => PinEntry::Zero,
            Mapped::Shared(..) => PinEntry::Shared,
            Mapped::None | Mapped::Swap(..) | Mapped::Migration(..) | Mapped::Marker(_) => PinEntry::NoPage,
        }
    }
}

impl<'a, M: Machine, G: StableVma<M>> LeafGuard<'a, M, G> {
    /// The same of the page at `va`, which the leaf maps.
    #[doc(alias = "follow_trans_huge_pmd")]
    pub fn pin(&self, va: Va) -> PinEntry<'a, M> {
        match self.mapped() {
            MappedLeaf::Exclusive(folio, _) => {
                let nth = va.page() - self.range().start.page();
                folio.pin(nth).map_or(PinEntry::TooManyPins, PinEntry::Pinned)
            }
            MappedLeaf::Shared(..) => PinEntry::Shared,
            MappedLeaf::Migration(..) => PinEntry::NoPage,
        }
    }
}

impl<M: Machine> AddressSpace<M> {
    /// Pins the pages of `range` from its start on, as far as that goes without any lock and without a fault,
    /// and as there is room in `pins`; returns where it stopped. No node of the list is allocated.
    ///
    /// # Locks
    /// None. The read section is of the domain that the space's tables wait for
    /// ([`DeadTables`](crate::DeadTables)).
    #[doc(alias = "gup_fast")]
    pub fn pin_fast<'f>(
        &self,
        frames: &'f Frames<M>,
        rcu: &RcuGuard<'_, M>,
        range: VaRange,
        access: PinAccess,
        pins: &mut PinList<'f, M>,
    ) -> Va {
        let walk = FastWalk { space: self, frames, rcu, access };
        let mut va = range.start;
        while va < range.end {
            let table_end = va.align_down(span::<M>()).0.saturating_add(span::<M>());
            let batch_end = va.0.saturating_add(BATCH * PAGE_SIZE as u64);
            let batch = VaRange { start: va, end: Va(table_end.min(batch_end)).min(range.end) };
            if pins.room() < batch.pages().0 {
                break;
            }
            va = walk.pin_batch(batch, pins);
            if va != batch.end {
                break;
            }
        }
        va
    }
}

/// A walk over tables in a read section.
struct FastWalk<'w, 'f, 'r, M: Machine> {
    space: &'w AddressSpace<M>,
    frames: &'f Frames<M>,
    rcu: &'w RcuGuard<'r, M>,
    access: PinAccess,
}

impl<'f, M: Machine> FastWalk<'_, 'f, '_, M> {
    /// Pins pages of one table.
    fn pin_batch(&self, range: VaRange, pins: &mut PinList<'f, M>) -> Va {
        let frames = self.frames;
        // C1
        let Some(seen) = self.space.sharing().try_begin() else { return range.start };
        let table = match self.end_of(range.start) {
            Some(WalkEnd::Table(table)) => table,
            Some(WalkEnd::Leaf(raw)) => return self.pin_leaf(raw, seen, range, pins),
            None => return range.start,
        };
        let first = M::Arch::index(range.start, 0);
        let words = &entries(frames, table)[first..first + range.pages().0 as usize];
        let mut said = [0; BATCH as usize];
        let said = &mut said[..words.len()];
        let readable = read_entries(words, said, self.access);
        let mut tried = [const { None }; BATCH as usize];
        let mut at = 0;
        for place in &mut tried {
            *place = Tried::pin(frames, &said[at..readable]);
            let Some(run) = place else { break };
            at += run.pages;
        }
        pin_protocol::pins_are_counted::<M>();
        // Whatever fails from here on is unpinned with `tried`.
        if self.end_of(range.start) != Some(WalkEnd::Table(table)) {
            return range.start;
        }
        let mut at = 0;
        for run in tried.iter_mut().map_while(Option::as_mut) {
            let hold = words[at..].iter().zip(&said[at..]).take(run.pages);
            let held = run.first_that_hold(frames, hold);
            at += held;
            if held < run.pages {
                run.pages = held;
                break;
            }
        }
        // C2
        if self.space.sharing().retry(seen) {
            return range.start;
        }
        let mut va = range.start;
        let end = range.start.page_after(at as u64);
        for run in tried.iter_mut().map_while(Option::take) {
            if va == end || run.pages == 0 || pins.push_pages(run.pin, NrPages(run.pages as u64)).is_err() {
                break;
            }
            va = va.page_after(run.pages as u64);
        }
        va
    }

    /// The same for pages of a leaf that says `raw`. The steps are the same, with the leaf in the entry's
    /// place, and its first page's bit for all. They get one pin.
    #[cold]
    #[doc(alias = "gup_fast_pmd_leaf")]
    fn pin_leaf(&self, raw: u64, seen: u64, range: VaRange, pins: &mut PinList<'f, M>) -> Va {
        let Entry::Leaf(leaf) = M::Arch::decode_entry(raw, 1) else { return range.start };
        if !allows(leaf, self.access) {
            return range.start;
        }
        let first = leaf.pfn.offset(range.start.page() % M::Arch::ENTRIES as u64);
        let Some(pin) = self.frames.try_pin(first) else { return range.start };
        pin_protocol::pins_are_counted::<M>();
        // Whatever fails from here on is unpinned with `pin`. A leaf that was split is none any more, and the
        // pages' own bits count.
        let same = self.end_of(range.start) == Some(WalkEnd::Leaf(raw));
        if !same || !self.frames.page_is_exclusive(leaf.pfn) || self.space.sharing().retry(seen) {
            return range.start;
        }
        // The leaf says that the folio has all of them.
        if pins.push_pages(pin, range.pages()).is_err() { range.start } else { range.end }
    }

    /// What a walk to `va` ends at just now. The read section keeps a table one.
    #[inline(always)]
    fn end_of(&self, va: Va) -> Option<WalkEnd> {
        let _kept_by = self.rcu;
        let upper = self.space.upper(self.frames, va)?;
        // Acquire: as in every walk.
        let raw = entries(self.frames, upper)[M::Arch::index(va, 1)].load(Ordering::Acquire);
        match M::Arch::decode_entry(raw, 1) {
            Entry::Table(table) => Some(WalkEnd::Table(table)),
            Entry::Leaf(_) => Some(WalkEnd::Leaf(raw)),
            Entry::None | Entry::Migration { .. } => None,
        }
    }
}

/// What a walk without any lock ends at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WalkEnd {
    /// A last-level table.
    Table(Pfn),
    /// A leaf that says this.
    Leaf(u64),
}

/// Whether an entry allows what a page is wanted for.
#[inline(always)]
fn allows(present: Present, access: PinAccess) -> bool {
    present.prot.read && (access == PinAccess::Read || present.prot.write)
}

/// B1 and B2: what the entries say, up to the first that does not allow the access or has no page. Returns
/// how many.
fn read_entries<M: Machine>(words: &[Atomic<u64, M>], said: &mut [u64], access: PinAccess) -> usize {
    for (nth, (word, said)) in words.iter().zip(said).enumerate() {
        // Acquire pairs with the Release with which entries are filled: the page's metadata are seen.
        *said = word.load(Ordering::Acquire);
        let Pte::Present(present) = M::Arch::decode_pte(*said) else { return nth };
        if present.special || !allows(present, access) {
            return nth;
        }
    }
    words.len()
}

/// Pages of one folio that were pinned, by one pin, because of what their entries said.
struct Tried<'f, M: Machine> {
    pin: FolioPin<'f, M>,
    pages: usize,
}

impl<'f, M: Machine> Tried<'f, M> {
    /// B3: pins the page of the first entry, for those after it in the same folio, too, whose entries follow.
    #[inline]
    fn pin(frames: &'f Frames<M>, said: &[u64]) -> Option<Self> {
        let page = |raw: &u64| M::Arch::pte_page(*raw);
        let first = page(said.first()?)?;
        let pin = frames.try_pin(first)?;
        if frames.is_one_page(first) {
            return Some(Self { pin, pages: 1 });
        }
        // The pin keeps the folio what it is.
        let most = pin.folio().owned_pages_from(first) as usize;
        let follows = |(nth, raw): (usize, &u64)| page(raw) == Some(first.offset(nth as u64));
        let pages = said.iter().take(most).enumerate().take_while(|&it| follows(it)).count();
        Some(Self { pin, pages })
    }

    /// B4 and B5: how many of the first pages may be kept.
    #[inline]
    fn first_that_hold<'w>(
        &self,
        frames: &Frames<M>,
        entries: impl Iterator<Item = (&'w Atomic<u64, M>, &'w u64)>,
    ) -> usize
    where
        M: 'w,
    {
        let hold = |(nth, (word, said)): (usize, (&Atomic<u64, M>, &u64))| {
            // Acquire: pairs with the Release of whoever filled the entry with the same bits, and shared the
            // page before.
            let same = word.load(Ordering::Acquire) == *said;
            // A list of what may be pinned, not of what may not.
            same && (frames.page_is_exclusive(self.pin.pfn().offset(nth as u64))
                || matches!(self.pin.folio().mapping(), Mapping::Shm(_)))
        };
        entries.enumerate().take_while(|&it| hold(it)).count()
    }
}
