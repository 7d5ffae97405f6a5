//! A page that comes back from swap to some of those who want it, and as a copy to the others.
//!
//! Locks: as in `fault/swap.rs`.
//!
//! Linux: mm/ksm.c `ksm_might_need_to_copy`.

use crate::{
    events::Event,
    fault::vm_fault::{FaultAccess, FaultGuard, FaultResult, VmFault},
    rmap::machine::Machine,
    rmap::{
        Rmap,
        reverse_map::{ReverseMap, Stamp},
    },
    swap::slot::SwapRef,
};
use anonmem_frame::{Folio, FolioGuard, FolioOwner, FolioRef, Mapping};
use anonmem_hal::{Sharing, SwapBits, SwapEntry};
use anonmem_pgtable::{Attrs, Cleared, Mapped, PteGuard};

/// Whether others map the cached folio, of which we want the `nth` page, and could not be found together with
/// us. A slot has entries of several families, or at several indices, if KSM had merged the page before it
/// left.
#[doc(alias = "ksm_might_need_to_copy")]
pub(super) fn is_of_others<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    ours: Stamp,
    folio: Folio<'_, M>,
    nth: u64,
) -> bool {
    if folio.counts().maps() == 0 {
        return false;
    }
    match folio.mapping() {
        // Mapped, so that what it is stamped with lives.
        Mapping::Anon(theirs) => {
            !Rmap::<M>::is_related(fault.vm, theirs, ours) || folio.index() != fault.index.wrapping_sub(nth)
        }
        // A copy is right for whoever asks.
        Mapping::Ksm(_) | Mapping::None | Mapping::Shm(_) => true,
    }
}

/// Gives the entry a copy of the `nth` page of a cached folio that others map, who are not to be found
/// together with it.
///
/// No memory is reclaimed for it: the page is locked. Without a page the fault is short of memory, and comes
/// again when some was freed.
#[cold]
pub(super) fn copy_page<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    entry: SwapEntry,
    page: &FolioRef<'_, M>,
    lock: &FolioGuard<'_, M>,
    nth: u64,
) -> Result<FaultResult, FaultResult> {
    let anon_vma = fault.anon_vma()?;
    let new = fault.vm.try_alloc_page()?;
    new.copy_from(lock.folio().pfn().offset(nth));
    let mut entries = fault.lock(fault.table()?)?;
    let Mapped::Swap(owned, bits) = entries.mapped(fault.va) else {
        return Err(FaultResult::Reload);
    };
    // As before: under both locks. What is shared and mapped is written by nobody, so the copy is good.
    if owned.entry() != entry || !fault.vm.swap_caches(entry, lock.folio()) {
        return Err(FaultResult::Reload);
    }
    let map = new.into_exclusive_anon(anon_vma.raw(), fault.index);
    let says = attrs(fault, SwapBits { sharing: Sharing::Exclusive, ..bits });
    let replaced = entries.exchange(fault.va, map, says);
    finish(fault, entries, replaced, page);
    fault.vm.count(Event::KsmSwapinCopy);
    Ok(FaultResult::Done)
}

/// What the entry says of the page, which memory alone has now. A write to a page of ours alone, for which
/// the fault came, makes it soft-dirty at once.
pub(super) fn attrs<M: Machine, G: FaultGuard<M>>(fault: &VmFault<'_, M, G>, bits: SwapBits) -> Attrs {
    let written = fault.access == FaultAccess::Write && bits.sharing == Sharing::Exclusive;
    let bits = SwapBits { soft_clean: bits.soft_clean && !written, ..bits };
    Attrs::of(bits.into(), fault.flags.protection())
}

/// Drops our entry's count of the slot; the last one takes the page out of the cache.
pub(super) fn finish<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    entries: PteGuard<'a, M, G>,
    replaced: Cleared<'a, M>,
    page: &FolioRef<'_, M>,
) {
    let Cleared::Swap(count, _) = replaced else { unreachable!("it was a swap entry, and is locked") };
    drop(SwapRef::own(fault.vm, count));
    drop(entries);
    page.set_idle(0);
    fault.vm.add_anon(fault.slot, 1);
    fault.vm.add_swap(fault.slot, -1);
    fault.vm.count(Event::FaultSwap);
}
