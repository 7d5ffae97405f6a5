//! Guard regions: addresses that trap, without a VMA for each.
//!
//! A marker in the page table takes the place of the page. It survives `MADV_DONTNEED`; unmapping the range,
//! or `MADV_GUARD_REMOVE`, ends it. A child inherits it, so the VMA gets an anon_vma: fork copies the tables
//! of those that have one.
//!
//! Linux: mm/madvise.c `madvise_guard_install`, `madvise_guard_remove`. Differs: pages that are in the way
//! are unmapped in the same step, so nothing has to be tried again.

use crate::{
    error::Error,
    ids::VmaId,
    mm::{
        mmap_lock::{MmapHeld, MmapReadGuard},
        slot::MmSlot,
    },
    objects::Objects,
    rmap::machine::Machine,
    rmap::{Rmap, reverse_map::ReverseMap},
    zap::{GUARD, Zapped, zap_entry, zap_leaf},
};
use anonmem_hal::{Marker, Va, VaRange};
use anonmem_pgtable::{Cleared, Locked, MmuGather, PteTable, Teardown, Walked};

impl<M: Machine> MmapReadGuard<'_, M> {
    /// Makes every access to `part` of VMA `id` trap, and drops its pages.
    pub(super) fn guard_install(&self, id: VmaId, part: VaRange) -> Result<(), Error> {
        let (objects, slot) = (self.objects, self.slot());
        Rmap::<M>::prepare(objects, MmapHeld::Read(self), id)?;
        objects.note_peak(slot);
        let mut gather = objects.gather(&slot.space, Teardown::Range);
        let (mut rest, mut result) = (part, Ok(()));
        while !rest.is_empty() {
            match slot.space.walk_alloc(&objects.frames, self, rest.start) {
                Ok(found) => match found.covered(rest) {
                    Locked::Table(table) => {
                        rest.start = install_in_table(self.objects, slot, table, &mut gather, rest);
                    }
                    // A table takes its place next.
                    Locked::Leaf(leaf) => zap_leaf(objects, leaf, &mut gather, slot),
                    Locked::None => {}
                },
                Err(e) => {
                    result = Err(e.into());
                    break;
                }
            }
            if gather.is_full() {
                gather.flush();
            }
        }
        gather.finish();
        result
    }

    /// Takes the markers out of `part`: the next access faults.
    pub(super) fn guard_remove(&self, part: VaRange) {
        for (found, part) in self.slot().space.parts(&self.objects.frames, self, part) {
            // A leaf has no marker.
            let Walked::Table(table) = found else { continue };
            let mut entries = table.lock();
            if entries.is_empty() {
                continue;
            }
            for va in part.iter_pages() {
                if entries.get(va) == GUARD {
                    // A marker owns nothing, and no TLB knows it.
                    let Cleared::Marker(_) = entries.clear(va) else { unreachable!("it was a marker") };
                }
            }
        }
    }
}

/// Installs markers in the first part of `range`, until its table ends or the gather is full; returns where
/// it stopped.
fn install_in_table<'v, M: Machine>(
    objects: &'v Objects<M>,
    slot: &MmSlot<M>,
    table: PteTable<'v, M, MmapReadGuard<'v, M>>,
    gather: &mut MmuGather<'v, M>,
    range: VaRange,
) -> Va {
    let end = table.range().end.min(range.end);
    let mut zapped = Zapped::default();
    let mut entries = table.lock();
    let mut va = range.start;
    while va < end && !gather.is_full() {
        if entries.get(va) != GUARD {
            zap_entry(objects, &mut entries, va, gather, &mut zapped);
            entries.install(va, Marker::Guard, ());
        }
        va = va.next_page();
    }
    drop(entries);
    zapped.uncount(objects, slot);
    va
}
