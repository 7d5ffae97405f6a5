//! Collapse: the small pages of an aligned window become one large folio.
//!
//! ```text
//!   who collapses (mmap lock for reading)            everybody else
//!   ─────────────────────────────────────            ──────────────
//!   a block of frames, before any lock
//!   looks at the window: what does not fit, refuses
//!   32 pages at a time:
//!     folios tried and locked, referenced            reclaim, KSM, movers: stay away
//!     entries: present ──▶ migration entry           a fault on one waits; MADV_DONTNEED drops it
//!       exclusive: try_share, or it is pinned        a pin, GUP-fast's too, is seen, or sees the entry gone
//!     one flush                                      no CPU writes to these pages any more
//!     asks the counts, copies                        whoever had a page before has a reference: it stays
//!     looks at each entry again: migration entry ──▶ a page of the new folio
//!       what was dropped stays dropped, what was filled stays filled
//!   all pages there: one folio. Else the window is given up: it is split, what nobody maps becomes free
//! ```
//!
//! A window becomes a folio of its own program. A page that others have, too, is copied for it, as a write
//! would do. So no reverse map is walked, and the entry above the table is never cleared. A fault waits for
//! the copies of 32 pages at most. At every moment the folio is one of which a part is mapped. That is what
//! is left of a window that is given up in the middle: nothing has to be undone.
//!
//! A folio of a leaf's size is mapped by a leaf then, in place ([`AddressSpace::collapse_table`]).
//!
//! [`AddressSpace::collapse_table`]: anonmem_pgtable::AddressSpace::collapse_table
//!
//! Linux: mm/khugepaged.c `collapse_huge_page`, `__collapse_huge_page_isolate`, `__collapse_huge_page_copy`.
//! Differs: any order; no lock for writing while it copies; in pieces.

mod chunk;
mod outcome;
mod survey;

pub use outcome::{BlockEffort, CollapseLimits, Collapsed, NotCollapsed};

use self::{chunk::Chunk, survey::Survey};
use crate::{
    fault::vm_fault::{FaultAccess, FaultOutcome},
    ids::VmaId,
    mm::{
        Mm,
        mmap_lock::{MmapHeld, MmapReadGuard},
    },
    rmap::machine::Machine,
    rmap::{Rmap, reverse_map::ReverseMap},
    thp::{mode::ThpDisable, stats::FolioEvent},
    vm::Vm,
    vma::{flags::VmFlags, vma::Backing},
};
use anonmem_frame::NewFolio;
use anonmem_hal::{Arch, Order, PAGE_SHIFT, Va, VaRange};
use anonmem_pgtable::Walked;
use anonmem_sync::Ordering;

impl<M: Machine> Mm<'_, M> {
    /// Makes the 2^`order` pages from `start` on, which is aligned to that, one folio; one of a leaf's size a
    /// leaf.
    ///
    /// # Locks
    /// The mmap lock for reading; of a leaf, for a moment, for writing. Sleeps.
    ///
    /// # Errors
    /// [`NotCollapsed`]: what is there is what was there, in smaller folios.
    ///
    /// # Panics
    /// If `start` is not aligned, or the order is 0 or more than a leaf's.
    #[doc(alias("collapse_huge_page", "hpage_collapse_scan_pmd"))]
    pub fn collapse(
        &self,
        start: Va,
        order: Order,
        limits: CollapseLimits,
        effort: BlockEffort,
    ) -> Result<Collapsed, NotCollapsed> {
        let window = VaRange { start, end: start.page_after(order.pages()) };
        assert!(order != Order::ZERO && order <= M::Arch::LEAF_ORDER, "a folio of {order:?} from pages");
        assert!(start.0.is_multiple_of(order.bytes() as u64), "a window at {start:?} of {order:?}");
        let copied = self.collapse_to_run(window, order, limits, effort);
        if let Err(why) = copied {
            self.vm.note_not_collapsed(order, why);
        }
        if copied? == Collapsed::Already && self.is_leaf(start) {
            return copied;
        }
        if order == M::Arch::LEAF_ORDER && self.collapse_to_leaf(window).is_some() {
            return Ok(Collapsed::Leaf);
        }
        copied
    }

    fn is_leaf(&self, va: Va) -> bool {
        let guard = self.read();
        matches!(guard.slot().space.walk(&self.vm.frames, &guard, va), Some(Walked::Leaf(_)))
    }

    /// Makes the window one folio behind entries.
    fn collapse_to_run(
        &self,
        window: VaRange,
        order: Order,
        limits: CollapseLimits,
        effort: BlockEffort,
    ) -> Result<Collapsed, NotCollapsed> {
        let found = self.survey(&self.read(), window)?.within(limits);
        let Some(found) = found? else { return Ok(Collapsed::Already) };
        if found.swapped > 0 {
            self.swap_in(window)?;
        }
        // Before any lock: making room for it takes some.
        let new = self.vm.block_for(order, effort)?;
        let guard = self.read();
        if self.survey(&guard, window)?.within(limits)?.is_none() {
            return Ok(Collapsed::Already);
        }
        self.grow(&guard, window, new).map(|()| Collapsed::Copied)
    }

    /// The VMA that has all of the window, if it may collapse.
    #[doc(alias = "hugepage_vma_revalidate")]
    fn collapsible(&self, guard: &MmapReadGuard<'_, M>, window: VaRange) -> Result<VmaId, NotCollapsed> {
        let found = guard.slot().tree.find_containing(self.vm.nodes(), window.start);
        let (range, id) = found.ok_or(NotCollapsed::Mapping)?;
        let vma = self.vm.vma(id);
        let disabled =
            ThpDisable::decode(guard.slot().thp_disable.load(Ordering::Relaxed)) == ThpDisable::Yes;
        let refuses = VmFlags::SHARED | VmFlags::NOHUGEPAGE | VmFlags::UFFD;
        let fits = range.covers(window) && vma.backing() == Backing::Anonymous;
        if fits && !vma.flags().intersects(refuses) && !disabled {
            return Ok(id);
        }
        Err(NotCollapsed::Mapping)
    }

    /// What is in the window.
    fn survey(&self, guard: &MmapReadGuard<'_, M>, window: VaRange) -> Result<Survey, NotCollapsed> {
        self.collapsible(guard, window)?;
        match guard.slot().space.walk(&self.vm.frames, guard, window.start) {
            // A leaf maps the window and more.
            Some(Walked::Leaf(_)) => Ok(Survey::one_folio()),
            Some(Walked::Table(table)) => Survey::of(&self.vm.frames, table, window),
            None => Err(NotCollapsed::Empty),
        }
    }

    /// Brings back what is in swap.
    #[doc(alias = "__collapse_huge_page_swapin")]
    fn swap_in(&self, window: VaRange) -> Result<(), NotCollapsed> {
        for va in window.iter_pages() {
            let swapped = {
                let guard = self.read();
                let walked = guard.slot().space.walk(&self.vm.frames, &guard, va);
                walked.is_some_and(|walked| survey::is_swapped(walked.peek(va)))
            };
            if !swapped {
                continue;
            }
            match self.handle_kernel_fault(va, FaultAccess::Read) {
                FaultOutcome::Done => {}
                FaultOutcome::Oom | FaultOutcome::NodesFull(_) => return Err(NotCollapsed::NoMemory),
                FaultOutcome::SegvMaperr | FaultOutcome::SegvAccerr => return Err(NotCollapsed::Mapping),
                FaultOutcome::Bus | FaultOutcome::Lost => return Err(NotCollapsed::Swapped),
            }
        }
        Ok(())
    }

    /// Fills and maps the new folio, 32 pages at a time.
    fn grow(
        &self,
        guard: &MmapReadGuard<'_, M>,
        window: VaRange,
        new: NewFolio<'_, M>,
    ) -> Result<(), NotCollapsed> {
        let (vm, order) = (self.vm, new.order());
        let id = self.collapsible(guard, window)?;
        let stamp = Rmap::<M>::prepare(vm, MmapHeld::Read(guard), id).map_err(|_| NotCollapsed::NoMemory)?;
        let index = vm.vma(id).index_of(window.start);
        let vma = vm.vma(id).protection();
        let Some(Walked::Table(table)) = guard.slot().space.walk(&vm.frames, guard, window.start) else {
            return Err(NotCollapsed::Changed);
        };
        vm.count_folio(order, FolioEvent::CollapseAlloc);
        let growing = new.into_growing(stamp.raw(), index);
        let mut result = Ok(());
        for first in (0..order.pages()).step_by(chunk::PAGES) {
            let pages = order.pages().min(first + chunk::PAGES as u64) - first;
            let part = VaRange::of(window.start.page_after(first), pages << PAGE_SHIFT);
            let part = part.expect("a part of a window");
            result = result.and(Chunk::new(vm, guard, &growing, first).run(table, part, vma));
            if result.is_err() {
                break;
            }
        }
        if result.is_err() && growing.page().folio().is_mapped() {
            // Given up: what is mapped of it goes on as single pages, and the rest becomes free.
            if vm.split_folio(growing.lock(), growing.page(), Order::ZERO).is_err() {
                vm.frames.set_partly_mapped_hint();
            }
        }
        drop(growing);
        if result.is_ok() {
            vm.count_folio(order, FolioEvent::Collapsed);
        }
        result
    }
}

impl<M: Machine> Vm<M> {
    /// A block of frames for a folio, as much effort as is said.
    fn block_for(&self, order: Order, effort: BlockEffort) -> Result<NewFolio<'_, M>, NotCollapsed> {
        if let Ok(new) = self.frames.alloc(order) {
            return Ok(new);
        }
        if let BlockEffort::Compact(effort) = effort {
            self.compact(order, effort).map_err(|_| NotCollapsed::NoMemory)?;
        }
        self.frames.alloc(order).map_err(|_| NotCollapsed::NoMemory)
    }

    fn note_not_collapsed(&self, order: Order, why: NotCollapsed) {
        let event = match why {
            NotCollapsed::Holes => FolioEvent::CollapseExceedNone,
            NotCollapsed::Swapped => FolioEvent::CollapseExceedSwap,
            NotCollapsed::Shared => FolioEvent::CollapseExceedShared,
            NotCollapsed::NoMemory => FolioEvent::CollapseAllocFailed,
            NotCollapsed::Pinned | NotCollapsed::Busy => FolioEvent::CollapseBusy,
            NotCollapsed::Changed => FolioEvent::CollapseGivenUp,
            NotCollapsed::Mapping | NotCollapsed::Empty | NotCollapsed::Marked => return,
        };
        self.count_folio(order, event);
    }
}

#[cfg(test)]
mod tests;
