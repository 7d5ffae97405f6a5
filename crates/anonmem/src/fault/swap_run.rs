//! Faults on pages of folios that left as one.
//!
//! A folio comes back whole if its slots are in a row and none of them has a page in memory. And the entries
//! of its window must ask for all of them. Up to 64 KiB that is a guess, where the program wanted folios
//! anyway. What is larger, and anything that `auto` allows, needs proof: the window below or above is back
//! already. So the program works its way along. Without such a run, the fault reads one page.
//!
//! What was chosen without locks is asked again under the folio's lock and the page table's
//! (`thp-swap-in-half-cached`). If the window is not the same any more, the folio stays in the swap cache,
//! and each entry gets its page of it.
//!
//! Locks: as in `fault/swap.rs`.
//!
//! Linux: mm/memory.c `alloc_swap_folio`, `can_swapin_thp`, and the part of `do_swap_page` for large folios.
//! Differs: for any device; the size follows what the neighbours did.

use crate::{
    events::Event,
    fault::{
        huge::{orders_for, window},
        swap_copy::{attrs, copy_page, is_of_others},
        vm_fault::{FaultAccess, FaultGuard, FaultResult, VmFault, Waits},
    },
    rmap::{Rmap, machine::Machine, reverse_map::ReverseMap},
    swap::{cache::SwapIn, slot::SwapRun},
    thp::{policy::Orders, stats::FolioEvent},
    vma::refusal::Refusal,
};
use anonmem_frame::{FolioGuard, FolioOwner, FolioRef, Stamp};
use anonmem_hal::{
    Arch, IoError, Order, PAGE_SHIFT, Pte, Sharing, SoftLeaf, SwapBits, SwapEntry, Va, VaRange,
};
use anonmem_pgtable::{Attrs, Cleared, Mapped, PteGuard, PteTable, Walked};
use core::ops::Range;

/// The largest order that comes back whole, though nothing beside it has.
const MOST_GUESSED: u8 = 4;

/// The largest folio that may come back whole, in the swap cache; `None` if a page is to be read.
#[cold]
#[inline(never)]
pub(super) fn read_run<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    entry: SwapEntry,
) -> Option<FolioRef<'a, M>> {
    let (vm, orders) = (fault.vm, orders_for(fault));
    let Some(Walked::Table(table)) = fault.slot.space.walk(&vm.frames, fault.guard, fault.va) else {
        return None;
    };
    for order in (1..=orders.largest()).rev().filter(|&order| orders.has(order)) {
        let (size, range) = (Order::new(order), window(fault.va, order));
        let Some(first) = first_slot(fault, entry, range) else { continue };
        if !asks_for_run(fault, table, first, range) || !is_wanted(fault, orders, order, range) {
            continue;
        }
        let Ok(new) = fault.alloc_block(size) else {
            vm.count_folio(size, FolioEvent::SwapInFallback);
            continue;
        };
        return match vm.swap_read_run(first, new) {
            Ok(SwapIn::Page(page)) => {
                vm.events.add(Event::SwapIn, size.pages());
                vm.count_folio(size, FolioEvent::SwapIn);
                vm.note_refault(entry);
                Some(page)
            }
            // The page alone tells whether it is the one that cannot be read.
            Ok(SwapIn::Changed) | Err(IoError) => {
                vm.count_folio(size, FolioEvent::SwapInFallback);
                None
            }
        };
    }
    None
}

/// The slot of the first page of `range`, if its slots are aligned as a folio's are.
fn first_slot<M: Machine, G>(
    fault: &VmFault<'_, M, G>,
    entry: SwapEntry,
    range: VaRange,
) -> Option<SwapEntry> {
    let behind = (fault.va.0 - range.start.0) >> PAGE_SHIFT;
    let offset = entry.offset.checked_sub(behind)?;
    offset.is_multiple_of(range.pages().0).then_some(SwapEntry { offset, ..entry })
}

/// Whether the entries of `range` ask for the slots from `first` on, and no page of these is in memory.
fn asks_for_run<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    table: PteTable<'a, M, G>,
    first: SwapEntry,
    range: VaRange,
) -> bool {
    let slots = fault.vm.swap.get(first).slots();
    let covered = fault.vma.range().covers(range) && table.range().covers(range);
    covered
        && range.iter_pages().zip(first.offset..).all(|(va, offset)| {
            let asks = matches!(table.peek(va), Pte::Soft(SoftLeaf::Swap { entry, .. })
                if entry.device == first.device && entry.offset == offset);
            asks && slots.cached_page(&fault.vm.frames, offset).is_none()
        })
}

/// Whether so many pages are to come back at once.
fn is_wanted<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    orders: Orders,
    order: u8,
    range: VaRange,
) -> bool {
    if orders.is_free(order) && order <= MOST_GUESSED {
        return true;
    }
    let beside = |start: Option<u64>| {
        let start = Va(start?);
        Some(is_back(fault, VaRange { start, end: Va(start.0.checked_add(range.len())?) }))
    };
    beside(range.start.0.checked_sub(range.len())) == Some(true) || beside(Some(range.end.0)) == Some(true)
}

/// Whether all pages of `range`, which are the same VMA's, are in memory.
fn is_back<M: Machine, G: FaultGuard<M>>(fault: &VmFault<'_, M, G>, range: VaRange) -> bool {
    if !fault.vma.range().covers(range) {
        return false;
    }
    let mapped = |pte: Pte| matches!(pte, Pte::Present(present) if !present.special);
    let parts = fault.slot.space.parts(&fault.vm.frames, fault.guard, range);
    let back =
        parts.map(|(found, part)| part.iter_pages().filter(|&va| mapped(found.peek(va))).count() as u64);
    back.sum::<u64>() == range.pages().0
}

/// A large folio in the swap cache, locked, and the fault that asks for its page `nth`.
struct Cached<'c, 'a, M: Machine> {
    lock: &'c FolioGuard<'a, M>,
    first: SwapEntry,
    nth: u64,
    pages: u64,
}

impl<M: Machine> Cached<'_, '_, M> {
    /// Whether the locked entry for the `nth` page asks for that page of the folio.
    fn asks<G: FaultGuard<M>>(
        &self,
        fault: &VmFault<'_, M, G>,
        entries: &PteGuard<'_, M, G>,
        va: Va,
        nth: u64,
    ) -> bool {
        let offset = self.first.offset + nth;
        let Mapped::Swap(owned, _) = entries.mapped(va) else { return false };
        // The entry owns a count, so what the slot's word says of the page stays true.
        let slots = fault.vm.swap.get(self.first).slots();
        owned.entry() == SwapEntry { offset, ..self.first }
            && slots.caches(&fault.vm.frames, offset, self.lock.folio().pfn().offset(nth))
    }

    /// The pages of the folio that are mapped at once: all, if the window asks for all of them.
    fn asked<G: FaultGuard<M>>(
        &self,
        fault: &VmFault<'_, M, G>,
        entries: &PteGuard<'_, M, G>,
        at: impl Fn(u64) -> Va,
    ) -> Range<u64> {
        let inside = fault.vma.range().intersect(entries.table().range());
        let fits = fault.va.0 >= self.nth << PAGE_SHIFT
            && inside.is_some_and(|inside| inside.covers(VaRange { start: at(0), end: at(self.pages) }));
        if fits && (0..self.pages).all(|nth| self.asks(fault, entries, at(nth), nth)) {
            return 0..self.pages;
        }
        self.nth..self.nth + 1
    }

    /// Whether the entries of all pages are the only ones that need the slots, and the slots and we the only
    /// ones that have the folio. Nobody can come, as for a single page.
    fn nobody_else_has<G>(&self, fault: &VmFault<'_, M, G>) -> bool {
        let (slots, counts) = (fault.vm.swap.get(self.first).slots(), self.lock.folio().counts());
        let one = |nth| slots.state(&fault.vm.frames, self.first.offset + nth).count == 1;
        counts.maps() == 0
            && counts.refs() == self.pages + 1
            && counts.pins() == 0
            && (0..self.pages).all(one)
    }
}

/// Maps what the entries around the fault ask for of a large folio, which is the cached one of `entry` and
/// locked.
///
/// # Errors
/// As a fault.
#[cold]
#[inline(never)]
pub(super) fn map_cached<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    entry: SwapEntry,
    page: &FolioRef<'a, M>,
    lock: &FolioGuard<'a, M>,
) -> Result<FaultResult, FaultResult> {
    let (vm, folio) = (fault.vm, lock.folio());
    let Some(first) = folio.swap_entry() else { return Err(FaultResult::Reload) };
    let (nth, pages) = (entry.offset.wrapping_sub(first.offset), folio.owned_order().pages());
    if first.device != entry.device || nth >= pages {
        return Err(FaultResult::Reload);
    }
    let cached = Cached { lock, first, nth, pages };
    let anon_vma = fault.anon_vma()?;
    let mut entries = fault.lock(fault.table()?)?;
    if !cached.asks(fault, &entries, fault.va, nth) {
        return Err(FaultResult::Reload);
    }
    // A slot that KSM had merged pages into is asked for at several places. Where one is too near the
    // beginning of a mapping's indices, the folio's first page would have none.
    if is_of_others(fault, anon_vma, folio, nth) || fault.index < nth {
        drop(entries);
        return copy_page(fault, entry, page, lock, nth);
    }
    let at = |page: u64| Va(fault.va.0.wrapping_add(page.wrapping_sub(nth) << PAGE_SHIFT));
    let asked = cached.asked(fault, &entries, at);
    let alone = asked.end - asked.start == pages && cached.nobody_else_has(fault);
    let index = fault.index.wrapping_sub(nth);
    // Others may come for pages of it, or have some.
    let stamp = if alone { anon_vma } else { Rmap::<M>::shared_stamp(vm, anon_vma) };
    if !folio.is_mapped() {
        // Whoever had it before may have had it at another place.
        lock.move_cached(stamp.raw(), index);
    }
    let mut counts = SwapRun::none(vm, SwapEntry { offset: first.offset + asked.start, ..first });
    let mut exclusive = false;
    for page in asked {
        let Mapped::Swap(_, bits) = entries.mapped(at(page)) else {
            unreachable!("just looked at, and locked")
        };
        let mine = alone || bits.sharing == Sharing::Exclusive;
        let Some(count) =
            map_nth(fault, &mut entries, &cached, (page, at(page)), (bits, mine), stamp.raw(), index)
        else {
            break;
        };
        counts.push(count);
        exclusive |= page == nth && mine;
    }
    drop(entries);
    let mapped = counts.counts().len() as i64;
    let resolved = counts.counts().has(nth.wrapping_sub(counts.first().offset - first.offset));
    drop(counts);
    page.set_idle(0);
    fault.vm.add_anon(fault.slot, mapped);
    fault.vm.add_swap(fault.slot, -mapped);
    if !resolved {
        return Err(FaultResult::Oom);
    }
    vm.count(Event::FaultSwap);
    if fault.access == FaultAccess::Write && !exclusive {
        // As for a page.
        return Err(FaultResult::Reload);
    }
    if alone && may_be_leaf(fault, folio.owned_order()) {
        return Err(Refusal::LeafIsBack.into());
    }
    Ok(FaultResult::Done)
}

/// Whether a folio that is back whole may be mapped by a leaf. The fault of a program has let go of all
/// locks a moment later.
fn may_be_leaf<M: Machine, G: FaultGuard<M>>(fault: &VmFault<'_, M, G>, order: Order) -> bool {
    order == M::Arch::LEAF_ORDER && fault.waits == Waits::Program && orders_for(fault).is_free(order.get())
}

/// Maps one page of the folio; returns the count of the slot that its entry owned. `None` if the folio has as
/// many mappings as can be counted.
fn map_nth<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    entries: &mut PteGuard<'a, M, G>,
    cached: &Cached<'_, 'a, M>,
    (nth, va): (u64, Va),
    (bits, mine): (SwapBits, bool),
    stamp: Stamp,
    index: u64,
) -> Option<anonmem_frame::SwapCount<'a, M>> {
    let sharing = if mine { Sharing::Exclusive } else { bits.sharing };
    let bits = SwapBits { sharing, ..bits };
    // Only the page that trapped is known to be in use, and to be written.
    let says = match va == fault.va {
        true => attrs(fault, bits),
        false => Attrs { young: false, ..Attrs::of(bits.into(), fault.flags.protection()) },
    };
    let replaced = if mine {
        entries.exchange(va, cached.lock.map_nth_exclusive(nth, stamp, index), says)
    } else {
        entries.exchange(va, cached.lock.map_nth_shared(nth, stamp, index).ok()?, says)
    };
    let Cleared::Swap(count, _) = replaced else { unreachable!("it was a swap entry, and is locked") };
    Some(count)
}
