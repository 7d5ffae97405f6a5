//! The background task that makes large folios of small pages which are there already.
//!
//! It looks at one address space after the other, and in each at its windows in their order. In each place
//! it tries the largest size that is allowed, and smaller ones then. What is one folio already, or empty, it
//! passes over. Where the task is, and what it has done, is a value of its owner's ([`CollapseTask`]).
//!
//! The default allows no holes: nobody pays for a page that was not touched. A page of a larger folio that
//! was never touched counts as a hole, too. Else a window would look full because its parts were collapsed.
//!
//! Locks: none between steps. In a step, those of [`Mm::collapse`].
//!
//! Linux: mm/khugepaged.c `khugepaged_scan_mm_slot`. Differs: no list of address spaces, and no wish of
//! theirs to be on it; sizes of its own.

use super::collapse::{BlockEffort, CollapseLimits, NotCollapsed};
use crate::{
    ids::MmId,
    mm::Mm,
    rmap::machine::Machine,
    thp::{mode::ThpDisable, stats::FolioEvent},
    vm::Vm,
    vma::{flags::VmFlags, vma::Backing},
};
use anonmem_hal::{Arch, Order, PAGE_SHIFT, Va, VaRange};
use anonmem_sync::Ordering;

/// What the task is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CollapseSettings {
    /// A bit for each order that is made everywhere, beside those that faults may take.
    pub everywhere: u16,
    /// What a window of a leaf's size may have; of a smaller one, as much less.
    pub limits: CollapseLimits,
    /// What is done for a block.
    pub effort: BlockEffort,
}

impl Default for CollapseSettings {
    fn default() -> Self {
        Self { everywhere: 0, limits: CollapseLimits::OWN, effort: BlockEffort::Free }
    }
}

/// What came of one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CollapseStep {
    /// Pages of windows that were looked at.
    pub scanned: u64,
    /// Folios that were made.
    pub collapsed: u64,
    /// Whether there was no block for one: the task should wait before it goes on.
    pub no_memory: bool,
    /// Whether all address spaces were looked at: the next step begins with the first one.
    pub swept: bool,
}

/// Where the background task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CollapseTask {
    /// The address space, as a number; 0 is before the first one.
    mm: u32,
    /// The address in it.
    at: u64,
    /// Sweeps that are done.
    pub full_scans: u64,
    /// Folios that were made.
    pub collapsed: u64,
}

impl CollapseTask {
    /// Looks at windows of `pages` pages in all, or a little more.
    ///
    /// # Locks
    /// The caller holds none. Sleeps.
    #[doc(alias = "khugepaged_scan_mm_slot")]
    pub fn step<M: Machine>(&mut self, vm: &Vm<M>, pages: u64, settings: &CollapseSettings) -> CollapseStep {
        let mut step = CollapseStep::default();
        while step.scanned < pages && !step.no_memory {
            let Some(mm) = self.current(vm) else {
                self.full_scans += 1;
                (self.mm, self.at) = (0, 0);
                step.swept = true;
                break;
            };
            // One that has nothing is looked at, too.
            step.scanned += 1;
            if !self.scan(&mm, pages, settings, &mut step) {
                // Nothing comes behind it: the next one.
                self.at = u64::MAX;
            }
            // One that has no other user any more ends here.
            drop(mm);
        }
        self.collapsed += step.collapsed;
        step
    }

    /// The address space that the task is in, or the next one.
    fn current<'v, M: Machine>(&mut self, vm: &'v Vm<M>) -> Option<Mm<'v, M>> {
        loop {
            let done = self.at == u64::MAX || self.mm == 0;
            let mut next: Option<MmId> = None;
            vm.mms.for_each_live(&vm.frames, |id, _| {
                let nr = id.raw().get();
                let later = if done { nr > self.mm } else { nr >= self.mm };
                if later && next.is_none_or(|known| nr < known.raw().get()) {
                    next = Some(id);
                }
            });
            let id = next?;
            if id.raw().get() != self.mm || done {
                (self.mm, self.at) = (id.raw().get(), 0);
            }
            if let Some(mm) = vm.try_user(id) {
                return Some(mm);
            }
            self.at = u64::MAX;
        }
    }

    /// Goes on in one address space; says whether something may come behind.
    fn scan<M: Machine>(
        &mut self,
        mm: &Mm<'_, M>,
        pages: u64,
        settings: &CollapseSettings,
        step: &mut CollapseStep,
    ) -> bool {
        while step.scanned < pages {
            let Some((range, orders)) = mm.next_to_collapse(Va(self.at), settings) else { return false };
            let mut va = Va(self.at.max(range.start.0));
            while va < range.end && step.scanned < pages {
                let passed = mm.collapse_at(va, range, orders, settings, step);
                step.scanned += passed;
                va = va.page_after(passed);
                if step.no_memory {
                    // The next time begins behind it: others may have their block.
                    self.at = va.0;
                    return true;
                }
            }
            self.at = va.0;
        }
        true
    }
}

impl<M: Machine> Mm<'_, M> {
    /// The rest of the first mapping from `from` on that may collapse, and the orders that are made there.
    fn next_to_collapse(&self, from: Va, settings: &CollapseSettings) -> Option<(VaRange, u16)> {
        let guard = self.read();
        let slot = guard.slot();
        let disable = ThpDisable::decode(slot.thp_disable.load(Ordering::Relaxed));
        let mut at = from;
        while let Some((range, id)) = slot.tree.find(self.vm.nodes(), at) {
            let (vma, flags) = (self.vm.vma(id), self.vm.vma(id).flags());
            let allowed = self.vm.folio_policy.orders(disable, flags);
            let refuses = VmFlags::SHARED | VmFlags::NOHUGEPAGE | VmFlags::UFFD;
            let may = vma.backing() == Backing::Anonymous && !flags.intersects(refuses);
            let everywhere = if disable == ThpDisable::No { settings.everywhere } else { 0 };
            let orders = (allowed.free | allowed.auto | everywhere) & !1;
            if may && orders != 0 {
                return Some((VaRange { start: range.start.max(at), end: range.end }, orders));
            }
            at = range.end;
        }
        None
    }

    /// Makes the largest folio that can be made at `va`; returns how many pages that has dealt with.
    fn collapse_at(
        &self,
        va: Va,
        within: VaRange,
        orders: u16,
        settings: &CollapseSettings,
        step: &mut CollapseStep,
    ) -> u64 {
        let smallest = Order::new(orders.trailing_zeros() as u8);
        let leaf = M::Arch::LEAF_ORDER.get();
        let fits = |order: &u8| {
            let bytes = 1u64 << (PAGE_SHIFT + u32::from(*order));
            orders >> order & 1 != 0 && va.0.is_multiple_of(bytes) && within.end.0 - va.0 >= bytes
        };
        for order in (1..=leaf).rev().filter(fits).map(Order::new) {
            match self.collapse(va, order, scaled(settings.limits, order, leaf), settings.effort) {
                Ok(made) => {
                    step.no_memory = false;
                    step.collapsed += u64::from(made.is_new());
                    return order.pages();
                }
                Err(NotCollapsed::NoMemory) => step.no_memory = true,
                Err(NotCollapsed::Empty | NotCollapsed::Mapping) => return order.pages(),
                // A smaller one may fit.
                Err(
                    NotCollapsed::Holes
                    | NotCollapsed::Swapped
                    | NotCollapsed::Shared
                    | NotCollapsed::Marked
                    | NotCollapsed::Pinned
                    | NotCollapsed::Busy
                    | NotCollapsed::Changed,
                ) => {}
            }
        }
        // To the next place where one could begin.
        let next = va.0 | (smallest.bytes() as u64 - 1);
        ((next - va.0) >> PAGE_SHIFT) + 1
    }
}

/// The limits of a leaf's window for a smaller one.
#[doc(alias = "collapse_max_ptes_none")]
fn scaled(limits: CollapseLimits, order: Order, leaf: u8) -> CollapseLimits {
    let scale = |of_leaf: u64| if of_leaf == u64::MAX { of_leaf } else { (of_leaf << order.get()) >> leaf };
    let CollapseLimits { none, swapped, shared } = limits;
    CollapseLimits { none: scale(none), swapped: scale(swapped), shared: scale(shared) }
}

impl<M: Machine> Vm<M> {
    /// How many folios of all orders were made by collapse.
    pub fn folios_collapsed(&self) -> u64 {
        let of = |order| {
            self.folio_event(order, FolioEvent::Collapsed)
                + self.folio_event(order, FolioEvent::CollapsedInPlace)
        };
        (1..=M::Arch::LEAF_ORDER.get()).map(|order| of(Order::new(order))).sum()
    }
}
