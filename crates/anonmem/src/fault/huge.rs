//! Faults that take a large folio: the first write, a write over the zero page, and populating.
//!
//! The largest order wins that the policy allows, whose aligned window lies in the VMA and is empty. Each
//! order that does not is counted with its reason, and the next smaller one is asked. If none is left, the
//! fault goes on with a single page. Memory for a folio is never made by reclaim: it is there, or a smaller
//! one will do.
//!
//! A folio of a leaf's size is mapped by one leaf where no table is yet ([`map_leaf`]). Else a run of entries
//! maps it, like the others: a table that is there stays, because other faults may be using it.
//!
//! The window is looked at twice: without the lock, to choose; and under the lock. Another thread may have
//! filled a part of it while the folio was zeroed (`thp-range-no-longer-empty`).
//!
//! A write to a shared page of a large folio asks two questions, in this order. *Are all of its mappings
//! ours?* Then all of its pages become exclusive at once ([`reuse_run`]). *Which aligned part of it is mapped
//! here, and alike?* The largest such part is copied into a folio of its own ([`copy_run`]). A page that is
//! exclusive already is never replaced: a batch of entries is exclusive as a whole or not at all.
//!
//! Locks: the fault's guard. The page-table lock is taken after the folio was zeroed.
//!
//! Linux: mm/memory.c `alloc_anon_folio`, `do_anonymous_page`. Differs: a window may have been read before.
//! Only the page that trapped is marked accessed and dirty, so that what was never touched can be told.

use crate::{
    cpu::PageKind,
    events::Event,
    fault::leaf::map_new_leaf,
    fault::vm_fault::{FaultAccess, FaultGuard, FaultResult, VmFault},
    rmap::machine::Machine,
    thp::{mode::ThpDisable, policy::Orders, stats::FolioEvent},
    vma::refusal::Refusal,
};
use anonmem_frame::{FolioOwner, FolioRef, MapRun, Mapping, NewFolio};
use anonmem_hal::{Arch, FlushRange, Order, PAGE_SHIFT, Pte, Va, VaRange};
use anonmem_pgtable::{Attrs, Batch, Cleared, Mapped, PteGuard, PteTable, Teardown, Writes};

/// The largest order that a fault without a VMA lock zeroes: longer, and others wait for its read section.
const MAX_SPECULATIVE: u8 = 4;

/// Of all pages of an address space, one in so many may be one that `auto` has mapped and nobody has touched:
/// what is allocated is at most 1.1 times what is touched.
const UNTOUCHED_SHARE: u64 = 11;

/// The largest part of a folio that one write copies: 64 KiB.
const MAX_COPY: u8 = 4;

/// Who wants pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// A program that touched one page.
    Touch,
    /// A program that wants all pages up to an address: none of them is a guess.
    All(Va),
}

impl Want {
    /// Whether all pages of `window`, which `va` lies in, may come at once.
    fn all_of(self, va: Va, window: VaRange) -> bool {
        match self {
            Self::Touch => true,
            Self::All(end) => window.start >= va && window.end <= end,
        }
    }
}

/// What became of a write to the zero page, or to a page of a large folio.
pub(super) enum Large<'a, M: Machine, G> {
    /// It is resolved.
    Done,
    /// A page has to be copied, whose entry is locked.
    OnePage(PteGuard<'a, M, G>),
}

/// The orders that the policy allows the fault.
pub(super) fn orders_for<M: Machine, G: FaultGuard<M>>(fault: &VmFault<'_, M, G>) -> Orders {
    let disable = ThpDisable::decode(fault.slot.thp_disable.load(anonmem_sync::Ordering::Relaxed));
    fault.vm.folio_policy.orders(disable, fault.flags)
}

/// The aligned window of 2^`order` pages around `va`.
pub(super) fn window(va: Va, order: u8) -> VaRange {
    let bytes = 1 << (PAGE_SHIFT + u32::from(order));
    let start = va.align_down(bytes);
    VaRange { start, end: Va(start.0 + bytes) }
}

/// Fills the window around the fault's address by one leaf, where there is no table yet and the policy allows
/// its size; `None` if a table is to be made. What is refused here is asked again of the table, and counted
/// there.
///
/// `auto` takes no leaves. A leaf has one accessed bit, so that nobody could tell what was never touched.
///
/// # Errors
/// As a fault.
#[cold]
#[inline(never)]
pub(super) fn map_leaf<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    want: Want,
) -> Result<Option<VaRange>, FaultResult> {
    let order = M::Arch::LEAF_ORDER.get();
    if !orders_for(fault).is_free(order) || !want.all_of(fault.va, window(fault.va, order)) {
        return Ok(None);
    }
    let filled = map_new_leaf(fault)?;
    if filled.is_some() && want == Want::Touch {
        fault.vm.clock.note_untouched();
    }
    Ok(filled)
}

/// Fills the window around the fault's address with a large folio; `None` if there can be none, and a page
/// will do.
///
/// # Errors
/// As a fault.
#[cold]
#[inline(never)]
pub(super) fn map_large_folio<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    table: PteTable<'a, M, G>,
    want: Want,
) -> Result<Option<VaRange>, FaultResult> {
    let vm = fault.vm;
    let orders = orders_for(fault);
    if orders.is_empty() {
        return Ok(None);
    }
    let Some((new, range)) = choose(fault, table, orders, want)? else { return Ok(None) };
    let anon_vma = fault.anon_vma()?;
    let order = new.order();
    new.zero();
    let mut entries = fault.lock(table)?;
    if entries.next_used(range) != range.end {
        if !entries.is_vacant(range) {
            vm.count_folio(order, FolioEvent::FaultRaced);
            return Err(FaultResult::Reload);
        }
        forget_zero_pages(fault, &mut entries, range);
    }
    let behind = (fault.va.0 - range.start.0) >> PAGE_SHIFT;
    let pages = new.into_exclusive_anon_pages(anon_vma.raw(), fault.index - behind);
    let touched = fault.attrs();
    let untouched = match want {
        Want::Touch => {
            vm.clock.note_untouched();
            Attrs { young: false, dirty: false, ..touched }
        }
        Want::All(_) => touched,
    };
    entries.install_pages(range.start, pages, untouched, Some((fault.va, touched)));
    drop(entries);
    if want == Want::Touch && !orders.is_free(order.get()) {
        let (mine, left) = (pages_of(fault), |window| self::touched(fault, window).1);
        fault.slot.guesses.note(range.start, order.get(), mine, left);
    }
    fault.vm.add_anon(fault.slot, range.pages().0 as i64);
    vm.count_folio(order, FolioEvent::FaultAlloc);
    Ok(Some(range))
}

/// The folio and its window: the largest that may be had.
fn choose<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    table: PteTable<'a, M, G>,
    orders: Orders,
    want: Want,
) -> Result<Option<(NewFolio<'a, M>, VaRange)>, FaultResult> {
    let vm = fault.vm;
    for order in (1..=orders.largest()).rev().filter(|&order| orders.has(order)) {
        let range = window(fault.va, order);
        let size = Order::new(order);
        match refusal(fault, table, range, orders.is_free(order), want) {
            Some(why) => vm.count_folio(size, why),
            None if order > MAX_SPECULATIVE && fault.guard.sleeps(Refusal::WouldSleep).is_err() => {
                vm.count_folio(size, FolioEvent::RefusedSpeculative);
                return Err(Refusal::WouldSleep.into());
            }
            None => match fault.alloc_block(size) {
                Ok(new) => return Ok(Some((new, range))),
                Err(_) => vm.count_folio(size, FolioEvent::FallbackMemory),
            },
        }
    }
    Ok(None)
}

/// Why the window is not filled by one folio.
fn refusal<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    table: PteTable<'a, M, G>,
    range: VaRange,
    is_free: bool,
    want: Want,
) -> Option<FolioEvent> {
    let mapped = fault.vma.range();
    let inside = |all: VaRange| range.start >= all.start && range.end <= all.end;
    if !inside(mapped) || !inside(table.range()) || !want.all_of(fault.va, range) {
        return Some(FolioEvent::FallbackVma);
    }
    if !table.is_vacant(range) {
        return Some(FolioEvent::FallbackUsed);
    }
    match want {
        Want::Touch if !is_free => unproven(fault, range),
        Want::Touch | Want::All(_) => None,
    }
}

/// Why `auto` does not take a folio for `range`: nobody pays for a page that was not touched.
///
/// The window beside it, of the same size, must have been written, but for an eighth: the program works its
/// way along here. And of all pages, only a share may be untouched: those of this folio until they are
/// written, and those of the folios before it that were not written yet.
fn unproven<M: Machine, G: FaultGuard<M>>(fault: &VmFault<'_, M, G>, range: VaRange) -> Option<FolioEvent> {
    let (pages, bytes, mine) = (range.pages().0, range.len(), pages_of(fault));
    // A program that stops here has touched one page of it. What it has in all pays for the rest.
    let fits = |before: u64| (before + pages - 1) * UNTOUCHED_SHARE <= mine + pages;
    if !fits(0) {
        return Some(FolioEvent::FallbackBound);
    }
    let in_use = |start: Option<u64>| {
        let start = Va(start?);
        let beside = VaRange { start, end: Va(start.0.checked_add(bytes)?) };
        let (written, _) = touched(fault, beside);
        Some(written * 8 >= pages * 7)
    };
    let below = in_use(range.start.0.checked_sub(bytes));
    if below != Some(true) && in_use(Some(range.end.0)) != Some(true) {
        return Some(FolioEvent::FallbackUnproven);
    }
    let before = fault.slot.guesses.outstanding(mine, |window| touched(fault, window).1);
    (!fits(before)).then_some(FolioEvent::FallbackBound)
}

/// The anonymous pages of the fault's address space.
fn pages_of<M: Machine, G: FaultGuard<M>>(fault: &VmFault<'_, M, G>) -> u64 {
    fault.vm.pages_about(fault.slot, PageKind::Anon)
}

/// How many pages of `range` are mapped and were written, and how many are mapped and were not; none of
/// either if the fault's VMA does not have all of it.
fn touched<M: Machine, G: FaultGuard<M>>(fault: &VmFault<'_, M, G>, range: VaRange) -> (u64, u64) {
    if !fault.vma.range().covers(range) {
        return (0, 0);
    }
    let (mut written, mut untouched) = (0, 0);
    for (found, part) in fault.slot.space.parts(&fault.vm.frames, fault.guard, range) {
        for va in part.iter_pages() {
            match found.peek(va) {
                Pte::Present(present) if present.special => {}
                Pte::Present(present) if present.dirty => written += 1,
                Pte::Present(_) => untouched += 1,
                Pte::None | Pte::Soft(_) => {}
            }
        }
    }
    (written, untouched)
}

/// Takes the zero page out of the entries of a window that is not empty, and makes all CPUs forget it, before
/// anything else is mapped there.
fn forget_zero_pages<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    entries: &mut PteGuard<'a, M, G>,
    range: VaRange,
) {
    for va in range.iter_pages() {
        if matches!(entries.mapped(va), Mapped::Zero(_)) {
            let Cleared::Zero(_) = entries.clear(va) else {
                unreachable!("it was the zero page, and is locked")
            };
        }
    }
    fault.slot.space.flush(&fault.vm.frames, FlushRange::Range(range));
    fault.vm.count(Event::TlbFlush);
}

/// Resolves a write over the zero page: with a large folio if nothing but the zero page is mapped around it.
///
/// # Errors
/// As a fault.
#[cold]
#[inline(never)]
pub(super) fn do_wp_zero<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    entries: PteGuard<'a, M, G>,
) -> Result<Large<'a, M, G>, FaultResult> {
    let table = entries.table();
    // Mappings of a source have no zero page; those of an object fill their entries otherwise.
    let snapshot = entries.unlock(fault.va);
    if fault.access == FaultAccess::Write && map_large_folio(fault, table, Want::Touch)?.is_some() {
        fault.vm.count(Event::FaultZeroUpgrade);
        return Ok(Large::Done);
    }
    let entries = fault.relock(snapshot)?;
    if !matches!(entries.mapped(fault.va), Mapped::Zero(_)) {
        return Err(FaultResult::Reload);
    }
    Ok(Large::OnePage(entries))
}

/// Resolves a write to a shared page of a large folio, or makes it the entry's own for a pin.
///
/// # Errors
/// As a fault.
#[cold]
#[inline(never)]
pub(super) fn do_wp_large<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    mut entries: PteGuard<'a, M, G>,
) -> Result<Large<'a, M, G>, FaultResult> {
    if reuse_run(fault, &mut entries) {
        fault.vm.count(Event::FaultCowReuse);
        return Ok(Large::Done);
    }
    let Some((seen, new)) = choose_copy(fault, &entries) else {
        let Mapped::Shared(page, _) = entries.mapped(fault.va) else { return Err(FaultResult::Reload) };
        if page.folio().is_likely_alone() {
            // When the copy is mapped, nobody may map the page that was copied.
            fault.vm.frames.set_partly_mapped_hint();
        }
        return Ok(Large::OnePage(entries));
    };
    copy_run(fault, entries, seen, new)?;
    Ok(Large::Done)
}

/// Where the entries of the fault's VMA and table are. Without a lock, the VMA may have left the fault's
/// address: then the entry there is not found among them, and nothing but its page is copied.
fn within<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    table: PteTable<'a, M, G>,
) -> Option<VaRange> {
    fault.vma.range().intersect(table.range())
}

/// Takes the whole folio for this VMA's own, if nobody else has any of it. The entries of all of its pages
/// become writable that a write may make so; returns whether they are ours.
fn reuse_run<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    entries: &mut PteGuard<'a, M, G>,
) -> bool {
    let found = (entries.mapped(fault.va), within(fault, entries.table()), fault.anon_vma);
    // A VMA that maps a shared page has an anon_vma; only what was read of it may be older.
    let (Mapped::Shared(page, _), Some(within), Some(anon_vma)) = found else { return false };
    let folio = page.folio();
    // Under a page-table lock it may only be tried; if it is taken, copying is always right.
    let Some(lock) = page.try_lock() else { return false };
    // Nothing is lost by it: CPUs that keep the read-only translation trap, and find the entry.
    let writable = (fault.writes() == Writes::Yes).then(|| fault.flags.protection());
    if !entries.reuse_folio(fault.va, within, &lock, anon_vma.raw(), writable) {
        return false;
    }
    drop(lock);
    fault.upgrade(entries);
    fault.vm.count_folio(folio.order(), FolioEvent::ReuseRun);
    true
}

/// The entries of the largest aligned part of the folio around the fault that is copied at once, and where
/// to; `None` if that is one page.
fn choose_copy<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    entries: &PteGuard<'a, M, G>,
) -> Option<(Batch, NewFolio<'a, M>)> {
    let vm = fault.vm;
    let within = within(fault, entries.table())?;
    let Mapped::Shared(page, _) = entries.mapped(fault.va) else { return None };
    let folio = page.folio();
    let orders = orders_for(fault);
    let most = orders.largest().min(MAX_COPY).min(folio.order().get());
    for order in (1..=most).rev().filter(|&order| orders.has(order)) {
        let (size, range) = (Order::new(order), window(fault.va, order));
        let inside = range.start >= within.start && range.end <= within.end;
        let window = if inside && !folio.maybe_pinned() { entries.shared_window(range) } else { None };
        // Under the page-table lock: what is at hand is taken, and nobody waits for more.
        match window.map(|batch| (batch, fault.alloc_block(size))) {
            Some((batch, Ok(new))) => return Some((batch, new)),
            Some((_, Err(_))) | None => vm.count_folio(size, FolioEvent::CopyFallback),
        }
    }
    None
}

/// Replaces the pages of a window, whose entries are `seen`, by copies of our own, in one folio.
///
/// As for a single page: the old translations are flushed before the new entries are there.
fn copy_run<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    entries: PteGuard<'a, M, G>,
    seen: Batch,
    new: NewFolio<'a, M>,
) -> Result<FaultResult, FaultResult> {
    let anon_vma = fault.anon_vma()?;
    let Mapped::Shared(page, _) = entries.mapped(fault.va) else { return Err(FaultResult::Reload) };
    // Keeps the folio while it is copied, and keeps others from reusing it.
    let old: FolioRef<'a, M> = page.get();
    let merged = matches!(old.folio().mapping(), Mapping::Ksm(_));
    let (range, seen) = (seen.range(), seen.present());
    let first = seen.pfn;
    let snapshot = entries.unlock(fault.va);
    new.copy_pages_from(first);
    let mut entries = fault.relock(snapshot)?;
    // Every entry is asked again: one may have become exclusive, and be pinned or written, or be gone.
    let still = entries.shared_window(range).is_some_and(|batch| batch.present().pfn == first);
    if !still {
        return Err(FaultResult::Reload);
    }
    let Cleared::Shared(map, _) = entries.clear(range.start) else {
        unreachable!("just looked at, and locked")
    };
    let mut run = MapRun::from(map);
    let cleared = entries.clear_on(&mut run, range, Teardown::Range).end;
    assert!(cleared == range.end, "a window of one batch was cleared in part");
    fault.slot.space.flush(&fault.vm.frames, FlushRange::Range(range));
    fault.vm.count(Event::TlbFlush);
    let order = new.order();
    let behind = (fault.va.0 - range.start.0) >> PAGE_SHIFT;
    let pages = new.into_exclusive_anon_pages(anon_vma.raw(), fault.index - behind);
    entries.install_pages(range.start, pages, fault.attrs_of_copy(seen), None);
    drop(entries);
    drop((run.unmap(), old));
    fault.vm.count(fault.access.copied());
    fault.vm.events.add(Event::CowKsm, if merged { range.pages().0 } else { 0 });
    fault.vm.count_folio(order, FolioEvent::CopyRun);
    Ok(FaultResult::Done)
}
