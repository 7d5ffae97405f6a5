//! Pages of shared objects go to other frames.
//!
//! Such a page has one entry in the table of its object, and one in each mapping that was touched. The latter
//! are only there to be found by CPUs: who faults gets the page from the object again. So the mover drops
//! them, flushes, and looks at the object's entry under its lock. Every new mapping starts with a reference
//! that is taken under that lock. The entry and the mover may have all counts that there are. Then nobody
//! else has the page, or gets it before the lock is let go: it is copied and replaced under the lock.
//!
//! ```text
//!   the mover                                        everybody else
//!   ─────────                                        ──────────────
//!   entries of the mappings: dropped, flushed        a fault finds the page in the object, or waits for
//!   the object's entry locked                          its lock, for the copy of one page
//!   asks the counts: the entry's and its own         who mapped or pinned it meanwhile has a count:
//!   copies, entry: old ──▶ new                         the page stays
//! ```
//!
//! Nothing leads from an object to its mappings. So all address spaces are looked at, once for a run of pages
//! that lie side by side in the frames and in the object.
//!
//! A mapping that a userfaultfd watches keeps its pages: the next touch would tell it of a page that is
//! there.
//!
//! Locks: the mmap lock of one address space at a time, for reading; then the lock of the object's table. The
//! caller holds no folio locked.
//!
//! Linux: mm/migrate.c `migrate_folio`, with migration entries in the mappings. Differs: as above.

use super::stays::Stays;
use crate::{
    ids::ShmId,
    mm::Mm,
    rmap::machine::Machine,
    shm::{OBJECT_ENTRY, ShmUser, offset},
    vm::Vm,
    vma::{flags::VmFlags, vma::Backing},
    zap::forget_range,
};
use anonmem_frame::{FolioRef, Mapping, NewFolio, RawHandle};
use anonmem_hal::{Arch, Order, PAGE_SHIFT, Pfn, Va, VaRange};
use anonmem_pgtable::{Mapped, Teardown};
use anonmem_sync::{Ordering, fence, yield_now};
use core::ops::Range;

/// Pages of one object that lie side by side, in the frames as in the object.
pub(super) struct SharedRun {
    object: RawHandle,
    first: Pfn,
    index: u64,
    pub(super) pages: u64,
}

/// Whether mappings keep their pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dropped {
    All,
    /// Some are watched.
    NotAll,
}

impl<M: Machine> Vm<M> {
    /// The object and the index of the page in a frame, if it is a shared object's.
    fn shared_page(&self, at: Pfn) -> Option<(RawHandle, u64)> {
        let folio = self.frames.folio(at)?;
        match folio.mapping() {
            Mapping::Shm(object) if folio.owned_order() == Order::ZERO => Some((object, folio.index())),
            Mapping::Shm(_) | Mapping::Anon(_) | Mapping::Ksm(_) | Mapping::None => None,
        }
    }

    /// The pages of a shared object from the frame `at` on, as of now: at most those of `within`.
    pub(super) fn shared_run(&self, within: Range<Pfn>) -> Option<SharedRun> {
        let (object, index) = self.shared_page(within.start)?;
        let rest = within.end.0 - within.start.0;
        let same = |nth: &u64| self.shared_page(within.start.offset(*nth)) == Some((object, index + nth));
        let pages = (1..rest).take_while(same).count() as u64 + 1;
        Some(SharedRun { object, first: within.start, index, pages })
    }

    /// Moves the pages of a run to frames that `target` finds; says of each what became of it.
    pub(super) fn move_shared<'v>(
        &'v self,
        run: &SharedRun,
        mut target: impl FnMut() -> Option<NewFolio<'v, M>>,
        mut said: impl FnMut(Result<(), Stays>),
    ) {
        let Some(visit) = self.shm_visit(run.object) else {
            // The object is going, and its pages with it: they are to be asked again.
            return (0..run.pages).for_each(|_| said(Err(Stays::Referenced)));
        };
        let id = visit.id;
        let dropped = self.drop_mappings(id, run);
        for nth in 0..run.pages {
            let Some(page) = self.frames.try_get(run.first.offset(nth)) else {
                // It is being freed, or its counts are frozen.
                said(Err(Stays::Referenced));
                continue;
            };
            if self.shared_page(page.pfn()) != Some((run.object, run.index + nth)) {
                said(Err(Stays::Referenced));
                continue;
            }
            let moved = match target() {
                None => Err(Stays::NoMemory),
                Some(new) => self.exchange_shared(id, run.index + nth, &page, new),
            };
            let is_watched = dropped == Dropped::NotAll && moved == Err(Stays::Referenced);
            said(if is_watched { Err(Stays::Watched) } else { moved });
        }
    }

    /// Puts a copy in the place of the page in its object, if nobody else has it.
    fn exchange_shared(
        &self,
        id: ShmId,
        index: u64,
        page: &FolioRef<'_, M>,
        new: NewFolio<'_, M>,
    ) -> Result<(), Stays> {
        let (object, va) = (self.shm(id), offset(index));
        let user = ShmUser::of(object);
        let table = object.space().walk(&self.frames, &user, va).and_then(|found| found.table());
        let Some(table) = table else { return Err(Stays::Referenced) };
        let mut entries = table.lock();
        match entries.mapped(va) {
            Mapped::Shm(present) if present.pfn == page.pfn() => {}
            // It has left the object meanwhile, and is free when whoever has it lets go of it.
            Mapped::Shm(_)
            | Mapped::None
            | Mapped::Zero(_)
            | Mapped::Exclusive(..)
            | Mapped::Shared(..)
            | Mapped::Swap(..)
            | Mapped::Migration(..)
            | Mapped::Marker(_) => return Err(Stays::Referenced),
        }
        let counts = page.folio().counts();
        if counts.pins() > 0 {
            return Err(Stays::Pinned);
        }
        // The entry's and ours. Under this lock nobody gets another.
        if counts.total() != 2 {
            return Err(Stays::Referenced);
        }
        // Acquire pairs with the Release of whoever put a count last: what was stored is copied.
        fence::<M>(Ordering::Acquire);
        new.copy_from(page.pfn());
        let new = new.into_shm(id.raw(), index);
        let Ok(map) = new.map_shm(0) else { return Err(Stays::Referenced) };
        let old = entries.clear(va).unmap();
        entries.install(va, map, OBJECT_ENTRY);
        drop(entries);
        drop(old);
        Ok(())
    }

    /// Whether nobody but the object maps the pages of a run, as of now. Who maps one meanwhile keeps it
    /// where it is.
    fn is_unmapped(&self, run: &SharedRun) -> bool {
        let is_mapped = |at| self.frames.folio(at).is_some_and(|folio| folio.counts().maps() > 1);
        !(0..run.pages).any(|nth| is_mapped(run.first.offset(nth)))
    }

    /// Drops the entries of the mappings of these pages, until there are none.
    fn drop_mappings(&self, id: ShmId, run: &SharedRun) -> Dropped {
        let pages = run.index..run.index + run.pages;
        let mut dropped = Dropped::All;
        if self.is_unmapped(run) {
            return dropped;
        }
        let mut is_done = false;
        self.mms.for_each_live(&self.frames, |mm, _| {
            if is_done {
                return;
            }
            let Some(mm) = self.try_user(mm) else { return };
            if mm.drop_shared(id, &pages) == Dropped::NotAll {
                dropped = Dropped::NotAll;
            }
            drop(mm);
            is_done = self.is_unmapped(run);
            yield_now::<M>();
        });
        dropped
    }
}

impl<M: Machine> Mm<'_, M> {
    fn drop_shared(&self, id: ShmId, pages: &Range<u64>) -> Dropped {
        let guard = self.read();
        let (vm, slot) = (self.vm, guard.slot());
        let mut dropped = Dropped::All;
        let mut vmas = slot.tree.cursor(VaRange { start: Va(0), end: M::Arch::USER_END });
        while let Some((range, vma)) = vmas.next(&slot.tree, vm.nodes()) {
            let vma = vm.vma(vma);
            let first = vma.pgoff();
            let part = first.max(pages.start)..(first + range.pages().0).min(pages.end);
            if vma.backing() != Backing::Shared(id) || part.is_empty() {
                continue;
            }
            if vma.flags().intersects(VmFlags::UFFD) {
                dropped = Dropped::NotAll;
                continue;
            }
            let at = |page: u64| Va(range.start.0 + ((page - first) << PAGE_SHIFT));
            let mut gather = vm.gather(&slot.space, Teardown::Range);
            let part = VaRange { start: at(part.start), end: at(part.end) };
            forget_range(vm, slot, &guard, &mut gather, part);
            gather.finish();
        }
        dropped
    }
}

#[cfg(test)]
mod tests;
