//! What is behind mappings becomes shorter: a shared object, or a source.
//!
//! The new length is set first, by the caller for a source. Then every address space that maps the end gives
//! up its pages beyond, private copies included. A fault that found the old length holds the VMA's lock or
//! the mmap lock until its page is installed. The walk takes both for writing, so it meets the page. A fault
//! that comes later finds the new length, and a SIGBUS.
//!
//! A fork that runs meanwhile may give its child, which the walk does not meet, private copies beyond the
//! end.
//!
//! Locks: the mmap lock of one address space at a time, for writing, and the locks of the VMAs that map the
//! end.
//!
//! Linux: mm/truncate.c `truncate_pagecache`, mm/memory.c `unmap_mapping_range`, mm/shmem.c `shmem_setattr`.
//! Differs: all address spaces are looked at, because nothing leads from an object to the VMAs that map it.

use crate::{
    error::Error, ids::ShmId, mm::Mm, rmap::machine::Machine, vm::Vm, vma::vma::Backing, zap::discard_range,
};
use anonmem_hal::{Arch, PAGE_SHIFT, SourceId, Va, VaRange};
use anonmem_pgtable::Teardown;

impl<M: Machine> Vm<M> {
    /// Makes a shared object `pages` pages long. Pages beyond the end leave it, and every mapping of it.
    ///
    /// # Locks
    /// The mmap lock of every address space that maps the object, one at a time, for writing. Sleeps. The
    /// caller sees to it that no other call changes the length, or makes pages beyond it, meanwhile.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the object was promised in full, or would be larger than an address space.
    #[doc(alias = "shmem_setattr")]
    pub(crate) fn shm_resize(&self, id: ShmId, pages: u64) -> Result<(), Error> {
        if pages > M::Arch::USER_END.page() {
            return Err(Error::Invalid("a shared object larger than an address space"));
        }
        let old = self.shm_set_length(id, pages)?;
        if pages < old {
            self.unmap_mapping(Backing::Shared(id), pages);
            self.shm_cut(id, pages, old);
        }
        Ok(())
    }

    /// Takes away what address spaces hold of a source from page `first` on: the source has become shorter.
    ///
    /// # Locks
    /// The mmap lock of every address space that maps the source, one at a time, for writing. Sleeps.
    #[doc(alias = "truncate_pagecache")]
    pub fn unmap_source(&self, source: SourceId, first: u64) {
        self.unmap_mapping(Backing::Source(source), first);
    }

    #[doc(alias = "unmap_mapping_range")]
    fn unmap_mapping(&self, backing: Backing, first: u64) {
        self.mms.for_each_live(&self.frames, |id, _| {
            if let Some(mm) = self.try_user(id) {
                mm.unmap_backing(backing, first);
            }
        });
    }
}

impl<M: Machine> Mm<'_, M> {
    fn maps(&self, backing: Backing) -> bool {
        let guard = self.read();
        let (tree, nodes) = (&guard.slot().tree, self.vm.nodes());
        let mut vmas = tree.cursor(VaRange { start: Va(0), end: M::Arch::USER_END });
        while let Some((_, id)) = vmas.next(tree, nodes) {
            if self.vm.vma(id).backing() == backing {
                return true;
            }
        }
        false
    }

    /// Gives up the pages of `backing` from index `first` on.
    fn unmap_backing(&self, backing: Backing, first: u64) {
        if !self.maps(backing) {
            return;
        }
        let guard = self.write();
        let (vm, slot) = (self.vm, guard.slot());
        let mut vmas = slot.tree.cursor(VaRange { start: Va(0), end: M::Arch::USER_END });
        while let Some((range, id)) = vmas.next(&slot.tree, vm.nodes()) {
            let vma = vm.vma(id);
            let kept = first.saturating_sub(vma.pgoff());
            if vma.backing() != backing || kept >= range.pages().0 {
                continue;
            }
            // Faults that hold the VMA's lock have installed their page before this returns.
            let _ = vma.start_write(&guard);
            let part = VaRange { start: Va(range.start.0 + (kept << PAGE_SHIFT)), end: range.end };
            vm.note_peak(slot);
            let mut gather = vm.gather(&slot.space, Teardown::Range);
            discard_range(vm, slot, &guard, &mut gather, part);
            gather.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        testing::{P, RW, World, pages},
        vma::{flags::VmFlags, vma::Backing},
    };
    use anonmem_hosted::Trap;

    #[test]
    fn an_object_that_becomes_shorter_takes_its_pages_from_everybody() {
        World::run(|w| {
            let (one, two) = (w.vm.new_mm().unwrap(), w.vm.new_mm().unwrap());
            let object = w.vm.shm_new_sparse(6).unwrap();
            assert_eq!(w.vm.stats().committed, 0, "pages are promised when they are made");
            one.map_raw(pages(16, 8), RW | VmFlags::SHARED, Backing::Shared(object.id()));
            two.map_raw(pages(32, 8), RW | VmFlags::SHARED, Backing::Shared(object.id()));
            let promised =
                || w.vm.stats().committed - one.counters().committed.0 - two.counters().committed.0;
            for page in 0..6 {
                one.store((16 + page) * P, 7).unwrap();
                assert_eq!(two.load((32 + page) * P), Ok(7));
            }
            assert_eq!((one.store(22 * P, 1), promised()), (Err(Trap::Bus), 6));
            object.resize(2).unwrap();
            assert_eq!(
                (two.load(33 * P), two.load(34 * P), one.load(21 * P)),
                (Ok(7), Err(Trap::Bus), Err(Trap::Bus))
            );
            assert_eq!((one.counters().shared.0, promised()), (2, 2));
            object.resize(3).unwrap();
            assert_eq!(
                (two.load(34 * P), one.load(19 * P)),
                (Ok(0), Err(Trap::Bus)),
                "new pages are of zeroes"
            );
            w.vm.validate().unwrap();
            drop(object);
        });
    }

    #[test]
    fn a_source_that_becomes_shorter_takes_private_copies_away() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            let source = w.sources.register([3; 4 * P as usize].as_slice());
            mm.map_raw(pages(16, 4), RW, Backing::Source(source));
            mm.map_raw(pages(40, 1), RW, Backing::Anonymous);
            for page in [16, 17, 18, 40] {
                mm.store(page * P, 9).unwrap();
            }
            w.vm.unmap_source(source, 1);
            assert_eq!((mm.counters().anon.0, mm.load(16 * P), mm.load(40 * P)), (2, Ok(9), Ok(9)));
            assert_eq!(mm.load(17 * P), Ok(3), "filled again, if the source still has it");
            w.vm.validate().unwrap();
        });
    }

    #[test]
    fn a_promise_in_full_has_its_length_for_ever() {
        World::run(|w| {
            let object = w.vm.shm_new(2).unwrap();
            assert!(object.resize(1).is_err());
            drop(object);
        });
    }
}
