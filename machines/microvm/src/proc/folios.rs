//! Large folios, as programs ask for them: the policy for all, and what a process says of itself.
//!
//! Linux: mm/huge_memory.c; kernel/sys.c `prctl_set_thp_disable`.

use super::mm::Space;
use crate::arch::lock::SpinLock;
use crate::{klog, machine};
use alloc::format;
use alloc::vec::Vec;
use anonmem::{Event, FolioEvent, FolioMode, FolioPolicy, MAX_FOLIO_ORDER, ThpDisable};
use anonmem_hal::{MAX_ORDER, NrPages, Order, Va, VaRange};
use anonmem_oslib::Result;
use anonmem_oslib::bill::Folios;
use anonmem_oslib::errno::EINVAL;

/// `PR_THP_DISABLE_EXCEPT_ADVISED`: large folios only where the program asks for them (Linux 6.18).
const EXCEPT_ADVISED: u64 = 1 << 1;

/// Gives what `PR_GET_THP_DISABLE` does.
pub fn disabled(mm: &Space) -> u32 {
    mm.thp_disable() as u32
}

/// Does what `PR_SET_THP_DISABLE` does.
///
/// # Errors
/// `EINVAL` for flags that there are not, and for any where nothing is disabled.
pub fn set_disabled(mm: &Space, disable: u64, flags: u64) -> Result<()> {
    mm.set_thp_disable(match (disable, flags) {
        (0, 0) => ThpDisable::No,
        (1.., 0) => ThpDisable::Yes,
        (1.., EXCEPT_ADVISED) => ThpDisable::ExceptAdvised,
        _ => return Err(EINVAL),
    });
    Ok(())
}

/// Lets a new program have what the old one said.
pub fn inherit_disabled(old: &Space, new: &Space) {
    new.set_thp_disable(old.thp_disable());
}

/// The orders that folios may have.
pub fn orders() -> impl Iterator<Item = Order> {
    (1..=MAX_FOLIO_ORDER).map(Order::new)
}

/// Gives when folios of an order are taken; of order 0, those that inherit.
pub fn mode(order: Order) -> &'static str {
    machine::vm().folio_policy().mode(order).word()
}

/// Two who change the policy change it one after the other.
static CHANGE: SpinLock<()> = SpinLock::new(());

/// Changes when folios of an order are taken; of order 0, those that inherit.
///
/// # Errors
/// `EINVAL` if there is no such mode.
pub fn set_mode(order: Order, word: &str) -> Result<()> {
    let mode: FolioMode = word.parse().or(Err(EINVAL))?;
    let _one = CHANGE.lock();
    let policy = machine::vm().folio_policy();
    machine::vm().set_folio_policy(match (order, mode) {
        (Order::ZERO, FolioMode::Inherit) => return Err(EINVAL),
        (Order::ZERO, mode) => policy.with_all(mode),
        (order, mode) => policy.with(order, mode),
    });
    Ok(())
}

/// Something that is counted for each size.
#[derive(Clone, Copy, Debug)]
pub enum SizeStat {
    /// How often one of these happened.
    Events(&'static [FolioEvent]),
    /// How many became partly mapped.
    BecamePartlyMapped,
    /// How many there are.
    There,
    /// How many of those are partly mapped.
    PartlyMapped,
    /// What does not happen here: shared objects and files have single pages, and nobody is charged.
    Never,
}

/// What `hugepages-*kB/stats` tells, in the order of the names.
pub const SIZE_STATS: &[(&str, SizeStat)] = &[
    ("anon_fault_alloc", SizeStat::Events(&[FolioEvent::FaultAlloc])),
    // Only the want of memory counts on Linux; the bill has the other reasons.
    ("anon_fault_fallback", SizeStat::Events(&[FolioEvent::FallbackMemory])),
    ("anon_fault_fallback_charge", SizeStat::Never),
    ("collapse_alloc", SizeStat::Events(&[FolioEvent::CollapseAlloc])),
    ("collapse_alloc_failed", SizeStat::Events(&[FolioEvent::CollapseAllocFailed])),
    ("collapse_exceed_none_pte", SizeStat::Events(&[FolioEvent::CollapseExceedNone])),
    ("collapse_exceed_shared_pte", SizeStat::Events(&[FolioEvent::CollapseExceedShared])),
    ("collapse_exceed_swap_pte", SizeStat::Events(&[FolioEvent::CollapseExceedSwap])),
    ("nr_anon", SizeStat::There),
    ("nr_anon_partially_mapped", SizeStat::PartlyMapped),
    ("shmem_alloc", SizeStat::Never),
    ("shmem_fallback", SizeStat::Never),
    ("shmem_fallback_charge", SizeStat::Never),
    ("split", SizeStat::Events(&[FolioEvent::Split])),
    ("split_deferred", SizeStat::BecamePartlyMapped),
    ("split_failed", SizeStat::Events(SPLIT_FAILED)),
    ("swpin", SizeStat::Events(&[FolioEvent::SwapIn])),
    ("swpin_fallback", SizeStat::Events(&[FolioEvent::SwapInFallback])),
    ("swpin_fallback_charge", SizeStat::Never),
    ("swpout", SizeStat::Events(&[FolioEvent::SwapOut])),
    ("swpout_fallback", SizeStat::Events(&[FolioEvent::SwapOutFallback])),
    ("zswpout", SizeStat::Never),
];

const SPLIT_FAILED: &[FolioEvent] =
    &[FolioEvent::SplitPinned, FolioEvent::SplitBusy, FolioEvent::SplitShared];

impl SizeStat {
    /// Gives the number for an order.
    pub fn count(self, order: Order) -> u64 {
        let vm = machine::vm();
        let usage = || vm.frames().large_usage()[usize::from(order.get())];
        match self {
            SizeStat::Events(events) => events.iter().map(|&event| vm.folio_event(order, event)).sum(),
            SizeStat::BecamePartlyMapped => vm.frames().times_partly_mapped(order),
            SizeStat::There => usage().folios,
            SizeStat::PartlyMapped => usage().partly_mapped,
            SizeStat::Never => 0,
        }
    }
}

/// What a leaf maps.
pub const LEAF_BYTES: u64 = 2 << 20;

/// Gives the number of folios that leaves map.
pub fn in_leaves() -> u64 {
    machine::vm().frames().large_usage().iter().map(|usage| usage.in_leaves).sum()
}

/// Gives the fields of `/proc/vmstat` that are about folios of the size of a leaf.
pub fn vmstat() -> Vec<(&'static str, u64)> {
    let leaf = Order::new(MAX_FOLIO_ORDER);
    let count = |stat: SizeStat| stat.count(leaf);
    let vm = machine::vm();
    [
        ("nr_anon_transparent_hugepages", in_leaves()),
        ("thp_fault_alloc", count(SizeStat::Events(&[FolioEvent::FaultAlloc]))),
        ("thp_fault_fallback", count(SizeStat::Events(&[FolioEvent::FallbackMemory]))),
        ("thp_fault_fallback_charge", 0),
        ("thp_collapse_alloc", count(SizeStat::Events(&[FolioEvent::CollapseAlloc]))),
        ("thp_collapse_alloc_failed", count(SizeStat::Events(&[FolioEvent::CollapseAllocFailed]))),
        ("thp_file_alloc", 0),
        ("thp_file_fallback", 0),
        ("thp_file_fallback_charge", 0),
        ("thp_file_mapped", 0),
        ("thp_split_page", count(SizeStat::Events(&[FolioEvent::Split]))),
        ("thp_split_page_failed", count(SizeStat::Events(SPLIT_FAILED))),
        ("thp_deferred_split_page", count(SizeStat::BecamePartlyMapped)),
        ("thp_underused_split_page", count(SizeStat::Events(&[FolioEvent::SplitUntouched]))),
        ("thp_split_pmd", vm.stats().event(Event::LeafSplit)),
        ("thp_scan_exceed_none_pte", count(SizeStat::Events(&[FolioEvent::CollapseExceedNone]))),
        ("thp_scan_exceed_swap_pte", count(SizeStat::Events(&[FolioEvent::CollapseExceedSwap]))),
        ("thp_scan_exceed_share_pte", count(SizeStat::Events(&[FolioEvent::CollapseExceedShared]))),
        ("thp_split_pud", 0),
        ("thp_zero_page_alloc", 0),
        ("thp_zero_page_alloc_failed", 0),
        ("thp_swpout", count(SizeStat::Events(&[FolioEvent::SwapOut]))),
        ("thp_swpout_fallback", count(SizeStat::Events(&[FolioEvent::SwapOutFallback]))),
        ("thp_migration_success", count(SizeStat::Events(&[FolioEvent::Migrated]))),
        ("thp_migration_fail", count(SizeStat::Events(&[FolioEvent::MigrateFailed]))),
        ("thp_migration_split", count(SizeStat::Events(&[FolioEvent::MigrateSplit]))),
    ]
    .into()
}

/// Splits all large folios into single pages.
pub fn split_all() {
    let splits = machine::vm().split_all_folios();
    klog!("{} of {} THP split", splits.split, splits.found);
}

/// Splits those that are mapped from `start` to `end` into folios of an order.
pub fn split(mm: &Space, start: u64, end: u64, order: u8) {
    let order = order.min(MAX_FOLIO_ORDER);
    let splits = mm.split_folios(VaRange { start: Va(start), end: Va(end) }, Order::new(order));
    klog!("{} of {} THP split", splits.split, splits.found);
}

/// Gives the pages that faults of large folios took, and those of them that were unmapped and never touched.
pub fn pages() -> (u64, u64) {
    let vm = machine::vm();
    let of = |order: Order| {
        // One of them is counted as a page by the fault itself.
        let taken =
            vm.folio_event(order, FolioEvent::FaultAlloc) + vm.folio_event(order, FolioEvent::CopyRun);
        (taken * (order.pages() - 1), vm.folio_event(order, FolioEvent::Untouched))
    };
    orders().map(of).fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1))
}

/// Gives the counters of each size of which there are any.
pub fn bill() -> Vec<Folios> {
    let vm = machine::vm();
    let held = *AT_END.lock();
    let of = |order: Order| {
        let events = FolioEvent::ALL.iter().map(|&event| (event.label(), vm.folio_event(order, event)));
        let became = [("became_partly_mapped", vm.frames().times_partly_mapped(order))];
        let (unmapped, untouched) = held[usize::from(order.get())];
        let held =
            [("unmapped_bytes_at_end", unmapped.bytes()), ("untouched_bytes_at_end", untouched.bytes())];
        let all: Vec<_> = events.chain(became).chain(held).collect();
        let any = all.iter().any(|&(_, count)| count > 0);
        let size = format!("{}", FolioPolicy::up_to(order, FolioMode::Always));
        any.then_some(Folios { size, counters: all })
    };
    orders().filter_map(of).collect()
}

/// What the program held when it ended, of each order: pages that were mapped nowhere, and untouched ones.
static AT_END: SpinLock<[(NrPages, NrPages); MAX_ORDER as usize + 1]> =
    SpinLock::new([(NrPages(0), NrPages(0)); MAX_ORDER as usize + 1]);

/// Remembers what the program holds, before it lets go of it.
pub fn note_end() {
    let vm = machine::vm();
    let (usage, untouched) = (vm.frames().large_usage(), vm.untouched_pages());
    let held = core::array::from_fn(|order| (usage[order].unmapped, untouched[order]));
    *AT_END.lock() = held;
}
