//! Unmapping a page everywhere: its entries become swap entries.
//!
//! Linux: mm/rmap.c `try_to_unmap_one`.

use crate::{
    objects::Objects,
    rmap::machine::Machine,
    rmap::{
        Rmap,
        hit::{Form, RmapHit},
        reverse_map::ReverseMap,
    },
    swap::slot::SwapRef,
    vma::flags::VmFlags,
};
use anonmem_frame::{FolioGuard, FolioOwner};
use anonmem_hal::{EntryBits, Sharing};
use anonmem_pgtable::{Cleared, StableVma, TlbBatch};
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
    /// A swap entry for this slot.
    Swap(&'a SwapRef<'v, M>),
    /// Nothing: the page is dropped, unless it was written (`MADV_FREE`).
    Nothing,
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
    let Some(guard) = Rmap::<M>::lock(objects, folio) else { return Unmapped::All };
    let walked = Rmap::<M>::walk(&guard, folio, Form::Present, |hit| try_to_unmap_one(objects, hit, to, tlb));
    drop(guard);
    match walked {
        ControlFlow::Continue(()) if folio.counts().maps() == 0 => Unmapped::All,
        ControlFlow::Continue(()) | ControlFlow::Break(()) => {
            tlb.flush();
            Unmapped::Kept
        }
    }
}

/// Replaces one entry; breaks if the page must stay.
fn try_to_unmap_one<'v, M: Machine>(
    objects: &'v Objects<M>,
    hit: RmapHit<'_, 'v, M, impl StableVma<M>>,
    to: &UnmapTo<'_, '_, M>,
    tlb: &mut TlbBatch<'v, M>,
) -> ControlFlow<()> {
    anonmem_hal::debug_check_eq!(
        M,
        hit.pages,
        1,
        "a folio has one slot: a large one is split before it leaves"
    );
    if objects.vma(hit.vma).flags().contains(VmFlags::LOCKED) {
        return ControlFlow::Break(());
    }
    let va = hit.va;
    let owned = match to {
        UnmapTo::Swap(swap) => match swap.try_dup() {
            Ok(count) => Some(count),
            Err(_) => return ControlFlow::Break(()),
        },
        UnmapTo::Nothing => None,
    };
    // The dirty bit is final: a CPU that would set it looks at the entry again, and finds it gone.
    let (mut entries, slot) = hit.into_table();
    let (cleared, vacancy) = entries.take(va);
    tlb.note(&slot.space, va);
    if matches!(to, UnmapTo::Nothing) {
        tlb.flush();
    }
    let (shared, present, sharing) = match cleared {
        Cleared::Exclusive(page, present) => match page.try_share() {
            Ok(page) => (page, present, Sharing::Exclusive),
            Err(page) => {
                vacancy.fill(page, present.into());
                return ControlFlow::Break(());
            }
        },
        Cleared::Shared(page, present) => (page, present, Sharing::Shared),
        Cleared::None
        | Cleared::Zero(_)
        | Cleared::Shm(..)
        | Cleared::Swap(..)
        | Cleared::Migration(..)
        | Cleared::Marker(_) => unreachable!("the walk said that the entry maps an anonymous page"),
    };
    let bits = EntryBits::of_present(present, sharing);
    match owned {
        Some(count) => {
            vacancy.fill(count.into_count(), bits.to_swap());
            slot.add_swap(1);
        }
        // Written through a pin, too: that is noted before the page is unpinned, which `try_share` has seen.
        None if present.dirty || !shared.folio().is_lazyfree() => {
            shared.clear_lazyfree();
            vacancy.fill(shared, present.write_protected().into());
            return ControlFlow::Break(());
        }
        None => match bits.to_marker() {
            Some(marker) => vacancy.fill(marker, ()),
            None => vacancy.leave_empty(),
        },
    }
    slot.add_anon(-1);
    drop(entries);
    drop(shared.unmap());
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests;
