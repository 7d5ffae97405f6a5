//! Address spaces.
//!
//! An [`Mm`] is an owner (Linux: a count of `mm_users`): cloning adds a user, dropping the last one tears the
//! address space down. What it names is an [`MmSlot`], type-stable like everything that rmap walks can reach.
//!
//! Locks: see `docs/locking.md`. The `mmap_lock` protects the tree of VMAs and the accounting;
//! [`MmapReadGuard`] and [`MmapWriteGuard`] are what functions take to say that they need it.
//!
//! Linux: include/linux/mm_types.h `struct mm_struct`; kernel/fork.c `mm_init`, `mmput`.

pub(crate) mod exit;
pub(crate) mod mmap_lock;
mod pages;
pub(crate) mod places;
pub(crate) mod slot;

use crate::{
    cpu::PageKind,
    error::Error,
    events::Event,
    ids::MmId,
    mm::{
        exit::exit_mmap,
        mmap_lock::{MmapReadGuard, MmapWriteGuard},
        slot::MmSlot,
    },
    objects::Objects,
    rmap::machine::Machine,
    vm::Vm,
};
use anonmem_hal::{CpuId, NrPages, Pfn};
use anonmem_sync::{Ordering, lockdep};
use core::fmt;

/// A user of an address space. Cloning adds one; dropping the last one tears it down.
///
/// A CPU that runs a program says so by [`activate`](Self::activate) before it loads [`root`](Self::root).
/// What traps goes to [`handle_fault`](Self::handle_fault). Before the last user is dropped, every CPU has
/// called [`deactivate`](Self::deactivate).
///
/// ```
/// # use anonmem::*;
/// # anonmem_testkit::example(|vm, _| {
/// let mm = vm.new_mm()?;
/// let other_user = mm.clone();
/// assert!(other_user.is(&mm));
/// drop((mm, other_user));
/// assert_eq!(vm.stats().mms, 1, "that of the example itself");
/// # Ok(())
/// # });
/// ```
///
/// # Panics
/// When the last user is dropped while a CPU is active.
pub struct Mm<'v, M: Machine> {
    pub(crate) vm: &'v Vm<M>,
    pub(crate) id: MmId,
    /// The same, looked up.
    slot: &'v MmSlot<M>,
}

impl<M: Machine> Vm<M> {
    /// Makes an empty address space.
    ///
    /// ```
    /// # use anonmem::*;
    /// # anonmem_testkit::example(|vm, mm| {
    /// let other = vm.new_mm()?;
    /// assert!(!other.is(mm));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    #[doc(alias = "mm_alloc")]
    pub fn new_mm(&self) -> Result<Mm<'_, M>, Error> {
        self.reclaiming(|| self.try_new_mm())
    }

    fn try_new_mm(&self) -> Result<Mm<'_, M>, Error> {
        let id = self.mms.alloc(&self.frames)?;
        let slot = self.mm_slot(id);
        if let Err(e) = slot.space.alloc_root(&self.frames) {
            self.mms.free(&self.frames, id);
            return Err(e.into());
        }
        slot.init(id);
        slot.set_merge_domain(self.new_merge_domain());
        slot.refs.grabs.store(1, Ordering::Relaxed);
        // Release pairs with the Acquire of `try_user`.
        slot.refs.users.store(1, Ordering::Release);
        Ok(Mm { vm: self, id, slot })
    }

    /// A merge domain that no address space has had. Each CPU counts for itself, and stays the same CPU
    /// meanwhile.
    fn new_merge_domain(&self) -> u64 {
        self.count(Event::MmAlloc);
        let cpu = M::current_cpu();
        self.events.on(cpu, Event::MmAlloc) << 16 | cpu.0 as u64
    }

    /// Becomes a user of an address space, unless it has none any more.
    #[doc(alias = "mmget_not_zero")]
    pub(crate) fn try_user(&self, id: MmId) -> Option<Mm<'_, M>> {
        // Acquire pairs with the Release of `new_mm`.
        let more = |n| (n != 0).then_some(n + 1);
        let slot = self.mm_slot(id);
        slot.refs.users.fetch_update(Ordering::Acquire, more).ok()?;
        Some(Mm { vm: self, id, slot })
    }
}

impl<'v, M: Machine> Mm<'v, M> {
    /// The memory manager.
    pub fn vm(&self) -> &'v Vm<M> {
        self.vm
    }

    #[inline]
    pub(crate) fn slot(&self) -> &'v MmSlot<M> {
        self.slot
    }

    /// The mmap lock for reading.
    #[inline]
    #[track_caller]
    pub(crate) fn read(&self) -> MmapReadGuard<'v, M> {
        self.vm.mmap_read_lock_of(self.id, self.slot)
    }

    /// The mmap lock for writing.
    #[inline]
    #[track_caller]
    pub(crate) fn write(&self) -> MmapWriteGuard<'v, M> {
        self.vm.mmap_write_lock(self.id)
    }

    /// The top-level page table: what CR3 takes.
    pub fn root(&self) -> Pfn {
        self.slot().space.root()
    }

    /// Notes that `cpu` is about to load the root: flushes reach it from now on. It is noted once: the first
    /// [`deactivate`](Self::deactivate) takes it back.
    ///
    /// # Panics
    /// If the machine is `CHECKED` and has no room for such a CPU.
    pub fn activate(&self, cpu: CpuId) {
        self.slot().space.activate(cpu);
    }

    /// Notes that `cpu` has loaded another root and holds no translation of this one.
    pub fn deactivate(&self, cpu: CpuId) {
        self.slot().space.deactivate(cpu);
    }

    /// Whether both are users of the same address space.
    pub fn is(&self, other: &Self) -> bool {
        core::ptr::eq(self.vm, other.vm) && self.id == other.id
    }

    /// What it uses.
    pub fn counters(&self) -> MmCounters {
        let slot = self.slot();
        let counts = &slot.counts;
        let [anon, shared, swap] = PageKind::ALL.map(|kind| self.vm.pages_of(slot, kind).max(0) as u64);
        MmCounters {
            anon: NrPages(anon),
            shared: NrPages(shared),
            swap: NrPages(swap),
            peak: NrPages(self.vm.peak_of(slot).max(anon + shared)),
            tables: NrPages(slot.space.nr_tables()),
            total: NrPages(counts.total.peek()),
            peak_total: NrPages(counts.peak.peek().max(counts.total.peek())),
            data: NrPages(counts.data.peek()),
            stack: NrPages(counts.stack.peek()),
            locked: NrPages(counts.locked.peek()),
            pinned: NrPages(slot.pinned.load(Ordering::Relaxed)),
            committed: NrPages(counts.committed.peek()),
            vmas: slot.tree.len(),
        }
    }
}

/// What an address space uses. Linux: /proc/PID/status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MmCounters {
    /// Mapped anonymous pages (`RssAnon`).
    pub anon: NrPages,
    /// Mapped pages of shared objects (`RssShmem`).
    pub shared: NrPages,
    /// Pages in swap (`VmSwap`).
    pub swap: NrPages,
    /// The most pages mapped at once (`VmHWM`).
    pub peak: NrPages,
    /// Frames of page tables (`VmPTE`).
    pub tables: NrPages,
    /// Pages covered by mappings (`VmSize`).
    pub total: NrPages,
    /// The most pages covered by mappings at once (`VmPeak`).
    pub peak_total: NrPages,
    /// Pages of private writable mappings (`VmData`).
    pub data: NrPages,
    /// Pages of stacks (`VmStk`).
    pub stack: NrPages,
    /// Pages of locked mappings (`VmLck`).
    pub locked: NrPages,
    /// Pages pinned for long (`VmPin`).
    pub pinned: NrPages,
    /// Pages that count towards the commit limit.
    pub committed: NrPages,
    /// The number of mappings.
    pub vmas: u64,
}

impl MmCounters {
    /// Mapped pages (`VmRSS`).
    pub const fn rss(&self) -> NrPages {
        NrPages(self.anon.0 + self.shared.0)
    }
}

impl<M: Machine> Clone for Mm<'_, M> {
    fn clone(&self) -> Self {
        self.slot().refs.users.fetch_add(1, Ordering::Relaxed);
        Self { vm: self.vm, id: self.id, slot: self.slot }
    }
}

impl<M: Machine> Drop for Mm<'_, M> {
    fn drop(&mut self) {
        // AcqRel: the last user sees all that the others did.
        if self.slot().refs.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            lockdep::might_sleep::<M>();
            exit_mmap(self.vm, self.id);
            // The one that all users had together.
            drop(MmGrab { objects: self.vm, id: self.id });
        }
    }
}

/// Keeps the slot of an address space, though not its memory: what is charged to it is charged to no other
/// that comes after.
#[doc(alias = "mmgrab")]
pub struct MmGrab<'v, M: Machine> {
    objects: &'v Objects<M>,
    id: MmId,
}

impl<'v, M: Machine> Mm<'v, M> {
    /// Keeps the slot when the users have gone.
    pub fn grab(&self) -> MmGrab<'v, M> {
        self.slot().refs.grabs.fetch_add(1, Ordering::Relaxed);
        MmGrab { objects: self.vm, id: self.id }
    }
}

impl<M: Machine> fmt::Debug for MmGrab<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a grab of address space {:?}", self.id)
    }
}

impl<'v, M: Machine> MmGrab<'v, M> {
    /// Becomes a user of the address space, unless it has none any more.
    ///
    /// # Panics
    /// If it is another memory manager's.
    #[doc(alias = "mmget_not_zero")]
    pub fn user(&self, vm: &'v Vm<M>) -> Option<Mm<'v, M>> {
        assert!(core::ptr::eq(self.objects, &raw const **vm), "an address space of another memory manager");
        // The slot is kept: its users, or none, are those of the same address space.
        vm.try_user(self.id)
    }

    /// Gives the grab to whoever keeps the name.
    pub(crate) fn into_id(self) -> MmId {
        core::mem::ManuallyDrop::new(self).id
    }

    /// Takes back what [`into_id`](Self::into_id) gave.
    pub(crate) fn from_id(objects: &'v Objects<M>, id: MmId) -> Self {
        Self { objects, id }
    }
}

impl<M: Machine> MmGrab<'_, M> {
    pub(crate) fn slot(&self) -> &MmSlot<M> {
        self.objects.mm_slot(self.id)
    }
}

impl<M: Machine> Clone for MmGrab<'_, M> {
    fn clone(&self) -> Self {
        self.slot().refs.grabs.fetch_add(1, Ordering::Relaxed);
        Self { objects: self.objects, id: self.id }
    }
}

impl<M: Machine> Drop for MmGrab<'_, M> {
    #[doc(alias = "mmdrop")]
    fn drop(&mut self) {
        // AcqRel: whoever frees the slot sees all that the others did with it.
        if self.slot().refs.grabs.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.objects.mms.free(&self.objects.frames, self.id);
        }
    }
}
