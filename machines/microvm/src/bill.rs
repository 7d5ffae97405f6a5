//! The memory bill: what the run cost, and whether everything came back.

use crate::arch::percpu::cpu_count;
use crate::arch::tlb;
use crate::machine;
use crate::proc::{fault, folios, mm, oom};
use crate::{klog, sched, swap, syscall};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use anonmem::{Event, LockMode, ReverseMapChoice, Stats};
use anonmem_hal::{CpuId, PAGE_SIZE};
use anonmem_oslib::bill::Bill;
use anonmem_sync::{Level, order};

/// Names of the kinds of faults in the bill.
const KINDS: [(&str, Event); 13] = [
    ("anon", Event::FaultAnon),
    ("zero_page", Event::FaultZeroPage),
    ("zero_upgrade", Event::FaultZeroUpgrade),
    ("cow_copy", Event::FaultCowCopy),
    ("cow_reuse", Event::FaultCowReuse),
    ("source", Event::FaultSource),
    ("shared", Event::FaultShared),
    ("spurious", Event::FaultSpurious),
    ("stack_growth", Event::FaultStackGrowth),
    ("segv", Event::FaultSegv),
    ("bus", Event::FaultBus),
    ("oom", Event::FaultOom),
    ("swap", Event::FaultSwap),
];

/// What the locks were that faults took, and how often they started again.
const LOCKS: [(&str, Event); 4] = [
    ("mmap", Event::FaultMmapLock),
    ("vma", Event::FaultVmaLock),
    ("speculative", Event::FaultSpeculative),
    ("retries", Event::FaultRetry),
];

/// Why faults took a stronger lock than the mode's.
const REFUSALS: [Event; 9] = [
    Event::RefusedTreeBusy,
    Event::RefusedNoVma,
    Event::RefusedWriteLocked,
    Event::RefusedRecycled,
    Event::RefusedNoAnonVma,
    Event::RefusedNoTable,
    Event::RefusedBacking,
    Event::RefusedChanged,
    Event::RefusedWouldSleep,
];

/// Locks whose waits the bill shows; times are in nanoseconds.
const LOCK_WAITS: [(&str, &str, u16); 5] = [
    ("mmap_waits", "mmap_ns", order::MmapLock::RANK),
    ("vma_waits", "vma_ns", order::VmaLock::RANK),
    ("folio_waits", "folio_ns", order::FolioLock::RANK),
    ("anon_vma_waits", "anon_vma_ns", order::AnonVmaRoot::RANK),
    ("page_table_waits", "page_table_ns", order::Ptl::RANK),
];

/// What reclaim did.
const RECLAIM: [(&str, Event); 5] = [
    ("scans", Event::ReclaimScan),
    ("steals", Event::ReclaimSteal),
    ("direct", Event::DirectReclaim),
    ("kswapd_wakes", Event::KswapdWake),
    ("lazy_frees", Event::LazyFree),
];

type Group = (&'static str, Vec<(&'static str, u64)>);

/// Counters that belong together.
fn groups(stats: &Stats) -> Vec<Group> {
    let named = |events: &[(&'static str, Event)]| -> Vec<_> {
        events.iter().map(|&(name, event)| (name, stats.event(event))).collect()
    };
    let flushes = tlb::counters();
    let mut groups: Vec<Group> = [
        (
            "tlb",
            [
                ("shootdowns", flushes.shootdowns),
                ("ipis", flushes.ipis),
                ("pages_flushed", flushes.pages_flushed),
            ]
            .into(),
        ),
        ("fault_locks", named(&LOCKS)),
    ]
    .into();
    groups.push(("lock_waits", lock_waits()));
    groups.push(("fault_latency", fault::latency()));
    if machine::vm().config().lock_mode != LockMode::Mmap {
        groups.push(("refusals", REFUSALS.iter().map(|e| (e.label(), stats.event(*e))).collect()));
    }
    if swap::is_configured() {
        groups.push(("swap", swap_counters(stats)));
    }
    if swap::is_configured() || stats.event(Event::LazyFree) > 0 {
        groups.push(("reclaim", named(&RECLAIM)));
    }
    groups
}

/// How often somebody waited for each lock and for how long, where anybody did.
fn lock_waits() -> Vec<(&'static str, u64)> {
    let waits = LOCK_WAITS.map(|(times, ns, level)| (times, ns, sched::LOCK_WAITS.of(level)));
    let waited = waits.into_iter().filter(|(.., waited)| waited.times > 0);
    waited.flat_map(|(times, ns, waited)| [(times, waited.times), (ns, waited.ns)]).collect()
}

fn swap_counters(stats: &Stats) -> Vec<(&'static str, u64)> {
    let usage = swap::usage();
    [
        ("outs", stats.event(Event::SwapOut)),
        ("ins", stats.event(Event::SwapIn)),
        ("refaults", stats.event(Event::WorkingsetRefault)),
        ("cache_hits", stats.event(Event::SwapCacheHit)),
        ("zero_pages", stats.event(Event::SwapZero)),
        ("write_errors", stats.event(Event::SwapWriteError)),
        ("bytes_compressed", usage.bytes_in),
        ("bytes_kept", usage.bytes_kept),
        ("kept_whole", usage.whole),
        ("peak_device_frames", usage.peak_frames),
    ]
    .into()
}

/// Anonymous pages that programs got, and those of them that they touched. Of what leaves map only the first
/// is known.
fn touched(stats: &Stats) -> Option<(u64, u64)> {
    let (large, untouched) = folios::pages();
    let single = [Event::FaultAnon, Event::FaultZeroUpgrade, Event::FaultCowCopy, Event::FaultSource];
    let got = single.into_iter().map(|event| stats.event(event)).sum::<u64>() + large;
    (large > 0 && stats.event(Event::LeafFault) == 0).then_some((got, got.saturating_sub(untouched)))
}

fn lock_mode() -> &'static str {
    match machine::vm().config().lock_mode {
        LockMode::Mmap => "mmap",
        LockMode::Vma => "vma",
        LockMode::Speculative => "speculative",
    }
}

fn reverse_map() -> &'static str {
    match machine::vm().config().reverse_map {
        ReverseMapChoice::AnonVmas => "anon_vma",
        ReverseMapChoice::Families => "family",
    }
}

/// Checks the memory manager and writes the bill, after all processes are gone.
pub fn collect(run_ns: u64) -> String {
    let vm = machine::vm();
    // Page tables wait for their grace period, not for a process.
    vm.drain();
    let validate = match vm.validate() {
        Ok(()) => String::from("ok"),
        Err(violation) => format!("{violation}"),
    };
    let stats = vm.stats();
    let leaked = stats.user + stats.tables;
    if leaked > 0 {
        klog!(
            "leaked: {} user pages, {} page tables, {} address spaces, {} VMAs, {} shared objects, {} mapped files",
            stats.user,
            stats.tables,
            stats.mms,
            stats.vmas,
            stats.shared_objects,
            crate::fs::sources::count()
        );
    }
    let usage = swap::usage();
    let cpus = cpu_count();
    Bill {
        lock_mode: lock_mode().into(),
        reverse_map: reverse_map().into(),
        numbers: [
            ("cpus", cpus as u64),
            ("ram_bytes", stats.frames * PAGE_SIZE as u64),
            ("cow_copies", stats.event(Event::FaultCowCopy)),
            ("cow_reuses", stats.event(Event::FaultCowReuse)),
            ("forks", stats.event(Event::Fork)),
            ("zero_page_hits", stats.event(Event::FaultZeroPage)),
            ("peak_frames", stats.peak_used),
            ("peak_page_table_bytes", mm::peak_tables() * PAGE_SIZE as u64),
            ("peak_anon_vmas", stats.peak_anon_vmas),
            ("peak_anon_vma_chains", stats.peak_chains),
            ("frames_leaked", leaked),
            ("oom_kills", oom::kills()),
            ("wall_ms", run_ns / 1_000_000),
        ]
        .into(),
        faults_by_kind: KINDS.iter().map(|(name, event)| (*name, stats.event(*event))).collect(),
        faults_by_cpu: (0..cpus).map(|cpu| vm.events_on(CpuId(cpu as u32), Event::Fault)).collect(),
        groups: groups(&stats),
        folio_policy: format!("{}", vm.folio_policy()),
        folios: folios::bill(),
        touched: touched(&stats),
        compression: (usage.bytes_kept > 0).then_some((usage.bytes_in, usage.bytes_kept)),
        validate,
        unknown_syscalls: syscall::unknown_names(),
    }
    .json()
}
