//! One VMA becomes two.
//!
//! All memory is allocated first. Then the two halves appear in one write section of the tree, so that no
//! lookup sees a hole. They appear in the interval trees under one hold of their lock, so that no rmap walk
//! misses a page.
//!
//! Linux: mm/vma.c `__split_vma`.

use crate::{
    error::Error,
    events::Event,
    ids::VmaId,
    mm::mmap_lock::MmapWriteGuard,
    rmap::machine::Machine,
    rmap::{Rmap, reverse_map::ReverseMap},
    vma::free::free_vma,
};
use anonmem_hal::{Va, VaRange};

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Splits VMA `id` at `at`, which lies inside it: it keeps the lower part, the upper one is returned.
    ///
    /// The number of mappings is not checked: see [`check_map_count`](Self::check_map_count).
    ///
    /// # Locks
    /// The mmap lock for writing; takes the lock of the VMA's anon_vma.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; nothing has changed.
    #[doc(alias = "__split_vma")]
    pub(crate) fn split_vma(&self, id: VmaId, at: Va) -> Result<VmaId, Error> {
        let (objects, slot, vma) = (self.objects, self.slot(), self.objects.vma(id));
        let whole = vma.range();
        let low = VaRange { start: whole.start, end: at };
        let high = VaRange { start: at, end: whole.end };
        let mut nodes = slot.tree.prealloc(objects.nodes(), 1)?;
        let upper = self.copy_upper(id, high)?;
        let write = vma.start_write(self);
        // A leaf lies within one VMA.
        slot.space.split_leaf_at(&objects.frames, self, at);
        objects.vma(upper).attach(self);
        self.reshape(id, core::iter::empty(), |reshaping| {
            let mut writer = nodes.write();
            writer.resize(whole, low);
            writer.insert_guarded(high, upper, objects.guard_below(vma.flags()));
            write.set_range(reshaping, low, vma.pgoff());
        });
        objects.count(Event::VmaSplit);
        Ok(upper)
    }

    /// A VMA like `id` for the upper part of its range, linked to the same anon_vmas, not in the tree yet.
    /// Rmap walks may meet a page through both until `id` shrinks.
    fn copy_upper(&self, id: VmaId, high: VaRange) -> Result<VmaId, Error> {
        let (objects, vma) = (self.objects, self.objects.vma(id));
        let upper = objects.vmas.alloc(&objects.frames)?;
        let backing = vma.backing();
        objects.backing_get(backing, vma.flags());
        objects.vma(upper).init(self.id(), high, vma.index_of(high.start), vma.flags(), backing);
        objects.vma(upper).watch_as(vma, vma.uffd());
        if let Err(e) = Rmap::<M>::split(objects, upper, id) {
            free_vma(objects, upper);
            return Err(e.into());
        }
        Ok(upper)
    }

    /// Checks that there may be one mapping more.
    ///
    /// # Errors
    /// [`Error::Limit`] if not.
    pub(crate) fn check_map_count(&self) -> Result<(), Error> {
        if self.slot().tree.len() < self.objects.max_map_count() { Ok(()) } else { Err(Error::MAX_MAP_COUNT) }
    }
}
