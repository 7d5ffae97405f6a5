//! The end of an address space.
//!
//! Linux: mm/mmap.c `exit_mmap`.

use crate::ids::VmaId;
use crate::{mm::MmSlot, rmap::anon_vma::unlink_anon_vmas, vm::Vm, vma::Backing, zap::zap_range};
use anonmem_hal::{Machine, Va, VaRange};
use anonmem_pgtable::Teardown;

/// Unmaps and frees everything. The caller was the last user, and no CPU runs the address space.
///
/// The mmap lock is taken for the sake of those who come by another way (reclaim, `validate`).
pub(crate) fn exit_mmap<M: Machine>(vm: &Vm<M>, slot: &MmSlot<M>) {
    let guard = slot.write();
    assert!(slot.space.cpus().is_empty(), "an address space ends while CPUs {:?} run it", slot.space.cpus());
    let mut gather = vm.gather(&slot.space, Teardown::WholeSpace);
    slot.tree.for_each(vm.nodes(), |range, _| zap_range(vm, slot, &guard, &mut gather, range));
    slot.tree.for_each(vm.nodes(), |_, id| unlink_anon_vmas(vm, id));
    // All at once: an upper table goes with the last of its VMAs, which may be several.
    let all = VaRange { start: Va(0), end: Va(u64::MAX) };
    let lowest = slot.tree.find(vm.nodes(), Va(0)).map(|(range, _)| range.start);
    if let (Some(start), Some((last, _))) = (lowest, slot.tree.last(vm.nodes())) {
        slot.space.free_tables(&mut gather, &vm.frames, VaRange { start, end: last.end }, all);
    }
    gather.finish();
    slot.tree.for_each(vm.nodes(), |_, id| {
        vm.vma(id).detach(&guard);
        free_vma(vm, id);
    });
    slot.tree.clear(vm.nodes());
    vm.uncommit(slot.counts.committed.get());
    let counts = &slot.counts;
    for zeroed in [&counts.total, &counts.data, &counts.stack, &counts.locked, &counts.committed] {
        zeroed.set(0);
    }
    anonmem_hal::debug_check_eq!(M, slot.rss(), 0, "pages are counted that nobody maps");
    slot.space.free_root(&vm.frames);
    drop(guard);
}

/// Frees a VMA that is out of the tree and unlinked.
#[doc(alias = "remove_vma")]
pub(crate) fn free_vma<M: Machine>(vm: &Vm<M>, id: VmaId) {
    let vma = vm.vma(id);
    match vma.backing() {
        Backing::Anonymous => {}
        Backing::Source(source) => vm.machine().release(source),
        Backing::Shared(object) => vm.shm_put(object),
    }
    vma.retire();
    vm.vmas.free(&vm.frames, id);
}
