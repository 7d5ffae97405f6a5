//! What happened to folios, for each size.
//!
//! Linux: include/linux/huge_mm.h `enum mthp_stat_item`. Differs: every fallback has its reason.

use anonmem_hal::{Machine, Order};
use anonmem_sync::{Atomic, Ordering, PerCpu, init_fields};
use core::mem::MaybeUninit;

use super::mode::MAX_FOLIO_ORDER;

macro_rules! folio_events {
    ($($(#[$doc:meta])* $name:ident => $label:literal,)*) => {
        /// Something that is counted for each size of folio.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum FolioEvent { $($(#[$doc])* $name,)* }

        impl FolioEvent {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name in the memory bill.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

folio_events! {
    /// A fault took one.
    FaultAlloc => "anon_fault_alloc",
    /// Not that large: the window does not lie in the mapping.
    FallbackVma => "anon_fault_fallback_vma",
    /// Not that large: something is mapped in the window.
    FallbackUsed => "anon_fault_fallback_used",
    /// Not that large: there is no free block.
    FallbackMemory => "anon_fault_fallback_memory",
    /// A fault without a VMA lock zeroes little: it was done again under the VMA's lock.
    RefusedSpeculative => "anon_fault_refused_speculative",
    /// Not that large (`auto`): the memory beside is not in use.
    FallbackUnproven => "anon_fault_fallback_unproven",
    /// Not that large (`auto`): too much is untouched already.
    FallbackBound => "anon_fault_fallback_bound",
    /// Somebody filled a part of the window meanwhile.
    FaultRaced => "anon_fault_raced",
    /// A write took all pages of a folio for its own.
    ReuseRun => "cow_reuse_run",
    /// A write copied so many pages at once.
    CopyRun => "cow_copy_run",
    /// A write would have copied so many pages, and copied fewer: they are not alike, or there is no memory.
    CopyFallback => "cow_copy_fallback",
    /// Pages that were unmapped, and nobody had touched: the first of each run counts as touched, and of what
    /// a leaf maps nothing is known.
    Untouched => "untouched_pages",
    /// Split.
    Split => "split",
    /// Not split, because it may be pinned.
    SplitPinned => "split_failed_pinned",
    /// Not split, because others were working on it.
    SplitBusy => "split_failed_busy",
    /// Not split, because many address spaces map it, and another such folio is being split.
    SplitShared => "split_failed_shared",
    /// Split because a part of it was unmapped.
    SplitPartly => "split_partly_mapped",
    /// Split because most of it was untouched, which became free.
    SplitUntouched => "split_untouched",
    /// Left as one, to a run of slots.
    SwapOut => "swpout",
    /// Split before it left: there was no run of free slots.
    SwapOutFallback => "swpout_fallback",
    /// Came back as one.
    SwapIn => "swpin",
    /// Would have come back as one, and came page by page: others were faster, or there is no block.
    SwapInFallback => "swpin_fallback",
    /// Went whole to other frames.
    Migrated => "migration_success",
    /// Was to go, and stayed.
    MigrateFailed => "migration_fail",
    /// Split before it went: there was no block of its size.
    MigrateSplit => "migration_split",
    /// Was taken for pages that were to become one.
    CollapseAlloc => "collapse_alloc",
    /// Was to be taken for that, and there was no block.
    CollapseAllocFailed => "collapse_alloc_failed",
    /// Was made of small pages.
    Collapsed => "collapsed",
    /// Became one leaf, where it is.
    CollapsedInPlace => "collapsed_in_place",
    /// Not made: too much of the window is not there.
    CollapseExceedNone => "collapse_exceed_none_pte",
    /// Not made: too much is in swap.
    CollapseExceedSwap => "collapse_exceed_swap_pte",
    /// Not made: others have too much of it.
    CollapseExceedShared => "collapse_exceed_shared_pte",
    /// Not made: a page was pinned, or in use.
    CollapseBusy => "collapse_busy",
    /// Given up, because the window changed while it was copied.
    CollapseGivenUp => "collapse_given_up",
}

/// Events of faults: each CPU counts them for itself.
const NR: usize = FolioEvent::Split as usize;
/// Those that come with work beside which a counter that CPUs share costs nothing.
const RARE: usize = FolioEvent::ALL.len() - NR;
const ORDERS: usize = MAX_FOLIO_ORDER as usize + 1;

/// The counters of a `Vm`.
pub(crate) struct FolioEvents<M: Machine> {
    cpus: PerCpu<[[Atomic<u64, M>; NR]; ORDERS], M>,
    rare: [[Atomic<u64, M>; RARE]; ORDERS],
}

impl<M: Machine> FolioEvents<M> {
    pub(crate) fn init(slot: &mut MaybeUninit<Self>) -> &mut Self {
        let none = |_| [const { [const { Atomic::new(0) }; NR] }; ORDERS];
        init_fields!(slot, {
            cpus <- |cpus| PerCpu::init(cpus, none),
            rare: [const { [const { Atomic::new(0) }; RARE] }; ORDERS],
        })
    }

    #[cold]
    pub(crate) fn add(&self, order: Order, event: FolioEvent, n: u64) {
        let (order, event) = (usize::from(order.get()), event as usize);
        match event.checked_sub(NR) {
            None => self.cpus.this()[order][event].add_unobserved(n),
            Some(rare) => _ = self.rare[order][rare].fetch_add(n, Ordering::Relaxed),
        }
    }

    pub(crate) fn total(&self, order: Order, event: FolioEvent) -> u64 {
        let (order, event) = (usize::from(order.get()), event as usize);
        match event.checked_sub(NR) {
            None => self.cpus.iter().map(|cpu| cpu[order][event].peek()).sum(),
            Some(rare) => self.rare[order][rare].peek(),
        }
    }
}
