//! Faults on pages that were swapped out.
//!
//! The page is found in the swap cache or read into it. Then, with the folio lock and the page-table lock
//! held, everything is asked again. Is the entry the same, and is this folio still the cached page of its
//! slot? The entry alone does not say. While the fault slept, another thread may have swapped the page in and
//! changed it. The page may have left to the same slot again. Then the slot has another cached page, or none.
//!
//! A page comes back exclusive if its entry says so, or if this entry is all that needs it. If nobody else
//! does, it leaves the swap cache and its slot is freed. It is dirty then, because memory is the only place
//! that has it.
//!
//! The page of a slot that KSM had merged pages into comes back to the first of its families. Each of the
//! others gets a copy, which may be merged again.
//!
//! Locks: the fault's guard; takes the folio lock, then the page-table lock.
//!
//! Linux: mm/memory.c `do_swap_page`, `should_try_to_free_swap`. Differs: no read-ahead (docs/swap.md has the
//! measurement); the slot is freed as soon as its last entry is gone.

use crate::{
    events::Event,
    fault::swap_copy::{attrs, copy_page, finish, is_of_others},
    fault::swap_run::{map_cached, read_run},
    fault::vm_fault::{FaultAccess, FaultGuard, FaultResult, VmFault},
    rmap::machine::Machine,
    rmap::{Rmap, reverse_map::ReverseMap},
    swap::{cache::SwapIn, slot::SwapRef},
    vma::refusal::Refusal,
};
use anonmem_frame::{FolioGuard, FolioOwner, FolioRef, TooManySharers};
use anonmem_hal::{IoError, Marker, Sharing, SoftLeaf, SwapBits, SwapEntry};
use anonmem_pgtable::{Cleared, Mapped};
use anonmem_sync::yield_now;

/// Brings back the page of a swap entry.
pub(super) fn do_swap_page<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    leaf: SoftLeaf,
    entry: SwapEntry,
) -> Result<FaultResult, FaultResult> {
    // Without it the device could go away, and its slots with it, while we look.
    let Some(_user) = fault.vm.swap_user(entry) else {
        // Swapoff has brought the page back, or lets the device be used once more. It may be a task of this
        // CPU.
        fault.guard.sleeps(Refusal::WouldSleep)?;
        yield_now::<M>();
        return Err(FaultResult::Reload);
    };
    let page = get_page(fault, leaf, entry)?;
    let lock = lock_page(fault, &page)?;
    if !fault.vm.swap_caches(entry, lock.folio()) {
        return Err(FaultResult::Reload);
    }
    if lock.folio().is_large() {
        return map_cached(fault, entry, &page, &lock);
    }
    let anon_vma = fault.anon_vma()?;
    let mut entries = fault.lock(fault.table()?)?;
    let Mapped::Swap(owned, bits) = entries.mapped(fault.va) else {
        return Err(FaultResult::Reload);
    };
    // Under both locks: our entry owns a count, so what the slot's word says of the page stays true.
    if owned.entry() != entry || !fault.vm.swap_caches(entry, lock.folio()) {
        return Err(FaultResult::Reload);
    }
    let exclusive = bits.sharing == Sharing::Exclusive || nobody_else_has(fault, entry, &page);
    if !exclusive && is_of_others(fault, anon_vma, lock.folio(), 0) {
        drop(entries);
        return copy_page(fault, entry, &page, &lock, 0);
    }
    let replaced = if exclusive {
        let map = lock.map_exclusive(anon_vma.raw(), fault.index);
        entries.exchange(fault.va, map, attrs(fault, SwapBits { sharing: Sharing::Exclusive, ..bits }))
    } else {
        let root = Rmap::<M>::shared_stamp(fault.vm, anon_vma);
        let map = lock.map_shared(root.raw(), fault.index).map_err(|TooManySharers| FaultResult::Oom)?;
        entries.exchange(fault.va, map, attrs(fault, bits))
    };
    finish(fault, entries, replaced, &page);
    if fault.access == FaultAccess::Write && !exclusive {
        // On to `do_wp_page` in the same fault: a write that came back to find the page gone again, because
        // bringing it back and copying it take more memory than there is, would go on for ever instead of
        // failing.
        return Err(FaultResult::Reload);
    }
    Ok(FaultResult::Done)
}

/// The page in the swap cache, read if need be.
fn get_page<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    leaf: SoftLeaf,
    entry: SwapEntry,
) -> Result<FolioRef<'a, M>, FaultResult> {
    if let Some(page) = fault.vm.swap_cache_get(entry) {
        fault.vm.count(Event::SwapCacheHit);
        return Ok(page);
    }
    fault.guard.sleeps(Refusal::WouldSleep)?;
    if fault.vm.folio_policy.is_on()
        && let Some(page) = read_run(fault, entry)
    {
        return Ok(page);
    }
    let new = fault.alloc()?;
    match fault.vm.swap_read(entry, new) {
        Ok(SwapIn::Page(page)) => {
            fault.vm.count(Event::SwapIn);
            fault.vm.note_refault(entry);
            Ok(page)
        }
        Ok(SwapIn::Changed) => Err(FaultResult::Reload),
        // The slot may have been freed, and used again by somebody whose page it was that could not be read.
        Err(IoError) => Err(fault.settled(leaf, FaultResult::Bus)),
    }
}

fn lock_page<'f, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    page: &FolioRef<'f, M>,
) -> Result<FolioGuard<'f, M>, FaultResult> {
    match fault.guard.sleeps(Refusal::WouldSleep) {
        Ok(()) => Ok(page.lock()),
        Err(refusal) => page.try_lock().ok_or(refusal.into()),
    }
}

/// Whether our entry is the only one that needs the slot, and the cache and we the only ones that have the
/// page. Nobody can come: the folio lock keeps other faults out, and only our own entry could be duplicated.
fn nobody_else_has<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    entry: SwapEntry,
    page: &FolioRef<'_, M>,
) -> bool {
    let slot = fault.vm.swap.get(entry).slots().state(&fault.vm.frames, entry.offset);
    let counts = page.folio().counts();
    slot.count == 1 && counts.maps() == 0 && counts.refs() == 2 && counts.pins() == 0
}

impl<M: Machine, G: FaultGuard<M>> VmFault<'_, M, G> {
    /// Replaces a swap entry whose page cannot be read by a marker that says so.
    pub(crate) fn poison(&self, entry: SwapEntry) {
        let Ok(mut entries) = self.table().and_then(|table| self.lock(table)) else { return };
        if !matches!(entries.mapped(self.va), Mapped::Swap(owned, _) if owned.entry() == entry) {
            return;
        }
        let replaced = entries.exchange(self.va, Marker::Poisoned, ());
        let Cleared::Swap(count, _) = replaced else { unreachable!("it was a swap entry, and is locked") };
        drop(SwapRef::own(self.vm, count));
        drop(entries);
        self.vm.add_swap(self.slot, -1);
    }
}
