//! The lock of an address space, and what it means to hold it.
//!
//! The lock protects the tree of VMAs and the accounting. [`MmapReadGuard`] and [`MmapWriteGuard`] are what
//! functions take to say that they need it. What changes the structure of an address space is a method of the
//! latter.
//!
//! Linux: include/linux/mmap_lock.h.

use crate::{ids::MmId, mm::slot::MmSlot, objects::Objects};
use anonmem_hal::Machine;
use anonmem_sync::{Ordering, RwSemReadGuard, RwSemWriteGuard, order::MmapLock};

impl<M: Machine> Objects<M> {
    /// The mmap lock for reading.
    #[inline]
    #[track_caller]
    pub(crate) fn mmap_read_lock(&self, id: MmId) -> MmapReadGuard<'_, M> {
        self.mmap_read_lock_of(id, self.mm_slot(id))
    }

    /// The same for whoever has looked the slot up.
    #[inline]
    #[track_caller]
    pub(crate) fn mmap_read_lock_of<'a>(&'a self, id: MmId, slot: &'a MmSlot<M>) -> MmapReadGuard<'a, M> {
        MmapReadGuard { objects: self, slot, id, _lock: slot.mmap_lock.read() }
    }

    /// The mmap lock for reading, if that needs no waiting. Whoever's the slot is by then, nothing of it goes
    /// away meanwhile.
    #[track_caller]
    pub(crate) fn mmap_try_read_lock(&self, id: MmId) -> Option<MmapReadGuard<'_, M>> {
        let slot = self.mm_slot(id);
        Some(MmapReadGuard { objects: self, slot, id, _lock: slot.mmap_lock.try_read()? })
    }

    /// The mmap lock for writing.
    #[inline]
    #[track_caller]
    pub(crate) fn mmap_write_lock(&self, id: MmId) -> MmapWriteGuard<'_, M> {
        let slot = self.mm_slot(id);
        MmapWriteGuard::new(self, (id, slot), slot.mmap_lock.write())
    }

    /// The mmap lock of a child that nobody else knows, under its parent's.
    #[track_caller]
    pub(crate) fn mmap_write_lock_nested(&self, id: MmId) -> MmapWriteGuard<'_, M> {
        let slot = self.mm_slot(id);
        MmapWriteGuard::new(self, (id, slot), slot.mmap_lock.write_nested(1))
    }
}

/// The mmap lock, held for reading: VMAs do not change, entries of the page tables may be filled.
pub(crate) struct MmapReadGuard<'a, M: Machine> {
    pub(crate) objects: &'a Objects<M>,
    slot: &'a MmSlot<M>,
    id: MmId,
    _lock: RwSemReadGuard<'a, M, MmapLock, ()>,
}

/// The mmap lock, held for writing: VMAs may be changed, by the methods of this guard.
pub(crate) struct MmapWriteGuard<'a, M: Machine> {
    pub(crate) objects: &'a Objects<M>,
    slot: &'a MmSlot<M>,
    id: MmId,
    _lock: RwSemWriteGuard<'a, M, MmapLock, ()>,
}

impl<'a, M: Machine> MmapReadGuard<'a, M> {
    /// The address space.
    #[inline]
    pub(crate) fn slot(&self) -> &'a MmSlot<M> {
        self.slot
    }

    /// Its name.
    pub(crate) fn id(&self) -> MmId {
        self.id
    }
}

impl<'a, M: Machine> MmapWriteGuard<'a, M> {
    /// The guard of the address space, whose `lock` that is.
    fn new(
        objects: &'a Objects<M>,
        (id, slot): (MmId, &'a MmSlot<M>),
        lock: RwSemWriteGuard<'a, M, MmapLock, ()>,
    ) -> Self {
        let seq = slot.lock_seq.load(Ordering::Relaxed);
        anonmem_hal::debug_check!(M, seq.is_multiple_of(2), "two writers of one address space");
        slot.lock_seq.store(seq + 1, Ordering::Relaxed);
        Self { objects, slot, id, _lock: lock }
    }

    /// The address space.
    #[inline]
    pub(crate) fn slot(&self) -> &'a MmSlot<M> {
        self.slot
    }

    /// Its name.
    pub(crate) fn id(&self) -> MmId {
        self.id
    }
}

impl<M: Machine> Drop for MmapWriteGuard<'_, M> {
    /// Unlocks all VMAs at once, then the mmap lock.
    #[doc(alias = "vma_end_write_all")]
    fn drop(&mut self) {
        let seq = self.slot.lock_seq.load(Ordering::Relaxed);
        // Release pairs with the Acquire of `lock_seq`.
        self.slot.lock_seq.store(seq + 1, Ordering::Release);
    }
}

/// The mmap lock, held one way or the other: what needs it held and not how.
pub(crate) enum MmapHeld<'a, M: Machine> {
    /// For reading.
    Read(&'a MmapReadGuard<'a, M>),
    /// For writing.
    Write(&'a MmapWriteGuard<'a, M>),
}

impl<'a, M: Machine> MmapHeld<'a, M> {
    /// The address space.
    pub(crate) fn slot(&self) -> &'a MmSlot<M> {
        match self {
            Self::Read(guard) => guard.slot(),
            Self::Write(guard) => guard.slot(),
        }
    }
}
