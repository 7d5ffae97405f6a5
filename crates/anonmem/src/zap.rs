//! Unmapping pages: entries are cleared, and what they owned goes to the gather.
//!
//! Locks: the mmap lock, either way, or nobody else is left (exit). Takes the page-table lock of one table at a
//! time; what was cleared is flushed at the latest when the gather is full, and always before it is freed.
//!
//! Linux: mm/memory.c `unmap_page_range`, `zap_pte_range`, `unmap_vmas`.

use crate::{mm::MmSlot, swap::SwapRef, vm::Vm};
use anonmem_hal::{Machine, SoftLeaf, Va, VaRange};
use anonmem_pgtable::{Cleared, MmuGather, PteTable, StableVma};

/// Pages that were unmapped, by the count that they are in.
#[derive(Default)]
struct Zapped {
    anon: i64,
    shared: i64,
    swap: i64,
}

/// Clears every entry of `range`.
#[doc(alias = "unmap_page_range")]
pub(crate) fn zap_range<'v, M: Machine, G: StableVma>(
    vm: &'v Vm<M>,
    slot: &'v MmSlot<M>,
    stable: &'v G,
    gather: &mut MmuGather<'v, M>,
    range: VaRange,
) {
    slot.note_peak();
    for (table, part) in slot.space.tables(&vm.frames, stable, range) {
        let mut rest = part;
        while !rest.is_empty() {
            rest.start = zap_table(vm, slot, table, gather, rest);
            if gather.is_full() {
                gather.flush();
            }
        }
    }
}

/// Clears the entries of `part`, all in one table, until the gather is full; returns where it stopped.
#[doc(alias = "zap_pte_range")]
fn zap_table<'v, M: Machine, G: StableVma>(
    vm: &'v Vm<M>,
    slot: &MmSlot<M>,
    table: PteTable<'v, M, G>,
    gather: &mut MmuGather<'v, M>,
    part: VaRange,
) -> Va {
    let mut zapped = Zapped::default();
    let mut entries = table.lock();
    // Entries in use: a sparse table is left early.
    let mut left = entries.used();
    let mut va = part.start;
    while va < part.end && left > 0 && !gather.is_full() {
        left -= 1;
        match entries.clear(va) {
            Cleared::None => left += 1,
            Cleared::Zero(_) => gather.note(va),
            Cleared::Exclusive(map, _) => {
                zapped.anon += 1;
                gather.page(va, map.unmap());
            }
            Cleared::Shared(map, _) => {
                zapped.anon += 1;
                gather.page(va, map.unmap());
            }
            Cleared::Shm(map, _) => {
                zapped.shared += 1;
                gather.page(va, map.unmap());
            }
            Cleared::Soft(SoftLeaf::Swap { entry, .. }) => {
                zapped.swap += 1;
                drop(SwapRef::of_leaf(vm, entry));
            }
            // A marker owns nothing.
            Cleared::Soft(SoftLeaf::Marker(_)) => {}
            Cleared::Soft(leaf @ SoftLeaf::Migration { .. }) => unreachable!("{leaf:?}: nothing migrates"),
        }
        va = va.next_page();
    }
    if left == 0 {
        va = part.end;
    }
    drop(entries);
    if zapped.anon != 0 {
        slot.add_anon(-zapped.anon);
    }
    if zapped.swap != 0 {
        slot.add_swap(-zapped.swap);
    }
    if zapped.shared != 0 {
        slot.add_shared(-zapped.shared);
    }
    va
}
