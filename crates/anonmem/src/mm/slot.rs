//! What an address space is made of.
//!
//! An [`MmSlot`] is type-stable like everything that rmap walks can reach: it may become another address
//! space while somebody still looks at it. Its owner is [`Mm`](super::Mm).
//!
//! Linux: include/linux/mm_types.h `struct mm_struct`.

use crate::{
    cpu::PageKind,
    ids::{MmId, MmTag, VmaTag},
    rmap::family::objects::Member,
    thp::guesses::Guesses,
    vma::{flags::VmFlags, tree::VmaTree},
};
use anonmem_frame::{Field, SlabItem, fields};
use anonmem_hal::{Arch, Machine, PAGE_SIZE};
use anonmem_pgtable::AddressSpace;
use anonmem_sync::{Atomic, CachePadded, Ordering, Plain, RwSem, order::MmapLock};

/// An address space's slot.
///
/// What every fault reads (`MmPages`, `space`) lies apart from what changing a mapping writes, so that faults
/// are not slowed down by a thread that maps.
pub(crate) struct MmSlot<M: Machine> {
    /// Who keeps it.
    pub(super) refs: CachePadded<MmRefs<M>>,
    pub(crate) mmap_lock: RwSem<M, MmapLock, ()>,
    /// Odd while the mmap lock is held for writing; a VMA whose `seq` equals it is write-locked. 64 bits: a
    /// program that takes the lock 2^31 times, in minutes, must not meet a VMA that was write-locked when it
    /// began.
    pub(super) lock_seq: Atomic<u64, M>,
    pub(crate) space: CachePadded<AddressSpace<M>>,
    /// Pages in use, as far as they are no CPU's credit.
    pub(crate) pages: CachePadded<MmPages<M>>,
    pub(crate) tree: VmaTree<M, VmaTag>,
    pub(crate) counts: MmCounts<M>,
    /// The most pages mapped so far, as far as it was looked at and is no CPU's note.
    pub(crate) peak: CachePadded<Atomic<u64, M>>,
    /// What the program has said of large folios ([`ThpDisable`](crate::ThpDisable)).
    pub(crate) thp_disable: Atomic<u32, M>,
    /// Whose pages may be merged with its own: those of address spaces that say the same.
    merge_domain: Atomic<u64, M>,
    /// What was mapped before it was touched.
    pub(crate) guesses: Guesses<M>,
    /// Pages that are pinned for long, at most `locked_limit` (`pinned_vm`).
    pub(crate) pinned: Atomic<u64, M>,
    /// 1 once a userfaultfd was registered with any of it. Under the mmap lock.
    uffd: Plain<u64, M>,
    /// 1 once any of it was sealed. Under the mmap lock.
    sealed: Plain<u64, M>,
    /// Whether memory that was writable may become executable ([`WriteExec`](crate::WriteExec)). Under the
    /// mmap lock.
    pub(crate) write_exec: Plain<u64, M>,
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
    /// What a reverse map by families has of it.
    pub(crate) member: Member<M>,
}

/// Who keeps an address space: on a line of its own, which calls for another program's sake write.
pub(crate) struct MmRefs<M> {
    /// Owners; 0 means free, or ended, or ending.
    pub(super) users: Atomic<u32, M>,
    /// What keeps the slot: one for all users together, one for each [`MmGrab`](super::MmGrab) (Linux:
    /// `mm_count`).
    pub(super) grabs: Atomic<u32, M>,
}

/// Pages that an address space has.
///
/// Faults count on their CPU's words (`cpu.rs`) and only read this line, but for one in [`MOST_CREDIT`].
///
/// [`MOST_CREDIT`]: crate::cpu::MOST_CREDIT
pub(crate) struct MmPages<M> {
    /// The slot's own name, for the credits of CPUs; 0 before it was ever used.
    name: Atomic<u32, M>,
    /// The CPUs that may have a credit.
    pub(super) cpus: Atomic<u64, M>,
    /// What is no credit, by [`PageKind`].
    counts: [Atomic<i64, M>; PageKind::ALL.len()],
}

impl<M: Machine> MmPages<M> {
    const fn new() -> Self {
        Self {
            name: Atomic::new(0),
            cpus: Atomic::new(0),
            counts: [const { Atomic::new(0) }; PageKind::ALL.len()],
        }
    }

    /// Whether nothing is counted, but for credits.
    pub(super) fn is_zero(&self) -> bool {
        self.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0)
    }

    /// The counter of `kind`, without credits.
    #[inline]
    pub(crate) fn of(&self, kind: PageKind) -> &Atomic<i64, M> {
        &self.counts[kind as usize]
    }
}

/// What an address space's VMAs come to, in pages.
pub(crate) struct MmCounts<M> {
    /// Pages covered by VMAs. Under the mmap lock, as are the following.
    pub(crate) total: Plain<u64, M>,
    /// The most that they covered before they last became fewer.
    pub(crate) peak: Plain<u64, M>,
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
    /// Counts `pages` of a VMA with `flags`, or uncounts them if negative. The commit charge itself is the
    /// caller's.
    #[doc(alias = "vm_stat_account")]
    pub(crate) fn add_vma(&self, flags: VmFlags, pages: i64) {
        let add = |counter: &Plain<u64, M>, when: bool| {
            if when {
                counter.update(|n| n.wrapping_add_signed(pages));
            }
        };
        if pages < 0 {
            let total = self.total.get();
            self.peak.update(|peak| peak.max(total));
        }
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
    const FIELDS: &'static [Field] = fields! {
        refs { "users": 0.users, "grabs": 0.grabs }, mmap_lock, lock_seq, space { "space": 0 }, pages { "pages.name": 0.name,
        "pages.cpus": 0.cpus, "pages.counts": 0.counts }, tree { "tree.seq": seq,
        "tree.height": height, "tree.root": root, "tree.len": len }, counts, peak, thp_disable, guesses, merge_domain, pinned, uffd, sealed,
        write_exec, start_brk, brk,
        mmap_base, def_flags, locked_limit, stack_limit, data_limit, space_limit, member,
    };
    fn new() -> Self {
        Self {
            refs: CachePadded(MmRefs { users: Atomic::new(0), grabs: Atomic::new(0) }),
            mmap_lock: RwSem::new(()),
            lock_seq: Atomic::new(0),
            space: CachePadded(AddressSpace::new()),
            pages: CachePadded(MmPages::new()),
            tree: VmaTree::new(),
            counts: MmCounts {
                total: Plain::new(0),
                peak: Plain::new(0),
                data: Plain::new(0),
                stack: Plain::new(0),
                locked: Plain::new(0),
                committed: Plain::new(0),
            },
            peak: CachePadded(Atomic::new(0)),
            thp_disable: Atomic::new(0),
            merge_domain: Atomic::new(0),
            guesses: Guesses::new(),
            pinned: Atomic::new(0),
            uffd: Plain::new(0),
            sealed: Plain::new(0),
            write_exec: Plain::new(0),
            start_brk: Plain::new(0),
            brk: Plain::new(0),
            mmap_base: Plain::new(0),
            def_flags: Plain::new(0),
            locked_limit: Plain::new(0),
            stack_limit: Plain::new(0),
            data_limit: Plain::new(0),
            space_limit: Plain::new(0),
            member: Member::new(),
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

    pub(super) fn init(&self, id: MmId) {
        self.pages.name.store(id.raw().get(), Ordering::Relaxed);
        self.thp_disable.store(0, Ordering::Relaxed);
        self.guesses.clear();
        self.mmap_base.set(Self::default_mmap_base());
        let zeroed =
            [&self.start_brk, &self.brk, &self.def_flags, &self.uffd, &self.sealed, &self.write_exec];
        for zeroed in zeroed {
            zeroed.set(0);
        }
        self.stack_limit.set(DEFAULT_STACK_LIMIT);
        for unlimited in [&self.locked_limit, &self.data_limit, &self.space_limit] {
            unlimited.set(u64::MAX);
        }
        self.peak.store(0, Ordering::Relaxed);
    }

    /// The slot's name, as a number; 0 if it was never used.
    #[inline(always)]
    pub(super) fn name(&self) -> u32 {
        self.pages.name.load(Ordering::Relaxed)
    }

    /// Raises the peak to `pages`.
    pub(super) fn raise_peak(&self, pages: u64) {
        let _ = self.peak.fetch_update(Ordering::Relaxed, |peak| (peak < pages).then_some(pages));
    }

    /// Whose pages may be merged with its own.
    pub(crate) fn merge_domain(&self) -> u64 {
        self.merge_domain.load(Ordering::Relaxed)
    }

    pub(crate) fn set_merge_domain(&self, domain: u64) {
        self.merge_domain.store(domain, Ordering::Relaxed);
    }

    /// Whether a userfaultfd was ever registered with any of it.
    pub(crate) fn has_uffd(&self) -> bool {
        self.uffd.get() != 0
    }

    /// Notes that one is.
    pub(crate) fn note_uffd(&self) {
        self.uffd.set(1);
    }

    /// Whether any of it was ever sealed.
    pub(crate) fn has_sealed(&self) -> bool {
        self.sealed.get() != 0
    }

    /// Notes that it is.
    pub(crate) fn note_sealed(&self) {
        self.sealed.set(1);
    }

    /// Notes of a child what is noted of its parent: it may be watched and sealed at the same places.
    pub(crate) fn note_as(&self, parent: &Self) {
        self.uffd.set(parent.uffd.get());
        self.sealed.set(parent.sealed.get());
    }

    /// Whether somebody keeps the slot.
    pub(crate) fn is_grabbed(&self) -> bool {
        self.refs.grabs.peek() != 0
    }

    /// Owners, for `validate`.
    pub(crate) fn users(&self) -> u32 {
        self.refs.users.peek()
    }

    /// Whether the address space has not begun to end. It does so under the mmap lock for writing: whoever
    /// holds that for reading, and finds it so, has the address space for as long.
    pub(crate) fn has_users(&self) -> bool {
        // Relaxed: the lock orders it with an end that is over.
        self.refs.users.load(Ordering::Relaxed) != 0
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
        // Acquire pairs with the Release of `MmapWriteGuard`'s drop: if it moved on, what the writer wrote is
        // seen.
        self.lock_seq.load(Ordering::Acquire)
    }
}
