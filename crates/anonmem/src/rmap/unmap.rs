//! Unmapping a page everywhere: its entries become swap entries.
//!
//! Linux: mm/rmap.c `try_to_unmap_one`.

use crate::{
    mm::slot::MmSlot,
    objects::Objects,
    rmap::machine::Machine,
    rmap::{
        hit::{Form, RmapHit, take_to_share},
        ksm::rmap_walk,
    },
    swap::slot::{SwapRef, SwapRun},
    vma::flags::VmFlags,
};
use anonmem_frame::{FolioGuard, FolioOwner, MapRun};
use anonmem_hal::{EntryBits, Sharing, Va};
use anonmem_pgtable::{PteGuard, StableVma, TlbBatch};
use core::ops::ControlFlow;

/// What became of the mappings of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unmapped {
    /// None is left.
    All,
    /// One is left: it is locked in memory, may be pinned, or was written since it was marked for lazy
    /// freeing.
    Kept,
}

/// What an unmapped entry becomes.
pub(crate) enum UnmapTo<'a, 'v, M: Machine> {
    /// A swap entry for this slot: the folio is one page.
    Swap(&'a SwapRef<'v, M>),
    /// Swap entries for these slots, one for each page of the folio.
    Run(&'a SwapRun<'v, M>),
    /// Nothing: the page is dropped, unless it was written (`MADV_FREE`).
    Nothing,
    /// Nothing, written or not, if its mapping says that it may be dropped (`MAP_DROPPABLE`).
    Droppable,
    /// Nothing, if the page is its program's alone, is all zeroes, and nobody watches what is missing or
    /// asks what was written.
    Untouched,
}

/// Replaces every entry that maps the folio. An entry that was exclusive says so as a swap entry; the page is
/// shared from then on, or put back if it may be pinned.
///
/// CPUs may still use their translations, and write the page, until `tlb` is flushed: the caller flushes it
/// before it reads the page or unlocks the folio. When this returns `Kept`, and when the page is dropped, it
/// is flushed already: nobody keeps a fault from putting another page into an empty entry, and two CPUs would
/// see two pages.
///
/// # Locks
/// The folio lock. Takes the anon_vma's lock, and one page-table lock at a time.
#[doc(alias = "try_to_unmap_one")]
pub(crate) fn try_to_unmap<'v, M: Machine>(
    objects: &'v Objects<M>,
    lock: &FolioGuard<'_, M>,
    to: &UnmapTo<'_, '_, M>,
    tlb: &mut TlbBatch<'v, M>,
) -> Unmapped {
    let folio = lock.folio();
    match rmap_walk(objects, folio, Form::Present, |hit| try_to_unmap_one(objects, hit, to, tlb)) {
        ControlFlow::Continue(()) if folio.counts().maps() == 0 => Unmapped::All,
        ControlFlow::Continue(()) | ControlFlow::Break(()) => {
            tlb.flush();
            Unmapped::Kept
        }
    }
}

/// Replaces what one table has of the folio; breaks if a page must stay.
fn try_to_unmap_one<'v, M: Machine>(
    objects: &'v Objects<M>,
    hit: RmapHit<'_, 'v, M, impl StableVma<M>>,
    to: &UnmapTo<'_, '_, M>,
    tlb: &mut TlbBatch<'v, M>,
) -> ControlFlow<()> {
    let kept_by = match to {
        UnmapTo::Swap(_) | UnmapTo::Run(_) | UnmapTo::Nothing => VmFlags::LOCKED,
        // Zeroes that were written are told as long as there is a page.
        UnmapTo::Untouched => VmFlags::LOCKED.union(VmFlags::UFFD).union(VmFlags::SOFT_CLEAN),
        UnmapTo::Droppable => VmFlags::LOCKED,
    };
    if objects.vma(hit.vma).flags().intersects(kept_by) {
        return ControlFlow::Break(());
    }
    if matches!(to, UnmapTo::Droppable) && !objects.vma(hit.vma).flags().contains(VmFlags::DROPPABLE) {
        return ControlFlow::Break(());
    }
    let (va, pages) = (hit.va, hit.pages);
    let nth = hit.page.0 - objects.frames.folio_of_owned(hit.page).pfn().0;
    let stays_in_swap = matches!(to, UnmapTo::Swap(_) | UnmapTo::Run(_));
    let (slot, mut gone) = (hit.slot, None);
    let ended = {
        let (mut entries, _) = hit.into_table();
        let ended = (0..pages).try_for_each(|i| {
            unmap_entry(&mut entries, slot, (va.page_after(i), nth + i), to, tlb, &mut gone)
        });
        // Before the lock goes: as said above.
        if !stays_in_swap {
            tlb.flush();
        }
        ended
    };
    if let Some(run) = gone {
        let pages = run.pages() as i64;
        if stays_in_swap {
            objects.add_swap(slot, pages);
        }
        objects.add_anon(slot, -pages);
    }
    ended
}

/// Replaces the entry for `va`, which maps the `nth` page of the folio, and adds what it owned to `gone`;
/// breaks if the page must stay.
fn unmap_entry<'a, 'v: 'a, M: Machine, G: StableVma<M>>(
    entries: &mut PteGuard<'a, M, G>,
    slot: &'v MmSlot<M>,
    (va, nth): (Va, u64),
    to: &UnmapTo<'_, '_, M>,
    tlb: &mut TlbBatch<'v, M>,
    gone: &mut Option<MapRun<'a, M>>,
) -> ControlFlow<()> {
    let owned = match to {
        UnmapTo::Swap(swap) => Some(swap.try_dup()),
        UnmapTo::Run(run) => Some(run.try_dup(nth)),
        UnmapTo::Nothing | UnmapTo::Droppable | UnmapTo::Untouched => None,
    };
    let Ok(owned) = owned.transpose() else { return ControlFlow::Break(()) };
    // The dirty bit is final: a CPU that would set it looks at the entry again, and finds it gone.
    let Some((vacancy, shared, present, sharing)) = take_to_share(entries, slot, va, tlb) else {
        return ControlFlow::Break(());
    };
    let bits = EntryBits::of_present(present, sharing);
    match owned {
        Some(count) => {
            vacancy.fill(count.into_count(), bits.to_swap());
        }
        // It stays empty: no userfaultfd watches such a mapping, so there is nothing to mark.
        None if matches!(to, UnmapTo::Droppable) => {}
        None if matches!(to, UnmapTo::Untouched) => {
            // What CPUs still write through their translations comes before that.
            tlb.flush();
            let frames = shared.folio().frames();
            if sharing == Sharing::Shared || !frames.machine().is_zero(shared.pfn()) {
                vacancy.fill(shared, present.write_protected().into());
                return ControlFlow::Break(());
            }
        }
        // Written through a pin, too: that is noted before the page is unpinned, which `try_share` has seen.
        None if present.dirty || !shared.folio().is_lazyfree() => {
            shared.clear_lazyfree();
            vacancy.fill(shared, present.write_protected().into());
            return ControlFlow::Break(());
        }
        None => {
            if let Some(marker) = bits.to_marker() {
                vacancy.fill(marker, ());
            }
        }
    }
    match gone {
        Some(run) => run.push(shared),
        None => *gone = Some(MapRun::from(shared)),
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests;
