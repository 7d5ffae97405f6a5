//! The lock of a VMA: faults take it for reading instead of the mmap lock.
//!
//! A reader counts itself in `refcount`. A writer holds the mmap lock for writing, waits until it is alone,
//! and writes the address space's lock sequence into `seq`. The VMA is write-locked for as long as the two
//! are equal. So all VMAs are unlocked at once when the mmap lock is let go and its sequence moves on.
//!
//! | `refcount` | meaning |
//! |---|---|
//! | 0 | detached: not in a tree; nobody may read-lock it |
//! | 1 | attached |
//! | 1 + n | attached, n readers (some of them about to find out that it is write-locked) |
//! | + `WRITER` | a writer waits for the readers; no new ones |
//!
//! A slot is type-stable: between finding a VMA in the tree and locking it, it may have become another VMA,
//! of another address space. So after locking, owner, sequence and bounds are asked. A recycled slot whose
//! `seq` happens to equal the sequence of its new address space looks locked: that costs a fallback, never
//! more.
//!
//! `version` counts the write locks that a slot has seen. Speculative faults take no lock; they remember it.
//! It and the sequences have 64 bits, so that none comes round to a value that somebody remembers.
//!
//! Linux: include/linux/mmap_lock.h `vma_start_read`, `__vma_start_write`, mm/mmap_lock.c
//! `lock_vma_under_rcu` (6.15). Differs: `version`; 64 bits (Linux's sequence has 32, and wraps); lookups
//! need no RCU because nodes and VMAs are type-stable.

use super::reshape::Reshaping;
use crate::{
    cpu::LastVma,
    error::Error,
    ids::{MmId, UffdId, VmaId},
    mm::{
        mmap_lock::{MmapReadGuard, MmapWriteGuard},
        slot::MmSlot,
    },
    objects::Objects,
    vma::{
        flags::VmFlags,
        refusal::Refusal,
        vma::{Vma, WRITER},
    },
};
use anonmem_hal::{Machine, Va, VaRange};
use anonmem_sync::{
    Level, Ordering,
    lockdep::{self, Acquire},
    order::VmaLock as VmaLevel,
    spin_until,
};
use core::marker::PhantomData;

impl<M: Machine> Vma<M> {
    /// Read-locks the VMA if it is `slot`'s and no writer has it or waits for it.
    #[doc(alias = "vma_start_read")]
    fn start_read(&self, slot: &MmSlot<M>, mm: MmId, last: &LastVma<M>) -> Result<(), Refusal> {
        let lock = &self.lock;
        // A first look saves the counting; the second, when we are counted, decides.
        if !last.is_known_unlocked(lock.version()) && lock.is_write_locked(slot) {
            return Err(Refusal::WriteLocked);
        }
        // Acquire pairs with the Release with which a writer takes its count back: its `seq` is seen.
        let counted =
            lock.refcount.fetch_update(Ordering::Acquire, |n| (n != 0 && n & WRITER == 0).then(|| n + 1));
        match counted {
            Err(0) => return Err(Refusal::Recycled),
            Err(_) => return Err(Refusal::WriteLocked),
            Ok(_) => {}
        }
        // No writer changes the version while we are counted. If one has it, he changed it before: we see
        // that.
        let version = lock.version();
        let refusal = if self.mm() != Some(mm) {
            Refusal::Recycled
        } else if !last.is_known_unlocked(version) && lock.is_write_locked(slot) {
            Refusal::WriteLocked
        } else {
            last.note_unlocked(version);
            lockdep::acquire::<M>(VmaLevel::RANK, lock.refcount.addr(), Acquire::Try);
            return Ok(());
        };
        lock.put();
        Err(refusal)
    }

    /// Makes the VMA one that can be found and, once the mmap lock is let go, locked. What it says is
    /// complete.
    #[doc(alias = "vma_mark_attached")]
    pub(crate) fn attach(&self, guard: &MmapWriteGuard<'_, M>) {
        anonmem_hal::debug_check!(M, !self.lock.is_attached(), "attached twice");
        // The version changes before and after: a fault that remembers the slot's former use and sees this
        // sequence, which is another address space's and may look like one of long ago, sees a new version
        // too; and whoever sees the last version sees this sequence.
        self.lock.next_version();
        self.lock.seq.store(guard.slot().lock_seq(), Ordering::Relaxed);
        self.lock.next_version();
        // Release pairs with the Acquire in `start_read`: whoever counts himself finds it complete, and
        // locked.
        self.lock.refcount.store(1, Ordering::Release);
    }

    /// Ends that. The VMA is write-locked and out of the tree; waits for those who found it before and are
    /// about to learn that it is locked.
    #[doc(alias = "vma_mark_detached")]
    pub(crate) fn detach(&self, guard: &MmapWriteGuard<'_, M>) {
        let _ = self.start_write(guard);
        self.lock.refcount.fetch_sub(1, Ordering::Relaxed);
        // Acquire pairs with the Release of `put`.
        spin_until::<M>(&|| self.lock.refcount.load(Ordering::Acquire) == 0);
    }

    /// Write-locks the VMA until the mmap lock is let go: no fault of it runs, and none that runs without its
    /// lock commits.
    ///
    /// Must come before anything that a fault reads is changed: fields, and page-table entries other than by
    /// the rules that rmap walks keep.
    #[doc(alias = "vma_start_write")]
    pub(crate) fn start_write<'a>(&'a self, guard: &'a MmapWriteGuard<'_, M>) -> VmaWrite<'a, M> {
        let (lock, seq) = (&self.lock, guard.slot().lock_seq());
        let token = VmaWrite { vma: self, _mmap: PhantomData };
        if lock.seq.load(Ordering::Relaxed) == seq {
            return token;
        }
        lockdep::acquire::<M>(VmaLevel::RANK, lock.seq.addr(), Acquire::Blocking);
        let attached = lock.refcount.load(Ordering::Relaxed) != 0;
        if attached {
            // Acquire pairs with the Release of `put`: the readers' sections are over.
            lock.refcount.fetch_add(WRITER, Ordering::Acquire);
            let is_last = || lock.refcount.load(Ordering::Acquire) == WRITER + 1;
            if !is_last() {
                M::contended(VmaLevel::RANK, &mut || lock.writer.wait_until(&is_last));
            }
        }
        lock.seq.store(seq, Ordering::Relaxed);
        lock.next_version();
        if attached {
            // Release pairs with the Acquire in `start_read`.
            lock.refcount.fetch_sub(WRITER, Ordering::Release);
        }
        lockdep::release::<M>(VmaLevel::RANK, lock.seq.addr());
        token
    }
}

/// A VMA that is write-locked until the mmap lock is let go: what a fault reads may be changed.
pub(crate) struct VmaWrite<'a, M: Machine> {
    vma: &'a Vma<M>,
    /// For as long as the mmap lock is held.
    _mmap: PhantomData<&'a ()>,
}

impl<M: Machine> VmaWrite<'_, M> {
    /// Sets the range, inside [`reshape`](MmapWriteGuard::reshape).
    pub(crate) fn set_range(&self, _: &Reshaping, range: VaRange, pgoff: u64) {
        self.vma.set_range(range, pgoff);
    }

    /// Sets the attributes, and the userfaultfd that watches as they say.
    pub(crate) fn set_flags(&self, flags: VmFlags, uffd: Option<UffdId>) {
        self.vma.set_flags(flags, uffd);
    }
}

/// A VMA, locked for reading: it stays as it is, and its entries may be filled.
pub(crate) struct VmaReadGuard<'a, M: Machine> {
    slot: &'a MmSlot<M>,
    vma: &'a Vma<M>,
    id: VmaId,
}

impl<M: Machine> VmaReadGuard<'_, M> {
    /// The address space that the VMA is in.
    pub(crate) fn slot(&self) -> &MmSlot<M> {
        self.slot
    }

    pub(crate) fn id(&self) -> VmaId {
        self.id
    }

    pub(crate) fn vma(&self) -> &Vma<M> {
        self.vma
    }
}

impl<M: Machine> Drop for VmaReadGuard<'_, M> {
    fn drop(&mut self) {
        lockdep::release::<M>(VmaLevel::RANK, self.vma.lock.refcount.addr());
        self.vma.lock.put();
    }
}

impl<M: Machine> Objects<M> {
    /// Finds the VMA of `slot` that covers `va`, without any lock, and read-locks it.
    #[doc(alias = "lock_vma_under_rcu")]
    pub(crate) fn lock_vma<'a>(
        &'a self,
        slot: &'a MmSlot<M>,
        mm: MmId,
        va: Va,
    ) -> Result<VmaReadGuard<'a, M>, Refusal> {
        self.lock_vma_of(slot, mm, va, &self.cpus.this().last)
    }

    /// The same for where a move takes its pages from.
    pub(crate) fn lock_source_vma<'a>(
        &'a self,
        slot: &'a MmSlot<M>,
        mm: MmId,
        va: Va,
    ) -> Result<VmaReadGuard<'a, M>, Refusal> {
        self.lock_vma_of(slot, mm, va, &self.cpus.this().last_source)
    }

    /// The VMA that covers `va`, for as long as the mmap lock is held.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    #[inline(always)]
    pub(crate) fn find_vma(
        &self,
        guard: &MmapReadGuard<'_, M>,
        va: Va,
        last: &LastVma<M>,
    ) -> Result<(VmaId, &Vma<M>), Error> {
        // Under the lock no VMA of the address space changes, and none becomes one of it: a slot says whose
        // it is under the lock for writing, and says nobody's before it is freed. So all that is asked of the
        // one that was found last stays so.
        match self.vma_found_last(guard.id(), va, last) {
            Some(found) => Ok(found),
            None => self.find_another_vma_under(guard, va, last),
        }
    }

    #[inline(never)]
    fn find_another_vma_under(
        &self,
        guard: &MmapReadGuard<'_, M>,
        va: Va,
        last: &LastVma<M>,
    ) -> Result<(VmaId, &Vma<M>), Error> {
        self.find_another_vma(guard.slot(), va, last).map_err(|why| {
            assert_eq!(why, Refusal::NoVma, "a tree has no writer under the mmap lock");
            Error::NotFound
        })
    }

    #[inline]
    fn lock_vma_of<'a>(
        &'a self,
        slot: &'a MmSlot<M>,
        mm: MmId,
        va: Va,
        last: &LastVma<M>,
    ) -> Result<VmaReadGuard<'a, M>, Refusal> {
        let (id, vma) = self.find_vma_unlocked(slot, mm, va, last)?;
        vma.start_read(slot, mm, last)?;
        let guard = VmaReadGuard { slot, vma, id };
        // All that led here is decided again: the VMA may have moved before it was locked.
        if guard.vma.range().contains(va) { Ok(guard) } else { Err(Refusal::Recycled) }
    }

    /// The VMA that covers `va`, or did a moment ago: all of it must be asked again when the VMA is held.
    ///
    /// The one that this CPU found last comes first. A thread that maps changes the tree, and a fault that
    /// looks into the tree waits for the cache lines that it wrote; a VMA that is not changed is only asked
    /// whether it is the one.
    #[doc(alias = "vmacache_find")]
    #[inline(always)]
    pub(crate) fn find_vma_unlocked(
        &self,
        slot: &MmSlot<M>,
        mm: MmId,
        va: Va,
        last: &LastVma<M>,
    ) -> Result<(VmaId, &Vma<M>), Refusal> {
        match self.vma_found_last(mm, va, last) {
            Some(found) => Ok(found),
            None => self.find_another_vma(slot, va, last),
        }
    }

    /// The VMA that this CPU found last, if it covers `va`.
    #[inline(always)]
    fn vma_found_last(&self, mm: MmId, va: Va, last: &LastVma<M>) -> Option<(VmaId, &Vma<M>)> {
        let id = last.vma()?;
        let vma = self.vma(id);
        let covers = vma.mm() == Some(mm) && vma.lock.is_attached() && vma.range().contains(va);
        covers.then_some((id, vma))
    }

    /// The VMA that covers `va`, from the tree.
    #[inline(never)]
    fn find_another_vma(
        &self,
        slot: &MmSlot<M>,
        va: Va,
        last: &LastVma<M>,
    ) -> Result<(VmaId, &Vma<M>), Refusal> {
        let found = slot.tree.try_find_containing(self.nodes(), va).map_err(|_| Refusal::TreeBusy)?;
        let (_, id) = found.ok_or(Refusal::NoVma)?;
        last.note_vma(id);
        Ok((id, self.vma(id)))
    }
}
