//! The first touch of a page that is filled from a source: a file, an ELF segment.
//!
//! From then on the page is anonymous like any other, and exclusive.
//!
//! Locks: the fault's guard. Filling may sleep; it happens before the page-table lock is taken.
//!
//! Linux: mm/memory.c `do_cow_fault`, `do_read_fault`. Differs: no page cache, so that reading gives every
//! process a page of its own.

use crate::{
    events::Event,
    fault::vm_fault::{FaultGuard, FaultResult, VmFault},
    rmap::machine::Machine,
    vma::refusal::Refusal,
};
use anonmem_frame::ANON_INDEXES;
use anonmem_hal::{PAGE_SHIFT, SourceError, SourceId};

/// Fills the empty entry of a VMA with a source.
pub(super) fn do_source_fault<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    source: SourceId,
) -> Result<FaultResult, FaultResult> {
    fault.guard.sleeps(Refusal::Backing)?;
    // A page's metadata has no room for a larger index. A mapping may begin at any offset, and its last pages
    // may lie beyond the largest.
    if fault.index >= ANON_INDEXES {
        return Err(FaultResult::Bus);
    }
    let anon_vma = fault.anon_vma()?;
    let table = fault.table()?;
    let new = fault.alloc()?;
    new.fill_from(source, fault.index << PAGE_SHIFT).map_err(|SourceError| FaultResult::Bus)?;
    let mut entries = fault.lock(table)?;
    if !entries.is_none(fault.va) {
        return Err(FaultResult::Reload);
    }
    let page = new.into_exclusive_anon(anon_vma.raw(), fault.index);
    entries.install(fault.va, page, fault.attrs_of_content());
    drop(entries);
    fault.vm.add_anon(fault.slot, 1);
    fault.vm.count(Event::FaultSource);
    Ok(FaultResult::Done)
}
