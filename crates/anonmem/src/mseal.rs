//! `mseal`: mappings that stay as they are until their address space ends.
//!
//! A sealed mapping is not unmapped, replaced, moved, resized or given other permissions. What it holds may
//! be dropped only where a store could do as much. Who asks is told so before anything has changed.
//! Accesses, and all that reclaim, fork and migration do, know nothing of it.
//!
//! Locks: the mmap lock for writing. The mark is an attribute of the VMA, so it splits and merges with it.
//!
//! Linux: mm/mseal.c, mm/vma.h `vma_is_sealed`, mm/madvise.c `can_modify_vma_madv`.

use crate::{
    error::Error,
    mm::{Mm, mmap_lock::MmapWriteGuard},
    rmap::machine::Machine,
    vma::flags::VmFlags,
};
use anonmem_hal::{Va, VaRange};

impl<M: Machine> Mm<'_, M> {
    /// Seals the mappings of the `len` bytes from `start`, rounded up to pages, for good.
    ///
    /// ```
    /// # use anonmem::*;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.mseal(start, 4096)?;
    /// let range = VaRange { start, end: Va(start.0 + 4096) };
    /// assert_eq!(mm.munmap(range), Err(Error::NotPermitted));
    /// assert_eq!(mm.mprotect(range, Prot::READ), Err(Error::NotPermitted));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock for writing.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `start` is not at a page or the range wraps around; [`Error::NotMapped`] if part
    /// of it is not mapped: nothing has changed. [`Error::OutOfMemory`] and [`Error::Limit`] if a mapping
    /// cannot be split: those before are sealed.
    #[doc(alias = "do_mseal")]
    pub fn mseal(&self, start: Va, len: u64) -> Result<(), Error> {
        if !start.is_page_aligned() {
            return Err(Error::Invalid("the start of a range to seal is not at a page"));
        }
        let end = Va(len).page_up().and_then(|len| start.checked_add(len.0));
        let end = end.ok_or(Error::Invalid("a range to seal wraps around"))?;
        let range = VaRange { start, end };
        if range.is_empty() {
            return Ok(());
        }
        self.vm.reclaiming(|| {
            let guard = self.write();
            guard.check_mapped(range)?;
            guard.slot().note_sealed();
            guard.modify_range(range, |vma| Ok(vma.flags() | VmFlags::SEALED))
        })
    }
}

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Refuses a hole.
    #[doc(alias = "range_contains_unmapped")]
    fn check_mapped(&self, range: VaRange) -> Result<(), Error> {
        let mut at = range.start;
        while at < range.end {
            let found = self.slot().tree.find_containing(self.objects.nodes(), at);
            at = found.ok_or(Error::NotMapped)?.0.end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Advice, MapBacking, MapFlags, MmapRequest, Prot, RemapFlags,
        testing::{P, World, pages},
    };

    const REFUSED: Result<(), Error> = Err(Error::NotPermitted);

    /// An address space with 8 pages from page 16 on, of which page 18 and 19 are sealed.
    fn with_sealed(f: impl FnOnce(&World, &Mm<'_, crate::testing::M>)) {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            let (prot, flags) = (Prot::READ | Prot::WRITE, MapFlags::FIXED);
            let backing = MapBacking::Anonymous;
            mm.mmap(MmapRequest { addr: Va(16 * P), len: 8 * P, prot, flags, backing }).unwrap();
            mm.store(18 * P, 7).unwrap();
            mm.mseal(Va(18 * P), 2 * P).unwrap();
            f(w, &mm);
            w.vm.validate().unwrap();
        });
    }

    #[test]
    fn what_is_sealed_stays_mapped_as_it_is() {
        with_sealed(|_, mm| {
            let fixed = |addr| MmapRequest {
                addr: Va(addr),
                flags: MapFlags::FIXED,
                ..MmapRequest::anonymous(P, Prot::READ)
            };
            let moved = RemapFlags::MAYMOVE | RemapFlags::FIXED;
            for range in [pages(18, 2), pages(19, 1), pages(17, 2), pages(16, 8)] {
                assert_eq!(mm.munmap(range), REFUSED, "{range:?}");
            }
            assert_eq!(mm.mprotect(pages(19, 2), Prot::READ), REFUSED);
            assert_eq!(mm.mmap(fixed(18 * P)).map(drop), REFUSED);
            assert_eq!(mm.mremap(Va(18 * P), P, P, moved, Va(40 * P)).map(drop), REFUSED);
            assert_eq!(mm.mremap(Va(22 * P), P, P, moved, Va(19 * P)).map(drop), REFUSED, "over it");
            assert_eq!(mm.mremap(Va(17 * P), 2 * P, P, moved, Va(40 * P)).map(drop), REFUSED, "the tail");
            assert_eq!(mm.mremap(Va(18 * P), 2 * P, P, RemapFlags::empty(), Va(0)).map(drop), REFUSED);
            assert_eq!((mm.counters().vmas, mm.load(18 * P)), (3, Ok(7)), "nothing has changed");
            assert_eq!(mm.munmap(pages(20, 4)), Ok(()), "its neighbours may go");
        });
    }

    #[test]
    fn what_is_sealed_loses_bytes_only_where_a_store_could_do_it() {
        with_sealed(|_, mm| {
            assert_eq!(mm.madvise(Va(19 * P), P, Advice::DontNeed), Ok(()), "it is writable");
            mm.mprotect(pages(20, 1), Prot::READ).unwrap();
            mm.mseal(Va(20 * P), P).unwrap();
            for advice in
                [Advice::DontNeed, Advice::Free, Advice::DontFork, Advice::WipeOnFork, Advice::GuardInstall]
            {
                assert_eq!(mm.madvise(Va(20 * P), P, advice), REFUSED, "{advice:?}");
            }
            for advice in [Advice::Cold, Advice::PageOut, Advice::Random, Advice::DoFork] {
                assert_eq!(mm.madvise(Va(20 * P), P, advice), Ok(()), "{advice:?}");
            }
        });
    }

    #[test]
    fn a_childs_copy_is_sealed_and_goes_with_the_child() {
        with_sealed(|_, mm| {
            let child = mm.fork().unwrap();
            assert_eq!(child.munmap(pages(18, 1)), REFUSED);
            assert_eq!(child.store(18 * P, 9), Ok(()));
            assert_eq!(mm.load(18 * P), Ok(7));
        });
    }

    #[test]
    fn nothing_is_sealed_over_a_hole() {
        with_sealed(|_, mm| {
            mm.munmap(pages(21, 1)).unwrap();
            assert_eq!(mm.mseal(Va(20 * P), 3 * P), Err(Error::NotMapped));
            assert_eq!(mm.munmap(pages(20, 1)), Ok(()));
            assert!(matches!(mm.mseal(Va(16 * P + 1), P), Err(Error::Invalid(_))));
            assert!(matches!(mm.mseal(Va(16 * P), u64::MAX - P), Err(Error::Invalid(_))));
            assert_eq!(mm.mseal(Va(16 * P), 0), Ok(()));
            assert_eq!(mm.mseal(Va(18 * P), P), Ok(()), "twice");
        });
    }
}
