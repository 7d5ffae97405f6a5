//! One VMA becomes two.
//!
//! All memory is allocated first; then the two halves appear in one write section of the tree, so that no lookup sees a
//! hole, and in the interval trees under one hold of their lock, so that no rmap walk misses a page.
//!
//! Linux: mm/vma.c `__split_vma`.

use super::Backing;
use crate::ids::VmaId;
use crate::{
    error::Error,
    events::Event,
    exit::free_vma,
    mm::{Mm, MmapWriteGuard},
    rmap::anon_vma::anon_vma_clone,
    vm::Vm,
};
use anonmem_hal::{Machine, Va, VaRange};

impl<M: Machine> Mm<'_, M> {
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
    pub(crate) fn split_vma(&self, guard: &MmapWriteGuard<'_, M>, id: VmaId, at: Va) -> Result<VmaId, Error> {
        let (vm, slot, vma) = (self.vm, guard.slot(), self.vm.vma(id));
        let whole = vma.range();
        let (low, high) = (VaRange::new(whole.start, at), VaRange::new(at, whole.end));
        let mut nodes = slot.tree.prealloc(vm.nodes(), 1)?;
        let upper = self.copy_upper(id, high)?;
        let write = vma.start_write(guard);
        vm.vma(upper).attach(guard);
        let lock = vma.anon_vma().map(|anon_vma| vm.anon_vma_lock_write(anon_vma));
        if let Some(lock) = &lock {
            lock.rekey_begin(id);
        }
        {
            let mut writer = nodes.write();
            writer.resize(whole, low);
            writer.insert_guarded(high, upper, vm.guard_below(vma.flags()));
            write.set_range(low, vma.pgoff());
        }
        if let Some(lock) = &lock {
            lock.rekey_end(id);
        }
        drop(lock);
        vm.count(Event::VmaSplit);
        Ok(upper)
    }

    /// A VMA like `id` for the upper part of its range, linked to the same anon_vmas, not in the tree yet. Rmap walks
    /// may meet a page through both until `id` shrinks.
    fn copy_upper(&self, id: VmaId, high: VaRange) -> Result<VmaId, Error> {
        let (vm, vma) = (self.vm, self.vm.vma(id));
        let upper = vm.vmas.alloc(&vm.frames)?;
        let backing = vma.backing();
        vm.backing_get(backing);
        vm.vma(upper).init(self.id, high, vma.index_of(high.start), vma.flags(), backing);
        vm.vma(upper).set_anon_vma(vma.anon_vma());
        if let Err(e) = anon_vma_clone(vm, upper, id) {
            free_vma(vm, upper);
            return Err(e.into());
        }
        Ok(upper)
    }

    /// Checks that there may be one mapping more.
    ///
    /// # Errors
    /// [`Error::Limit`] if not.
    #[doc(alias = "sysctl_max_map_count")]
    pub(crate) fn check_map_count(&self, guard: &MmapWriteGuard<'_, M>) -> Result<(), Error> {
        if guard.slot().tree.len() < u64::from(self.vm.config.max_map_count) {
            Ok(())
        } else {
            Err(Error::MAX_MAP_COUNT)
        }
    }
}

impl<M: Machine> Vm<M> {
    /// Counts a VMA more that has this backing; `free_vma` counts it less.
    pub(crate) fn backing_get(&self, backing: Backing) {
        match backing {
            Backing::Anonymous => {}
            Backing::Source(source) => self.machine().dup(source),
            Backing::Shared(object) => self.shm_get(object),
        }
    }
}
