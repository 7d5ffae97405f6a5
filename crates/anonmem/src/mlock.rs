//! Locked memory: pages that are there and stay.
//!
//! `VM_LOCKED` is an attribute of VMAs; locking makes their pages present, and nothing takes them away any
//! more. `MLOCK_ONFAULT` leaves the first touch to the program.
//!
//! Locks: the mmap lock for writing while attributes change, then for reading while pages are faulted in.
//!
//! Linux: mm/mlock.c. Differs: no per-page state, because there is no list of unevictable pages.

use crate::{
    error::Error,
    mm::{Mm, mmap_lock::MmapWriteGuard},
    populate::Stop,
    rmap::machine::Machine,
    vma::flags::VmFlags,
};
use anonmem_hal::{Arch, PAGE_SHIFT, Va, VaRange, page_align};

/// What makes a mapping locked, one way or the other.
const LOCKED_MASK: VmFlags = VmFlags::LOCKED.union(VmFlags::LOCKONFAULT);

bitflags::bitflags! {
    /// What `mlockall` locks. The bits are Linux's.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MlockAll: u32 {
        /// `MCL_CURRENT`: what is mapped now.
        const CURRENT = 1;
        /// `MCL_FUTURE`: what will be mapped.
        const FUTURE = 2;
        /// `MCL_ONFAULT`: pages as they are touched.
        const ONFAULT = 4;
    }
}

impl<M: Machine> Mm<'_, M> {
    /// Locks the pages that hold the `len` bytes from `start`, and faults them in.
    ///
    /// ```
    /// # use anonmem::*;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.mlock(start, 2 * 4096)?;
    /// assert_eq!((mm.counters().locked.0, mm.counters().anon.0), (2, 2));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock for writing, then for reading. Sleeps.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] if nothing may be locked; [`Error::Limit`] if more would be than may be, or
    /// there would be too many mappings; [`Error::OutOfMemory`]; [`Error::Invalid`] if the range wraps
    /// around; [`Error::NotMapped`] if part of the range is not mapped, or cannot be accessed;
    /// [`Error::Again`] if there was no memory for all pages. What was locked until then stays locked.
    pub fn mlock(&self, start: Va, len: u64) -> Result<(), Error> {
        self.do_mlock(start, len, VmFlags::LOCKED)
    }

    /// Locks the pages that hold the `len` bytes from `start`, each when it is touched (`MLOCK_ONFAULT`).
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.mlock_onfault(start, 2 * 4096)?;
    /// assert_eq!((mm.counters().locked.0, mm.counters().anon.0), (2, 0));
    /// mm.store(start, 7)?;
    /// assert_eq!((mm.counters().locked.0, mm.counters().anon.0), (2, 1));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// As [`mlock`](Self::mlock).
    #[doc(alias = "mlock2")]
    pub fn mlock_onfault(&self, start: Va, len: u64) -> Result<(), Error> {
        self.do_mlock(start, len, LOCKED_MASK)
    }

    /// Unlocks the pages that hold the `len` bytes from `start`.
    ///
    /// ```
    /// # use anonmem::*;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.mlock(start, 2 * 4096)?;
    /// mm.munlock(start, 4096)?;
    /// assert_eq!(mm.counters().locked.0, 1);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock for writing.
    ///
    /// # Errors
    /// [`Error::NotMapped`] at the first hole, [`Error::Invalid`] if the range wraps around, [`Error::Limit`]
    /// if there would be too many mappings, [`Error::OutOfMemory`]. What comes before is unlocked.
    pub fn munlock(&self, start: Va, len: u64) -> Result<(), Error> {
        let range = locked_range(start.page_down(), locked_len(start, len))?;
        self.write().apply_vma_lock_flags(range, VmFlags::empty())
    }

    /// Locks everything that is mapped, will be mapped, or both.
    ///
    /// ```
    /// # use anonmem::*;
    /// # anonmem_testkit::example(|_, mm| {
    /// mm.mlockall(MlockAll::FUTURE)?;
    /// mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// assert_eq!(mm.counters().anon.0, 4);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock for writing, then for reading. Sleeps.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it says neither current nor future; [`Error::NotPermitted`] if nothing may be
    /// locked; [`Error::Limit`] if more is mapped than may be locked; [`Error::OutOfMemory`]. Pages that
    /// cannot be had are not told.
    pub fn mlockall(&self, what: MlockAll) -> Result<(), Error> {
        if !what.intersects(MlockAll::CURRENT | MlockAll::FUTURE) {
            return Err(Error::Invalid("locking neither what is mapped nor what will be"));
        }
        {
            let guard = self.write();
            let limit = guard.can_do_mlock()?;
            if what.contains(MlockAll::CURRENT) && guard.slot().counts.total.get() > limit {
                return Err(Error::LOCKED);
            }
            guard.apply_mlockall_flags(what);
        }
        if what.contains(MlockAll::CURRENT) {
            self.mm_populate_ignoring_errors(VaRange { start: Va(0), end: M::Arch::USER_END });
        }
        Ok(())
    }

    /// Unlocks everything, also what will be mapped.
    ///
    /// ```
    /// # use anonmem::*;
    /// # anonmem_testkit::example(|_, mm| {
    /// mm.mlockall(MlockAll::CURRENT | MlockAll::FUTURE)?;
    /// mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// assert_eq!((mm.counters().locked.0, mm.counters().anon.0), (4, 4));
    /// mm.munlockall();
    /// mm.mmap(MmapRequest::anonymous(2 * 4096, Prot::READ | Prot::WRITE))?;
    /// assert_eq!((mm.counters().locked.0, mm.counters().anon.0), (0, 4));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock for writing.
    pub fn munlockall(&self) {
        self.write().apply_mlockall_flags(MlockAll::empty());
    }

    fn do_mlock(&self, start: Va, len: u64, flags: VmFlags) -> Result<(), Error> {
        let (start, len) = (start.page_down(), locked_len(start, len));
        self.vm.reclaiming(|| {
            let guard = self.write();
            let limit = guard.can_do_mlock()?;
            // The limit is asked before the addresses are looked at.
            let end = Va(start.0.saturating_add(len)).page_down();
            let locked = guard.slot().counts.locked.get().saturating_add(len >> PAGE_SHIFT);
            if locked > limit && locked - guard.locked_in(VaRange { start, end }) > limit {
                return Err(Error::LOCKED);
            }
            guard.apply_vma_lock_flags(locked_range(start, len)?, flags)
        })?;
        self.mm_populate(locked_range(start, len)?).map_err(|stop| match stop {
            Stop::Hole | Stop::Denied | Stop::Signal | Stop::Userfault(_) => Error::NotMapped,
            Stop::Oom | Stop::NodesFull(_) => Error::Again,
        })
    }
}

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// The limit on locked pages, if anything may be locked at all.
    fn can_do_mlock(&self) -> Result<u64, Error> {
        match self.slot().locked_limit.get() {
            0 => Err(Error::NotPermitted),
            limit => Ok(limit),
        }
    }

    /// Pages of `range` that are locked already.
    #[doc(alias = "count_mm_mlocked_page_nr")]
    fn locked_in(&self, range: VaRange) -> u64 {
        let (tree, nodes) = (&self.slot().tree, self.objects.nodes());
        let (mut vmas, mut locked) = (tree.cursor(range), 0);
        while let Some((vma, id)) = vmas.next(tree, nodes) {
            if self.objects.vma(id).flags().contains(VmFlags::LOCKED) {
                locked += vma.intersect(range).map_or(0, |part| part.pages().0);
            }
        }
        locked
    }

    fn apply_vma_lock_flags(&self, range: VaRange, flags: VmFlags) -> Result<(), Error> {
        self.modify_range(range, |vma| Ok(locked_as(vma.flags(), flags)))
    }

    fn apply_mlockall_flags(&self, what: MlockAll) {
        let slot = self.slot();
        let onfault = if what.contains(MlockAll::ONFAULT) { VmFlags::LOCKONFAULT } else { VmFlags::empty() };
        let flags_if = |when: bool| if when { VmFlags::LOCKED | onfault } else { VmFlags::empty() };
        let others = VmFlags::from_bits_retain(slot.def_flags.get()) - LOCKED_MASK;
        slot.def_flags.set((others | flags_if(what.contains(MlockAll::FUTURE))).bits());
        if what == MlockAll::FUTURE || what == MlockAll::FUTURE | MlockAll::ONFAULT {
            return;
        }
        let flags = flags_if(what.contains(MlockAll::CURRENT));
        let mut vmas = slot.tree.cursor(VaRange { start: Va(0), end: M::Arch::USER_END });
        while let Some((range, id)) = vmas.next(&slot.tree, self.objects.nodes()) {
            let new = locked_as(self.objects.vma(id).flags(), flags);
            // A whole VMA needs no split, so nothing can fail.
            let _ = self.modify_vma(id, range, new);
        }
    }
}

/// The attributes of a mapping that is to be locked as `how` says. One of a fixed size never is: its pages
/// are the machine's. Nor is one whose pages may be dropped.
///
/// Linux: mm/mlock.c `mlock_fixup` (`VM_SPECIAL`).
fn locked_as(old: VmFlags, how: VmFlags) -> VmFlags {
    if old.intersects(VmFlags::DONTEXPAND | VmFlags::DROPPABLE) { old } else { (old - LOCKED_MASK) | how }
}

/// The bytes of the pages that hold the `len` bytes from `start`.
fn locked_len(start: Va, len: u64) -> u64 {
    page_align(len.wrapping_add(start.page_offset() as u64))
}

/// The `len` bytes from `start`, both of whole pages.
fn locked_range(start: Va, len: u64) -> Result<VaRange, Error> {
    VaRange::of(start, len).ok_or(Error::Invalid("a range to lock or unlock wraps around"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Limits, MapBacking, MapFlags, MmapRequest, Prot,
        testing::{M, P, RW, World, pages},
        vma::Backing,
    };
    use anonmem_hosted::FailurePlan;

    fn map(mm: &Mm<'_, M>, range: VaRange) {
        let (prot, flags) = (Prot::READ | Prot::WRITE, MapFlags::FIXED);
        let backing = MapBacking::Anonymous;
        mm.mmap(MmapRequest { addr: range.start, len: range.len(), prot, flags, backing }).unwrap();
    }

    #[test]
    fn locked_pages_are_there_and_counted() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            map(&mm, pages(16, 8));
            mm.store(23 * P, 1).unwrap();
            mm.mlock(Va(17 * P + 5), P).unwrap();
            let counters = mm.counters();
            assert_eq!((counters.locked.0, counters.anon.0, counters.vmas), (2, 3, 3));
            mm.mlock_onfault(Va(20 * P), 2 * P).unwrap();
            assert_eq!((mm.counters().locked.0, mm.counters().anon.0), (4, 3));
            mm.store(20 * P, 1).unwrap();
            assert_eq!(mm.fork().unwrap().counters().locked.0, 0, "a child's memory is not locked");
            mm.munlock(Va(16 * P), 8 * P).unwrap();
            assert_eq!((mm.counters().locked.0, mm.counters().vmas), (0, 1));
            assert_eq!(mm.mlock(Va(16 * P), 0), Ok(()));
            w.vm.validate().unwrap();
        });
    }

    #[test]
    fn errors_are_those_of_linux() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            map(&mm, pages(16, 2));
            mm.map_raw(pages(18, 2), RW - VmFlags::ACCESS, Backing::Anonymous);
            assert_eq!(mm.mlock(Va(16 * P), 8 * P), Err(Error::NotMapped), "a hole");
            assert_eq!(mm.counters().locked.0, 4, "what comes before it is locked");
            assert_eq!(mm.munlock(Va(16 * P), 8 * P), Err(Error::NotMapped));
            assert_eq!(mm.mlock(Va(18 * P), P), Err(Error::NotMapped), "no access");
            assert!(matches!(mm.mlock(Va(16 * P), u64::MAX - P), Err(Error::Invalid(_))));
            assert_eq!(mm.mlock(Va(16 * P), u64::MAX), Ok(()), "a length that wraps around is 0");
            mm.munlock(Va(16 * P), 4 * P).unwrap();
            w.failures.set(FailurePlan::From(2));
            assert_eq!(mm.mlock(Va(16 * P), 2 * P), Err(Error::Again), "no memory for the pages");
            w.failures.set(FailurePlan::Off);
        });
    }

    #[test]
    fn no_more_is_locked_than_may_be() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            map(&mm, pages(16, 8));
            mm.set_limits(Limits { locked: 4 * P, ..mm.limits() });
            mm.mlock(Va(16 * P), 3 * P).unwrap();
            assert_eq!(mm.mlock(Va(18 * P), 3 * P), Err(Error::LOCKED));
            mm.mlock(Va(16 * P), 4 * P).unwrap();
            assert_eq!(mm.mlockall(MlockAll::CURRENT), Err(Error::LOCKED));
            mm.set_limits(Limits { locked: 0, ..mm.limits() });
            assert_eq!(mm.mlock(Va(16 * P), P), Err(Error::NotPermitted));
            assert_eq!(mm.mlockall(MlockAll::FUTURE), Err(Error::NotPermitted));
            mm.munlock(Va(16 * P), P).unwrap();
        });
    }

    #[test]
    fn everything_is_locked_now_or_later() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            map(&mm, pages(16, 4));
            mm.map_raw(pages(40, 2), RW - VmFlags::ACCESS, Backing::Anonymous);
            assert!(matches!(mm.mlockall(MlockAll::ONFAULT), Err(Error::Invalid(_))));
            mm.mlockall(MlockAll::CURRENT).unwrap();
            assert_eq!((mm.counters().locked.0, mm.counters().anon.0), (6, 4));
            mm.mlockall(MlockAll::FUTURE).unwrap();
            map(&mm, pages(60, 2));
            assert_eq!((mm.counters().locked.0, mm.counters().anon.0), (8, 6));
            mm.mlockall(MlockAll::FUTURE | MlockAll::ONFAULT).unwrap();
            map(&mm, pages(80, 2));
            assert_eq!((mm.counters().locked.0, mm.counters().anon.0), (10, 6));
            mm.munlockall();
            map(&mm, pages(90, 2));
            assert_eq!(mm.counters().locked.0, 0);
        });
    }
}
