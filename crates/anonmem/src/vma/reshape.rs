//! Changing the ranges of VMAs: in the tree, in the VMAs, and in the reverse map that they are keys of.
//!
//! [`reshape`](MmapWriteGuard::reshape) is the one place where that happens: only its token opens
//! [`VmaWrite::set_range`](super::lock::VmaWrite::set_range). Growing, splitting, merging and moving are what
//! they do with it.
//!
//! Linux: mm/vma.c `vma_prepare`, `vma_complete`.

use crate::{
    ids::VmaId,
    mm::mmap_lock::MmapWriteGuard,
    rmap::machine::Machine,
    rmap::{Rmap, reverse_map::ReverseMap},
};
use anonmem_hal::VaRange;

/// Proof that the reverse map waits for the VMAs' new ranges.
pub(crate) struct Reshaping(());

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Runs `change`, which gives VMA `id` and `others` of its family new ranges. A walk of the reverse map
    /// sees all of them before, or all of them after it, and so meets every page that it would have met.
    ///
    /// # Locks
    /// The mmap lock for writing, and all these VMAs write-locked; takes the lock of the family, if `id` has
    /// an anon_vma.
    #[doc(alias("vma_prepare", "vma_complete", "anon_vma_interval_tree_pre_update_vma"))]
    pub(crate) fn reshape(
        &self,
        id: VmaId,
        others: impl Iterator<Item = VmaId> + Clone,
        change: impl FnOnce(&Reshaping),
    ) {
        let moved = others.chain([id]);
        anonmem_hal::debug_check!(
            M,
            moved.clone().all(|id| self.objects.vma(id).lock.is_write_locked(self.slot())),
            "a fault may be reading the range of a VMA that changes"
        );
        Rmap::<M>::reshape(self.objects, moved, || change(&Reshaping(())));
    }

    /// Gives VMA `id` another range, which overlaps no other VMA.
    ///
    /// # Locks
    /// As [`reshape`](Self::reshape); write-locks the VMA.
    pub(crate) fn change_range(&self, id: VmaId, new: VaRange, pgoff: u64) {
        let vma = self.objects.vma(id);
        let write = vma.start_write(self);
        self.reshape(id, core::iter::empty(), |reshaping| {
            self.slot().tree.prealloc_none(self.objects.nodes()).write().resize(vma.range(), new);
            write.set_range(reshaping, new, pgoff);
        });
    }
}
