//! Advice that changes pages: dropping them, freeing them lazily, punching holes into objects, cooling them
//! down.

use super::PageAdvice;
use crate::{
    config::LockMode,
    error::Error,
    fault::{
        handle_mm_fault,
        vm_fault::{FaultAccess, FaultResult, VmFault, Waits},
    },
    ids::VmaId,
    mm::{Mm, mmap_lock::MmapReadGuard, slot::MmSlot},
    objects::Objects,
    reclaim::shrink::{Age, PageoutBatch},
    rmap::machine::Machine,
    userfaultfd::events::Changes,
    vma::{flags::VmFlags, vma::Backing},
    zap::{Zapped, discard_protected_range, discard_range, zap_entry},
};
use anonmem_frame::{Folio, FolioOwner, FolioRef};
use anonmem_hal::{Order, PAGE_SIZE, Pfn, Pte, SoftLeaf, Va, VaRange};
use anonmem_pgtable::{
    CanInstall, LeafGuard, Locked, Mapped, MappedLeaf, MmuGather, PteTable, StableVma, Teardown, Walked,
};

/// As long unused as a folio can count: two bits of sweeps.
const MAX_IDLE: u32 = 3;

impl<M: Machine> Mm<'_, M> {
    pub(super) fn madvise_pages(&self, range: VaRange, advice: PageAdvice) -> Result<(), Error> {
        if self.dropped_under_vma_lock(range, advice) {
            return Ok(());
        }
        let guard = self.read();
        if advice.drops() && guard.slot().has_uffd() {
            drop(guard);
            return self.vm.reclaiming(|| self.madvise_told(range, advice));
        }
        self.for_each_part(guard.slot(), range, |id, part| {
            self.may_advise(id, advice)?;
            self.advise_part(&guard, id, part, advice)
        })
    }

    /// Drops the pages of one VMA under its lock, so that whoever changes other mappings is not waited for.
    /// Says `false`, and has done nothing, if that takes the mmap lock after all: for several VMAs, for one
    /// that a userfaultfd watches or that is being changed, and where the answer is an error.
    ///
    /// Linux: mm/madvise.c `try_vma_read_lock` (6.16).
    fn dropped_under_vma_lock(&self, range: VaRange, advice: PageAdvice) -> bool {
        let by_vma_lock = match advice {
            PageAdvice::DontNeed | PageAdvice::DontNeedLocked => self.vm.config.lock_mode != LockMode::Mmap,
            PageAdvice::Free | PageAdvice::Remove | PageAdvice::WillNeed | PageAdvice::Cold => false,
            PageAdvice::PageOut | PageAdvice::GuardInstall | PageAdvice::GuardRemove => false,
        };
        if !by_vma_lock || range.is_empty() {
            return false;
        }
        let slot = self.slot();
        let Ok(guard) = self.vm.lock_vma(slot, self.id, range.start) else { return false };
        let vma = self.vm.vma(guard.id());
        let fits = vma.range().end >= range.end && !vma.flags().intersects(VmFlags::UFFD);
        if !fits || self.may_advise(guard.id(), advice).is_err() {
            return false;
        }
        dont_need(self.vm, slot, &guard, guard.id(), range);
        true
    }

    fn may_advise(&self, id: VmaId, advice: PageAdvice) -> Result<(), Error> {
        if advice.discards() {
            self.vm.vma(id).flags().check_droppable()?;
        }
        if self.vm.vma(id).flags().contains(VmFlags::LOCKED) && !advice.is_for_locked() {
            return Err(Error::Invalid("the pages of a locked mapping stay as they are"));
        }
        Ok(())
    }

    fn advise_part(
        &self,
        guard: &MmapReadGuard<'_, M>,
        id: VmaId,
        part: VaRange,
        advice: PageAdvice,
    ) -> Result<(), Error> {
        match advice {
            PageAdvice::DontNeed | PageAdvice::DontNeedLocked => {
                dont_need(self.vm, guard.slot(), guard, id, part);
            }
            PageAdvice::Free => guard.madvise_free(id, part)?,
            PageAdvice::Remove => guard.madvise_remove(id, part)?,
            PageAdvice::WillNeed => self.madvise_willneed(guard, id, part),
            PageAdvice::Cold => guard.madvise_cold(part),
            PageAdvice::PageOut => self.madvise_pageout(guard, part),
            PageAdvice::GuardInstall => guard.guard_install(id, part)?,
            PageAdvice::GuardRemove => guard.guard_remove(part),
        }
        Ok(())
    }

    /// Drops pages, VMA by VMA, after whoever watches them has been told. The lock is let go for that, so
    /// what is mapped is looked up anew.
    #[doc(alias = "userfaultfd_remove")]
    fn madvise_told(&self, range: VaRange, advice: PageAdvice) -> Result<(), Error> {
        let (slot, nodes) = (self.slot(), self.vm.nodes());
        let (mut rest, mut mapped) = (range, 0);
        loop {
            let mut changes = Changes::none(self.vm);
            let mut guard = self.read();
            let Some((whole, id)) = slot.tree.find(nodes, rest.start) else { break };
            let Some(part) = whole.intersect(rest) else { break };
            self.may_advise(id, advice)?;
            let (mut id, mut part) = (id, part);
            if changes.remove(id, part)? {
                changes.tell();
                drop(guard);
                changes.wait();
                guard = self.read();
                let found = slot.tree.find_containing(nodes, part.start);
                let Some((now, found)) = found else { return Err(Error::NotMapped) };
                (id, part) = (found, VaRange { start: part.start, end: part.end.min(now.end) });
                self.may_advise(id, advice)?;
            }
            self.advise_part(&guard, id, part, advice)?;
            drop(guard);
            mapped += part.len();
            rest.start = part.end;
        }
        if mapped == range.len() { Ok(()) } else { Err(Error::NotMapped) }
    }
}

impl PageAdvice {
    /// Whether bytes are lost.
    const fn discards(self) -> bool {
        match self {
            Self::DontNeed | Self::DontNeedLocked | Self::Free | Self::Remove | Self::GuardInstall => true,
            Self::WillNeed | Self::Cold | Self::PageOut | Self::GuardRemove => false,
        }
    }

    /// Whether pages are dropped, so that whoever watches them is told.
    const fn drops(self) -> bool {
        match self {
            Self::DontNeed | Self::DontNeedLocked | Self::Free | Self::Remove => true,
            Self::WillNeed | Self::Cold | Self::PageOut | Self::GuardInstall | Self::GuardRemove => false,
        }
    }
}

/// Drops the pages of a part of a VMA; markers stay.
#[doc(alias = "madvise_dontneed_single_vma")]
fn dont_need<M: Machine, G: CanInstall<M>>(
    objects: &Objects<M>,
    slot: &MmSlot<M>,
    stable: &G,
    id: VmaId,
    part: VaRange,
) {
    let vma = objects.vma(id);
    let mut gather = objects.gather(&slot.space, Teardown::Range);
    let protected = vma.flags().contains(VmFlags::UFFD_WP);
    if protected && matches!(vma.backing(), Backing::Shared(_)) {
        discard_protected_range(objects, slot, stable, &mut gather, part);
    } else {
        discard_range(objects, slot, stable, &mut gather, part);
    }
    gather.finish();
}

impl<M: Machine> MmapReadGuard<'_, M> {
    /// Marks pages that nobody else has as free to be dropped, and clean: a store from now on makes its page
    /// dirty, which takes the mark's effect back. Reclaim drops a page only if it is marked *and* clean. What
    /// is in swap is dropped at once.
    #[doc(alias = "madvise_free_pte_range")]
    fn madvise_free(&self, id: VmaId, part: VaRange) -> Result<(), Error> {
        if self.objects.vma(id).backing() != Backing::Anonymous {
            return Err(Error::Invalid("only private anonymous memory can be freed lazily"));
        }
        self.split_advised_in_part(part);
        // Without the flush a store through a cached dirty translation would not set the bit again.
        let pages = |mapped: Mapped<'_, '_, M>| {
            match mapped {
                // In the swap cache it may be another's, whose entry is a swap entry just now. A large folio
                // is advised whole, or could not be split and has somebody else.
                Mapped::Exclusive(page, _) if is_all(page.folio()) => self.objects.mark_lazyfree(&page),
                Mapped::Shared(page, _) if is_all(page.folio()) => self.objects.mark_lazyfree(&page),
                Mapped::Swap(..) => return Change::Drop,
                Mapped::Exclusive(..) | Mapped::Shared(..) => return Change::None,
                // A page that migrates is being used: it stays.
                Mapped::None
                | Mapped::Zero(_)
                | Mapped::Shm(_)
                | Mapped::Migration(..)
                | Mapped::Marker(_) => return Change::None,
            }
            Change::CleanAndOld
        };
        let whole = |leaf: MappedLeaf<'_, '_, M>| match leaf {
            MappedLeaf::Exclusive(folio, _) if is_all(folio.folio()) => {
                self.objects.mark_lazyfree(&folio);
                Change::CleanAndOld
            }
            MappedLeaf::Shared(folio, _) if is_all(folio.folio()) => {
                self.objects.mark_lazyfree(&folio);
                Change::CleanAndOld
            }
            MappedLeaf::Exclusive(..) | MappedLeaf::Shared(..) | MappedLeaf::Migration(..) => Change::None,
        };
        self.change_entries(part, pages, whole);
        Ok(())
    }
}

impl<M: Machine> Mm<'_, M> {
    /// Brings pages back from swap. A page that cannot be had stays where it is: this is advice.
    ///
    /// Linux's only fills the swap cache. Here the pages are mapped: one that is only cached would be
    /// nobody's to reclaim.
    #[doc(alias = "swapin_walk_pmd_entry")]
    fn madvise_willneed(&self, guard: &MmapReadGuard<'_, M>, id: VmaId, part: VaRange) {
        anonmem_hal::debug_check_eq!(M, guard.id(), self.id, "the lock of another address space");
        let (slot, vma) = (guard.slot(), self.vm.vma(id));
        if let Backing::Shared(object) = vma.backing() {
            let first = vma.index_of(part.start);
            return self.vm.shm_will_need(object, first..first + part.pages().0);
        }
        for (found, part) in slot.space.parts(&self.vm.frames, guard, part) {
            // Nothing of a leaf is in swap.
            let Walked::Table(table) = found else { continue };
            for va in part.iter_pages() {
                if !matches!(table.peek(va), Pte::Soft(SoftLeaf::Swap { .. })) {
                    continue;
                }
                let fault = VmFault::new(self.vm, slot, guard, id, va, FaultAccess::Read, Waits::Never);
                if matches!(handle_mm_fault(&fault), FaultResult::Oom | FaultResult::NodesFull(_)) {
                    return;
                }
            }
        }
    }
}

impl<M: Machine> MmapReadGuard<'_, M> {
    /// Clears accessed bits and makes the pages count as unused for long, so that reclaim comes here first.
    #[doc(alias = "madvise_cold_or_pageout_pte_range")]
    fn madvise_cold(&self, part: VaRange) {
        let pages = |mapped: Mapped<'_, '_, M>| {
            match mapped {
                Mapped::Exclusive(page, _) => page.set_idle(MAX_IDLE),
                Mapped::Shared(page, _) if page.folio().is_likely_alone() => page.set_idle(MAX_IDLE),
                Mapped::Shared(..) | Mapped::Shm(_) => {}
                Mapped::None
                | Mapped::Zero(_)
                | Mapped::Swap(..)
                | Mapped::Migration(..)
                | Mapped::Marker(_) => return Change::None,
            }
            Change::Old
        };
        let whole = |leaf: MappedLeaf<'_, '_, M>| {
            match leaf {
                MappedLeaf::Exclusive(folio, _) => folio.set_idle(MAX_IDLE),
                MappedLeaf::Shared(folio, _) if is_all(folio.folio()) => folio.set_idle(MAX_IDLE),
                MappedLeaf::Shared(..) => {}
                MappedLeaf::Migration(..) => return Change::None,
            }
            Change::Old
        };
        self.change_entries(part, pages, whole);
    }
}

impl<M: Machine> Mm<'_, M> {
    /// Makes pages leave that nobody else maps, as far as there is a place for them to go.
    #[doc(alias = "madvise_cold_or_pageout_pte_range")]
    fn madvise_pageout(&self, guard: &MmapReadGuard<'_, M>, part: VaRange) {
        anonmem_hal::debug_check_eq!(M, guard.id(), self.id, "the lock of another address space");
        let mut batch = PageoutBatch::new(self.vm);
        for (table, part) in guard.slot().space.tables(&self.vm.frames, guard, part) {
            for va in part.iter_pages().filter(|&va| matches!(table.peek(va), Pte::Present(_))) {
                if batch.is_full() {
                    batch.finish();
                }
                if let Some(page) = self.folio_to_leave(table, va, part) {
                    batch.add(page, Age::Any);
                }
            }
        }
        batch.finish();
    }

    /// The folio at `va`, if it is nobody else's. One that `part` has only pages of is split first.
    fn folio_to_leave<'a, G: StableVma<M>>(
        &'a self,
        table: PteTable<'a, M, G>,
        va: Va,
        part: VaRange,
    ) -> Option<FolioRef<'a, M>> {
        loop {
            let entries = table.lock();
            let (page, pfn) = match entries.mapped(va) {
                Mapped::Exclusive(page, _) => (page.get(), page.pfn()),
                Mapped::Shared(page, _) if page.folio().is_likely_alone() => (page.get(), page.pfn()),
                // The object has a mapping, and we have.
                Mapped::Shm(present) if self.vm.frames.folio_of_owned(present.pfn).counts().maps() == 2 => {
                    (self.vm.frames.try_get(present.pfn)?, present.pfn)
                }
                Mapped::Shared(..)
                | Mapped::Shm(_)
                | Mapped::None
                | Mapped::Zero(_)
                | Mapped::Swap(..)
                | Mapped::Migration(..)
                | Mapped::Marker(_) => return None,
            };
            drop(entries);
            if part.covers(window_of(&page, pfn, va)) {
                return Some(page);
            }
            let lock = page.try_lock()?;
            self.vm.split_folio(&lock, &page, Order::ZERO).ok()?;
        }
    }
}

impl<M: Machine> MmapReadGuard<'_, M> {
    /// Splits the large folios that lie in `all` in part only: advice that is true of a page is none about
    /// others. One that cannot be split stays as it is.
    fn split_advised_in_part(&self, all: VaRange) {
        let objects = self.objects;
        for (found, part) in self.slot().space.parts(&objects.frames, self, all) {
            // What a leaf maps is advised whole.
            let Locked::Table(table) = found.covered(part) else { continue };
            for va in part.iter_pages() {
                let Pte::Present(present) = table.peek(va) else { continue };
                if present.special || objects.frames.is_one_page(present.pfn) {
                    continue;
                }
                let entries = table.lock();
                let (page, pfn) = match entries.mapped(va) {
                    Mapped::Exclusive(page, _) => (page.get(), page.pfn()),
                    Mapped::Shared(page, _) => (page.get(), page.pfn()),
                    Mapped::Shm(_)
                    | Mapped::None
                    | Mapped::Zero(_)
                    | Mapped::Swap(..)
                    | Mapped::Migration(..)
                    | Mapped::Marker(_) => continue,
                };
                drop(entries);
                if all.covers(window_of(&page, pfn, va)) {
                    continue;
                }
                if let Some(lock) = page.try_lock() {
                    let _ = objects.split_folio(&lock, &page, Order::ZERO);
                }
            }
        }
    }

    /// Changes entries as `f` says, and flushes what was changed.
    /// A leaf is changed as `whole` says, if `part` covers all of it.
    fn change_entries(
        &self,
        part: VaRange,
        f: impl Fn(Mapped<'_, '_, M>) -> Change,
        whole: impl Fn(MappedLeaf<'_, '_, M>) -> Change,
    ) {
        let (slot, mut zapped) = (self.slot(), Zapped::default());
        let mut gather: MmuGather<'_, M> = self.objects.gather(&slot.space, Teardown::Range);
        for (found, part) in slot.space.parts(&self.objects.frames, self, part) {
            let mut entries = match found.covered(part) {
                Locked::Table(table) => table.lock(),
                Locked::Leaf(mut leaf) => {
                    let change = whole(leaf.mapped());
                    change_leaf(&mut leaf, change, &mut gather);
                    // Before the lock goes, as below.
                    gather.flush_tlb();
                    continue;
                }
                Locked::None => continue,
            };
            if entries.is_empty() {
                continue;
            }
            for va in part.iter_pages() {
                match f(entries.mapped(va)) {
                    Change::None => continue,
                    Change::Drop => {
                        zap_entry(self.objects, &mut entries, va, &mut gather, &mut zapped);
                        continue;
                    }
                    Change::Old => {}
                    Change::CleanAndOld => entries.clear_dirty(va),
                }
                entries.test_and_clear_young(va);
                gather.note(va);
            }
            // Before the lock goes: reclaim may take a page that looks clean and old.
            gather.flush_tlb();
        }
        gather.finish();
        zapped.uncount(self.objects, slot);
    }

    /// Drops pages of the shared object, here and in the object.
    fn madvise_remove(&self, id: VmaId, part: VaRange) -> Result<(), Error> {
        let vma = self.objects.vma(id);
        match vma.backing() {
            Backing::Anonymous => Err(Error::Invalid("there is no object behind private memory")),
            Backing::Source(_) => Err(Error::AccessDenied),
            Backing::Shared(_) if !vma.flags().contains(VmFlags::MAYWRITE) => Err(Error::AccessDenied),
            Backing::Shared(object) => {
                dont_need(self.objects, self.slot(), self, id, part);
                self.objects.shm_punch(object, vma.index_of(part.start), part.pages().0);
                Ok(())
            }
        }
    }
}

/// Where all of a folio would be mapped, of which the page `pfn` is mapped at `va`.
fn window_of<M: Machine>(page: &FolioRef<'_, M>, pfn: Pfn, va: Va) -> VaRange {
    let start = Va(va.0.saturating_sub((pfn.0 - page.pfn().0) * PAGE_SIZE as u64));
    VaRange { start, end: start.page_after(page.folio().owned_order().pages()) }
}

/// Whether as many mappings as the folio has pages are all that has it: there is one of each page that is
/// asked.
fn is_all<M: Machine>(folio: Folio<'_, M>) -> bool {
    folio.counts().total() == folio.nr_pages().0
}

/// Changes a leaf as a whole.
#[cold]
fn change_leaf<'v, M: Machine>(
    leaf: &mut LeafGuard<'v, M, MmapReadGuard<'v, M>>,
    change: Change,
    gather: &mut MmuGather<'v, M>,
) {
    match change {
        // Nothing of a leaf is in swap, so there is nothing to be dropped.
        Change::None | Change::Drop => return,
        Change::Old => {}
        Change::CleanAndOld => leaf.clear_dirty(),
    }
    leaf.test_and_clear_young();
    gather.note_range(leaf.range());
}

/// What to do to an entry.
enum Change {
    None,
    /// Clear it. It is a swap entry: there is no page for the gather.
    Drop,
    /// Clear the accessed bit.
    Old,
    /// Clear the dirty bit too.
    CleanAndOld,
}
