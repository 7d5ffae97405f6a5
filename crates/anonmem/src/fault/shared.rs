//! Faults of shared anonymous memory: the object's page is mapped, made if need be.
//!
//! Linux: mm/memory.c `do_shared_fault`; mm/shmem.c `shmem_fault`.

use crate::{
    error::Error,
    events::Event,
    fault::vm_fault::{FaultGuard, FaultResult, VmFault},
    ids::ShmId,
    rmap::machine::Machine,
    vma::{refusal::Refusal, vma::Backing},
};
use anonmem_frame::{FolioRef, ShmMap, TooManySharers};
use anonmem_hal::Marker;
use anonmem_pgtable::{Attrs, Cleared, Mapped, PteGuard};

impl<M: Machine, G: FaultGuard<M>> VmFault<'_, M, G> {
    /// Whether the VMA maps a shared object that has the fault's page.
    pub(super) fn object_has_page(&self, backing: Backing) -> bool {
        matches!(backing, Backing::Shared(object) if self.vm.shm_has_page(object, self.index))
    }
}

/// Puts the object's page in the place of a userfaultfd's marker, and protected as that says.
#[cold]
pub(super) fn map_protected_page<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    object: ShmId,
) -> Result<FaultResult, FaultResult> {
    map_object_page(fault, object, |entries, map| {
        if !matches!(entries.mapped(fault.va), Mapped::Marker(Marker::UffdWp)) {
            return Err(map);
        }
        let attrs = fault.attrs_of_content();
        let attrs = Attrs { prot: attrs.prot.write_protected(), uffd_wp: true, ..attrs };
        let replaced = entries.exchange(fault.va, map, attrs);
        let Cleared::Marker(_) = replaced else { unreachable!("it was a marker") };
        Ok(())
    })
}

/// Fills the empty entry of a VMA that maps a shared object.
pub(super) fn do_shared_fault<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    object: ShmId,
) -> Result<FaultResult, FaultResult> {
    map_object_page(fault, object, |entries, map| {
        if !entries.is_none(fault.va) {
            return Err(map);
        }
        entries.install(fault.va, map, fault.attrs_of_content());
        Ok(())
    })
}

/// Has `install` put a mapping of the object's page into the entry, under its lock, and counts it. If the
/// entry has changed, `install` gives the mapping back, and the fault looks again.
#[inline(always)]
fn map_object_page<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    object: ShmId,
    install: impl FnOnce(&mut PteGuard<'a, M, G>, ShmMap<'a, M>) -> Result<(), ShmMap<'a, M>>,
) -> Result<FaultResult, FaultResult> {
    fault.guard.sleeps(Refusal::Backing)?;
    let table = fault.table()?;
    let page = object_page(fault, object)?;
    let map = page.map_shm(0).map_err(|TooManySharers| FaultResult::Oom)?;
    let mut entries = fault.lock(table)?;
    let installed = install(&mut entries, map);
    // The lock goes first: no count is put under it.
    drop(entries);
    installed.map_err(|_| FaultResult::Reload)?;
    fault.vm.add_shared(fault.slot, 1);
    fault.vm.count(Event::FaultShared);
    Ok(FaultResult::Done)
}

/// The object's page, made if need be.
fn object_page<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    object: ShmId,
) -> Result<FolioRef<'a, M>, FaultResult> {
    match fault.vm.shm_page(object, fault.index, fault.node_policy().unwrap_or_default()) {
        Ok(page) => Ok(page),
        Err(Error::BadAddress | Error::Io | Error::Limit(_)) => Err(FaultResult::Bus),
        Err(Error::NodesFull(nodes)) => Err(FaultResult::NodesFull(nodes)),
        Err(_) => Err(FaultResult::Oom),
    }
}
