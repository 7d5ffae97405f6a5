//! The heap of a program: one mapping whose end moves.
//!
//! Linux: mm/mmap.c `brk`, mm/vma.c `do_brk_flags`.

use crate::{
    error::Error,
    mm::{Mm, mmap_lock::MmapWriteGuard},
    mmap::{MapFlags, Object},
    rmap::machine::Machine,
    userfaultfd::events::Changes,
    vma::{flags::VmFlags, merge::NewArea, vma::Backing},
};
use anonmem_hal::{PAGE_SIZE, Va, VaRange};

/// The attributes of a heap.
const HEAP: VmFlags = VmFlags::READ
    .union(VmFlags::WRITE)
    .union(VmFlags::MAYREAD)
    .union(VmFlags::MAYWRITE)
    .union(VmFlags::MAYEXEC);

impl<M: Machine> Mm<'_, M> {
    /// Puts the heap, empty, at `va`: behind the program, when it is loaded.
    pub fn set_brk_start(&self, va: Va) {
        let guard = self.write();
        guard.slot().start_brk.set(va.0);
        guard.slot().brk.set(va.0);
    }

    /// Moves the end of the heap to `new`; returns where it is then. If that is not `new`, it cannot be moved
    /// there.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = Va(0x100_0000);
    /// mm.set_brk_start(start);
    /// assert_eq!(mm.brk(Va(start.0 + 4096)), Va(start.0 + 4096));
    /// mm.store(start, 7)?;
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock, for writing. Sleeps.
    #[doc(alias = "sys_brk")]
    pub fn brk(&self, new: Va) -> Va {
        let moved = self.vm.reclaiming(|| {
            let mut changes = Changes::none(self.vm);
            let guard = self.write();
            let old = Va(guard.slot().brk.get());
            if let (Some(start), Some(end)) = (new.page_up(), old.page_up())
                && start < end
            {
                changes.unmap(&guard, VaRange { start, end })?;
            }
            guard.move_brk(new)?;
            guard.slot().brk.set(new.0);
            changes.tell();
            Ok((guard, old, changes))
        });
        let Ok((guard, old, told)) = moved else { return Va(self.read().slot().brk.get()) };
        let slot = guard.slot();
        let locked = VmFlags::from_bits_retain(slot.def_flags.get()).contains(VmFlags::LOCKED);
        drop(guard);
        told.wait();
        if let (Some(from), Some(to)) = (old.page_up(), new.page_up())
            && locked
            && from < to
        {
            self.mm_populate_ignoring_errors(VaRange { start: from, end: to });
        }
        new
    }
}

impl<M: Machine> MmapWriteGuard<'_, M> {
    fn move_brk(&self, new: Va) -> Result<(), Error> {
        let slot = self.slot();
        let start = Va(slot.start_brk.get());
        if new < start || new.0 - start.0 > slot.data_limit.get() {
            return Err(Error::DATA);
        }
        let old_end = Va(slot.brk.get()).page_up().ok_or(Error::NO_ROOM)?;
        let new_end = new.page_up().ok_or(Error::NO_ROOM)?;
        if new_end < old_end {
            let rest = VaRange { start: new_end, end: old_end };
            return if self.overlaps(rest) { self.do_munmap(rest) } else { Err(Error::NotMapped) };
        }
        if new_end > old_end {
            return self.grow_heap(VaRange { start: old_end, end: new_end });
        }
        Ok(())
    }

    /// Maps `range`, behind the heap.
    #[doc(alias = "do_brk_flags")]
    fn grow_heap(&self, range: VaRange) -> Result<(), Error> {
        self.get_unmapped_area(range.start, range.len(), MapFlags::FIXED)?;
        let flags = HEAP | VmFlags::from_bits_retain(self.slot().def_flags.get());
        self.check_locked(flags, range.pages().0)?;
        // One page more stays free, so that the heap does not run into its neighbour.
        let with_distance = VaRange { start: range.start, end: Va(range.end.0 + PAGE_SIZE as u64) };
        if !self.is_hole(with_distance) {
            return Err(Error::NO_ROOM);
        }
        if self.slot().tree.len() > self.objects.max_map_count() {
            return Err(Error::MAX_MAP_COUNT);
        }
        let pgoff = range.start.page();
        let area = NewArea { range, pgoff, flags, backing: Backing::Anonymous };
        self.mmap_region(area, Object::Given)
    }
}

#[cfg(test)]
mod tests;
