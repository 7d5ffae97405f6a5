//! Faults of shared anonymous memory: the object's page is mapped, made if need be.
//!
//! Linux: mm/memory.c `do_shared_fault`; mm/shmem.c `shmem_fault`.

use crate::{
    error::Error,
    events::Event,
    fault::vm_fault::{FaultGuard, FaultResult, VmFault},
    ids::ShmId,
    vma::refusal::Refusal,
};
use anonmem_frame::TooManySharers;
use anonmem_hal::{Machine, Pte};

/// Fills the empty entry of a VMA that maps a shared object.
pub(super) fn do_shared_fault<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    object: ShmId,
) -> Result<FaultResult, FaultResult> {
    fault.guard.sleeps(Refusal::Backing)?;
    let table = fault.table()?;
    let page = match fault.vm.shm_page(object, fault.index) {
        Ok(page) => page,
        Err(Error::BadAddress | Error::Limit(_)) => return Err(FaultResult::Bus),
        Err(_) => return Err(FaultResult::Oom),
    };
    let map = page.map_shm(0).map_err(|TooManySharers| FaultResult::Oom)?;
    let mut entries = fault.lock(table)?;
    if entries.get(fault.va) != Pte::None {
        // The lock goes first, declared last: no count is put under it.
        return Err(FaultResult::Reload);
    }
    entries.install(fault.va, map, fault.attrs());
    drop(entries);
    fault.slot.add_shared(1);
    fault.vm.count(Event::FaultShared);
    Ok(FaultResult::Done)
}
