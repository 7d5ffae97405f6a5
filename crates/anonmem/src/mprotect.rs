//! Changing what a program may do with a mapping.
//!
//! VMA by VMA: checks, then the promise of memory for what becomes writable, then the attributes (which may
//! split and merge), then the entries. Entries may lose permissions that TLBs still have; those are flushed
//! once, before the mmap lock is let go.
//!
//! Locks: the mmap lock for writing; one page-table lock at a time.
//!
//! Linux: mm/mprotect.c `do_mprotect_pkey`, `mprotect_fixup`, `change_protection`.

use crate::{
    error::Error,
    events::Event,
    fault::vm_fault::{FaultAccess, FaultOutcome, Waits},
    ids::VmaId,
    mm::{Mm, mmap_lock::MmapWriteGuard},
    mmap::Prot,
    rmap::machine::Machine,
    rmap::{Rmap, reverse_map::ReverseMap},
    vma::{flags::VmFlags, vma::Backing},
};
use anonmem_hal::{FlushRange, Protection, Va, VaRange};
use anonmem_pgtable::Locked;

impl<M: Machine> Mm<'_, M> {
    /// Lets a program do `prot` with the pages of `range`, and no more; the end of the range is rounded up.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.mprotect(VaRange { start, end: Va(start.0 + 4096) }, Prot::READ)?;
    /// assert!(mm.store(start, 7).is_err());
    /// assert_eq!(mm.counters().vmas, 2);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock, for writing. Sleeps.
    ///
    /// # Errors
    /// [`Error::Invalid`] for arguments that make no sense; nothing has changed. [`Error::NotMapped`] for a
    /// hole, [`Error::AccessDenied`] for a mapping that does not allow it, [`Error::NotPermitted`] for one
    /// that is sealed, [`Error::OutOfMemory`], [`Error::Limit`]: the mappings before have been changed.
    #[doc(alias = "do_mprotect_pkey")]
    pub fn mprotect(&self, range: VaRange, prot: Prot) -> Result<(), Error> {
        if prot.contains(Prot::GROWSDOWN | Prot::GROWSUP) {
            return Err(Error::Invalid("a stack grows one way"));
        }
        if !range.start.is_page_aligned() {
            return Err(Error::Invalid("the start of a range to protect is not at a page"));
        }
        if range.is_empty() {
            return Ok(());
        }
        let end = range.end.page_up().filter(|&end| end > range.start).ok_or(Error::NotMapped)?;
        if !Prot::all().contains(prot) {
            return Err(Error::Invalid("unknown bits in a protection"));
        }
        // What is done already is found done the next time.
        self.vm.reclaiming(|| self.protect_range(VaRange { start: range.start, end }, prot))
    }

    fn protect_range(&self, range: VaRange, prot: Prot) -> Result<(), Error> {
        let guard = self.write();
        let (start, end) = (guard.first_to_protect(range, prot)?, range.end);
        let mut flush = VaRange { start, end: start };
        let result = self.protect_vmas(&guard, VaRange { start, end }, prot, &mut flush);
        if !flush.is_empty() {
            guard.slot().space.flush(&self.vm.frames, FlushRange::Range(flush));
            self.vm.count(Event::TlbFlush);
        }
        result
    }

    /// Changes VMA by VMA; adds to `flush` what must be flushed, in any case.
    fn protect_vmas(
        &self,
        guard: &MmapWriteGuard<'_, M>,
        range: VaRange,
        prot: Prot,
        flush: &mut VaRange,
    ) -> Result<(), Error> {
        anonmem_hal::debug_check_eq!(M, guard.id(), self.id, "the lock of another address space");
        guard.each_part(range, |id, part| {
            let old = self.vm.vma(id).flags();
            let new = old.difference(VmFlags::ACCESS) | prot.vm_flags();
            if !may_flags(old).contains(prot.vm_flags()) {
                return Err(Error::AccessDenied);
            }
            guard.check_write_exec(old, new)?;
            old.check_unsealed()?;
            if new != old {
                guard.mprotect_fixup(id, part, new, flush)?;
                if is_written_at_once(old, new) {
                    self.write_to_locked(guard, part);
                }
            }
            Ok(())
        })
    }

    /// Copies now what the first writes would copy: locked memory does not fault.
    #[doc(alias = "populate_vma_page_range")]
    fn write_to_locked(&self, guard: &MmapWriteGuard<'_, M>, range: VaRange) {
        for va in range.iter_pages() {
            let Some((_, id)) = guard.slot().tree.find_containing(self.vm.nodes(), va) else { return };
            if self.fault_in_vma(guard, id, va, FaultAccess::Write, Waits::Never) != Ok(FaultOutcome::Done) {
                return;
            }
        }
    }
}

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Where to begin: at the start of the range, or of the stack.
    fn first_to_protect(&self, range: VaRange, prot: Prot) -> Result<Va, Error> {
        let (vma, id) = self.slot().tree.find(self.objects.nodes(), range.start).ok_or(Error::NotMapped)?;
        if prot.contains(Prot::GROWSDOWN) {
            if vma.start >= range.end {
                return Err(Error::NotMapped);
            }
            if !self.objects.vma(id).flags().contains(VmFlags::GROWSDOWN) {
                return Err(Error::Invalid("no stack that grows down"));
            }
            return Ok(vma.start);
        }
        if vma.start > range.start {
            return Err(Error::NotMapped);
        }
        if prot.contains(Prot::GROWSUP) {
            return Err(Error::Invalid("no stack grows up"));
        }
        Ok(range.start)
    }

    /// Gives `part` of VMA `id` the attributes `new`, which differ from its old ones in its permissions.
    fn mprotect_fixup(
        &self,
        id: VmaId,
        part: VaRange,
        mut new: VmFlags,
        flush: &mut VaRange,
    ) -> Result<(), Error> {
        let (objects, vma, pages) = (self.objects, self.objects.vma(id), part.pages().0);
        let old = vma.flags();
        let charged = if new.contains(VmFlags::WRITE) { self.charge_for(old, new, pages)? } else { 0 };
        if charged > 0 {
            new |= VmFlags::ACCOUNT;
        } else if !new.contains(VmFlags::WRITE)
            && vma.backing() == Backing::Anonymous
            && Rmap::<M>::stamp(objects, self.slot(), vma).is_none()
        {
            // No page was ever written: nothing needs the promise.
            new -= VmFlags::ACCOUNT;
        }
        self.modify_vma(id, part, new).inspect_err(|_| objects.uncommit(charged))?;
        self.change_protection(part, new.protection(), flush);
        if old.contains(VmFlags::ACCOUNT) && !new.contains(VmFlags::ACCOUNT) {
            objects.uncommit(pages);
        }
        Ok(())
    }

    /// Promises memory for `pages` that become writable, unless it is promised already or not to be. Returns
    /// how much that was.
    fn charge_for(&self, old: VmFlags, new: VmFlags, pages: u64) -> Result<u64, Error> {
        // What is data already may stay beyond a limit that was lowered.
        if let Err(limit) = self.may_expand(new, pages)
            && self.may_expand(old, pages).is_ok()
        {
            return Err(limit);
        }
        let promised = VmFlags::ACCOUNT | VmFlags::WRITE | VmFlags::SHARED | VmFlags::NORESERVE;
        if old.intersects(promised) {
            return Ok(0);
        }
        self.objects.commit(pages)?;
        Ok(pages)
    }

    /// Changes the entries of `range` to no more than `prot`.
    fn change_protection(&self, range: VaRange, prot: Protection, flush: &mut VaRange) {
        let space = &self.slot().space;
        for (found, part) in space.parts(&self.objects.frames, self, range) {
            let changed = match found.covered(part) {
                Locked::Table(table) => {
                    let mut entries = table.lock();
                    let changed = entries.change_protection_range(part, prot);
                    // Reclaim may have left nothing to be changed here, and not have flushed it yet.
                    if entries.is_flush_deferred() { part } else { changed }
                }
                // What reclaim takes, it takes from a table: nothing of a leaf waits for its flush.
                Locked::Leaf(mut leaf) => leaf.change_protection(prot),
                Locked::None => continue,
            };
            if !changed.is_empty() {
                flush.start = if flush.is_empty() { changed.start } else { flush.start };
                flush.end = changed.end;
            }
        }
    }
}

/// Whether a VMA is locked and has become writable: locked memory does not fault, so the pages are copied
/// now.
fn is_written_at_once(old: VmFlags, new: VmFlags) -> bool {
    let became_writable = new.contains(VmFlags::WRITE) && !old.contains(VmFlags::WRITE);
    became_writable
        && new.contains(VmFlags::LOCKED)
        && !new.intersects(VmFlags::SHARED | VmFlags::LOCKONFAULT)
}

/// The permissions that a VMA may be given.
fn may_flags(flags: VmFlags) -> VmFlags {
    let may = |may: VmFlags, is: VmFlags| if flags.contains(may) { is } else { VmFlags::empty() };
    may(VmFlags::MAYREAD, VmFlags::READ)
        | may(VmFlags::MAYWRITE, VmFlags::WRITE)
        | may(VmFlags::MAYEXEC, VmFlags::EXEC)
}

#[cfg(test)]
mod tests;
