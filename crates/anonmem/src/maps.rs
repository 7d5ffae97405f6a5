//! What an address space looks like from outside: its mappings, what they cost, and single pages.
//!
//! Locks: the mmap lock for reading, for the whole call; a page-table lock for one table at a time. What is
//! called back runs under the mmap lock: it may not touch memory of this address space, nor sleep on anything
//! that does.
//!
//! Linux: fs/proc/task_mmu.c `show_map_vma`, `smaps_pte_range`, `pagemap_pmd_range`. Differs: no file pages,
//! because there are none.

use crate::{
    clear_refs::{is_soft_dirty, is_soft_dirty_leaf, is_soft_dirty_vma},
    ids::{ShmId, VmaId},
    mm::{Mm, mmap_lock::MmapReadGuard, slot::MmSlot},
    rmap::machine::Machine,
    userfaultfd::is_protected,
    vma::{flags::VmFlags, tree::Busy, vma::Backing},
};
use anonmem_frame::{Folio, Mapping, RawHandle};
use anonmem_hal::{
    Arch, EntryBits, Marker, PAGE_SHIFT, PAGE_SIZE, Pfn, Present, Protection, SourceId, Va, VaRange,
};
use anonmem_pgtable::{LeafGuard, Locked, Mapped, MappedLeaf, PteTable, StableVma, Walked};
use core::ops::ControlFlow;

/// What a mapping is a mapping of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapKind {
    /// Zeroes.
    Anonymous,
    /// The bytes of a source.
    Source(SourceId),
    /// The pages of a shared object; its name is stable while the mapping lives.
    Shared(RawHandle),
}

/// What a mapping is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapUse {
    /// `[heap]`: where `brk` moves.
    Heap,
    /// `[stack]`: it grows down.
    Stack,
    /// Anything else.
    Other,
}

/// A mapping, as /proc/PID/maps shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmaInfo {
    /// The addresses it covers.
    pub range: VaRange,
    /// Its attributes.
    pub flags: VmFlags,
    /// The page of the source or object that its first page maps; means nothing for anonymous memory.
    pub pgoff: u64,
    /// What it maps.
    pub kind: MapKind,
    /// What it is for.
    pub purpose: MapUse,
    /// Whether the policy allows a large folio somewhere in it (`THPeligible`).
    pub may_be_large: bool,
}

/// What the present pages of a mapping cost, in bytes. Linux: /proc/PID/smaps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VmaUsage {
    /// Present pages; the zero page does not count.
    pub rss: u64,
    /// The same, each page divided by the number of its mappers.
    pub pss: u64,
    /// The dirty part of `pss`.
    pub pss_dirty: u64,
    /// Mapped more than once and not written since it was mapped.
    pub shared_clean: u64,
    /// Mapped more than once and written.
    pub shared_dirty: u64,
    /// Mapped here alone and not written since it was mapped.
    pub private_clean: u64,
    /// Mapped here alone and written.
    pub private_dirty: u64,
    /// Accessed since the accessed bits were last cleared.
    pub referenced: u64,
    /// Anonymous pages.
    pub anonymous: u64,
    /// The part of `anonymous` that leaves map, a whole folio each.
    pub anon_huge: u64,
    /// The part of `anonymous` that KSM has merged with equal pages.
    pub ksm: u64,
    /// Anonymous pages after `MADV_FREE` that were not written since.
    pub lazy_free: u64,
    /// Pages in swap; of a shared object, whoever had touched them.
    pub swap: u64,
    /// The part of `swap` that is of a shared object: it is no process's own (Linux: not in `SwapPss`).
    pub swap_shared: u64,
    /// The part of `pss` that is locked.
    pub locked: u64,
}

impl VmaUsage {
    /// The sum of two, for smaps_rollup.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            rss: self.rss + other.rss,
            pss: self.pss + other.pss,
            pss_dirty: self.pss_dirty + other.pss_dirty,
            shared_clean: self.shared_clean + other.shared_clean,
            shared_dirty: self.shared_dirty + other.shared_dirty,
            private_clean: self.private_clean + other.private_clean,
            private_dirty: self.private_dirty + other.private_dirty,
            referenced: self.referenced + other.referenced,
            anonymous: self.anonymous + other.anonymous,
            anon_huge: self.anon_huge + other.anon_huge,
            ksm: self.ksm + other.ksm,
            lazy_free: self.lazy_free + other.lazy_free,
            swap: self.swap + other.swap,
            swap_shared: self.swap_shared + other.swap_shared,
            locked: self.locked + other.locked,
        }
    }
}

/// One page of an address space. Linux: /proc/PID/pagemap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PagemapEntry {
    /// Its frame, if it is present.
    pub pfn: Option<Pfn>,
    /// It is in swap.
    pub swapped: bool,
    /// It is a page of a shared object.
    pub shared: bool,
    /// Nobody else maps it.
    pub exclusive: bool,
    /// The accessed bit.
    pub young: bool,
    /// The dirty bit.
    pub dirty: bool,
    /// `MADV_GUARD_INSTALL`.
    pub guard: bool,
    /// A userfaultfd has protected it against writes.
    pub uffd_wp: bool,
    /// It was written, or mapped, since [`ClearRefs::SoftDirty`](crate::ClearRefs::SoftDirty).
    pub soft_dirty: bool,
}

impl PagemapEntry {
    /// Whether it is in memory.
    pub const fn present(&self) -> bool {
        self.pfn.is_some()
    }

    /// The word that /proc/PID/pagemap has for it (Documentation/admin-guide/mm/pagemap.rst).
    pub fn bits(&self) -> u64 {
        let bit = |on: bool, n: u32| u64::from(on) << n;
        self.pfn.map_or(0, |pfn| pfn.0)
            | bit(self.soft_dirty, 55)
            | bit(self.exclusive, 56)
            | bit(self.uffd_wp, 57)
            | bit(self.guard, 58)
            | bit(self.shared, 61)
            | bit(self.swapped, 62)
            | bit(self.present(), 63)
    }
}

/// What is said of addresses of a mapping that no table covers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holes {
    Skipped,
    /// That the mapping is soft-dirty, if it is.
    Told,
}

/// Fractional bits of a sum of shares (Linux: `PSS_SHIFT`).
const PSS_SHIFT: u32 = 12;
const PAGE: u64 = PAGE_SIZE as u64;

impl<M: Machine> Mm<'_, M> {
    /// Calls `f` with every mapping that ends above `from`, in ascending order, until it breaks. Who breaks
    /// goes on later from the last mapping's end, and so tells about any number of mappings in little memory.
    ///
    /// ```
    /// # use anonmem::*;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.for_each_vma(Va(0), &mut |vma| {
    ///     assert_eq!((vma.range.start, vma.kind), (start, MapKind::Anonymous));
    ///     std::ops::ControlFlow::Continue(())
    /// });
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock for reading, also while `f` runs.
    #[doc(alias = "show_map")]
    pub fn for_each_vma(&self, from: Va, f: &mut dyn FnMut(&VmaInfo) -> ControlFlow<()>) {
        let guard = self.read();
        self.each_from(&guard, from, |id| f(&self.info_of(guard.slot(), id)));
    }

    /// Calls `f` with every mapping that ends above `from` and what it costs, in ascending order, until it
    /// breaks. Looks at every present page of these mappings.
    ///
    /// # Locks
    /// The mmap lock for reading, also while `f` runs.
    #[doc(alias = "show_smap")]
    pub fn for_each_vma_usage(&self, from: Va, f: &mut dyn FnMut(&VmaInfo, &VmaUsage) -> ControlFlow<()>) {
        let guard = self.read();
        self.each_from(&guard, from, |id| f(&self.info_of(guard.slot(), id), &guard.usage_of(id)));
    }

    fn each_from(&self, guard: &MmapReadGuard<'_, M>, from: Va, mut f: impl FnMut(VmaId) -> ControlFlow<()>) {
        if from >= M::Arch::USER_END {
            return;
        }
        let mut vmas = guard.slot().tree.cursor(VaRange { start: from.page_down(), end: M::Arch::USER_END });
        while let Some((_, id)) = vmas.next(&guard.slot().tree, self.vm.nodes()) {
            if f(id).is_break() {
                return;
            }
        }
    }

    /// The mapping that contains `va`.
    #[doc(alias = "find_vma")]
    pub fn vma_at(&self, va: Va) -> Option<VmaInfo> {
        let guard = self.read();
        let (_, id) = guard.slot().tree.find_containing(self.vm.nodes(), va)?;
        Some(self.info_of(guard.slot(), id))
    }

    /// The addresses of the mapping that contains `va`, without a lock: it was there at one moment of the
    /// call, and may be gone by now.
    ///
    /// # Errors
    /// [`Busy`] if mappings were being changed each time it looked: ask [`vma_at`](Self::vma_at).
    #[doc(alias = "lock_vma_under_rcu")]
    #[inline]
    pub fn try_vma_range(&self, va: Va) -> Result<Option<VaRange>, Busy> {
        let found = self.slot().tree.try_find_containing(self.vm.nodes(), va)?;
        Ok(found.map(|(range, _)| range))
    }

    /// Whether mappings cover all of the `len` bytes from `start`.
    pub fn is_mapped(&self, start: Va, len: u64) -> bool {
        let Some(range) = VaRange::of(start, len) else { return false };
        let guard = self.read();
        let mut at = range.start;
        while at < range.end {
            match guard.slot().tree.find_containing(self.vm.nodes(), at) {
                Some((found, _)) => at = found.end,
                None => return false,
            }
        }
        true
    }

    /// The shared object and the index in it of the page that is mapped at `va`: what a futex between
    /// processes is known by.
    pub fn shared_at(&self, va: Va) -> Option<(ShmId, u64)> {
        let guard = self.read();
        let (_, id) = guard.slot().tree.find_containing(self.vm.nodes(), va)?;
        let vma = self.vm.vma(id);
        match vma.backing() {
            Backing::Shared(object) => Some((object, vma.index_of(va.page_down()))),
            Backing::Anonymous | Backing::Source(_) => None,
        }
    }

    fn info_of(&self, slot: &MmSlot<M>, id: VmaId) -> VmaInfo {
        let vma = self.vm.vma(id);
        let (range, flags) = (vma.range(), vma.flags());
        let kind = match vma.backing() {
            Backing::Anonymous => MapKind::Anonymous,
            Backing::Source(source) => MapKind::Source(source),
            Backing::Shared(object) => MapKind::Shared(object.raw()),
        };
        let (start_brk, brk) = (slot.start_brk.get(), slot.brk.get());
        let heap = kind == MapKind::Anonymous && range.start.0 < brk && start_brk < range.end.0;
        let purpose = if flags.contains(VmFlags::GROWSDOWN) {
            MapUse::Stack
        } else if heap {
            MapUse::Heap
        } else {
            MapUse::Other
        };
        let may_be_large = kind == MapKind::Anonymous && self.vm.has_window(range, flags, self.thp_disable());
        VmaInfo { range, flags, pgoff: vma.pgoff(), kind, purpose, may_be_large }
    }
}

impl<M: Machine> MmapReadGuard<'_, M> {
    fn usage_of(&self, id: VmaId) -> VmaUsage {
        let (vma, mut sums) = (self.objects.vma(id), Sums::default());
        for (found, part) in self.slot().space.parts(&self.objects.frames, self, vma.range()) {
            let table = match found.covered(part) {
                Locked::Table(table) => table,
                Locked::Leaf(leaf) => {
                    sums.add_leaf(leaf.mapped(), leaf.pages(), vma.protection());
                    continue;
                }
                Locked::None => continue,
            };
            let entries = table.lock();
            let mut left = entries.used();
            for va in part.iter_pages() {
                if left == 0 {
                    break;
                }
                left -= 1;
                match entries.mapped(va) {
                    Mapped::None => left += 1,
                    Mapped::Exclusive(page, present) => sums.add_anon(page.folio(), present),
                    Mapped::Shared(page, present) => sums.add_anon(page.folio(), present),
                    Mapped::Shm(present) => {
                        let folio = self.objects.frames.folio_of_owned(present.pfn);
                        // The object's own mapping is none of a program's.
                        sums.add(folio.counts().maps() - 1, present);
                    }
                    Mapped::Swap(..) => sums.usage.swap += PAGE,
                    // The page is in memory, at the old frame until it is at the new one.
                    Mapped::Migration(hold, bits) => {
                        let present = EntryBits::from(bits).to_present(hold.pfn(), vma.protection());
                        sums.add_anon(hold.folio(), present);
                    }
                    // The zero page is nobody's; a marker is no page.
                    Mapped::Zero(_) | Mapped::Marker(_) => {}
                }
            }
        }
        if let Backing::Shared(object) = vma.backing() {
            let pages = vma.pgoff()..vma.pgoff() + vma.range().pages().0;
            let swapped = self.objects.shm_pages(object, pages).swapped * PAGE;
            sums.usage.swap += swapped;
            sums.usage.swap_shared += swapped;
        }
        sums.into_usage(vma.flags().contains(VmFlags::LOCKED))
    }
}

impl<M: Machine> Mm<'_, M> {
    /// What the page at `va` is; nothing if there is no mapping.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.store(start, 7)?;
    /// assert!(mm.pagemap(start).present() && mm.pagemap(start).exclusive);
    /// assert!(!mm.pagemap(Va(start.0 + 4096)).present());
    /// # Ok(())
    /// # });
    /// ```
    #[doc(alias = "pte_to_pagemap_entry")]
    pub fn pagemap(&self, va: Va) -> PagemapEntry {
        let mut entry = PagemapEntry::default();
        self.for_each_pagemap(VaRange::page(va), &mut |_, found| entry = *found);
        entry
    }

    /// Calls `f` with what is at every address of `range` (whole pages) that a page table covers; at all
    /// others there is nothing.
    ///
    /// # Locks
    /// The mmap lock for reading and a page-table lock, also while `f` runs: it may not sleep.
    pub fn for_each_page(&self, range: VaRange, f: &mut dyn FnMut(Va, &PagemapEntry)) {
        self.each_page(range, Holes::Skipped, f);
    }

    /// The same, and calls `f` with the other addresses of mappings that are soft-dirty, where that is all
    /// that there is to say: what /proc/PID/pagemap has of `range`.
    ///
    /// # Locks
    /// As [`for_each_page`](Self::for_each_page).
    #[doc(alias("pagemap_read", "pagemap_pte_hole"))]
    pub fn for_each_pagemap(&self, range: VaRange, f: &mut dyn FnMut(Va, &PagemapEntry)) {
        self.each_page(range, Holes::Told, f);
    }

    fn each_page(&self, range: VaRange, holes: Holes, f: &mut dyn FnMut(Va, &PagemapEntry)) {
        let slot = self.slot();
        let guard = self.read();
        let mut vmas = slot.tree.cursor(range);
        while let Some((mapped, id)) = vmas.next(&slot.tree, self.vm.nodes()) {
            let Some(part) = mapped.intersect(range) else { continue };
            let dirty = is_soft_dirty_vma::<M>(self.vm.vma(id).flags());
            let mut tell = |va: Va, found: PagemapEntry| {
                f(va, &PagemapEntry { soft_dirty: found.soft_dirty || dirty, ..found });
            };
            let hole_to = |looked: Va, end: Va| {
                let end = if dirty && holes == Holes::Told { end } else { looked };
                VaRange { start: looked, end }.iter_pages()
            };
            let mut looked = part.start;
            for (found, part) in slot.space.parts(&self.vm.frames, &guard, part) {
                hole_to(looked, part.start).for_each(|va| tell(va, PagemapEntry::default()));
                self.pages_of(found, part, &mut tell);
                looked = part.end;
            }
            hole_to(looked, part.end).for_each(|va| tell(va, PagemapEntry::default()));
        }
    }

    fn pages_of<G: StableVma<M>>(
        &self,
        found: Walked<'_, M, G>,
        part: VaRange,
        f: &mut dyn FnMut(Va, PagemapEntry),
    ) {
        match found {
            Walked::Table(table) => self.pages_of_table(table, part, f),
            Walked::Leaf(place) => match place.lock() {
                Locked::Leaf(leaf) => part.iter_pages().for_each(|va| f(va, page_of_leaf(&leaf, va))),
                Locked::Table(table) => self.pages_of_table(table, part, f),
                Locked::None => part.iter_pages().for_each(|va| f(va, PagemapEntry::default())),
            },
        }
    }

    fn pages_of_table<G: StableVma<M>>(
        &self,
        table: PteTable<'_, M, G>,
        part: VaRange,
        f: &mut dyn FnMut(Va, PagemapEntry),
    ) {
        let entries = table.lock();
        for va in part.iter_pages() {
            f(va, self.page_of(entries.mapped(va)));
        }
    }

    fn page_of(&self, mapped: Mapped<'_, '_, M>) -> PagemapEntry {
        let (uffd_wp, soft_dirty) = (is_protected(&mapped), is_soft_dirty(&mapped));
        let page = |present: Present, shared, mappers| PagemapEntry {
            pfn: Some(present.pfn),
            shared,
            exclusive: mappers == 1,
            young: present.young,
            dirty: present.dirty,
            uffd_wp: present.uffd_wp,
            soft_dirty,
            ..PagemapEntry::default()
        };
        match mapped {
            Mapped::None => PagemapEntry::default(),
            Mapped::Zero(present) => page(present, false, 0),
            Mapped::Exclusive(_, present) => page(present, false, 1),
            Mapped::Shared(at, present) => page(present, false, at.folio().counts().maps()),
            Mapped::Shm(present) => {
                let folio = self.vm.frames.folio_of_owned(present.pfn);
                page(present, true, folio.counts().maps() - 1)
            }
            // Linux shows a page that migrates as one that is swapped.
            Mapped::Swap(..) | Mapped::Migration(..) => {
                PagemapEntry { swapped: true, uffd_wp, soft_dirty, ..PagemapEntry::default() }
            }
            Mapped::Marker(marker) => {
                PagemapEntry { guard: marker == Marker::Guard, uffd_wp, ..PagemapEntry::default() }
            }
        }
    }
}

/// What the page at `va` of a leaf is.
#[doc(alias = "pagemap_pmd_range")]
fn page_of_leaf<M: Machine, G: StableVma<M>>(leaf: &LeafGuard<'_, M, G>, va: Va) -> PagemapEntry {
    let nth = va.page() - leaf.range().start.page();
    let soft_dirty = is_soft_dirty_leaf(&leaf.mapped());
    let page = |of: Present, exclusive| PagemapEntry {
        pfn: Some(of.pfn.offset(nth)),
        exclusive,
        young: of.young,
        dirty: of.dirty,
        soft_dirty,
        ..PagemapEntry::default()
    };
    match leaf.mapped() {
        MappedLeaf::Exclusive(_, of) => page(of, true),
        MappedLeaf::Shared(folio, of) => page(of, folio.looks_reusable()),
        // As for a page that migrates.
        MappedLeaf::Migration(..) => PagemapEntry { swapped: true, soft_dirty, ..PagemapEntry::default() },
    }
}

/// Counts of pages, and shares of pages with [`PSS_SHIFT`] fractional bits.
#[derive(Default)]
struct Sums {
    usage: VmaUsage,
    pss: u64,
    pss_dirty: u64,
}

impl Sums {
    fn add_anon<M: Machine>(&mut self, folio: Folio<'_, M>, present: Present) {
        self.usage.anonymous += PAGE;
        if matches!(folio.mapping(), Mapping::Ksm(_)) {
            self.usage.ksm += PAGE;
        }
        if folio.is_lazyfree() && !present.dirty {
            self.usage.lazy_free += PAGE;
        }
        // Of a large folio, as often as its pages are mapped on average.
        self.add(folio.counts().maps().div_ceil(folio.nr_pages().0), present);
    }

    /// Adds a leaf of `pages` pages.
    #[doc(alias = "smaps_pmd_entry")]
    fn add_leaf<M: Machine>(&mut self, mapped: MappedLeaf<'_, '_, M>, pages: u64, vma: Protection) {
        let (folio, present) = match mapped {
            MappedLeaf::Exclusive(folio, present) => (folio.folio(), present),
            MappedLeaf::Shared(folio, present) => (folio.folio(), present),
            MappedLeaf::Migration(hold, bits) => {
                (hold.folio(), EntryBits::from(bits).to_present(hold.pfn(), vma))
            }
        };
        self.usage.anon_huge += pages * PAGE;
        for _ in 0..pages {
            self.add_anon(folio, present);
        }
    }

    /// Adds a page with this many mappers.
    #[doc(alias = "smaps_account")]
    fn add(&mut self, mappers: u64, present: Present) {
        let usage = &mut self.usage;
        usage.rss += PAGE;
        if present.young {
            usage.referenced += PAGE;
        }
        // A mapper that is just leaving may have been the last but us.
        let share = (PAGE << PSS_SHIFT) / mappers.max(1);
        self.pss += share;
        if present.dirty {
            self.pss_dirty += share;
        }
        *match (mappers > 1, present.dirty) {
            (true, false) => &mut usage.shared_clean,
            (true, true) => &mut usage.shared_dirty,
            (false, false) => &mut usage.private_clean,
            (false, true) => &mut usage.private_dirty,
        } += PAGE;
    }

    fn into_usage(self, locked: bool) -> VmaUsage {
        let pss = self.pss >> PSS_SHIFT;
        VmaUsage {
            pss,
            pss_dirty: self.pss_dirty >> PSS_SHIFT,
            locked: if locked { pss } else { 0 },
            ..self.usage
        }
    }
}

const _: () = assert!(PAGE_SHIFT + PSS_SHIFT < 32, "a share of a page has room to be summed");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{P, RW, World, pages};
    use std::{vec, vec::Vec};

    fn usage_of(mm: &Mm<'_, crate::testing::M>) -> Vec<VmaUsage> {
        let mut all = vec![];
        mm.for_each_vma_usage(Va(0), &mut |_, usage| {
            all.push(*usage);
            ControlFlow::Continue(())
        });
        all
    }

    #[test]
    fn the_cost_of_a_page_is_shared_by_its_mappers() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(16, 4), RW, Backing::Anonymous);
            mm.store(16 * P, 1).unwrap();
            mm.store(17 * P, 1).unwrap();
            assert_eq!(mm.load(18 * P), Ok(0));
            let alone = usage_of(&mm)[0];
            assert_eq!((alone.rss, alone.pss, alone.private_dirty), (2 * P, 2 * P, 2 * P));
            let child = mm.fork().unwrap();
            child.store(17 * P, 2).unwrap();
            let (parents, childs) = (usage_of(&mm)[0], usage_of(&child)[0]);
            assert_eq!((parents.rss, parents.pss), (2 * P, P + P / 2));
            assert_eq!((childs.shared_dirty, childs.private_dirty), (P, P));
            assert_eq!(childs.anonymous, 2 * P);
        });
    }

    #[test]
    fn pages_of_a_shared_object_are_not_anonymous() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            let object = w.vm.shm_new(4).unwrap();
            mm.map_raw(pages(16, 4), RW | VmFlags::SHARED, Backing::Shared(object.id()));
            let id = object.id();
            drop(object);
            mm.store(17 * P, 1).unwrap();
            let usage = usage_of(&mm)[0];
            assert_eq!((usage.rss, usage.anonymous, usage.private_dirty), (P, 0, P));
            assert_eq!(mm.shared_at(Va(18 * P + 5)), Some((id, 2)));
            let entry = mm.pagemap(Va(17 * P));
            assert!(entry.present() && entry.shared && entry.exclusive);
        });
    }

    #[test]
    fn pagemap_has_linux_bits() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(16, 4), RW, Backing::Anonymous);
            mm.store(16 * P, 1).unwrap();
            assert_eq!(mm.load(17 * P), Ok(0));
            let written = mm.pagemap(Va(16 * P));
            assert!(written.dirty && written.exclusive);
            assert_eq!(written.bits() >> 55, 0b1_0000_0011, "present, exclusive, soft-dirty");
            assert_eq!(mm.pagemap(Va(17 * P)).bits() >> 55, 0b1_0000_0001, "the zero page: present");
            assert_eq!(mm.pagemap(Va(18 * P)).bits() >> 55, 1, "a new mapping is soft-dirty");
            assert_eq!(mm.pagemap(Va(99 * P)).bits(), 0, "no mapping");
            mm.clear_refs(crate::ClearRefs::SoftDirty);
            assert_eq!(mm.pagemap(Va(16 * P)).bits() >> 55, 0b1_0000_0010);
            assert_eq!(mm.pagemap(Va(18 * P)).bits(), 0);
            // Where no table is, too: whoever reads the file is told of holes.
            mm.map_raw(pages(4096, 4), RW, Backing::Anonymous);
            let mut told = 0;
            mm.for_each_pagemap(pages(4090, 16), &mut |_, page| told += u64::from(page.soft_dirty));
            mm.for_each_page(pages(4090, 16), &mut |_, _| unreachable!("no table covers it"));
            assert_eq!(told, 4);
        });
    }

    #[test]
    fn mappings_are_told_from_any_address_on() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            // Every second page: neighbours do not merge.
            for i in 0..100 {
                mm.map_raw(pages(16 + 2 * i, 1), RW, Backing::Anonymous);
            }
            let told = |from: u64, most: usize| {
                let mut all = vec![];
                mm.for_each_vma(Va(from), &mut |info| {
                    all.push(info.range.start.0 / P);
                    if all.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                all
            };
            assert_eq!(told(0, 1000).len(), 100);
            assert_eq!(told(18 * P, 2), [18, 20]);
            assert_eq!(told(18 * P + 5, 2), [18, 20], "inside of one");
            assert_eq!(told(19 * P, 2), [20, 22], "at the end of one");
            assert_eq!(told(214 * P, 9), [214]);
            assert_eq!((told(215 * P, 9), told(u64::MAX, 9)), (vec![], vec![]));
        });
    }

    #[test]
    fn heap_and_stack_are_told_apart() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(16, 4), RW, Backing::Anonymous);
            mm.map_raw(pages(600, 4), RW | VmFlags::GROWSDOWN, Backing::Anonymous);
            mm.slot().start_brk.set(16 * P);
            mm.slot().brk.set(18 * P + 3);
            let purpose = |page: u64| mm.vma_at(Va(page * P)).map(|vma| vma.purpose);
            assert_eq!(purpose(17), Some(MapUse::Heap));
            assert_eq!(purpose(601), Some(MapUse::Stack));
            assert_eq!(purpose(20), None);
            assert!(mm.is_mapped(Va(16 * P), 4 * P) && !mm.is_mapped(Va(16 * P), 4 * P + 1));
        });
    }
}
