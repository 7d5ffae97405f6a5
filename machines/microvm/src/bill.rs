//! The memory bill: what the run cost, and whether everything came back.

use crate::arch::tlb;
use crate::boot;
use crate::machine;
use crate::proc::{mm, oom};
use crate::{klog, syscall};
use alloc::format;
use alloc::string::String;
use anonmem::Event;
use anonmem::vm::LockMode;
use anonmem_hal::{CpuId, PAGE_SIZE};
use anonmem_oslib::bill::Bill;

/// Names of the kinds of faults in the bill.
const KINDS: [(&str, Event); 12] = [
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
];

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
    let flushes = tlb::counters();
    let cpus = boot::cpu_count();
    Bill {
        lock_mode: match vm.config().lock_mode {
            LockMode::Mmap => "mmap",
            LockMode::Vma => "vma",
            LockMode::Speculative => "speculative",
        }
        .into(),
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
        tlb: [
            ("shootdowns", flushes.shootdowns),
            ("ipis", flushes.ipis),
            ("pages_flushed", flushes.pages_flushed),
        ]
        .into(),
        validate,
        unknown_syscalls: syscall::unknown_names(),
    }
    .json()
}
