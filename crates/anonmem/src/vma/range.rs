//! Changing the range of a VMA: in the tree, in the VMA, and in the interval trees that it is a key of.
//!
//! Linux: mm/vma.c `vma_prepare`, `vma_complete`.

use crate::{ids::VmaId, mm::mmap_lock::MmapWriteGuard};
use anonmem_hal::{Machine, VaRange};

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Gives VMA `id` another range, which overlaps no other VMA. Rmap walks see the old or the new one.
    ///
    /// # Locks
    /// The mmap lock for writing; takes the lock of the VMA's anon_vma.
    pub(crate) fn change_range(&self, id: VmaId, new: VaRange, pgoff: u64) {
        let (objects, vma) = (self.objects, self.objects.vma(id));
        let write = vma.start_write(self);
        let tree = &self.slot().tree;
        let lock = vma.anon_vma().map(|anon_vma| objects.anon_vma_lock_write(anon_vma));
        if let Some(lock) = &lock {
            lock.rekey_begin(id);
        }
        tree.prealloc_none(objects.nodes()).write().resize(vma.range(), new);
        write.set_range(new, pgoff);
        if let Some(lock) = &lock {
            lock.rekey_end(id);
        }
    }
}
