//! The first touch of an anonymous page.
//!
//! A read gets the zero page, a write a page of zeroes that is exclusive from the start.
//!
//! Locks: the fault's guard. Memory is allocated and zeroed before the page-table lock is taken; then the
//! entry must still be empty, or somebody else was faster.
//!
//! Linux: mm/memory.c `do_anonymous_page`. Differs: populating makes pages in runs.

use crate::{
    events::Event,
    fault::huge::{Want, map_large_folio, map_leaf},
    fault::vm_fault::{FaultAccess, FaultGuard, FaultResult, VmFault},
    rmap::machine::Machine,
};
use anonmem_frame::NewFolio;
use anonmem_hal::{Marker, PAGE_SHIFT, Pte, Va};
use anonmem_pgtable::{Cleared, Mapped, PteTable};

/// The most pages that [`fill_run`] makes at once.
const RUN: usize = 16;

/// Fills the empty entry of an anonymous VMA, in `table` if the walk found one.
pub(super) fn do_anonymous_page<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    table: Option<PteTable<'a, M, G>>,
) -> Result<FaultResult, FaultResult> {
    match fault.access {
        FaultAccess::Read | FaultAccess::Exec | FaultAccess::Unshare => map_zero_page(fault, table),
        FaultAccess::Write => map_new_page(fault, table),
    }
}

fn map_zero_page<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    table: Option<PteTable<'a, M, G>>,
) -> Result<FaultResult, FaultResult> {
    let mut entries = fault.lock(fault.found_or_made(table)?)?;
    if !entries.is_none(fault.va) {
        return Err(FaultResult::Reload);
    }
    entries.install_zero(fault.va, fault.flags.protection());
    fault.vm.count(Event::FaultZeroPage);
    Ok(FaultResult::Done)
}

/// Puts the zero page in the place of a userfaultfd's marker, and protected as that says.
#[cold]
pub(super) fn map_protected_zero_page<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    table: PteTable<'a, M, G>,
) -> Result<FaultResult, FaultResult> {
    let mut entries = fault.lock(table)?;
    if !matches!(entries.mapped(fault.va), Mapped::Marker(Marker::UffdWp)) {
        return Err(FaultResult::Reload);
    }
    let Cleared::Marker(_) = entries.clear(fault.va) else { unreachable!("it was a marker") };
    entries.install_zero(fault.va, fault.flags.protection());
    entries.uffd_wp(fault.va);
    fault.vm.count(Event::FaultZeroPage);
    Ok(FaultResult::Done)
}

fn map_new_page<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    table: Option<PteTable<'a, M, G>>,
) -> Result<FaultResult, FaultResult> {
    let anon_vma = fault.anon_vma()?;
    let large = fault.vm.folio_policy.is_on();
    if large && table.is_none() && map_leaf(fault, Want::Touch)?.is_some() {
        fault.vm.count(Event::FaultAnon);
        return Ok(FaultResult::Done);
    }
    let table = fault.found_or_made(table)?;
    if large && map_large_folio(fault, table, Want::Touch)?.is_some() {
        fault.vm.count(Event::FaultAnon);
        return Ok(FaultResult::Done);
    }
    let new = fault.alloc()?;
    new.zero();
    let mut entries = fault.lock(table)?;
    if !entries.is_none(fault.va) {
        return Err(FaultResult::Reload);
    }
    let page = new.into_exclusive_anon(anon_vma.raw(), fault.index);
    entries.install(fault.va, page, fault.attrs());
    drop(entries);
    fault.vm.add_anon(fault.slot, 1);
    fault.vm.count(Event::FaultAnon);
    Ok(FaultResult::Done)
}

/// Does at once what write faults of the following pages would do one by one: fills empty entries from the
/// fault's address on, as far as they are in one table, before `end` and at most [`RUN`]. Returns how many
/// pages that were; 0 if the first entry is in use, or somebody else was faster.
///
/// All pages are allocated before any is zeroed: a locked instruction waits for the stores before it.
///
/// # Errors
/// As a fault, if not even one page can be had.
pub(crate) fn fill_run<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    end: Va,
) -> Result<u64, FaultResult> {
    let anon_vma = fault.anon_vma()?;
    let large = fault.vm.folio_policy.is_on();
    if large
        && fault.slot.space.walk(&fault.vm.frames, fault.guard, fault.va).is_none()
        && let Some(filled) = map_leaf(fault, Want::All(end))?
    {
        fault.vm.count(Event::FaultAnon);
        return Ok(filled.pages().0);
    }
    let table = fault.table()?;
    let end = end.min(table.range().end);
    if large && let Some(filled) = map_large_folio(fault, table, Want::All(end))? {
        fault.vm.count(Event::FaultAnon);
        return Ok(filled.pages().0);
    }
    let address = |i: usize| Va(fault.va.0 + ((i as u64) << PAGE_SHIFT));
    let is_free = |i: usize| address(i) < end && matches!(table.peek(address(i)), Pte::None);
    let wanted = (0..RUN).take_while(|&i| is_free(i)).count();
    let mut pages: [Option<NewFolio<'_, M>>; RUN] = [const { None }; RUN];
    let policy = fault.node_policy();
    for (nth, page) in (0..).zip(&mut pages[..wanted]) {
        match fault.alloc_nth(policy, nth) {
            Ok(new) => *page = Some(new),
            Err(FaultResult::Oom | FaultResult::NodesFull(_)) if nth > 0 => break,
            Err(why) => return Err(why),
        }
    }
    pages.iter().flatten().for_each(NewFolio::zero);
    let mut entries = fault.lock(table)?;
    let mut filled = 0;
    for (i, page) in pages.iter_mut().enumerate() {
        if page.is_none() || !entries.is_none(address(i)) {
            break;
        }
        if let Some(page) = page.take() {
            let page = page.into_exclusive_anon(anon_vma.raw(), fault.index + i as u64);
            entries.install(address(i), page, fault.attrs());
            filled += 1;
        }
    }
    drop(entries);
    fault.vm.add_anon(fault.slot, filled as i64);
    fault.vm.events.add(Event::FaultAnon, filled);
    Ok(filled)
}
