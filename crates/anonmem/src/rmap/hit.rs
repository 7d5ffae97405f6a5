//! One entry that a walk of the reverse map meets, whatever the back end.
//!
//! Linux: mm/page_vma_mapped.c `page_vma_mapped_walk`.

use crate::{ids::VmaId, mm::slot::MmSlot, objects::Objects, vma::vma::Vma};
use anonmem_frame::{Folio, FolioOwner, Shared};
use anonmem_hal::{Entry, Machine, PAGE_SHIFT, PAGE_SIZE, Pfn, Present, Pte, Sharing, SoftLeaf, Va, VaRange};
use anonmem_pgtable::{
    Cleared, LeafGuard, Locked, Mapped, PteGuard, PteTable, StableVma, TlbBatch, Vacancy, Walked,
};
use core::{fmt, ops::ControlFlow};

/// Mappings of consecutive pages that a walk met in one table, which is locked: a
/// [`Batch`](anonmem_pgtable::Batch) of the folio's, or the leaf that maps all of it.
pub struct RmapHit<'a, 'v, M: Machine, G> {
    /// The VMA that maps the page.
    pub vma: VmaId,
    /// Where the first one is.
    pub va: Va,
    /// Its page: one of the folio's.
    pub page: Pfn,
    /// How many pages from there on are mapped.
    pub pages: u64,
    /// The address space.
    pub(crate) slot: &'v MmSlot<M>,
    /// The entries. An rmap lock lets them be changed and cleared, not filled.
    pub entries: HitEntries<'a, M, G>,
}

/// What maps the pages of a hit.
pub enum HitEntries<'a, M: Machine, G> {
    /// Entries of this table, which is locked.
    Table(PteGuard<'a, M, G>),
    /// This leaf.
    Leaf(LeafGuard<'a, M, G>),
}

impl<M: Machine, G> fmt::Debug for HitEntries<'_, M, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(entries) => f.debug_tuple("Table").field(entries).finish(),
            Self::Leaf(leaf) => f.debug_tuple("Leaf").field(leaf).finish(),
        }
    }
}

/// The entries that a walk is for.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    /// Those that map a page, and leaves that map the folio.
    Present,
    /// Those that wait for a page to arrive somewhere else.
    Migration,
}

impl Form {
    /// The page that an entry of this form owns a count of.
    #[inline(always)]
    fn page(self, pte: Pte) -> Option<Pfn> {
        match (self, pte) {
            // The zero page is of no folio that a walk is for.
            (Self::Present, Pte::Present(present)) => Some(present.pfn),
            (Self::Migration, Pte::Soft(SoftLeaf::Migration { pfn, .. })) => Some(pfn),
            (Self::Present | Self::Migration, Pte::None | Pte::Present(_) | Pte::Soft(_)) => None,
        }
    }

    /// The folio's first page that a leaf of this form owns a count of.
    fn leaf(self, entry: Entry) -> Option<Pfn> {
        match (self, entry) {
            (Self::Present, Entry::Leaf(leaf)) => Some(leaf.pfn),
            (Self::Migration, Entry::Migration { pfn, .. }) => Some(pfn),
            (Self::Present, Entry::None | Entry::Table(_) | Entry::Migration { .. }) => None,
            (Self::Migration, Entry::None | Entry::Table(_) | Entry::Leaf(_)) => None,
        }
    }
}

/// Calls `f` for what of VMA `id` maps `folio`, whose first page has the linear index `first` there, table by
/// table, until it breaks.
#[doc(alias = "page_vma_mapped_walk")]
#[inline]
pub(crate) fn visit_vma<'a, 'v: 'a, M: Machine, G: StableVma<M>, B>(
    objects: &'v Objects<M>,
    guard: &'a G,
    id: VmaId,
    (folio, first): (Folio<'_, M>, u64),
    form: Form,
    f: &mut impl FnMut(RmapHit<'a, 'v, M, G>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let vma = objects.vma(id);
    let Some(slot) = vma.mm().map(|mm| objects.mm_slot(mm)) else { return ControlFlow::Continue(()) };
    if folio.is_large() {
        let met = Meeting { slot, id, folio, first: vma.address_or_before(first), form };
        return visit_pages(objects, met, first, guard, vma, f);
    }
    let Some(va) = vma.address_of(first) else { return ControlFlow::Continue(()) };
    let met = Meeting { slot, id, folio, first: va, form };
    let hit = match slot.space.walk_inlined(&objects.frames, guard, va) {
        Some(Walked::Table(table)) => met.page_in_table(table, va),
        // That of a larger folio, or it has become a table.
        Some(found @ Walked::Leaf(_)) => met.next(found, VaRange::page(va)),
        None => None,
    };
    match hit {
        Some(hit) => f(hit),
        None => ControlFlow::Continue(()),
    }
}

/// The same for a folio of several pages.
// Apart, so that the way of a single page is short.
#[inline(never)]
fn visit_pages<'a, 'v: 'a, M: Machine, G: StableVma<M>, B>(
    objects: &'v Objects<M>,
    met: Meeting<'v, '_, M>,
    first: u64,
    guard: &'a G,
    vma: &Vma<M>,
    f: &mut impl FnMut(RmapHit<'a, 'v, M, G>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let Meeting { slot, folio, .. } = met;
    let range = vma.addresses_of(first, folio.nr_pages().0);
    let Some(range) = range else { return ControlFlow::Continue(()) };
    for (found, part) in slot.space.parts(&objects.frames, guard, range) {
        let mut rest = part;
        while !rest.is_empty()
            && let Some(hit) = met.next(found, rest)
        {
            rest.start = hit.va.page_after(hit.pages).min(rest.end);
            f(hit)?;
        }
    }
    ControlFlow::Continue(())
}

/// A walk at one of the VMAs that it visits.
struct Meeting<'v, 'f, M: Machine> {
    slot: &'v MmSlot<M>,
    id: VmaId,
    folio: Folio<'f, M>,
    /// Where the folio's first page is, though the VMA may begin behind it.
    first: Va,
    form: Form,
}

impl<'v, M: Machine> Meeting<'v, '_, M> {
    /// The next batch of `rest` that maps the folio, in what a walk found there.
    fn next<'a, G: StableVma<M>>(
        &self,
        found: Walked<'a, M, G>,
        rest: VaRange,
    ) -> Option<RmapHit<'a, 'v, M, G>> {
        let is_ours =
            |at: VaRange, entry| at.start == self.first && self.form.leaf(entry) == Some(self.folio.pfn());
        match found {
            Walked::Table(table) => self.in_table(table, rest),
            // Without the lock first, as for entries.
            Walked::Leaf(place) if !place.has_leaf(|entry| is_ours(place.range(), entry)) => None,
            Walked::Leaf(place) => match place.lock() {
                Locked::Leaf(leaf) => is_ours(leaf.range(), leaf.get()).then(|| self.leaf(leaf)),
                Locked::Table(table) => self.in_table(table, rest),
                Locked::None => None,
            },
        }
    }

    /// The entry for `va`, if it maps the folio, which is of one page.
    #[inline(always)]
    fn page_in_table<'a, G: StableVma<M>>(
        &self,
        table: PteTable<'a, M, G>,
        va: Va,
    ) -> Option<RmapHit<'a, 'v, M, G>> {
        let page = self.folio.pfn();
        let maps = |pte: Pte| self.form.page(pte) == Some(page);
        // Without the lock first: most of a family's VMAs do not map the page.
        if !maps(table.peek(va)) {
            return None;
        }
        let entries = table.lock();
        if !maps(entries.get(va)) {
            return None;
        }
        let entries = HitEntries::Table(entries);
        Some(RmapHit { vma: self.id, va, page, pages: 1, slot: self.slot, entries })
    }

    fn leaf<'a, G: StableVma<M>>(&self, leaf: LeafGuard<'a, M, G>) -> RmapHit<'a, 'v, M, G> {
        let (range, pages) = (leaf.range(), leaf.pages());
        let page = self.folio.pfn();
        let entries = HitEntries::Leaf(leaf);
        RmapHit { vma: self.id, va: range.start, page, pages, slot: self.slot, entries }
    }

    fn in_table<'a, G: StableVma<M>>(
        &self,
        table: PteTable<'a, M, G>,
        rest: VaRange,
    ) -> Option<RmapHit<'a, 'v, M, G>> {
        loop {
            // Without the lock first: most of a family's VMAs do not map the page.
            // If somebody changes what it finds, it looks again.
            let va = rest.iter_pages().find(|&va| self.maps(table.peek(va), va))?;
            let entries = table.lock();
            if self.maps(entries.get(va), va) {
                let page = self.page_at(va);
                let from = VaRange { start: va, end: rest.end };
                let pages = match self.form {
                    Form::Present => entries.batch(from).expect("a page is there").pages(),
                    Form::Migration => self.waiting(&entries, from),
                };
                let entries = HitEntries::Table(entries);
                return Some(RmapHit { vma: self.id, va, page, pages, slot: self.slot, entries });
            }
        }
    }

    /// How many entries from the first of `range` on wait for the folio's pages.
    fn waiting<G: StableVma<M>>(&self, entries: &PteGuard<'_, M, G>, range: VaRange) -> u64 {
        range.iter_pages().take_while(|&va| self.maps(entries.get(va), va)).count() as u64
    }

    /// Whether an entry for `va` owns a count of the page of the folio that belongs there. A merged folio may
    /// have entries in this VMA that another of its places finds, which say another page of it.
    #[inline(always)]
    fn maps(&self, pte: Pte, va: Va) -> bool {
        self.form.page(pte) == Some(self.page_at(va))
    }

    /// The page of the folio that belongs at `va`.
    #[inline(always)]
    fn page_at(&self, va: Va) -> Pfn {
        self.folio.pfn().offset(va.0.wrapping_sub(self.first.0) >> PAGE_SHIFT)
    }
}

/// Pages of a table that a walk looks at together. Linux: `MIN_LRU_BATCH`.
const LOOK_AROUND: u64 = 64;

impl<'a, 'v, M: Machine, G: StableVma<M>> RmapHit<'a, 'v, M, G> {
    /// A view of the first entry and what it owns; `None` of a leaf.
    pub fn mapped(&self) -> Option<Mapped<'_, 'a, M>> {
        match &self.entries {
            HitEntries::Table(entries) => Some(entries.mapped(self.va)),
            HitEntries::Leaf(_) => None,
        }
    }

    /// The entries one by one: a leaf becomes a table, with no moment in which somebody else could change it.
    #[doc(alias("split_huge_pmd", "TTU_SPLIT_HUGE_PMD"))]
    pub(crate) fn into_table(self) -> (PteGuard<'a, M, G>, &'v MmSlot<M>) {
        match self.entries {
            HitEntries::Table(entries) => (entries, self.slot),
            HitEntries::Leaf(leaf) => (leaf.split_locked(), self.slot),
        }
    }
}

impl<M: Machine, G: StableVma<M>> RmapHit<'_, '_, M, G> {
    /// Takes the accessed bits; returns of how many pages they were set. A leaf has one for all of its pages.
    #[inline]
    pub(super) fn take_young(&mut self) -> u64 {
        match &mut self.entries {
            HitEntries::Leaf(leaf) => u64::from(leaf.test_and_clear_young()) * self.pages,
            HitEntries::Table(entries) if self.pages == 1 => u64::from(entries.test_and_clear_young(self.va)),
            HitEntries::Table(entries) => (0..self.pages)
                .map(|page| u64::from(entries.test_and_clear_young(self.va.page_after(page))))
                .sum(),
        }
    }

    /// How many of the pages were neither accessed nor written, and are the mapper's alone. `None` of a leaf
    /// that was used: it has one bit for all of its pages.
    pub(crate) fn untouched(&self) -> Option<u64> {
        let is_old = |present: Present| !present.young && !present.dirty;
        match &self.entries {
            HitEntries::Leaf(leaf) => match leaf.get() {
                Entry::Leaf(present) if is_old(present) => Some(self.pages),
                Entry::Leaf(_) | Entry::None | Entry::Table(_) | Entry::Migration { .. } => None,
            },
            HitEntries::Table(entries) => {
                let old = |nth: &u64| matches!(entries.mapped(self.va.page_after(*nth)), Mapped::Exclusive(_, present) if is_old(present));
                Some((0..self.pages).filter(old).count() as u64)
            }
        }
    }

    /// Takes the accessed bits of the entries around, whose table is locked already, and notes them at their
    /// folios: pages that lie together are used together, and reclaim need not walk to each of them.
    #[doc(alias = "lru_gen_look_around")]
    #[inline(never)]
    pub(super) fn look_around(&mut self) {
        let window = LOOK_AROUND * PAGE_SIZE as u64;
        let start = Va(self.va.0 - self.va.0 % window);
        let around = VaRange { start, end: Va(start.0 + window) };
        // Around a leaf are others' tables.
        let HitEntries::Table(entries) = &mut self.entries else { return };
        let Some(inside) = around.intersect(entries.table().range()) else { return };
        for va in inside.iter_pages() {
            match entries.mapped(va) {
                Mapped::Exclusive(page, Present { young: true, .. }) => page.set_referenced(),
                Mapped::Shared(page, Present { young: true, .. }) => page.set_referenced(),
                Mapped::Exclusive(..) | Mapped::Shared(..) | Mapped::None | Mapped::Zero(_) => continue,
                Mapped::Shm(_) | Mapped::Swap(..) | Mapped::Migration(..) | Mapped::Marker(_) => continue,
            }
            entries.test_and_clear_young(va);
        }
    }
}

/// What an entry gave that was taken to share its page: its place, the page, and what it said.
pub(crate) type TakenToShare<'e, 'a, M, G> = (Vacancy<'e, 'a, M, G>, Shared<'a, M>, Present, Sharing);

/// Takes the page of the entry for `va`, which maps an anonymous one, so that others may have it, too, and
/// notes the translation. `None` if somebody may pin the page: the entry is as it was.
#[inline]
pub(crate) fn take_to_share<'e, 'a, 'v: 'a, M: Machine, G: StableVma<M>>(
    entries: &'e mut PteGuard<'a, M, G>,
    slot: &'v MmSlot<M>,
    va: Va,
    tlb: &mut TlbBatch<'v, M>,
) -> Option<TakenToShare<'e, 'a, M, G>> {
    tlb.note(&slot.space, entries, va);
    let (cleared, vacancy) = entries.take(va);
    match cleared {
        Cleared::Exclusive(page, present) => match page.try_share() {
            Ok(page) => Some((vacancy, page, present, Sharing::Exclusive)),
            Err(page) => {
                vacancy.fill(page, present.into());
                None
            }
        },
        Cleared::Shared(page, present) => Some((vacancy, page, present, Sharing::Shared)),
        Cleared::None
        | Cleared::Zero(_)
        | Cleared::Shm(..)
        | Cleared::Swap(..)
        | Cleared::Migration(..)
        | Cleared::Marker(_) => unreachable!("the walk said that the entry maps an anonymous page"),
    }
}

#[cfg(test)]
mod tests;
