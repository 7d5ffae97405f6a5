//! The pages of a window that go into the new folio together.

use super::outcome::NotCollapsed;
use crate::{
    migrate::put_back,
    mm::{mmap_lock::MmapReadGuard, slot::MmSlot},
    rmap::{hit::take_to_share, machine::Machine},
    vm::Vm,
};
use anonmem_frame::{FolioGuard, FolioOwner, FolioRef, GrowingFolio};
use anonmem_hal::{EntryBits, FlushRange, MigrationBits, MigrationKind, Pfn, Protection, Va, VaRange};
use anonmem_pgtable::{Attrs, Cleared, Mapped, PteGuard, PteTable, StableVma, TlbBatch};

/// The most of them: what a fault may have to wait for.
pub(super) const PAGES: usize = 32;

/// A folio that pages are taken of.
struct Source<'v, M: Machine> {
    // In this order: the lock is let go of before the reference.
    lock: FolioGuard<'v, M>,
    page: FolioRef<'v, M>,
    /// Whether an entry had a page of it alone: then nobody else may have it.
    alone: bool,
}

/// One step of a collapse.
pub(super) struct Chunk<'c, 'v, M: Machine> {
    vm: &'v Vm<M>,
    guard: &'c MmapReadGuard<'v, M>,
    growing: &'c GrowingFolio<'v, M>,
    /// Which page of the folio the first one is.
    first: u64,
    sources: [Option<Source<'c, M>>; PAGES],
    locked: usize,
    /// Where each page was; `None` of what was not there.
    pages: [Option<Pfn>; PAGES],
}

type Entries<'c, 'v, M> = PteGuard<'c, M, MmapReadGuard<'v, M>>;

impl<'c, 'v: 'c, M: Machine> Chunk<'c, 'v, M> {
    pub(super) fn new(
        vm: &'v Vm<M>,
        guard: &'c MmapReadGuard<'v, M>,
        growing: &'c GrowingFolio<'v, M>,
        first: u64,
    ) -> Self {
        let (sources, pages) = ([const { None }; PAGES], [None; PAGES]);
        Self { vm, guard, growing, first, sources, locked: 0, pages }
    }

    /// Takes the pages of `part`, copies them, and gives the entries their new ones.
    ///
    /// # Errors
    /// Why not all of them: what was not given a new page has what it had.
    pub(super) fn run(
        mut self,
        table: PteTable<'c, M, MmapReadGuard<'v, M>>,
        part: VaRange,
        vma: Protection,
    ) -> Result<(), NotCollapsed> {
        let mut tlb = TlbBatch::new(&self.vm.frames);
        let mut entries = table.lock();
        let taken = self.take(&mut entries, part, &mut tlb);
        if taken.is_err() {
            self.put_back(&mut entries, part, vma);
        }
        drop(entries);
        tlb.flush();
        taken?;
        if !self.are_ours() {
            self.put_back(&mut table.lock(), part, vma);
            return Err(NotCollapsed::Busy);
        }
        for (nth, page) in (self.first..).zip(&self.pages[..part.pages().0 as usize]) {
            match page {
                Some(page) => self.growing.copy(nth, *page),
                None => self.growing.zero(nth),
            }
        }
        self.install(&mut table.lock(), part, vma)
    }

    /// Replaces the entries of what is there by migration entries.
    #[doc(alias = "__collapse_huge_page_isolate")]
    fn take(
        &mut self,
        entries: &mut Entries<'c, 'v, M>,
        part: VaRange,
        tlb: &mut TlbBatch<'v, M>,
    ) -> Result<(), NotCollapsed> {
        for (nth, va) in part.iter_pages().enumerate() {
            let (page, pfn, alone) = match entries.mapped(va) {
                Mapped::None | Mapped::Zero(_) => continue,
                Mapped::Exclusive(_, present) | Mapped::Shared(_, present) if present.uffd_wp => {
                    return Err(NotCollapsed::Marked);
                }
                Mapped::Exclusive(page, present) => (page.get(), present.pfn, true),
                Mapped::Shared(page, present) => (page.get(), present.pfn, false),
                Mapped::Swap(..) | Mapped::Migration(..) => return Err(NotCollapsed::Changed),
                Mapped::Marker(_) | Mapped::Shm(_) => return Err(NotCollapsed::Marked),
            };
            self.lock(page, alone)?;
            let taken = take_to_share(entries, self.slot(), va, tlb);
            let Some((vacancy, shared, present, sharing)) = taken else { return Err(NotCollapsed::Pinned) };
            vacancy.fill(shared.hold(), EntryBits::of_present(present, sharing).to_migration());
            self.pages[nth] = Some(pfn);
        }
        Ok(())
    }

    fn slot(&self) -> &'v MmSlot<M> {
        self.guard.slot()
    }

    /// Locks the folio of a page, unless it is that of a page before: a copy may lie between two of its
    /// pages.
    fn lock(&mut self, page: FolioRef<'c, M>, alone: bool) -> Result<(), NotCollapsed> {
        let same = |source: &&mut Source<'c, M>| source.page.folio() == page.folio();
        if let Some(known) = self.sources[..self.locked].iter_mut().flatten().find(same) {
            known.alone |= alone;
            return Ok(());
        }
        let lock = page.try_lock().ok_or(NotCollapsed::Busy)?;
        self.sources[self.locked] = Some(Source { lock, page, alone });
        self.locked += 1;
        Ok(())
    }

    /// Whether nobody else has what was this program's alone. Of what others have as well, everybody keeps a
    /// copy of the same bytes, which nobody may write.
    fn are_ours(&self) -> bool {
        self.sources.iter().flatten().all(|source| {
            // Whoever has the device open keeps its slots there.
            let entry = source.page.folio().swap_entry();
            let device = entry.map(|entry| self.vm.swap_user(entry));
            !matches!(device, Some(None))
                && (!source.alone
                    || source.lock.is_referenced_only(1 + self.vm.swap_references(source.page.folio())))
        })
    }

    /// Gives the entries that still wait what they had.
    fn put_back(&self, entries: &mut Entries<'c, 'v, M>, part: VaRange, vma: Protection) {
        for (va, page) in part.iter_pages().zip(self.pages) {
            let Some(page) = page.filter(|&page| waits_for(entries, va, page).is_some()) else { continue };
            let (Cleared::Migration(hold, bits), vacancy) = entries.take(va) else {
                unreachable!("the entry for {va:?} waits for {page:?}, and is locked")
            };
            put_back(vacancy, hold, bits, vma);
        }
    }

    /// Gives the entries their new pages, and fills what is still empty. Whatever was changed meanwhile stays
    /// as it is.
    #[doc(alias = "__collapse_huge_page_copy")]
    fn install(
        &self,
        entries: &mut Entries<'c, 'v, M>,
        part: VaRange,
        vma: Protection,
    ) -> Result<(), NotCollapsed> {
        self.forget_zero_pages(entries, part);
        let (mut filled, mut changed) = (0, false);
        for ((nth, va), page) in (self.first..).zip(part.iter_pages()).zip(self.pages) {
            match page {
                Some(page) => match waits_for(entries, va, page) {
                    Some(bits) => {
                        let cleared = entries.exchange(va, self.growing.map(nth), says(bits, vma));
                        // The old page is flushed, and its reference is not the last: we have one.
                        drop(cleared.unmap());
                    }
                    None => changed = true,
                },
                None if entries.is_none(va) => {
                    let (young, dirty, uffd_wp, soft_clean) = (false, false, false, false);
                    let untouched = Attrs { prot: vma, young, dirty, uffd_wp, soft_clean };
                    entries.install(va, self.growing.map(nth), untouched);
                    filled += 1;
                }
                None => changed = true,
            }
        }
        if filled > 0 {
            self.vm.add_anon(self.slot(), filled);
        }
        if changed { Err(NotCollapsed::Changed) } else { Ok(()) }
    }

    /// Takes the zero page out of the entries, and makes all CPUs forget it, before anything else is there.
    fn forget_zero_pages(&self, entries: &mut Entries<'c, 'v, M>, part: VaRange) {
        let mut forgotten = false;
        for (va, page) in part.iter_pages().zip(self.pages) {
            if page.is_none() && matches!(entries.mapped(va), Mapped::Zero(_)) {
                let (Cleared::Zero(_), vacancy) = entries.take(va) else {
                    unreachable!("it was the zero page, and is locked")
                };
                vacancy.leave_empty();
                forgotten = true;
            }
        }
        if forgotten {
            self.slot().space.flush(&self.vm.frames, FlushRange::Range(part));
        }
    }
}

/// What the migration entry for `va` says, if it waits for `page`. Nobody else makes it one: the page's folio
/// is locked, and not free.
fn waits_for<M: Machine, G: StableVma<M>>(
    entries: &PteGuard<'_, M, G>,
    va: Va,
    page: Pfn,
) -> Option<MigrationBits> {
    match entries.mapped(va) {
        Mapped::Migration(hold, bits) => (hold.pfn() == page).then_some(bits),
        Mapped::None | Mapped::Zero(_) | Mapped::Exclusive(..) | Mapped::Shared(..) => None,
        Mapped::Shm(_) | Mapped::Swap(..) | Mapped::Marker(_) => None,
    }
}

/// What an entry says of its page in the new folio, which is its program's alone. A copy of what others have
/// is nowhere else, and therefore dirty.
fn says(bits: MigrationBits, vma: Protection) -> Attrs {
    let attrs = Attrs::of(bits.into(), vma);
    let dirty = attrs.dirty || bits.kind == MigrationKind::Read;
    // As `change_protection` has it: what is dirty may be written without another fault, unless that fault is
    // waited for.
    let write = attrs.prot.write || vma.write && dirty && !attrs.soft_clean;
    Attrs { prot: Protection { write, ..attrs.prot }, dirty, ..attrs }
}
