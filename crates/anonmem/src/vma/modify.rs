//! Part of a VMA changes its attributes: mprotect, mlock, madvise.
//!
//! If a neighbour has the new attributes, it takes the part over; otherwise the part is split off. Nothing
//! that is refused has changed anything.
//!
//! Linux: mm/vma.c `vma_modify_flags`.

use crate::{
    error::Error,
    ids::{UffdId, VmaId},
    mm::mmap_lock::MmapWriteGuard,
    rmap::machine::Machine,
    vma::{flags::VmFlags, vma::Vma},
};
use anonmem_hal::VaRange;

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Gives `range`, which lies in VMA `id`, the attributes `flags`; returns the VMA that covers it then,
    /// which may reach further. What the address space counts follows; the commit charge is the caller's.
    ///
    /// # Locks
    /// The mmap lock for writing.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Limit`] if there would be too many mappings. Nothing has changed.
    #[doc(alias = "vma_modify_flags")]
    pub(crate) fn modify_vma(&self, id: VmaId, range: VaRange, flags: VmFlags) -> Result<VmaId, Error> {
        self.modify_watched(id, range, flags, self.objects.vma(id).uffd())
    }

    /// The same, with the userfaultfd `uffd`: some if the attributes say so.
    ///
    /// # Errors
    /// As [`modify_vma`](Self::modify_vma).
    #[doc(alias = "vma_modify_flags_uffd")]
    pub(crate) fn modify_watched(
        &self,
        id: VmaId,
        range: VaRange,
        flags: VmFlags,
        uffd: Option<UffdId>,
    ) -> Result<VmaId, Error> {
        let old = self.objects.vma(id).flags();
        if old == flags {
            return Ok(id);
        }
        anonmem_hal::debug_check_eq!(
            M,
            (old ^ flags) & VmFlags::GROWSDOWN,
            VmFlags::empty(),
            "a stack is made by mmap"
        );
        let modified = match self.merge_existing(id, range, (flags, uffd)) {
            Some(neighbour) => neighbour,
            None => {
                let part = self.cut_out(id, range)?;
                self.objects.vma(part).start_write(self).set_flags(flags, uffd);
                part
            }
        };
        let (counts, pages) = (&self.slot().counts, range.pages().0 as i64);
        counts.add_vma(old, -pages);
        counts.add_vma(flags, pages);
        Ok(modified)
    }

    /// Makes `range`, which lies in VMA `id`, a VMA of its own.
    fn cut_out(&self, id: VmaId, range: VaRange) -> Result<VmaId, Error> {
        let whole = self.objects.vma(id).range();
        let mut part = id;
        if whole.start < range.start {
            self.check_map_count()?;
            part = self.split_vma(id, range.start)?;
        }
        if range.end < whole.end {
            let split = self.check_map_count().and_then(|()| self.split_vma(part, range.end));
            if let Err(e) = split {
                self.rejoin(range.start);
                return Err(e);
            }
        }
        Ok(part)
    }

    /// Gives every VMA of `range`, or its part that lies in the range, the attributes that `change` returns
    /// for it.
    ///
    /// # Locks
    /// The mmap lock for writing.
    ///
    /// # Errors
    /// [`Error::NotMapped`] at the first hole, what `change` returns, and that of
    /// [`modify_vma`](Self::modify_vma). What lies before has been changed.
    pub(crate) fn modify_range(
        &self,
        range: VaRange,
        mut change: impl FnMut(&Vma<M>) -> Result<VmFlags, Error>,
    ) -> Result<(), Error> {
        self.each_part(range, |id, part| {
            let flags = change(self.objects.vma(id))?;
            self.modify_vma(id, part, flags).map(drop)
        })
    }

    /// Calls `f` with every VMA of `range` and the part of it that lies in the range, in ascending order. `f`
    /// may split the VMA, or merge it.
    ///
    /// # Locks
    /// The mmap lock for writing.
    ///
    /// # Errors
    /// [`Error::NotMapped`] at the first hole, and what `f` returns, as [`modify_vma`](Self::modify_vma)
    /// does. It was called for what lies before.
    pub(crate) fn each_part(
        &self,
        range: VaRange,
        mut f: impl FnMut(VmaId, VaRange) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (nodes, tree) = (self.objects.nodes(), &self.slot().tree);
        let mut rest = range;
        while !rest.is_empty() {
            let (vma, id) = tree.find_containing(nodes, rest.start).ok_or(Error::NotMapped)?;
            let part = VaRange { start: rest.start, end: vma.end.min(range.end) };
            f(id, part)?;
            rest.start = part.end;
        }
        Ok(())
    }
}
