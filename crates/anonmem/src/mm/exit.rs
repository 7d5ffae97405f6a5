//! The end of an address space.
//!
//! Linux: mm/mmap.c `exit_mmap`.

use crate::{
    ids::MmId,
    objects::Objects,
    rmap::machine::Machine,
    rmap::{Rmap, reverse_map::ReverseMap},
    vma::free::free_vma,
    zap::zap_range,
};
use anonmem_hal::{Va, VaRange};
use anonmem_pgtable::Teardown;

/// Looks at the counts of an address space that ends, before they are wrong.
const PATIENCE: u32 = 100_000;

/// Unmaps and frees everything. The caller was the last user, and no CPU runs the address space.
///
/// The mmap lock is taken for the sake of those who come by another way (reclaim, userfaultfd, `validate`).
pub(crate) fn exit_mmap<M: Machine>(objects: &Objects<M>, id: MmId) {
    let guard = objects.mmap_write_lock(id);
    let slot = guard.slot();
    slot.space.assert_runs_nowhere();
    let mut gather = objects.gather(&slot.space, Teardown::WholeSpace);
    slot.tree.for_each(objects.nodes(), |range, _| zap_range(objects, slot, &guard, &mut gather, range));
    Rmap::<M>::exit(objects, id);
    // All at once: an upper table goes with the last of its VMAs, which may be several.
    let all = VaRange { start: Va(0), end: Va(u64::MAX) };
    let lowest = slot.tree.find(objects.nodes(), Va(0)).map(|(range, _)| range.start);
    if let (Some(start), Some((last, _))) = (lowest, slot.tree.last(objects.nodes())) {
        slot.space.free_tables(&mut gather, &objects.frames, VaRange { start, end: last.end }, all);
    }
    gather.finish();
    slot.tree.for_each(objects.nodes(), |_, id| {
        objects.vma(id).detach(&guard);
        free_vma(objects, id);
    });
    slot.tree.clear(objects.nodes());
    objects.uncommit(slot.counts.committed.get());
    let counts = &slot.counts;
    for zeroed in
        [&counts.total, &counts.peak, &counts.data, &counts.stack, &counts.locked, &counts.committed]
    {
        zeroed.set(0);
    }
    objects.take_credits(slot);
    if M::CHECKED {
        // A CPU that went over to another address space may be about to add its credit.
        (0..PATIENCE).take_while(|_| !slot.pages.is_zero()).for_each(|_| M::relax());
        assert!(slot.pages.is_zero(), "pages are counted that nobody maps");
    }
    slot.space.free_root(&objects.frames);
}
