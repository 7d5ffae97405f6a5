//! Pages of shared objects leave.
//!
//! Nothing leads from an object to its mappings, and who faults gets the page from the object again. So an
//! entry of a mapping that is not used is dropped: that costs who comes back a fault, and no reading. The
//! hand asks all address spaces for a *window* of the object's pages, once for the page that it has come by.
//! Entries that were used are marked old, and their pages noted as used; those of pages that are to leave
//! are dropped and flushed. What only the object maps then goes to swap (`shm/swap.rs`), and is written and
//! freed in a batch with all others.
//!
//! The caller may hold an mmap lock, and has folios locked: the mmap locks of the mappings are only tried. A
//! page stays while one of them cannot be had, and while a mapping of it is locked in memory. So it does
//! while a userfaultfd watches one, whom the next touch would tell of a page that is there.
//!
//! Locks: tries the mmap lock of one address space at a time, for reading. Then tries the folio lock, and
//! takes the lock of the object's table.
//!
//! Linux: mm/shmem.c `shmem_writeout`; mm/vmscan.c `shrink_folio_list`. Differs: as above.

use super::shrink::{Age, IDLE_SWEEPS, Leaving, PageoutBatch, Shrunk};
use crate::{
    cpu::PageKind,
    events::Event,
    ids::{ShmId, VmaId},
    mm::mmap_lock::MmapReadGuard,
    rmap::machine::Machine,
    vm::Vm,
    vma::{flags::VmFlags, vma::Backing},
    zap::{Zapped, zap_entry},
};
use anonmem_frame::{FolioGuard, FolioOwner, FolioRef, Mapping, RawHandle};
use anonmem_hal::{Arch, PAGE_SHIFT, SwapEntry, Va, VaRange};
use anonmem_pgtable::{Mapped, MmuGather, Teardown};
use core::ops::Range;

/// Pages of an object that are looked at together.
const WINDOW: u64 = 64;

/// A page that is to leave, and those around it.
struct Target {
    object: ShmId,
    index: u64,
    age: Age,
}

impl Target {
    fn window(&self) -> Range<u64> {
        let start = self.index - self.index % WINDOW;
        start..start + WINDOW
    }
}

impl<'v, M: Machine> PageoutBatch<'v, M> {
    /// Makes a page of a shared object leave, if it may.
    #[cold]
    #[inline(never)]
    pub(super) fn add_shared(&mut self, page: FolioRef<'v, M>, object: RawHandle, age: Age) -> Shrunk {
        let (vm, folio) = (self.vm, page.folio());
        // Declared first: if it is the last, all of the object goes, and nothing of that is to be locked.
        let Some(object) = vm.shm_visit(object) else { return Shrunk::Kept };
        // Only a hint, as for other pages.
        if folio.maybe_pinned() {
            vm.count(Event::ReclaimPinned);
            return Shrunk::Kept;
        }
        if vm.shm(object.id).stays() {
            return Shrunk::Kept;
        }
        let target = Target { object: object.id, index: folio.index(), age };
        vm.forget_unused(&target, &page);
        let was_used = age == Age::Idle && page.test_and_clear_referenced();
        if age == Age::Idle && vm.note_use(&page, was_used) {
            return Shrunk::Used;
        }
        let Some(lock) = page.try_lock() else { return Shrunk::Kept };
        let counts = folio.counts();
        // As they are asked again, so that no slot is taken in vain.
        if (counts.maps(), counts.refs()) != (1, 1) || folio.swap_entry().is_some() {
            return Shrunk::Kept;
        }
        if vm.is_locked_by_mapping(&target) {
            return Shrunk::Kept;
        }
        let Some(swap) = vm.swap_for(&page, &lock) else { return Shrunk::Kept };
        if !vm.shm_leave(target.object, target.index, &page, &swap) {
            return Shrunk::Kept;
        }
        self.push(Leaving { swap, lock, page });
        Shrunk::Leaving
    }
}

impl<M: Machine> Vm<M> {
    /// Gives a page back to its object that could not be written to its slot; of private memory it stays in
    /// the swap cache, where its entries find it.
    #[cold]
    pub(super) fn take_back(&self, lock: &FolioGuard<'_, M>, entry: SwapEntry) {
        let folio = lock.folio();
        if let Mapping::Shm(object) = folio.mapping()
            && let Some(object) = self.shm_visit(object)
        {
            self.shm_bring_back(object.id, folio.index(), entry, lock);
        }
    }

    /// Has all address spaces forget what they do not use of the window of a page, until nobody maps it.
    fn forget_unused(&self, target: &Target, page: &FolioRef<'_, M>) {
        let is_mapped = || page.folio().counts().maps() > 1;
        let mut is_done = !is_mapped();
        self.mms.for_each_live(&self.frames, |id, slot| {
            // Only a hint: who has just mapped a page has used it, too.
            if is_done || self.peek_pages_of(slot, PageKind::Shared) <= 0 {
                return;
            }
            let Some(guard) = self.mmap_try_read_lock(id) else { return };
            guard.for_each_part_of(target, |vma, part| {
                if !self.vma(vma).flags().intersects(VmFlags::UFFD.union(VmFlags::LOCKED)) {
                    guard.forget_unused_part(target, vma, part);
                }
            });
            is_done = !is_mapped();
        });
    }

    /// Whether a mapping of the page is locked in memory, as far as can be told: its entry may be gone for a
    /// moment, because the page has moved.
    fn is_locked_by_mapping(&self, target: &Target) -> bool {
        let mut is_locked = false;
        self.mms.for_each_live(&self.frames, |id, slot| {
            if is_locked || slot.counts.locked.peek() == 0 {
                return;
            }
            let Some(guard) = self.mmap_try_read_lock(id) else {
                is_locked = true;
                return;
            };
            guard.for_each_part_of(target, |vma, part| {
                let vma = self.vma(vma);
                let covers = part.iter_pages().any(|va| vma.index_of(va) == target.index);
                is_locked |= covers && vma.flags().contains(VmFlags::LOCKED);
            });
        });
        is_locked
    }
}

impl<M: Machine> MmapReadGuard<'_, M> {
    /// Does `f` with each VMA that maps pages of the window, and where.
    fn for_each_part_of(&self, target: &Target, mut f: impl FnMut(VmaId, VaRange)) {
        let (tree, window) = (&self.slot().tree, target.window());
        let mut vmas = tree.cursor(VaRange { start: Va(0), end: M::Arch::USER_END });
        while let Some((range, id)) = vmas.next(tree, self.objects.nodes()) {
            let vma = self.objects.vma(id);
            if vma.backing() != Backing::Shared(target.object) {
                continue;
            }
            let first = vma.pgoff();
            let part = first.max(window.start)..(first + range.pages().0).min(window.end);
            if !part.is_empty() {
                let at = |page: u64| Va(range.start.0 + ((page - first) << PAGE_SHIFT));
                f(id, VaRange { start: at(part.start), end: at(part.end) });
            }
        }
    }

    /// Marks the entries of `part` old whose pages were used, and drops those of pages that are to leave.
    fn forget_unused_part(&self, target: &Target, vma: VmaId, part: VaRange) {
        let (objects, slot, vma) = (self.objects, self.slot(), self.objects.vma(vma));
        let mut gather: MmuGather<'_, M> = objects.gather(&slot.space, Teardown::Range);
        let mut zapped = Zapped::default();
        for (table, part) in slot.space.tables(&objects.frames, self, part) {
            let mut entries = table.lock();
            for va in part.iter_pages() {
                let Mapped::Shm(present) = entries.mapped(va) else { continue };
                let folio = objects.frames.folio_of_owned(present.pfn);
                let is_target = target.age == Age::Any && vma.index_of(va) == target.index;
                if present.young && !is_target {
                    entries.test_and_clear_young(va);
                    if let Some(page) = objects.frames.try_get(present.pfn) {
                        page.set_referenced();
                    }
                } else if is_target || !folio.is_referenced() && folio.idle() >= IDLE_SWEEPS {
                    // There is room: a window is less than a gather takes.
                    zap_entry(objects, &mut entries, va, &mut gather, &mut zapped);
                }
            }
        }
        gather.finish();
        zapped.uncount(objects, slot);
    }
}
