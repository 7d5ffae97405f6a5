//! Counters of what happened, one set per CPU. Linux: /proc/vmstat.

use anonmem_hal::{CpuId, Machine};
use anonmem_sync::{Atomic, PerCpu, init_fields};
use core::mem::MaybeUninit;

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident => $label:literal,)*) => {
        /// Something that is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum Event { $($(#[$doc])* $name,)* }

        impl Event {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name in /proc/vmstat and in the memory bill.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

events! {
    /// A fault of any kind.
    Fault => "pgfault",
    /// A fresh page for a first write.
    FaultAnon => "fault_anon",
    /// The zero page for a first read.
    FaultZeroPage => "fault_zero_page",
    /// A fresh page for a write over the zero page.
    FaultZeroUpgrade => "fault_zero_upgrade",
    /// A write fault made a whole folio of zeroes, mapped by one leaf.
    LeafFault => "leaf_fault",
    /// A leaf became a table, for a fault or for fork.
    LeafSplit => "leaf_split",
    /// Leaves that came back from swap as leaves.
    LeafSwapIn => "leaf_swpin",
    /// A copy, because the page may be shared.
    FaultCowCopy => "fault_cow_copy",
    /// A copy for a pin, because the page may be shared.
    FaultUnshare => "fault_unshare",
    /// No copy, because the page was ours alone.
    FaultCowReuse => "fault_cow_reuse",
    /// A page filled from a source.
    FaultSource => "fault_source",
    /// A page of a shared object.
    FaultShared => "fault_shared",
    /// Nothing was to be done: another CPU had done it.
    FaultSpurious => "fault_spurious",
    /// The stack grew.
    FaultStackGrowth => "fault_stack_growth",
    /// No mapping, or not allowed.
    FaultSegv => "fault_segv",
    /// The bytes could not be had.
    FaultBus => "fault_bus",
    /// No memory.
    FaultOom => "fault_oom",
    /// A page came back from swap.
    FaultSwap => "fault_swap",
    /// The fault was done again from the start.
    FaultRetry => "fault_retry",
    /// Faults that were resolved without any VMA lock.
    FaultSpeculative => "fault_speculative",
    /// Faults that were resolved under the VMA's lock.
    FaultVmaLock => "fault_vma_lock",
    /// Faults that were resolved, or refused, under the mmap lock.
    FaultMmapLock => "fault_mmap_lock",
    /// Not without the mmap lock: the tree of VMAs was being changed.
    RefusedTreeBusy => "refused_tree_busy",
    /// Not without the mmap lock: no VMA was there.
    RefusedNoVma => "refused_no_vma",
    /// Not without the mmap lock: the VMA was being changed.
    RefusedWriteLocked => "refused_write_locked",
    /// Not without the mmap lock: the VMA was another one by the time it was locked.
    RefusedRecycled => "refused_recycled",
    /// Not without the mmap lock: the VMA's first anonymous page.
    RefusedNoAnonVma => "refused_no_anon_vma",
    /// Not speculatively: the page table was missing.
    RefusedNoTable => "refused_no_table",
    /// Not speculatively: the page comes from a source or a shared object.
    RefusedBacking => "refused_backing",
    /// Not speculatively: the VMA was changed meanwhile.
    RefusedChanged => "refused_changed",
    /// Not speculatively: the fault would have to wait.
    RefusedWouldSleep => "refused_would_sleep",
    /// Not speculatively: a userfaultfd is asked.
    RefusedUserfault => "refused_userfault",
    /// Faults that waited for a userfaultfd.
    FaultUserfault => "fault_userfault",
    /// Pages that a userfaultfd filled.
    UffdCopy => "uffd_copy",
    /// Pages that moved from one address to another.
    UffdMove => "uffd_move",
    /// Moves that ended at a page which may be pinned.
    UffdMovePinned => "uffd_move_pinned",
    /// Pages read from swap.
    SwapIn => "pswpin",
    /// Pages written to swap.
    SwapOut => "pswpout",
    /// Pages that came back before as many others left as memory holds.
    WorkingsetRefault => "workingset_refault_anon",
    /// Faults that found their page still in memory.
    SwapCacheHit => "swap_cache_hit",
    /// Pages swapped out that were all zeroes.
    SwapZero => "swap_zero",
    /// Pages that could not be written to swap.
    SwapWriteError => "swap_write_error",
    /// Folios that reclaim looked at.
    ReclaimScan => "pgscan",
    /// Frames, or blocks of frames, that the hand of reclaim's clock passed.
    ReclaimPass => "pgscan_passed",
    /// Pages that reclaim freed.
    ReclaimSteal => "pgsteal",
    /// Times the background task was woken.
    KswapdWake => "kswapd_wake",
    /// Pages dropped that a program had said it may lose.
    LazyFree => "pglazyfreed",
    /// Allocations that had to reclaim for themselves.
    DirectReclaim => "allocstall",
    /// Address spaces made.
    MmAlloc => "mm_alloc",
    /// Copies of a page that KSM had merged, for a write or a pin.
    CowKsm => "cow_ksm",
    /// Pages that KSM had merged before they left, and that came back as copies.
    KsmSwapinCopy => "ksm_swpin_copy",
    /// Pages that KSM left alone because they may be pinned.
    KsmPinned => "ksm_pinned",
    /// Address spaces duplicated.
    Fork => "fork",
    /// Pages copied at fork, because they may be pinned.
    ForkCopied => "fork_copied",
    /// Pages pinned under the mmap lock.
    PinSlow => "pin_slow",
    /// Pages pinned without any lock.
    PinFast => "pin_fast",
    /// Ranges that could not be pinned to their end without a lock.
    PinFastRefused => "pin_fast_refused",
    /// Folios that reclaim left alone because they may be pinned.
    ReclaimPinned => "pgscan_pinned",
    /// Pages that went to another frame.
    MigrateSuccess => "pgmigrate_success",
    /// Pages that were to go to another frame and stayed, whatever the reason.
    MigrateFail => "pgmigrate_fail",
    /// Of those that stayed: may be pinned.
    MigratePinned => "pgmigrate_pinned",
    /// Of those that stayed: somebody was using them.
    MigrateBusy => "pgmigrate_busy",
    /// Large blocks made by moving pages.
    CompactSuccess => "compact_success",
    /// Large blocks that could not be made.
    CompactFail => "compact_fail",
    /// Entries that have a marker instead of a page whose frame has failed.
    FramePoisoned => "frame_failed_entries",
    /// The background task of compaction was asked.
    CompactDaemonWake => "compact_daemon_wake",
    /// Pages that it moved.
    CompactDaemonMoved => "compact_daemon_migrate_scanned",
    /// Entries that a move had left behind, and a fault has put right.
    MigrateLeftBehind => "pgmigrate_left_behind",
    /// Flushes asked for by the memory manager.
    TlbFlush => "tlb_flush",
    /// VMAs split.
    VmaSplit => "vma_split",
    /// VMAs merged.
    VmaMerge => "vma_merge",
}

/// The number of events.
pub(crate) const NR_EVENTS: usize = Event::ALL.len();

/// The counters of a `Vm`.
pub(crate) struct Events<M: Machine> {
    cpus: PerCpu<[Atomic<u64, M>; NR_EVENTS], M>,
}

impl<M: Machine> Events<M> {
    pub(crate) fn init(slot: &mut MaybeUninit<Self>) -> &mut Self {
        let none = |_| [const { Atomic::new(0) }; NR_EVENTS];
        init_fields!(slot, { cpus <- |cpus| PerCpu::init(cpus, none) })
    }

    /// Counts one event on this CPU.
    #[inline]
    pub(crate) fn count(&self, event: Event) {
        self.add(event, 1);
    }

    /// Counts `n` events on this CPU. No read-modify-write: only this CPU writes its counters.
    #[inline]
    pub(crate) fn add(&self, event: Event, n: u64) {
        let word = &self.cpus.this()[event as usize];
        word.add_unobserved(n);
    }

    pub(crate) fn on(&self, cpu: CpuId, event: Event) -> u64 {
        self.cpus.of(cpu)[event as usize].peek()
    }

    pub(crate) fn total(&self, event: Event) -> u64 {
        self.cpus.iter().map(|c| c[event as usize].peek()).sum()
    }
}
