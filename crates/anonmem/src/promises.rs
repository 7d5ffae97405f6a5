//! What the guards promise about page tables, and what a test may forge: with `freeing.rs`, the only `unsafe`
//! of this crate.
//!
//! That a lock keeps tables allocated is a fact about who frees them. `munmap` and `exit_mmap` hold the mmap
//! lock for writing, with the VMAs out of the tree and unlinked from the reverse map. Collapse in place
//! (`Mm::collapse_to_leaf`) holds the mmap lock and the rmap lock for writing, and has write-locked the VMA.
//! Its table is freed a grace period later. No type can say it, so it is written here, once for each guard.
//! Safe code outside of this file cannot make another guard that opens page tables.
//!
//! docs/locking.md, "Who may do what to page tables", has the same as a table.
#![allow(unsafe_code)]

use crate::{
    fault::speculative::Speculation,
    mm::{
        Mm,
        mmap_lock::{MmapReadGuard, MmapWriteGuard},
    },
    objects::Objects,
    rmap::{
        self,
        anon_vma::{AnonVmaReadGuard, AnonVmaWriteGuard},
        either::{EitherReadGuard, EitherWriteGuard},
        family::members::{FamilyReadGuard, FamilyWriteGuard},
    },
    shm::ShmUser,
    vma::lock::VmaReadGuard,
};
use anonmem_frame::PinList;
use anonmem_hal::{Machine, SwapEntry, VaRange};
use anonmem_pgtable::{AddressSpace, CanInstall, PinAccess, PinnedFast, StableVma};
use core::ptr;

// SAFETY: tables of the space are freed with this lock held for writing.
unsafe impl<M: Machine> StableVma<M> for MmapReadGuard<'_, M> {
    #[inline(always)]
    fn opens(&self, space: &AddressSpace<M>) -> bool {
        ptr::eq(&*self.slot().space, space)
    }
}
// SAFETY: a VMA is unmapped with this lock held for writing; what zaps under the lock held for reading
// (MADV_DONTNEED) leaves the VMA, which owns what is filled meanwhile.
unsafe impl<M: Machine> CanInstall<M> for MmapReadGuard<'_, M> {}

// SAFETY: the holder alone frees tables, and does not while it has a walk that borrows this guard.
unsafe impl<M: Machine> StableVma<M> for MmapWriteGuard<'_, M> {
    #[inline(always)]
    fn opens(&self, space: &AddressSpace<M>) -> bool {
        ptr::eq(&*self.slot().space, space)
    }
}
// SAFETY: the holder alone unmaps.
unsafe impl<M: Machine> CanInstall<M> for MmapWriteGuard<'_, M> {}

// SAFETY: whoever unmaps or changes the VMA write-locks it first, and waits for its readers.
unsafe impl<M: Machine> StableVma<M> for VmaReadGuard<'_, M> {
    #[inline(always)]
    fn opens(&self, space: &AddressSpace<M>) -> bool {
        ptr::eq(&*self.slot().space, space)
    }
}
// SAFETY: as above: the entries are cleared after the wait.
unsafe impl<M: Machine> CanInstall<M> for VmaReadGuard<'_, M> {}

// SAFETY: it is an RCU read section, and tables are freed a grace period after they were unlinked.
unsafe impl<M: rmap::machine::Machine> StableVma<M> for Speculation<'_, M> {
    #[inline(always)]
    fn opens(&self, space: &AddressSpace<M>) -> bool {
        ptr::eq(&*self.slot().space, space)
    }
}
// SAFETY: true from the check under the page-table lock on (`FaultGuard::still_holds`), and entries are
// filled only after it: `VmFault::lock` and `VmFault::relock` are the only ways of a fault to a guard of
// entries.
unsafe impl<M: rmap::machine::Machine> CanInstall<M> for Speculation<'_, M> {}

// SAFETY: the tables under a VMA are freed after `unlink_anon_vmas` has taken the root's lock for writing, so
// those of the VMAs that are linked to the family stay while the lock is held. Under an rmap lock entries may
// be looked at and cleared, never filled: munmap clears them before it unlinks, and would not come by again.
unsafe impl<M: Machine> StableVma<M> for AnonVmaReadGuard<'_, M> {
    /// A walk opens the space of each VMA that it finds in the family's trees, all of the same `Vm`.
    #[inline(always)]
    fn opens(&self, space: &AddressSpace<M>) -> bool {
        space.is_of(&self.objects().frames)
    }
}
// SAFETY: as for the lock held for reading.
unsafe impl<M: Machine> StableVma<M> for AnonVmaWriteGuard<'_, M> {
    #[inline(always)]
    fn opens(&self, space: &AddressSpace<M>) -> bool {
        space.is_of(&self.objects().frames)
    }
}

// SAFETY: the tables under a VMA that is marked are freed after `Families::unlink` or `Families::exit` has
// taken the family's lock for writing. A walk goes into the tables of a VMA only if it found it marked, and
// the address space's own, under the lock. As above, entries are never filled.
unsafe impl<M: Machine> StableVma<M> for FamilyReadGuard<'_, M> {
    /// A walk opens the space of each member that it finds, all of the same `Vm`.
    #[inline(always)]
    fn opens(&self, space: &AddressSpace<M>) -> bool {
        space.is_of(&self.objects().frames)
    }
}
// SAFETY: as for the lock held for reading.
unsafe impl<M: Machine> StableVma<M> for FamilyWriteGuard<'_, M> {
    #[inline(always)]
    fn opens(&self, space: &AddressSpace<M>) -> bool {
        space.is_of(&self.objects().frames)
    }
}

// SAFETY: it is one of the guards above.
unsafe impl<M: Machine> StableVma<M> for EitherReadGuard<'_, M> {
    #[inline(always)]
    fn opens(&self, space: &AddressSpace<M>) -> bool {
        space.is_of(&self.objects().frames)
    }
}
// SAFETY: it is one of the guards above.
unsafe impl<M: Machine> StableVma<M> for EitherWriteGuard<'_, M> {
    #[inline(always)]
    fn opens(&self, space: &AddressSpace<M>) -> bool {
        space.is_of(&self.objects().frames)
    }
}

// SAFETY: an object's tables are freed by its last user.
unsafe impl<M: Machine> StableVma<M> for ShmUser<'_, M> {
    #[inline(always)]
    fn opens(&self, space: &AddressSpace<M>) -> bool {
        ptr::eq(self.object().space(), space)
    }
}
// SAFETY: as above; pages are punched out under the page-table lock, and come back when asked for.
unsafe impl<M: Machine> CanInstall<M> for ShmUser<'_, M> {}

impl<'v, M: rmap::machine::Machine> Mm<'v, M> {
    /// Pins pages without a lock, in one read section ([`AddressSpace::pin_fast`]).
    pub(crate) fn pin_in_section(
        &self,
        part: VaRange,
        access: PinAccess,
        pins: &mut PinList<'v, M>,
    ) -> PinnedFast {
        let (vm, rcu) = (self.vm(), self.vm().rcu.read_lock());
        // SAFETY: all tables of a `Vm` wait in its `dead_tables`, for this domain; the root stays while the
        // address space has a user, such as this one.
        unsafe { self.slot().space.pin_fast(&vm.frames, &rcu, part, access, pins) }
    }
}

/// What tests forge.
impl<M: Machine> Objects<M> {
    /// Counts owners of a swap slot that nobody is, so that `room` more fit; returns how many.
    ///
    /// # Safety
    /// The slot is in use, and [`unforge_swap_owners`](Self::unforge_swap_owners) takes the same number away
    /// while it still is.
    #[doc(hidden)]
    pub unsafe fn forge_swap_owners(&self, entry: SwapEntry, room: u64) -> u64 {
        // SAFETY: as the caller says.
        unsafe { self.swap.get(entry).slots.forge(&self.frames, entry.offset, room) }
    }

    /// Takes the count of owners away that [`forge_swap_owners`](Self::forge_swap_owners) has made.
    ///
    /// # Safety
    /// It has counted so many, and they are taken away once.
    #[doc(hidden)]
    pub unsafe fn unforge_swap_owners(&self, entry: SwapEntry, forged: u64) {
        // SAFETY: as the caller says.
        unsafe { self.swap.get(entry).slots.unforge(&self.frames, entry.offset, forged) };
    }
}
