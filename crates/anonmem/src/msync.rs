//! Writing back: nothing of this memory manager's is written anywhere, but a program is told what it asked
//! about.
//!
//! Locks: the mmap lock for reading.
//!
//! Linux: mm/msync.c. Differs: no file to write to.

use crate::{error::Error, mm::Mm, rmap::machine::Machine, vma::flags::VmFlags};
use anonmem_hal::{Va, VaRange, page_align};

bitflags::bitflags! {
    /// How `msync` is to go about it. The values are those of Linux's `MS_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SyncFlags: u32 {
        /// Some time.
        const ASYNC = 1;
        /// Other mappings of the same file are to see it: refused for locked memory.
        const INVALIDATE = 2;
        /// Before the call returns.
        const SYNC = 4;
    }
}

impl<M: Machine> Mm<'_, M> {
    /// Looks at the mappings of the `len` bytes from `start`, rounded up to pages.
    ///
    /// ```
    /// # use anonmem::*;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// assert_eq!(mm.msync(start, 4 * 4096, SyncFlags::SYNC), Ok(()));
    /// assert_eq!(mm.msync(start, 5 * 4096, SyncFlags::SYNC), Err(Error::NotMapped));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for flags that make no sense or a `start` that is not page aligned;
    /// [`Error::NotMapped`] if the range wraps around or has a hole; [`Error::Busy`] at the first locked
    /// mapping, if something is to be invalidated, holes before it or not.
    #[doc(alias = "sys_msync")]
    pub fn msync(&self, start: Va, len: u64, flags: SyncFlags) -> Result<(), Error> {
        if !SyncFlags::all().contains(flags) || flags.contains(SyncFlags::ASYNC | SyncFlags::SYNC) {
            return Err(Error::Invalid("flags of msync"));
        }
        if !start.is_page_aligned() {
            return Err(Error::Invalid("msync of an address that is not page aligned"));
        }
        // A length that wraps around is 0; a range that does is not.
        let mut rest = VaRange::of(start, page_align(len)).ok_or(Error::NotMapped)?;
        let guard = self.read();
        let mut hole = false;
        while !rest.is_empty() {
            let found = guard.slot().tree.find(self.vm.nodes(), rest.start);
            let Some((vma, id)) = found.filter(|(vma, _)| vma.start < rest.end) else {
                return Err(Error::NotMapped);
            };
            hole |= vma.start > rest.start;
            if hole && flags == SyncFlags::ASYNC {
                break;
            }
            if flags.contains(SyncFlags::INVALIDATE) && self.vm.vma(id).flags().contains(VmFlags::LOCKED) {
                return Err(Error::Busy);
            }
            rest.start = vma.end.min(rest.end);
        }
        if hole { Err(Error::NotMapped) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::{P, RW, World, pages},
        vma::Backing,
    };

    #[test]
    fn holes_and_locked_memory_are_told() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(16, 2), RW, Backing::Anonymous);
            mm.map_raw(pages(20, 2), RW, Backing::Anonymous);
            mm.mlock(Va(20 * P), P).unwrap();
            let sync = |page: u64, pages: u64, flags| mm.msync(Va(page * P), pages * P, flags);
            assert_eq!(sync(16, 2, SyncFlags::SYNC), Ok(()));
            assert_eq!(sync(16, 3, SyncFlags::SYNC), Err(Error::NotMapped));
            assert_eq!(sync(16, 6, SyncFlags::INVALIDATE), Err(Error::Busy), "beyond a hole");
            assert_eq!(sync(16, 4, SyncFlags::INVALIDATE), Err(Error::NotMapped));
            assert_eq!(sync(21, 1, SyncFlags::INVALIDATE), Ok(()));
            assert!(matches!(sync(16, 1, SyncFlags::SYNC | SyncFlags::ASYNC), Err(Error::Invalid(_))));
            assert_eq!(
                mm.msync(Va(16 * P), u64::MAX, SyncFlags::empty()),
                Ok(()),
                "a length that wraps is 0"
            );
            assert_eq!(mm.msync(Va(16 * P), u64::MAX - P, SyncFlags::empty()), Err(Error::NotMapped));
        });
    }
}
