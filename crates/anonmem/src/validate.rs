//! Counting the world again.
//!
//! No memory is needed for it. That a folio's mapcount equals its entries follows from two counts. First,
//! rmap finds as many entries as the folio counts, for every folio. Second, over all folios the counts add up
//! to the entries that walking all page tables finds. An entry that rmap misses, or a count without an entry,
//! breaks one of the two.
//!
//! At rest only: nobody else is at work on the `Vm`.

use crate::{
    cpu::PageKind,
    ids::{MmId, VmaId},
    mm::{mmap_lock::MmapReadGuard, slot::MmSlot},
    rmap::machine::Machine,
    rmap::{
        Rmap,
        hit::Form,
        ksm::rmap_walk,
        reverse_map::{Broken, ReverseMap},
    },
    userfaultfd::is_protected,
    vm::Vm,
    vma::{
        flags::VmFlags,
        vma::{Backing, Vma},
    },
};
use anonmem_frame::{Folio, Inconsistency, Kind, Mapping, RawHandle};
use anonmem_hal::{Arch, EntryBits, Pfn, Pte, Sharing, SoftLeaf, SwapEntry, Va, VaRange};
use anonmem_pgtable::{Locked, Mapped, MappedLeaf, Miscounted, Walked};
use core::{fmt, ops::ControlFlow};

/// A rule that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The rule.
    pub rule: &'static str,
    /// Where: an address, a frame number or a handle, as the rule says.
    pub at: u64,
    /// What was recounted.
    pub expected: u64,
    /// What is recorded.
    pub found: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, at, expected, found } = self;
        write!(f, "{rule} (at {at:#x}): recounted {expected}, recorded {found}")
    }
}

impl core::error::Error for Violation {}

impl From<Inconsistency> for Violation {
    fn from(e: Inconsistency) -> Self {
        Self { rule: e.what, at: e.pfn.0, expected: 0, found: 0 }
    }
}

impl From<Miscounted> for Violation {
    fn from(e: Miscounted) -> Self {
        Self { rule: "entries in use of page table", at: e.table.0, expected: e.found, found: e.counted }
    }
}

impl From<Broken> for Violation {
    fn from(Broken { rule, at, expected, found }: Broken) -> Self {
        Self { rule, at, expected, found }
    }
}

type Check = Result<(), Violation>;

fn expect(rule: &'static str, at: u64, expected: u64, found: u64) -> Check {
    if expected == found { Ok(()) } else { Err(Violation { rule, at, expected, found }) }
}

/// What the address spaces add up to.
#[derive(Default)]
struct Totals {
    anon_entries: u64,
    leaves: u64,
    shared_entries: u64,
    shared_writers: u64,
    swap_entries: u64,
    vmas: u64,
    tree_nodes: u64,
    tables: u64,
    committed: u64,
    mms: u64,
}

/// What the VMAs and entries of one address space add up to.
#[derive(Default)]
struct Recount {
    anon: u64,
    shared: u64,
    swap: u64,
    total: u64,
    data: u64,
    stack: u64,
    locked: u64,
    committed: u64,
}

impl<M: Machine> Vm<M> {
    /// Recounts everything that is counted, and checks every rule that can be checked at rest.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|vm, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.store(start, 7)?;
    /// vm.validate()?;
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn validate(&self) -> Check {
        self.drain();
        let mut totals = Totals::default();
        let mut result = Ok(());
        self.mms.for_each_live(&self.frames, |id, slot| {
            if result.is_ok() {
                result = self.validate_mm(id, slot, &mut totals);
            }
        });
        result?;
        self.validate_objects(&mut totals)?;
        Rmap::<M>::validate(self)?;
        let cached = self.validate_swap(&totals)?;
        self.validate_folios(&totals, cached)?;
        self.validate_pins()?;
        expect("address spaces", 0, totals.mms, self.mms.live())?;
        expect("VMAs", 0, totals.vmas, self.vmas.live())?;
        expect("nodes of VMA trees", 0, totals.tree_nodes, self.tree_nodes.live())?;
        expect("page tables", 0, totals.tables, self.frames.usage().tables.0)?;
        expect("pages promised", 0, totals.committed, self.stats().committed)?;
        self.vmas.validate(&self.frames)?;
        self.anon_vmas.validate(&self.frames)?;
        self.chains.validate(&self.frames)?;
        self.families.validate(&self.frames)?;
        self.stable_nodes.validate(&self.frames)?;
        self.uffds.validate(&self.frames)?;
        self.uffd_messages.validate(&self.frames)?;
        self.frames.validate()?;
        Ok(())
    }

    fn validate_mm(&self, id: MmId, slot: &MmSlot<M>, totals: &mut Totals) -> Check {
        totals.mms += 1;
        if slot.users() == 0 {
            // Whoever is charged to it, or asks for it later, has left the slot.
            return expect(
                "an address space that has ended is kept by somebody",
                id.raw().get().into(),
                1,
                u64::from(slot.is_grabbed()),
            );
        }
        let guard = self.mmap_read_lock(id);
        let root = slot.space.root().0;
        totals.tree_nodes += slot.tree.validate(self.nodes()).map_err(|_| Violation {
            rule: "the tree of VMAs is in order",
            at: root,
            expected: 0,
            found: 0,
        })?;
        let tables = slot.space.recount(&self.frames)?;
        expect("page tables of an address space", root, tables, slot.space.nr_tables())?;
        totals.tables += tables;

        let mut count = Recount::default();
        let mut result = Ok(());
        slot.tree.for_each(self.nodes(), |range, id| {
            if result.is_ok() {
                result = self.validate_vma(&guard, range, id, &mut count, totals);
            }
        });
        result?;
        let c = &slot.counts;
        let counted = |kind| self.peek_pages_of(slot, kind) as u64;
        expect("mapped anonymous pages", root, count.anon, counted(PageKind::Anon))?;
        expect("mapped shared pages", root, count.shared, counted(PageKind::Shared))?;
        expect("pages in swap", root, count.swap, counted(PageKind::Swap))?;
        expect("pages of mappings", root, count.total, c.total.peek())?;
        expect("pages of data", root, count.data, c.data.peek())?;
        expect("pages of stacks", root, count.stack, c.stack.peek())?;
        expect("pages locked", root, count.locked, c.locked.peek())?;
        expect("pages promised to an address space", root, count.committed, c.committed.peek())?;
        let in_vmas = count.anon + count.shared;
        expect("pages outside of VMAs", root, in_vmas, self.entries_in_all_tables(&guard))?;
        totals.anon_entries += count.anon;
        totals.shared_entries += count.shared;
        totals.swap_entries += count.swap;
        totals.committed += count.committed;
        Ok(())
    }

    /// Mapped pages by page tables alone, VMAs ignored.
    fn entries_in_all_tables(&self, guard: &MmapReadGuard<'_, M>) -> u64 {
        let all = VaRange { start: Va(0), end: M::Arch::USER_END };
        let space = &guard.slot().space;
        let pages = |(found, part): (Walked<'_, M, _>, VaRange)| {
            part.iter_pages().filter(|&va| is_page(found.peek(va))).count() as u64
        };
        space.parts(&self.frames, guard, all).map(pages).sum()
    }

    fn validate_vma(
        &self,
        guard: &MmapReadGuard<'_, M>,
        range: VaRange,
        id: VmaId,
        count: &mut Recount,
        totals: &mut Totals,
    ) -> Check {
        let (vma, at) = (self.vma(id), range.start.0);
        expect("a VMA in a tree is live", at, 1, u64::from(self.vmas.is_live(&self.frames, id)))?;
        expect("start of a VMA", at, range.start.0, vma.start().0)?;
        expect("end of a VMA", at, range.end.0, vma.end().0)?;
        let owner = vma.mm().map_or(0, |mm| self.mm_slot(mm).space.root().0);
        expect("address space of a VMA", at, guard.slot().space.root().0, owner)?;
        let (flags, pages) = (vma.flags(), range.pages().0);
        let when = |on: bool| if on { pages } else { 0 };
        count.total += pages;
        count.data += when(flags.is_data());
        count.stack += when(flags.contains(VmFlags::GROWSDOWN));
        count.locked += when(flags.contains(VmFlags::LOCKED));
        count.committed += when(flags.contains(VmFlags::ACCOUNT));
        totals.vmas += 1;
        if let Backing::Shared(object) = vma.backing()
            && flags.may_store_shared()
            && self.shm(object).is_sparse()
        {
            totals.shared_writers += 1;
        }
        self.validate_uffd(vma, at)?;
        for (found, part) in guard.slot().space.parts(&self.frames, guard, range) {
            match found {
                Walked::Table(table) => {
                    let entries = table.lock();
                    for va in part.iter_pages() {
                        self.validate_entry(vma, va, entries.mapped(va), count)?;
                    }
                }
                Walked::Leaf(place) => {
                    let whole = part == place.range();
                    expect("a leaf lies within one VMA", part.start.0, 1, u64::from(whole))?;
                    let Locked::Leaf(leaf) = place.lock() else { unreachable!("at rest, a leaf stays one") };
                    self.validate_leaf(vma, part, leaf.mapped(), count)?;
                    totals.leaves += 1;
                }
            }
        }
        Ok(())
    }

    /// Who watches a VMA is there, and watches this address space.
    fn validate_uffd(&self, vma: &Vma<M>, at: u64) -> Check {
        let watched = vma.flags().intersects(VmFlags::UFFD);
        expect(
            "a VMA that is watched has a userfaultfd",
            at,
            u64::from(watched),
            u64::from(vma.uffd().is_some()),
        )?;
        let Some(uffd) = vma.uffd() else { return Ok(()) };
        expect(
            "a userfaultfd that watches is live",
            at,
            1,
            u64::from(self.uffds.is_live(&self.frames, uffd)),
        )?;
        let same = Some(self.uffd(uffd).mm()) == vma.mm();
        expect("a userfaultfd watches its own address space", at, 1, u64::from(same))
    }

    /// As [`validate_entry`](Self::validate_entry), for all pages of `range` at once.
    fn validate_leaf(
        &self,
        vma: &Vma<M>,
        range: VaRange,
        leaf: MappedLeaf<'_, '_, M>,
        count: &mut Recount,
    ) -> Check {
        let (at, pages) = (range.start.0, range.pages().0);
        let (folio, leaf) = match leaf {
            MappedLeaf::Exclusive(folio, leaf) => {
                let maps = folio.folio().counts().maps();
                expect("an exclusive leaf is all that maps its folio", at, pages, maps)?;
                let missed = leaf.soft_clean && leaf.prot.write;
                expect("a leaf whose next write is waited for is not writable", at, 0, missed.into())?;
                (folio.folio(), leaf)
            }
            MappedLeaf::Shared(folio, leaf) => {
                expect("a shared leaf is not writable", at, 0, u64::from(leaf.prot.write))?;
                (folio.folio(), leaf)
            }
            MappedLeaf::Migration(hold, bits) => {
                (hold.folio(), EntryBits::from(bits).to_present(hold.pfn(), vma.protection()))
            }
        };
        expect("a userfaultfd protects pages, and no leaf", at, 0, u64::from(leaf.uffd_wp))?;
        count.anon += pages;
        let private = !vma.flags().contains(VmFlags::SHARED);
        expect("a leaf is in a private mapping", at, 1, u64::from(private))?;
        expect("a leaf maps a folio of its size", at, pages, folio.nr_pages().0)?;
        self.validate_index(folio, range.start, vma.index_of(range.start), 0)?;
        for page in (1..pages).map(|nth| folio.pfn().offset(nth)) {
            let marked = u64::from(self.frames.page_is_exclusive(page));
            expect("the first page of a leaf says for all whether they are exclusive", page.0, 0, marked)?;
        }
        allowed(vma.flags(), range.start, leaf.prot.write)
    }

    fn validate_entry(&self, vma: &Vma<M>, va: Va, entry: Mapped<'_, '_, M>, count: &mut Recount) -> Check {
        let flags = vma.flags();
        if is_protected(&entry) {
            let watched = flags.contains(VmFlags::UFFD_WP);
            expect("a protected entry is in a VMA that is watched for writes", va.0, 1, u64::from(watched))?;
        }
        let mut nth = 0;
        let (present, folio) = match entry {
            Mapped::None | Mapped::Marker(_) => return Ok(()),
            Mapped::Swap(owned, bits) => {
                count.swap += 1;
                let entry = owned.entry();
                let slot = self.swap.get(entry).slots().state(&self.frames, entry.offset);
                expect("a swap entry owns a count of its slot", va.0, 1, u64::from(slot.count > 0))?;
                return match (bits.sharing, slot.cached) {
                    (Sharing::Exclusive, Some(page)) => self.validate_cached(page, va, vma.index_of(va)),
                    (Sharing::Exclusive, None) | (Sharing::Shared, _) => Ok(()),
                };
            }
            Mapped::Migration(hold, bits) => {
                (EntryBits::from(bits).to_present(hold.pfn(), vma.protection()), hold.folio())
            }
            Mapped::Zero(present) => {
                return expect("the zero page is never writable", va.0, 0, u64::from(present.prot.write));
            }
            Mapped::Exclusive(page, present) => {
                // Of a large folio, `validate_rmap` counts those of each page.
                if !page.folio().is_large() {
                    expect("an exclusive page has one mapping", va.0, 1, page.folio().counts().maps())?;
                }
                nth = page.pfn().0 - page.folio().pfn().0;
                (present, page.folio())
            }
            Mapped::Shared(page, present) => {
                expect("a shared page is not writable", va.0, 0, u64::from(present.prot.write))?;
                nth = page.pfn().0 - page.folio().pfn().0;
                (present, page.folio())
            }
            Mapped::Shm(present) => {
                count.shared += 1;
                let shared = matches!(vma.backing(), Backing::Shared(_));
                expect("a shared object's page is in a mapping of it", va.0, 1, u64::from(shared))?;
                let missed = present.soft_clean && present.prot.write;
                expect(
                    "a shared page whose next write is waited for is not writable",
                    va.0,
                    0,
                    missed.into(),
                )?;
                return allowed(flags, va, present.prot.write);
            }
        };
        count.anon += 1;
        let watched = (present.uffd_wp || present.soft_clean) && present.prot.write;
        expect("an entry whose next write is waited for is not writable", va.0, 0, u64::from(watched))?;
        expect(
            "an anonymous page is in a private mapping",
            va.0,
            0,
            u64::from(flags.contains(VmFlags::SHARED)),
        )?;
        self.validate_index(folio, va, vma.index_of(va), nth)?;
        allowed(flags, va, present.prot.write)
    }

    /// The cached page of a slot that one entry has alone is where that entry is, if it says where it is. A
    /// part of a large folio may have been asked for at several places (KSM).
    fn validate_cached(&self, page: Pfn, va: Va, index: u64) -> Check {
        let Some(folio) = self.frames.folio(page).filter(|folio| !folio.is_large()) else { return Ok(()) };
        match folio.mapping() {
            Mapping::Anon(_) => expect("index of a cached page", va.0, index, folio.index()),
            Mapping::None | Mapping::Ksm(_) | Mapping::Shm(_) => Ok(()),
        }
    }

    /// A page is at the index that it says; a merged one at one of those that its node says.
    fn validate_index(&self, folio: Folio<'_, M>, va: Va, index: u64, nth: u64) -> Check {
        let Mapping::Ksm(node) = folio.mapping() else {
            return expect("index of a page", va.0, index, folio.index() + nth);
        };
        let nodes = self.stable_nodes();
        let mut places = nodes.resolve(node).into_iter().flat_map(|id| nodes.places(id));
        let place = places.find(|place| place.index + nth == index);
        expect("index of a merged page", va.0, 1, u64::from(place.is_some()))
    }

    fn validate_objects(&self, totals: &mut Totals) -> Check {
        let mut result = Ok(());
        let mut writers = 0;
        self.shm_objects.for_each_live(&self.frames, |id, object| {
            let mut check = || {
                let tables = object.space().recount(&self.frames)?;
                expect("page tables of a shared object", 0, tables, object.space().nr_tables())?;
                totals.tables += tables;
                let pages = self.shm_all_pages(id);
                totals.committed += if object.is_sparse() { pages.all() } else { object.pages() };
                totals.shared_entries += pages.present;
                totals.swap_entries += pages.swapped;
                expect("a shared object has users", 0, 1, u64::from(object.users() > 0))
            };
            if result.is_ok() {
                result = check();
            }
            writers += object.writers();
        });
        result?;
        expect("mappings that may store to objects of files", 0, totals.shared_writers, writers)
    }

    /// Counts of slots, and their free ones. Returns the number of cached pages.
    fn validate_swap(&self, totals: &Totals) -> Result<u64, Violation> {
        let (mut counts, mut cached) = (0, 0);
        for (device, user, free) in self.swap.slots_in_use(&self.rcu) {
            let (slots, mut unused) = (user.slots(), 0);
            for slot in 0..slots.len() {
                let state = slots.state(&self.frames, slot);
                unused += u64::from(slots.is_free(&self.frames, slot));
                counts += state.count;
                let Some(page) = state.cached else { continue };
                cached += 1;
                let right = self.frames.folio(page).is_some_and(|folio| {
                    let nth = page.0 - folio.pfn().0;
                    folio.swap_entry() == slot.checked_sub(nth).map(|offset| SwapEntry { device, offset })
                });
                expect("a cached page knows its slot", page.0, 1, u64::from(right))?;
            }
            expect("free slots of a swap device", device.into(), unused, free)?;
        }
        expect("counts of swap slots", 0, totals.swap_entries, counts)?;
        Ok(cached)
    }

    fn validate_folios(&self, totals: &Totals, cached: u64) -> Check {
        let (mut anon, mut leaves, mut shared, mut in_cache) = (0, 0, 0, 0);
        let mut result = Ok(());
        self.frames.for_each_frame(|pfn, kind, _| {
            if result.is_err() || kind != Kind::Folio {
                return;
            }
            let folio = self.frames.folio(pfn).expect("a frame of kind folio");
            match folio.mapping() {
                Mapping::Anon(_) => {
                    anon += folio.counts().maps();
                    leaves += folio.whole_mappings();
                    result = self.validate_rmap(folio);
                }
                Mapping::Ksm(node) => {
                    anon += folio.counts().maps();
                    leaves += folio.whole_mappings();
                    result = self.validate_node(folio, node).and_then(|()| self.validate_rmap(folio));
                }
                Mapping::Shm(_) => shared += folio.counts().maps(),
                // Read from swap, and not mapped yet.
                Mapping::None if folio.swap_entry().is_some() => {}
                Mapping::None => {
                    result = expect("a folio belongs to something", pfn.0, 1, 0);
                }
            }
            if result.is_ok() {
                let refs = self.swap_references(folio);
                in_cache += refs;
                let knows = u64::from(folio.swap_entry().is_some());
                result =
                    expect("a folio knows of a slot that it is cached by", pfn.0, u64::from(refs > 0), knows);
            }
            if result.is_ok() {
                let refs = self.swap_references(folio);
                result = expect("references at rest", pfn.0, refs, folio.counts().refs());
            }
        });
        result?;
        expect("pages in the swap cache", 0, cached, in_cache)?;
        expect("mappings of anonymous pages", 0, totals.anon_entries, anon)?;
        expect("mappings of whole folios", 0, totals.leaves, leaves)?;
        expect("mappings of shared pages", 0, totals.shared_entries, shared)
    }

    /// Every pin is that of a run of somebody's list, and every run's folio is pinned.
    fn validate_pins(&self) -> Check {
        let (mut owned, mut result) = (0, Ok(()));
        self.pins.for_each_run(&self.frames, |run| {
            if run.first == self.frames.zero_page() || result.is_err() {
                return;
            }
            owned += 1;
            let pins = self.frames.folio(run.first).map_or(0, |folio| folio.counts().pins());
            result = expect("a page that somebody has pinned is pinned", run.first.0, 1, u64::from(pins > 0));
        });
        result?;
        let mut counted = 0;
        self.frames.for_each_frame(|pfn, kind, _| {
            if kind == Kind::Folio {
                counted += self.frames.folio(pfn).map_or(0, |folio| folio.counts().pins());
            }
        });
        expect("pins", 0, owned, counted)?;
        self.pins.validate(&self.frames)?;
        Ok(())
    }

    /// The node of a merged page knows it.
    fn validate_node(&self, folio: Folio<'_, M>, node: RawHandle) -> Check {
        let (nodes, at) = (self.stable_nodes(), folio.pfn().0);
        let live = nodes.resolve(node).filter(|id| self.stable_nodes.is_live(&self.frames, *id));
        let Some(node) = live.map(|id| nodes.get(id)) else {
            return expect("a merged page has a node", at, 1, 0);
        };
        let knows = [node.frame(), node.left()].contains(&Some(folio.pfn()));
        expect("the node of a merged page knows its frame", at, 1, u64::from(knows))?;
        let pages = (0..folio.nr_pages().0).map(|nth| folio.pfn().offset(nth));
        let alone = pages.filter(|&page| self.frames.page_is_exclusive(page)).count();
        expect("a merged page is nobody's alone", at, 0, alone as u64)
    }

    /// Rmap finds as many entries as the folio counts, and one for each of its pages that is exclusive.
    fn validate_rmap(&self, folio: Folio<'_, M>) -> Check {
        let (mut found, mut exclusive) = (0, 0);
        let pages = || (0..folio.nr_pages().0).map(|nth| folio.pfn().offset(nth));
        for form in [Form::Present, Form::Migration] {
            let _ = rmap_walk(self, folio, form, |hit| {
                found += hit.pages;
                let met = |nth: &u64| self.frames.page_is_exclusive(hit.page.offset(*nth));
                exclusive += (0..hit.pages).filter(met).count() as u64;
                ControlFlow::<()>::Continue(())
            });
        }
        let marked = pages().filter(|&page| self.frames.page_is_exclusive(page)).count() as u64;
        expect("an exclusive page has one mapping", folio.pfn().0, marked, exclusive)?;
        expect("entries that rmap finds", folio.pfn().0, found, folio.counts().maps())
    }
}

/// Whether an entry owns a page's mapping.
fn is_page(pte: Pte) -> bool {
    match pte {
        Pte::Present(present) => !present.special,
        Pte::Soft(SoftLeaf::Migration { .. }) => true,
        Pte::None | Pte::Soft(SoftLeaf::Swap { .. } | SoftLeaf::Marker(_)) => false,
    }
}

fn allowed(flags: VmFlags, va: Va, writable: bool) -> Check {
    expect(
        "a writable entry in a VMA that is not",
        va.0,
        0,
        u64::from(writable && !flags.contains(VmFlags::WRITE)),
    )
}
