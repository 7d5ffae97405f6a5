//! Which pages are in memory.
//!
//! Locks: the mmap lock for reading, a page-table lock for one empty entry at a time.
//!
//! Linux: mm/mincore.c `do_mincore`. Differs: a private mapping of a source has no page cache behind it, so
//! only pages of its own count.

use crate::{
    error::Error,
    ids::VmaId,
    mm::{Mm, mmap_lock::MmapReadGuard},
    rmap::machine::Machine,
    vma::vma::Backing,
};
use anonmem_hal::{Arch, Pte, SoftLeaf, Va, VaRange};

impl<M: Machine> Mm<'_, M> {
    /// Tells for each page of the `len` bytes from `start`, in order, whether an access would find it in
    /// memory.
    ///
    /// `f` runs under the mmap lock and may not touch memory of this address space.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.store(start, 7)?;
    /// let mut there = Vec::new();
    /// mm.mincore(start, 4 * 4096, &mut |is_there| there.push(is_there))?;
    /// assert_eq!(there, [true, false, false, false]);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] if `start` is not page aligned; [`Error::NotMapped`] if part of the range is not
    /// mapped or outside the address space: the pages before the hole have been told.
    pub fn mincore(&self, start: Va, len: u64, f: &mut dyn FnMut(bool)) -> Result<(), Error> {
        if !start.is_page_aligned() {
            return Err(Error::Invalid("mincore of an address that is not page aligned"));
        }
        let end = start.checked_add(len).and_then(Va::page_up).filter(|&end| end <= M::Arch::USER_END);
        let mut rest = VaRange { start, end: end.ok_or(Error::NotMapped)? };
        let guard = self.read();
        while !rest.is_empty() {
            let found = guard.slot().tree.find_containing(self.vm.nodes(), rest.start);
            let (range, id) = found.ok_or(Error::NotMapped)?;
            let part = VaRange { start: rest.start, end: rest.end.min(range.end) };
            guard.mincore_vma(id, part, f);
            rest.start = part.end;
        }
        Ok(())
    }
}

impl<M: Machine> MmapReadGuard<'_, M> {
    fn mincore_vma(&self, id: VmaId, part: VaRange, f: &mut dyn FnMut(bool)) {
        let space = &self.slot().space;
        let vma = self.objects.vma(id);
        for va in part.iter_pages() {
            let found = space.walk(&self.objects.frames, self, va);
            let present = match found.map_or(Pte::None, |found| found.look(va)) {
                Pte::Present(_) => true,
                Pte::Soft(SoftLeaf::Swap { entry, .. }) => self.objects.swap_has_page(entry),
                // It is in memory, here or there.
                Pte::Soft(SoftLeaf::Migration { .. }) => true,
                Pte::None | Pte::Soft(SoftLeaf::Marker(_)) => match vma.backing() {
                    Backing::Shared(object) => self.objects.shm_in_core(object, vma.index_of(va)),
                    Backing::Anonymous | Backing::Source(_) => false,
                },
            };
            f(present);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::{P, RW, World, pages},
        vma::VmFlags,
    };
    use std::vec;

    #[test]
    fn pages_in_memory_are_told_up_to_the_first_hole() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            mm.map_raw(pages(16, 4), RW, Backing::Anonymous);
            mm.store(17 * P, 1).unwrap();
            let mut told = vec![];
            assert_eq!(mm.mincore(Va(16 * P), 3 * P - 7, &mut |is| told.push(is)), Ok(()));
            assert_eq!(told, [false, true, false]);
            assert_eq!(mm.mincore(Va(18 * P), 3 * P, &mut |is| told.push(is)), Err(Error::NotMapped));
            assert_eq!(told.len(), 5);
            assert!(matches!(mm.mincore(Va(16 * P + 1), P, &mut |_| ()), Err(Error::Invalid(_))));
            assert_eq!(mm.mincore(Va(99 * P), 0, &mut |_| ()), Ok(()));
        });
    }

    #[test]
    fn a_page_of_a_shared_object_is_in_memory_whoever_touched_it() {
        World::run(|w| {
            let (one, two) = (w.vm.new_mm().unwrap(), w.vm.new_mm().unwrap());
            let object = w.vm.shm_new(2).unwrap();
            for mm in [&one, &two] {
                mm.map_raw(pages(16, 2), RW | VmFlags::SHARED, Backing::Shared(object.id()));
            }
            drop(object);
            one.store(16 * P, 1).unwrap();
            let mut told = vec![];
            two.mincore(Va(16 * P), 2 * P, &mut |is| told.push(is)).unwrap();
            assert_eq!(told, [true, false]);
        });
    }
}
