//! The first touch of an anonymous page.
//!
//! A read gets the zero page, a write a page of zeroes that is exclusive from the start.
//!
//! Locks: the fault's guard. Memory is allocated and zeroed before the page-table lock is taken; then the entry must
//! still be empty, or somebody else was faster.
//!
//! Linux: mm/memory.c `do_anonymous_page`. Differs: no userfaultfd, one page at a time.

use super::{FaultAccess, FaultGuard, FaultResult, VmFault};
use crate::events::Event;
use anonmem_hal::{Machine, Pte};

/// Fills the empty entry of an anonymous VMA.
pub(super) fn do_anonymous_page<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
) -> Result<FaultResult, FaultResult> {
    match fault.access {
        FaultAccess::Read | FaultAccess::Exec => map_zero_page(fault),
        FaultAccess::Write => map_new_page(fault),
    }
}

fn map_zero_page<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
) -> Result<FaultResult, FaultResult> {
    let mut entries = fault.lock(fault.table()?)?;
    if entries.get(fault.va) != Pte::None {
        return Err(FaultResult::Reload);
    }
    entries.install_zero(fault.va, fault.flags.protection());
    fault.vm.count(Event::FaultZeroPage);
    Ok(FaultResult::Done)
}

fn map_new_page<M: Machine, G: FaultGuard<M>>(fault: &VmFault<'_, M, G>) -> Result<FaultResult, FaultResult> {
    let anon_vma = fault.anon_vma()?;
    let table = fault.table()?;
    let new = fault.alloc()?;
    new.zero();
    let mut entries = fault.lock(table)?;
    if entries.get(fault.va) != Pte::None {
        return Err(FaultResult::Reload);
    }
    let page = new.into_exclusive_anon(anon_vma.raw(), fault.index);
    entries.install(fault.va, page, fault.attrs());
    drop(entries);
    fault.slot.add_anon(1);
    fault.vm.count(Event::FaultAnon);
    Ok(FaultResult::Done)
}
