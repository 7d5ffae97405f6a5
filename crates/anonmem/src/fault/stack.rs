//! Stacks that grow.
//!
//! An access in the hole just below a growing VMA makes the VMA reach down to the page that was accessed. The
//! stack's limit, and the gap that must stay below it, may forbid that.
//!
//! Locks: the mmap lock for writing, because a VMA changes; the anon_vma's for the interval tree, whose key
//! changes.
//!
//! Linux: mm/vma.c `expand_downwards`, mm/mmap_lock.c `lock_mm_and_find_vma`.

use crate::{
    error::Error,
    events::Event,
    fault::vm_fault::{FaultAccess, FaultOutcome, Waits},
    ids::{UffdMessageId, VmaId},
    mm::{Mm, mmap_lock::MmapWriteGuard},
    rmap::machine::Machine,
    vma::flags::VmFlags,
};
use anonmem_hal::{PAGE_SHIFT, Va, VaRange};

impl<M: Machine> Mm<'_, M> {
    /// Resolves a fault that was in the hole below a stack a moment ago.
    ///
    /// # Errors
    /// As [`fault_in_vma`](Self::fault_in_vma); no lock is held any more.
    pub(super) fn fault_below_stack(
        &self,
        va: Va,
        access: FaultAccess,
        waits: Waits,
    ) -> Result<FaultOutcome, UffdMessageId> {
        let slot = self.slot();
        let guard = self.write();
        let Some((range, id)) = slot.tree.find(self.vm.nodes(), va) else {
            return Ok(FaultOutcome::SegvMaperr);
        };
        if range.start > va {
            if !self.vm.vma(id).flags().contains(VmFlags::GROWSDOWN) {
                return Ok(FaultOutcome::SegvMaperr);
            }
            if guard.expand_downwards(id, va.page_down()).is_err() {
                return Ok(FaultOutcome::SegvMaperr);
            }
            self.vm.count(Event::FaultStackGrowth);
        }
        self.fault_in_vma(&guard, id, va, access, waits)
    }
}

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Makes the stack VMA `id` start at `start`, a page below its present start.
    ///
    /// # Errors
    /// [`Error::NotMapped`] if a limit or the guard gap forbids it, [`Error::Again`] if too much would be
    /// locked, [`Error::Limit`] if the commit limit forbids it.
    pub(crate) fn expand_downwards(&self, id: VmaId, start: Va) -> Result<(), Error> {
        let (objects, slot, vma) = (self.objects, self.slot(), self.objects.vma(id));
        let old = vma.range();
        let new = VaRange { start, end: old.end };
        let grow = (old.start.0 - start.0) >> PAGE_SHIFT;
        let gap_ok = match slot.tree.prev(objects.nodes(), old.start) {
            // Two stacks may touch; anything else keeps its distance, unless nobody can use it anyway.
            Some((below, near)) => {
                let flags = objects.vma(near).flags();
                let apart = start.0.checked_sub(below.end.0);
                let needs = if flags.contains(VmFlags::GROWSDOWN) || !flags.intersects(VmFlags::ACCESS) {
                    0
                } else {
                    objects.config.stack_guard_gap
                };
                apart.is_some_and(|apart| apart >= needs)
            }
            None => true,
        };
        let fits = new.len() <= slot.stack_limit.get()
            && start.0 >= objects.config.mmap_min_addr
            && (slot.counts.total.get() + grow) << PAGE_SHIFT <= slot.space_limit.get()
            && grow <= vma.pgoff();
        if !gap_ok || !fits {
            return Err(Error::NotMapped);
        }
        self.check_locked(vma.flags(), grow)?;
        let accounted = vma.flags().contains(VmFlags::ACCOUNT);
        if accounted {
            objects.commit(grow)?;
        }
        let pgoff = vma.pgoff() - grow;
        self.change_range(id, new, pgoff);
        slot.counts.add_vma(vma.flags(), grow as i64);
        Ok(())
    }
}
