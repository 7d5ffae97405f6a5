//! Faulting pages in before they are touched.
//!
//! | who | stops at | says |
//! |---|---|---|
//! | `MAP_POPULATE`, `mlockall` | nothing | nothing |
//! | `mlock` | the first page that cannot be had | `Stop` |
//! | `MADV_POPULATE_READ`, `MADV_POPULATE_WRITE` | the first page that cannot be had, or hole | `Stop` |
//!
//! Every page goes through `handle_mm_fault`, as if it were touched; but a run of pages of zeroes is made at
//! once (`fill_run`).
//!
//! Locks: the mmap lock for reading, let go after every batch of pages, so that writers are not kept waiting
//! for a large range. VMAs may change meanwhile: what is there is looked up anew.
//!
//! Linux: mm/gup.c `__mm_populate`, `populate_vma_page_range`, `faultin_page_range`. Differs: a caller that
//! wants to be interrupted asks for a part of its range at a time.

use crate::{
    error::Error,
    fault::{
        anon::fill_run,
        vm_fault::{FaultAccess, FaultOutcome, FaultResult, VmFault, Waits},
    },
    ids::{UffdMessageId, VmaId},
    mm::{Mm, mmap_lock::MmapReadGuard},
    rmap::machine::Machine,
    vma::flags::VmFlags,
};
use anonmem_hal::{NodeSet, PAGE_SIZE, Pte, Va, VaRange};

/// Pages that are faulted in at most before the mmap lock is let go for a moment: those of a table.
const BATCH: u64 = 512;

/// How `MADV_POPULATE_*` wants pages to be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Populate {
    /// Readable: the zero page, or a shared one, will do.
    Read,
    /// Writable: copy-on-write is over and done with.
    Write,
}

/// Why populating stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// Nothing is mapped there.
    Hole,
    /// The mapping does not allow the access.
    Denied,
    /// An access would get a signal: the bytes cannot be had, or there is a guard.
    Signal,
    /// No memory.
    Oom,
    /// No memory on these nodes, and the policy allows no others.
    NodesFull(NodeSet),
    /// A userfaultfd was sent this message: let go of the lock, wait, and go on.
    Userfault(UffdMessageId),
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Hole => Self::NotMapped,
            Stop::Denied => Self::Invalid("populating pages that the mapping does not allow to be accessed"),
            Stop::Signal => Self::BadAddress,
            Stop::Oom => Self::OutOfMemory,
            Stop::NodesFull(nodes) => Self::NodesFull(nodes),
            Stop::Userfault(_) => unreachable!("whoever populates waits by himself"),
        }
    }
}

/// What to do about a part of the range.
enum Plan {
    /// Fault it in.
    Fault(FaultAccess),
    /// Nothing, for this VMA.
    Skip,
}

impl<M: Machine> Mm<'_, M> {
    /// Faults in the pages of `range` (whole pages), as `MADV_POPULATE_READ` and `MADV_POPULATE_WRITE` do.
    ///
    /// ```
    /// # use anonmem::*;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.populate(VaRange { start, end: Va(start.0 + 2 * 4096) }, Populate::Write)?;
    /// assert_eq!(mm.counters().anon.0, 2);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock for reading, again and again. Sleeps.
    ///
    /// # Errors
    /// The first page that cannot be had ends it: [`Error::NotMapped`] in a hole, [`Error::Invalid`] if the
    /// mapping does not allow the access, [`Error::BadAddress`] if it would be a signal,
    /// [`Error::OutOfMemory`]. The pages before it are there.
    #[doc(alias("madvise_populate", "faultin_page_range"))]
    pub fn populate(&self, range: VaRange, how: Populate) -> Result<(), Error> {
        self.populate_with(range, |flags| match how {
            Populate::Read if flags.contains(VmFlags::READ) => Ok(Plan::Fault(FaultAccess::Read)),
            Populate::Write if flags.contains(VmFlags::WRITE) => Ok(Plan::Fault(FaultAccess::Write)),
            Populate::Read | Populate::Write => Err(Stop::Denied),
        })?;
        Ok(())
    }

    /// Faults in what is to be there at once of `range`: for writing where private memory is writable, so
    /// that no fault is left for later; not in mappings that are locked on fault. Holes are passed over.
    ///
    /// # Errors
    /// The first page that cannot be had ends it.
    #[doc(alias("__mm_populate", "populate_vma_page_range"))]
    pub(crate) fn mm_populate(&self, range: VaRange) -> Result<(), Stop> {
        let mut rest = range;
        while let Some(part) = self.next_mapped(rest) {
            self.populate_with(part, plan_of)?;
            rest.start = part.end;
        }
        Ok(())
    }

    /// The same, but what cannot be had ends only its VMA and is not told (`MAP_POPULATE`, `mlockall`).
    pub(crate) fn mm_populate_ignoring_errors(&self, range: VaRange) {
        let mut rest = range;
        while let Some(part) = self.next_mapped(rest) {
            let _ = self.populate_with(part, plan_of);
            rest.start = part.end;
        }
    }

    /// The first mapped part of `range`: that of one VMA.
    fn next_mapped(&self, range: VaRange) -> Option<VaRange> {
        let guard = self.read();
        let (found, _) = guard.slot().tree.find(self.vm.nodes(), range.start)?;
        found.intersect(range)
    }

    fn populate_with(
        &self,
        range: VaRange,
        plan: impl Fn(VmFlags) -> Result<Plan, Stop>,
    ) -> Result<(), Stop> {
        let mut rest = range;
        while !rest.is_empty() {
            let guard = self.read();
            let found = guard.slot().tree.find_containing(self.vm.nodes(), rest.start);
            let (mapped, id) = found.ok_or(Stop::Hole)?;
            let part = VaRange { start: rest.start, end: rest.end.min(mapped.end) };
            rest.start = match plan(self.vm.vma(id).flags())? {
                Plan::Skip => part.end,
                Plan::Fault(access) => match self.populate_batch(&guard, id, part, access) {
                    Err(Stop::Userfault(message)) => {
                        drop(guard);
                        self.wait_to_populate(message)?;
                        // What was populated before is found so.
                        part.start
                    }
                    Err(
                        stop @ (Stop::Hole | Stop::Denied | Stop::Signal | Stop::Oom | Stop::NodesFull(_)),
                    ) => return Err(stop),
                    Ok(end) => end,
                },
            };
        }
        Ok(())
    }

    #[cold]
    fn wait_to_populate(&self, message: UffdMessageId) -> Result<(), Stop> {
        match self.vm.wait_for_userfault(message, Waits::Kernel) {
            FaultOutcome::Done => Ok(()),
            // The program is ending.
            FaultOutcome::Oom
            | FaultOutcome::NodesFull(_)
            | FaultOutcome::SegvMaperr
            | FaultOutcome::SegvAccerr
            | FaultOutcome::Bus
            | FaultOutcome::Lost => Err(Stop::Signal),
        }
    }

    /// Faults in the first pages of `part`; returns where it stopped.
    fn populate_batch(
        &self,
        guard: &MmapReadGuard<'_, M>,
        id: VmaId,
        part: VaRange,
        access: FaultAccess,
    ) -> Result<Va, Stop> {
        anonmem_hal::debug_check_eq!(M, guard.id(), self.id, "the lock of another address space");
        let bytes = BATCH * PAGE_SIZE as u64;
        // Up to where a table ends, so that a folio of that size is not cut.
        let end = Va(part.start.0.saturating_add(bytes)).align_down(bytes).min(part.end);
        let mut va = part.start;
        while va < end {
            va = match self.populate_run(guard, id, VaRange { start: va, end }, access)? {
                0 => self.populate_page(guard, id, va, access)?,
                pages => Va(va.0 + pages * PAGE_SIZE as u64),
            };
        }
        Ok(end)
    }

    /// Fills the empty entries at the start of `part` together, where they are to be pages of zeroes; returns
    /// how many.
    fn populate_run(
        &self,
        guard: &MmapReadGuard<'_, M>,
        id: VmaId,
        part: VaRange,
        access: FaultAccess,
    ) -> Result<u64, Stop> {
        let vma = self.vm.vma(id);
        let writable = access == FaultAccess::Write && vma.flags().contains(VmFlags::WRITE);
        if !writable || !vma.is_plain() {
            return Ok(0);
        }
        let fault = VmFault::new(self.vm, self.slot(), guard, id, part.start, access, Waits::Never);
        match fill_run(&fault, part.end) {
            Ok(pages) => Ok(pages),
            Err(FaultResult::Oom) => Err(Stop::Oom),
            Err(FaultResult::NodesFull(nodes)) => Err(Stop::NodesFull(nodes)),
            // A fault of the page itself will tell.
            Err(_) => Ok(0),
        }
    }

    /// Faults in one page, unless it is there; returns where the next one is.
    fn populate_page(
        &self,
        guard: &MmapReadGuard<'_, M>,
        id: VmaId,
        va: Va,
        access: FaultAccess,
    ) -> Result<Va, Stop> {
        if self.has_page(guard, va, access) {
            return Ok(va.next_page());
        }
        match self.fault_in_vma(guard, id, va, access, Waits::Kernel) {
            Ok(FaultOutcome::Done) => Ok(va.next_page()),
            Ok(FaultOutcome::Oom) => Err(Stop::Oom),
            Ok(FaultOutcome::NodesFull(nodes)) => Err(Stop::NodesFull(nodes)),
            Ok(FaultOutcome::SegvAccerr) => Err(Stop::Denied),
            Ok(FaultOutcome::SegvMaperr | FaultOutcome::Bus | FaultOutcome::Lost) => Err(Stop::Signal),
            Err(message) => Err(Stop::Userfault(message)),
        }
    }

    /// Whether an access would find what it needs.
    #[doc(alias = "follow_page_mask")]
    fn has_page(&self, guard: &MmapReadGuard<'_, M>, va: Va, access: FaultAccess) -> bool {
        anonmem_hal::debug_check_eq!(M, guard.id(), self.id, "the lock of another address space");
        let found = guard.slot().space.walk(&self.vm.frames, guard, va);
        match found.map_or(Pte::None, |found| found.peek(va)) {
            Pte::Present(present) => access != FaultAccess::Write || present.prot.write,
            Pte::None | Pte::Soft(_) => false,
        }
    }
}

/// How the pages of a VMA are faulted in when nobody said how.
fn plan_of(flags: VmFlags) -> Result<Plan, Stop> {
    if flags.contains(VmFlags::LOCKONFAULT) {
        return Ok(Plan::Skip);
    }
    let private_writable = flags.contains(VmFlags::WRITE) && !flags.contains(VmFlags::SHARED);
    if private_writable {
        Ok(Plan::Fault(FaultAccess::Write))
    } else if flags.intersects(VmFlags::ACCESS) {
        Ok(Plan::Fault(FaultAccess::Read))
    } else {
        Err(Stop::Denied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::{P, RW, World, pages},
        vma::Backing,
    };
    use anonmem_hosted::FailurePlan;

    #[test]
    fn populating_for_writing_ends_copy_on_write() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(500, 600), RW, Backing::Anonymous);
            mm.store(501 * P, 7).unwrap();
            let child = mm.fork().unwrap();
            child.populate(pages(500, 600), Populate::Write).unwrap();
            assert_eq!(child.counters().anon.0, 600);
            assert!(child.pagemap(Va(501 * P)).exclusive);
            assert_eq!(child.load(501 * P), Ok(7));
            mm.populate(pages(500, 600), Populate::Read).unwrap();
            assert_eq!(mm.counters().anon.0, 1, "the zero page costs nothing");
        });
    }

    #[test]
    fn populating_stops_where_a_page_cannot_be_had() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(16, 2), RW, Backing::Anonymous);
            mm.map_raw(pages(18, 2), RW - VmFlags::WRITE, Backing::Anonymous);
            mm.map_raw(pages(20, 2), RW - VmFlags::ACCESS, Backing::Anonymous);
            let source = w.sources.register([1; 5000].as_slice());
            mm.map_raw(pages(32, 3), RW, Backing::Source(source));
            let read = |range| mm.populate(range, Populate::Read);
            let write = |range| mm.populate(range, Populate::Write);
            assert_eq!(read(pages(16, 4)), Ok(()));
            assert!(matches!(read(pages(16, 6)), Err(Error::Invalid(_))));
            assert!(matches!(write(pages(16, 4)), Err(Error::Invalid(_))));
            assert_eq!(mm.counters().anon.0, 2);
            assert_eq!(write(pages(15, 4)), Err(Error::NotMapped));
            assert_eq!(write(pages(32, 3)), Err(Error::BadAddress), "beyond the end of the source");
            w.failures.set(FailurePlan::From(1));
            assert_eq!(write(pages(34, 1)), Err(Error::OutOfMemory));
            w.failures.set(FailurePlan::Off);
        });
    }

    #[test]
    fn what_is_populated_unasked_depends_on_the_mapping() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            let object = w.vm.shm_new(2).unwrap();
            mm.map_raw(pages(16, 2), RW, Backing::Anonymous);
            mm.map_raw(pages(18, 2), RW - VmFlags::ACCESS, Backing::Anonymous);
            mm.map_raw(pages(20, 2), RW | VmFlags::SHARED, Backing::Shared(object.id()));
            mm.map_raw(pages(24, 2), RW | VmFlags::LOCKONFAULT, Backing::Anonymous);
            drop(object);
            assert_eq!(mm.mm_populate(pages(16, 16)), Err(Stop::Denied));
            assert_eq!(mm.counters().rss().0, 2);
            mm.mm_populate_ignoring_errors(pages(0, 64));
            assert_eq!((mm.counters().anon.0, mm.counters().shared.0), (2, 2));
            assert!(!mm.pagemap(Va(20 * P)).dirty);
        });
    }
}
