//! Unmapping a page everywhere: its entries become swap entries.
//!
//! Linux: mm/rmap.c `try_to_unmap_one`.

use super::{folio::folio_lock_anon_vma_read, walk::rmap_walk_anon};
use crate::{swap::SwapRef, vm::Vm, vma::VmFlags};
use anonmem_frame::FolioGuard;
use anonmem_hal::{FlushRange, Machine, VaRange};
use anonmem_pgtable::Cleared;
use core::ops::ControlFlow;

/// What became of the mappings of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unmapped {
    /// None is left.
    All,
    /// One is left: it is locked in memory, may be pinned, or was written since it was marked for lazy freeing.
    Kept,
}

/// What an unmapped entry becomes.
pub(crate) enum UnmapTo<'a, 'v, M: Machine> {
    /// A swap entry for this slot.
    Swap(&'a SwapRef<'v, M>),
    /// Nothing: the page is dropped, unless it was written (`MADV_FREE`).
    Nothing,
}

/// Replaces every entry that maps the folio. An entry that was exclusive says so as a swap entry; the page is shared
/// from then on, or put back if it may be pinned.
///
/// Every CPU has dropped its translations of an entry before the next one is looked at, so that the page does not change any more
/// when this returns `All`.
///
/// # Locks
/// The folio lock. Takes the anon_vma's lock, and one page-table lock at a time.
#[doc(alias = "try_to_unmap_one")]
pub(crate) fn try_to_unmap<M: Machine>(
    vm: &Vm<M>,
    lock: &FolioGuard<'_, M>,
    to: &UnmapTo<'_, '_, M>,
) -> Unmapped {
    let folio = lock.folio();
    let Some(guard) = folio_lock_anon_vma_read(vm, folio) else { return Unmapped::All };
    let walked = rmap_walk_anon(&guard, folio, |mut hit| {
        if vm.vma(hit.vma).flags().contains(VmFlags::LOCKED) {
            return ControlFlow::Break(());
        }
        let (va, slot) = (hit.va, hit.slot);
        let owned = match to {
            UnmapTo::Swap(swap) => match swap.try_dup() {
                Ok(count) => Some(count),
                Err(_) => return ControlFlow::Break(()),
            },
            UnmapTo::Nothing => None,
        };
        let cleared = hit.entries.clear(va);
        slot.space.flush(&vm.frames, FlushRange::Range(VaRange::page(va)));
        // Only now is the dirty bit final, and no access under way.
        let (shared, present, exclusive) = match cleared {
            Cleared::Exclusive(page, present) => match page.try_share() {
                Ok(page) => (page, present, true),
                Err(page) => {
                    hit.entries.put_back(va, page, present);
                    return ControlFlow::Break(());
                }
            },
            Cleared::Shared(page, present) => (page, present, false),
            Cleared::None | Cleared::Zero(_) | Cleared::Shm(..) | Cleared::Soft(_) => {
                unreachable!("the walk said that the entry maps an anonymous page")
            }
        };
        match owned {
            Some(count) => {
                hit.entries.leave_soft(va, count.into_leaf(exclusive));
                slot.add_swap(1);
            }
            None if present.dirty => {
                folio.clear_lazyfree();
                hit.entries.put_back(va, shared, present.write_protected());
                return ControlFlow::Break(());
            }
            None => {}
        }
        slot.add_anon(-1);
        drop(hit);
        drop(shared.unmap());
        ControlFlow::Continue(())
    });
    match walked {
        ControlFlow::Continue(()) if folio.counts().maps() == 0 => Unmapped::All,
        ControlFlow::Continue(()) | ControlFlow::Break(()) => Unmapped::Kept,
    }
}
