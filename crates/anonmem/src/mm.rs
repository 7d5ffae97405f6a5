//! Address spaces.
//!
//! An [`Mm`] is an owner (Linux: a count of `mm_users`): cloning adds a user, dropping the last one tears the address
//! space down. What it names is an [`MmSlot`], type-stable like everything that rmap walks can reach.
//!
//! Locks: see `docs/locking.md`. The `mmap_lock` protects the tree of VMAs and the accounting; [`MmapReadGuard`] and
//! [`MmapWriteGuard`] are what functions take to say that they need it.
//!
//! Linux: include/linux/mm_types.h `struct mm_struct`; kernel/fork.c `mm_init`, `mmput`.

use crate::ids::{MmId, MmTag, VmaTag};
use crate::{
    error::Error,
    exit::exit_mmap,
    vm::Vm,
    vma::{VmFlags, tree::VmaTree},
};
use anonmem_frame::{Field, SlabItem};
use anonmem_hal::{Arch, CpuId, Machine, NrPages, PAGE_SIZE, Pfn};
use anonmem_pgtable::{AddressSpace, CanInstall, StableVma};
use anonmem_sync::{
    Atomic, CachePadded, Ordering, Plain, RwSem, RwSemReadGuard, RwSemWriteGuard, lockdep, order::MmapLock,
};
use core::mem::offset_of;

/// An address space's slot.
///
/// What every fault changes (`MmPages`) and what it only reads (`space`) lie apart from what changing a mapping writes, so that faults are
/// not slowed down by a thread that maps, beyond the two words that tell them of it (`lock_seq`, the tree's sequence).
pub struct MmSlot<M: Machine> {
    /// Owners; 0 means free, or ending.
    users: Atomic<u32, M>,
    pub(crate) mmap_lock: RwSem<M, MmapLock, ()>,
    /// Odd while the mmap lock is held for writing; a VMA whose `seq` equals it is write-locked. 64 bits: a program that takes the
    /// lock 2^31 times, in minutes, must not meet a VMA that was write-locked when it began.
    lock_seq: Atomic<u64, M>,
    pub(crate) space: CachePadded<AddressSpace<M>>,
    /// Pages in use.
    pub(crate) pages: CachePadded<MmPages<M>>,
    pub(crate) tree: VmaTree<M, VmaTag>,
    pub(crate) counts: MmCounts<M>,
    /// First byte of the heap. Under the mmap lock.
    pub(crate) start_brk: Plain<u64, M>,
    /// End of the heap. Under the mmap lock.
    pub(crate) brk: Plain<u64, M>,
    /// Where the search for a place starts, downwards. Under the mmap lock.
    pub(crate) mmap_base: Plain<u64, M>,
    /// Flags that new mappings get (`mlockall(MCL_FUTURE)`). Under the mmap lock.
    pub(crate) def_flags: Plain<u64, M>,
    /// The most pages that may be locked (`RLIMIT_MEMLOCK`). Under the mmap lock.
    pub(crate) locked_limit: Plain<u64, M>,
    /// The most bytes that a stack may grow to (`RLIMIT_STACK`). Under the mmap lock.
    pub(crate) stack_limit: Plain<u64, M>,
    /// The most bytes of heap (`RLIMIT_DATA`). Under the mmap lock.
    pub(crate) data_limit: Plain<u64, M>,
    /// The most bytes of address space (`RLIMIT_AS`). Under the mmap lock.
    pub(crate) space_limit: Plain<u64, M>,
}

/// Pages that an address space has.
pub(crate) struct MmPages<M> {
    /// Mapped anonymous pages (`MM_ANONPAGES`).
    pub(crate) anon: Atomic<i64, M>,
    /// Mapped pages of shared objects (`MM_SHMEMPAGES`).
    pub(crate) shared: Atomic<i64, M>,
    /// Pages in swap (`MM_SWAPENTS`).
    pub(crate) swap: Atomic<i64, M>,
    /// The most pages mapped so far, as far as it was looked at.
    pub(crate) peak: Atomic<u64, M>,
}

/// What an address space's VMAs come to, in pages.
pub(crate) struct MmCounts<M> {
    /// Pages covered by VMAs. Under the mmap lock, as are the following.
    pub(crate) total: Plain<u64, M>,
    /// Those of private writable VMAs.
    pub(crate) data: Plain<u64, M>,
    /// Those of stacks.
    pub(crate) stack: Plain<u64, M>,
    /// Those of locked VMAs.
    pub(crate) locked: Plain<u64, M>,
    /// Those that count towards the commit limit.
    pub(crate) committed: Plain<u64, M>,
}

impl<M: Machine> MmCounts<M> {
    /// Counts `pages` of a VMA with `flags`, or uncounts them if negative. The commit charge itself is the caller's.
    #[doc(alias = "vm_stat_account")]
    pub(crate) fn add_vma(&self, flags: VmFlags, pages: i64) {
        let add = |counter: &Plain<u64, M>, when: bool| {
            if when {
                counter.update(|n| n.wrapping_add_signed(pages));
            }
        };
        add(&self.total, true);
        add(&self.data, flags.is_data());
        add(&self.stack, flags.contains(VmFlags::GROWSDOWN));
        add(&self.locked, flags.contains(VmFlags::LOCKED));
        add(&self.committed, flags.contains(VmFlags::ACCOUNT));
    }
}

impl<M: Machine> SlabItem<M> for MmSlot<M> {
    type Tag = MmTag;
    const NAME: &'static str = "mm_struct";
    const FIELDS: &'static [Field] = &[
        Field::new("users", offset_of!(Self, users)),
        Field::new("mmap_lock", offset_of!(Self, mmap_lock)),
        Field::new("lock_seq", offset_of!(Self, lock_seq)),
        Field::new("space", offset_of!(Self, space.0)),
        Field::new("pages.anon", offset_of!(Self, pages.0.anon)),
        Field::new("pages.shared", offset_of!(Self, pages.0.shared)),
        Field::new("pages.swap", offset_of!(Self, pages.0.swap)),
        Field::new("pages.peak", offset_of!(Self, pages.0.peak)),
        Field::new("tree.seq", offset_of!(Self, tree.seq)),
        Field::new("tree.height", offset_of!(Self, tree.height)),
        Field::new("tree.root", offset_of!(Self, tree.root)),
        Field::new("tree.len", offset_of!(Self, tree.len)),
        Field::new("counts", offset_of!(Self, counts)),
        Field::new("start_brk", offset_of!(Self, start_brk)),
        Field::new("brk", offset_of!(Self, brk)),
        Field::new("mmap_base", offset_of!(Self, mmap_base)),
        Field::new("def_flags", offset_of!(Self, def_flags)),
        Field::new("locked_limit", offset_of!(Self, locked_limit)),
        Field::new("stack_limit", offset_of!(Self, stack_limit)),
        Field::new("data_limit", offset_of!(Self, data_limit)),
        Field::new("space_limit", offset_of!(Self, space_limit)),
    ];
    fn new() -> Self {
        Self {
            users: Atomic::new(0),
            mmap_lock: RwSem::new(()),
            lock_seq: Atomic::new(0),
            space: CachePadded(AddressSpace::new()),
            pages: CachePadded(MmPages {
                anon: Atomic::new(0),
                shared: Atomic::new(0),
                swap: Atomic::new(0),
                peak: Atomic::new(0),
            }),
            tree: VmaTree::new(),
            counts: MmCounts {
                total: Plain::new(0),
                data: Plain::new(0),
                stack: Plain::new(0),
                locked: Plain::new(0),
                committed: Plain::new(0),
            },
            start_brk: Plain::new(0),
            brk: Plain::new(0),
            mmap_base: Plain::new(0),
            def_flags: Plain::new(0),
            locked_limit: Plain::new(0),
            stack_limit: Plain::new(0),
            data_limit: Plain::new(0),
            space_limit: Plain::new(0),
        }
    }
}

/// Bytes that a stack may grow to unless told otherwise.
const DEFAULT_STACK_LIMIT: u64 = 8 << 20;
/// Bytes kept between the top of the address space and the first mapping, for the stack and its growth.
const MMAP_BASE_GAP: u64 = 128 << 20;

impl<M: Machine> MmSlot<M> {
    /// The most that an address space of this size keeps free at its top.
    fn default_mmap_base() -> u64 {
        let end = M::Arch::USER_END.0;
        end - MMAP_BASE_GAP.min(end / 4) / PAGE_SIZE as u64 * PAGE_SIZE as u64
    }

    fn init(&self) {
        self.mmap_base.set(Self::default_mmap_base());
        for zeroed in [&self.start_brk, &self.brk, &self.def_flags] {
            zeroed.set(0);
        }
        self.stack_limit.set(DEFAULT_STACK_LIMIT);
        for unlimited in [&self.locked_limit, &self.data_limit, &self.space_limit] {
            unlimited.set(u64::MAX);
        }
        self.pages.peak.store(0, Ordering::Relaxed);
    }

    /// Mapped pages.
    pub(crate) fn rss(&self) -> u64 {
        let sum = self.pages.anon.load(Ordering::Relaxed) + self.pages.shared.load(Ordering::Relaxed);
        sum.max(0) as u64
    }

    /// Counts mapped anonymous pages.
    #[inline]
    pub(crate) fn add_anon(&self, pages: i64) {
        self.pages.anon.fetch_add(pages, Ordering::Relaxed);
    }

    /// Counts mapped pages of shared objects.
    #[inline]
    pub(crate) fn add_shared(&self, pages: i64) {
        self.pages.shared.fetch_add(pages, Ordering::Relaxed);
    }

    /// Counts pages in swap.
    pub(crate) fn add_swap(&self, pages: i64) {
        self.pages.swap.fetch_add(pages, Ordering::Relaxed);
    }

    /// Remembers the number of mapped pages before it falls (Linux: `update_hiwater_rss`).
    pub(crate) fn note_peak(&self) {
        let rss = self.rss();
        let _ = self.pages.peak.fetch_update(Ordering::Relaxed, |peak| (peak < rss).then_some(rss));
    }

    /// Owners, for `validate`.
    pub(crate) fn users(&self) -> u32 {
        self.users.peek()
    }

    /// The mmap lock for reading.
    #[doc(alias = "mmap_read_lock")]
    #[inline]
    #[track_caller]
    pub(crate) fn read(&self) -> MmapReadGuard<'_, M> {
        MmapReadGuard { slot: self, _lock: self.mmap_lock.read() }
    }

    /// The mmap lock for writing.
    #[doc(alias = "mmap_write_lock")]
    #[inline]
    #[track_caller]
    pub(crate) fn write(&self) -> MmapWriteGuard<'_, M> {
        MmapWriteGuard::new(self, self.mmap_lock.write())
    }

    /// The mmap lock of a child that nobody else knows, under its parent's.
    #[track_caller]
    pub(crate) fn write_nested(&self) -> MmapWriteGuard<'_, M> {
        MmapWriteGuard::new(self, self.mmap_lock.write_nested(1))
    }

    /// Sets the sequence of the VMA locks to what very many write sections would make it.
    #[cfg(test)]
    pub(crate) fn preset_lock_seq(&self, seq: u64) {
        assert!(seq.is_multiple_of(2), "nobody writes");
        self.lock_seq.store(seq, Ordering::Relaxed);
    }

    /// The sequence of the VMA locks.
    #[doc(alias = "mm_lock_seq")]
    #[inline]
    pub(crate) fn lock_seq(&self) -> u64 {
        // Acquire pairs with the Release of `MmapWriteGuard`'s drop: if it moved on, what the writer wrote is seen.
        self.lock_seq.load(Ordering::Acquire)
    }
}

/// The mmap lock, held for reading: VMAs do not change, entries of the page tables may be filled.
pub struct MmapReadGuard<'a, M: Machine> {
    slot: &'a MmSlot<M>,
    _lock: RwSemReadGuard<'a, M, MmapLock, ()>,
}

/// The mmap lock, held for writing: VMAs may be changed.
pub struct MmapWriteGuard<'a, M: Machine> {
    slot: &'a MmSlot<M>,
    _lock: RwSemWriteGuard<'a, M, MmapLock, ()>,
}

impl<'a, M: Machine> MmapReadGuard<'a, M> {
    /// The address space.
    #[inline]
    pub(crate) fn slot(&self) -> &'a MmSlot<M> {
        self.slot
    }
}

impl<'a, M: Machine> MmapWriteGuard<'a, M> {
    fn new(slot: &'a MmSlot<M>, lock: RwSemWriteGuard<'a, M, MmapLock, ()>) -> Self {
        let seq = slot.lock_seq.load(Ordering::Relaxed);
        anonmem_hal::debug_check!(M, seq.is_multiple_of(2), "two writers of one address space");
        slot.lock_seq.store(seq + 1, Ordering::Relaxed);
        Self { slot, _lock: lock }
    }

    /// The address space.
    #[inline]
    pub(crate) fn slot(&self) -> &'a MmSlot<M> {
        self.slot
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

impl<M: Machine> StableVma for MmapReadGuard<'_, M> {}
impl<M: Machine> CanInstall for MmapReadGuard<'_, M> {}
impl<M: Machine> StableVma for MmapWriteGuard<'_, M> {}
impl<M: Machine> CanInstall for MmapWriteGuard<'_, M> {}

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

/// A user of an address space. Cloning adds one; dropping the last one tears it down.
pub struct Mm<'v, M: Machine> {
    pub(crate) vm: &'v Vm<M>,
    pub(crate) id: MmId,
}

impl<M: Machine> Vm<M> {
    /// Makes an empty address space.
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
        slot.init();
        // Release pairs with the Acquire of `try_user`.
        slot.users.store(1, Ordering::Release);
        Ok(Mm { vm: self, id })
    }

    /// Becomes a user of an address space, unless it has none any more.
    #[doc(alias = "mmget_not_zero")]
    pub(crate) fn try_user(&self, id: MmId) -> Option<Mm<'_, M>> {
        // Acquire pairs with the Release of `new_mm`.
        let more = |n| (n != 0).then_some(n + 1);
        self.mm_slot(id).users.fetch_update(Ordering::Acquire, more).ok()?;
        Some(Mm { vm: self, id })
    }

    /// The slot of an address space; it may be another use of it.
    #[inline]
    pub(crate) fn mm_slot(&self, id: MmId) -> &MmSlot<M> {
        self.mms.get(&self.frames, id)
    }
}

impl<'v, M: Machine> Mm<'v, M> {
    /// The memory manager.
    pub fn vm(&self) -> &'v Vm<M> {
        self.vm
    }

    #[inline]
    pub(crate) fn slot(&self) -> &'v MmSlot<M> {
        self.vm.mm_slot(self.id)
    }

    /// The top-level page table: what CR3 takes.
    pub fn root(&self) -> Pfn {
        self.slot().space.root()
    }

    /// Notes that `cpu` is about to load the root: flushes reach it from now on.
    pub fn activate(&self, cpu: CpuId) {
        self.slot().space.activate(cpu);
    }

    /// Notes that `cpu` has loaded another root and holds no translation of this one.
    pub fn deactivate(&self, cpu: CpuId) {
        self.slot().space.deactivate(cpu);
    }

    /// Whether both are users of the same address space.
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// What it uses.
    pub fn counters(&self) -> MmCounters {
        let slot = self.slot();
        let counts = &slot.counts;
        let rss = slot.rss();
        MmCounters {
            anon: NrPages(slot.pages.anon.load(Ordering::Relaxed).max(0) as u64),
            shared: NrPages(slot.pages.shared.load(Ordering::Relaxed).max(0) as u64),
            swap: NrPages(slot.pages.swap.load(Ordering::Relaxed).max(0) as u64),
            peak: NrPages(slot.pages.peak.load(Ordering::Relaxed).max(rss)),
            tables: NrPages(slot.space.nr_tables()),
            total: NrPages(counts.total.peek()),
            data: NrPages(counts.data.peek()),
            stack: NrPages(counts.stack.peek()),
            locked: NrPages(counts.locked.peek()),
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
    /// Pages of private writable mappings (`VmData`).
    pub data: NrPages,
    /// Pages of stacks (`VmStk`).
    pub stack: NrPages,
    /// Pages of locked mappings (`VmLck`).
    pub locked: NrPages,
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
        self.slot().users.fetch_add(1, Ordering::Relaxed);
        Self { vm: self.vm, id: self.id }
    }
}

impl<M: Machine> Drop for Mm<'_, M> {
    fn drop(&mut self) {
        // AcqRel: the last user sees all that the others did.
        if self.slot().users.fetch_sub(1, Ordering::AcqRel) == 1 {
            lockdep::might_sleep::<M>();
            exit_mmap(self.vm, self.slot());
            self.vm.mms.free(&self.vm.frames, self.id);
        }
    }
}
