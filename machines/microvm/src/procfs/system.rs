//! `/proc` files about the machine, `/proc/sys`, and the CPU lists of `/sys`.

use super::caller::caller_may_set;
use crate::arch::percpu::{MAX_CPUS, cpu_count};
use crate::arch::time;
use crate::fs::block;
use crate::proc::ipc::{sem, shm};
use crate::proc::{compaction, folios, mm, table};
use crate::swap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EACCES, EINVAL, EPERM};
use anonmem_oslib::text::field;
use anonmem_oslib::vfs::{FileType, Meta, Synthetic};
use core::fmt::Write;

/// The release that programs are told: the Linux whose memory calls these are like (`mremap` of several
/// mappings is of 6.17).
pub const RELEASE: &str = "6.17.0-anonmem";
/// The version string that programs are told.
pub const VERSION: &str = "#1 SMP PREEMPT";

/// A file's name and its text.
pub type File = (&'static str, fn() -> String);

/// The files of `/proc`.
pub const FILES: &[File] = &[
    ("buddyinfo", compaction::buddyinfo),
    ("cpuinfo", cpuinfo),
    ("filesystems", || "nodev\tproc\nnodev\ttmpfs\n".into()),
    ("loadavg", loadavg),
    ("meminfo", meminfo),
    ("pagetypeinfo", compaction::pagetypeinfo),
    ("partitions", block::partitions),
    ("stat", stat),
    ("swaps", swap::table),
    ("uptime", uptime),
    ("version", || format!("Linux version {RELEASE} (anonmem) {VERSION}\n")),
    ("vmstat", vmstat),
];

/// Who may read a file of `/proc`: everybody, but for what costs a look at every frame.
pub fn file_mode(name: &str) -> u32 {
    if name == "pagetypeinfo" { 0o400 } else { 0o444 }
}

/// The files of `/proc/sys`, in the order of their paths.
pub const SYSCTLS: &[File] = &[
    ("kernel/hostname", || "anonmem\n".into()),
    ("kernel/osrelease", || format!("{RELEASE}\n")),
    ("kernel/ostype", || "Linux\n".into()),
    ("kernel/pid_max", || format!("{}\n", table::PID_MAX)),
    ("kernel/randomize_va_space", || "0\n".into()),
    ("kernel/sem", || {
        format!("{}\t{}\t{}\t{}\n", sem::MOST_OF_SET, sem::MOST_OF_ALL, sem::MOST_OPERATIONS, sem::MOST)
    }),
    ("kernel/shmall", || format!("{}\n", shm::most_pages())),
    ("kernel/shmmax", || format!("{}\n", shm::LARGEST)),
    ("kernel/shmmni", || format!("{}\n", shm::MOST)),
    ("kernel/threads-max", || format!("{}\n", table::threads_max())),
    ("kernel/version", || format!("{VERSION}\n")),
    // Nothing is held back for anybody.
    ("vm/admin_reserve_kbytes", || "0\n".into()),
    // Only written.
    ("vm/compact_memory", String::new),
    ("vm/compaction_proactiveness", || format!("{}\n", compaction::proactiveness())),
    // Only written.
    ("vm/drop_caches", String::new),
    ("vm/extfrag_threshold", || format!("{}\n", compaction::threshold())),
    ("vm/max_map_count", || format!("{}\n", mm::max_map_count())),
    ("vm/min_free_kbytes", || format!("{}\n", mm::min_free_kbytes())),
    ("vm/mmap_min_addr", || format!("{}\n", mm::mmap_min_addr())),
    ("vm/nr_hugepages", || "0\n".into()),
    ("vm/oom_kill_allocating_task", || "0\n".into()),
    ("vm/overcommit_kbytes", || format!("{}\n", mm::overcommit_kbytes())),
    ("vm/overcommit_memory", || format!("{}\n", mm::overcommit_mode())),
    ("vm/overcommit_ratio", || format!("{}\n", mm::overcommit_ratio())),
    ("vm/panic_on_oom", || "0\n".into()),
    ("vm/swappiness", || format!("{}\n", mm::swappiness())),
    ("vm/unprivileged_userfaultfd", || format!("{}\n", mm::unprivileged_userfaultfd())),
    ("vm/user_reserve_kbytes", || "0\n".into()),
];

/// The files of `/sys`.
pub const SYS_FILES: &[File] = &[
    ("/sys/devices/system/cpu/isolated", || "\n".into()),
    ("/sys/devices/system/cpu/kernel_max", || format!("{}\n", MAX_CPUS - 1)),
    ("/sys/devices/system/cpu/offline", || "\n".into()),
    ("/sys/devices/system/cpu/online", cpu_list),
    ("/sys/devices/system/cpu/possible", cpu_list),
    ("/sys/devices/system/cpu/present", cpu_list),
    ("/sys/kernel/debug/extfrag/extfrag_index", compaction::extfrag_index),
    ("/sys/kernel/debug/extfrag/unusable_index", compaction::unusable_index),
];

/// A setting: its path below `/proc/sys`, and what sets it.
type Setting = (&'static str, fn(u32) -> Result<()>);

/// What can be set while programs run.
const SETTABLE: &[Setting] = &[
    ("vm/compact_memory", compaction::compact_all),
    ("vm/compaction_proactiveness", compaction::set_proactiveness),
    ("vm/drop_caches", drop_caches),
    ("vm/extfrag_threshold", compaction::set_threshold),
    ("vm/max_map_count", mm::set_max_map_count),
    ("vm/overcommit_kbytes", mm::set_overcommit_kbytes),
    ("vm/overcommit_memory", mm::set_overcommit_mode),
    ("vm/overcommit_ratio", mm::set_overcommit_ratio),
    ("vm/swappiness", mm::set_swappiness),
    ("vm/unprivileged_userfaultfd", mm::set_unprivileged_userfaultfd),
];

/// A file of `/proc/sys`. Writing what it already says is fine; few things can be changed while programs run.
pub struct Sysctl {
    /// Its path below `/proc/sys`.
    pub path: &'static str,
    /// Its text.
    pub text: fn() -> String,
}

impl Sysctl {
    /// Its permissions.
    pub fn mode(&self) -> u32 {
        match self.path {
            "vm/compact_memory" | "vm/drop_caches" => 0o200,
            "kernel/osrelease" | "kernel/ostype" | "kernel/version" => 0o444,
            _ => 0o644,
        }
    }
}

impl Synthetic for Sysctl {
    fn kind(&self) -> FileType {
        FileType::Regular
    }

    fn admits(&self, _meta: &Meta, wanted: u32) -> bool {
        caller_may_set(self.mode(), wanted)
    }

    fn content(&self) -> Result<Vec<u8>> {
        Ok((self.text)().into_bytes())
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        // Who opened it may have given the descriptor to somebody else, or become somebody else.
        if !caller_may_set(self.mode(), 2) {
            return Err(EPERM);
        }
        if let Some((_, set)) = SETTABLE.iter().find(|(path, _)| *path == self.path) {
            let text = core::str::from_utf8(bytes.trim_ascii()).or(Err(EINVAL))?;
            return set(text.parse().or(Err(EINVAL))?);
        }
        match bytes.trim_ascii() == (self.text)().as_bytes().trim_ascii() {
            true => Ok(()),
            false if self.path.starts_with("kernel/") => Err(EACCES),
            false => Err(EINVAL),
        }
    }
}

/// There is no cache of files, and no object is kept that nobody uses: all of it is dropped already. Linux:
/// fs/drop_caches.c `drop_caches_sysctl_handler`.
fn drop_caches(what: u32) -> Result<()> {
    if (1..=4).contains(&what) { Ok(()) } else { Err(EINVAL) }
}

/// A file's name and its text, for a CPU.
type OfCpu = (&'static str, fn(usize) -> String);

/// The files of a CPU below `/sys/devices/system/cpu/cpuN/topology`: each is a core of its own, all are in
/// one package.
const TOPOLOGY: [OfCpu; 8] = [
    ("core_cpus", |cpu| format!("{:x}\n", 1u128 << cpu)),
    ("core_cpus_list", |cpu| format!("{cpu}\n")),
    ("core_id", |cpu| format!("{cpu}\n")),
    ("package_cpus", |_| format!("{:x}\n", (1u128 << cpu_count()) - 1)),
    ("package_cpus_list", |_| cpu_list()),
    ("physical_package_id", |_| "0\n".into()),
    ("thread_siblings", |cpu| format!("{:x}\n", 1u128 << cpu)),
    ("thread_siblings_list", |cpu| format!("{cpu}\n")),
];

/// What a CPU is beside others.
pub struct Topology {
    cpu: usize,
    text: fn(usize) -> String,
}

impl Topology {
    /// The files of one CPU, by name.
    pub fn of(cpu: usize) -> impl Iterator<Item = (&'static str, Topology)> {
        TOPOLOGY.into_iter().map(move |(name, text)| (name, Topology { cpu, text }))
    }
}

impl Synthetic for Topology {
    fn kind(&self) -> FileType {
        FileType::Regular
    }

    fn content(&self) -> Result<Vec<u8>> {
        Ok((self.text)(self.cpu).into_bytes())
    }

    fn write(&self, _bytes: &[u8]) -> Result<()> {
        Err(EACCES)
    }
}

fn cpu_list() -> String {
    match cpu_count() {
        1 => "0\n".into(),
        n => format!("0-{}\n", n - 1),
    }
}

fn cpuinfo() -> String {
    (0..cpu_count()).fold(String::new(), |mut out, cpu| {
        let _ = write!(
            out,
            "processor\t: {cpu}\nvendor_id\t: anonmem\nmodel name\t: anonmem virtual CPU\ncpu MHz\t\t: 1000.000\n\
             cpu cores\t: {}\nflags\t\t: fpu tsc msr pae cx8 apic sep cmov fxsr sse sse2 syscall nx lm\n\n",
            cpu_count()
        );
        out
    })
}

fn running() -> usize {
    table::processes().map(|p| p.nr_threads()).sum()
}

fn loadavg() -> String {
    let last = table::numbers_given();
    format!("0.00 0.00 0.00 {}/{} {last}\n", cpu_count().min(running().max(1)), running().max(1))
}

fn uptime() -> String {
    let hundredths = time::now_ns() / 10_000_000;
    format!("{}.{:02} 0.00\n", hundredths / 100, hundredths % 100)
}

fn stat() -> String {
    let mut out = String::new();
    let ticks: u64 = table::processes().map(|p| p.cpu_time_ns() / 10_000_000).sum();
    let uptime = time::now_ns() / 10_000_000 * cpu_count() as u64;
    let line = |name: String| format!("{name} {ticks} 0 0 {} 0 0 0 0 0 0\n", uptime.saturating_sub(ticks));
    out.push_str(&line("cpu ".into()));
    for cpu in 0..cpu_count() {
        out.push_str(&line(format!("cpu{cpu}")));
    }
    let boot_time = (time::wall_ns() - time::now_ns()) / 1_000_000_000;
    let _ = write!(out, "intr 0\nctxt 0\nbtime {boot_time}\nprocesses {}\n", table::numbers_given());
    let _ = write!(out, "procs_running {}\nprocs_blocked 0\n", running());
    out
}

fn meminfo() -> String {
    let m = mm::memory();
    let (swap_total, swap_free) = swap::space();
    let mut out = String::new();
    for (name, bytes) in [
        ("MemTotal", m.total_bytes),
        ("MemFree", m.free_bytes),
        ("MemAvailable", m.free_bytes),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", m.user_bytes),
        ("Inactive", 0),
        ("SwapTotal", swap_total),
        ("SwapFree", swap_free),
        ("Dirty", 0),
        ("AnonPages", m.user_bytes - m.shared_bytes),
        ("Mapped", 0),
        ("Shmem", m.shared_bytes),
        ("Slab", m.slab_bytes),
        ("KernelStack", 0),
        ("PageTables", m.table_bytes),
        ("CommitLimit", m.commit_limit_bytes),
        ("Committed_AS", m.committed_bytes),
        ("VmallocTotal", 0),
        ("VmallocUsed", m.kernel_bytes),
        ("AnonHugePages", folios::in_leaves() * folios::LEAF_BYTES),
        ("HugePages_Total", 0),
    ] {
        field(&mut out, name, bytes);
    }
    out
}

fn vmstat() -> String {
    let m = mm::memory();
    let mut out = String::new();
    for (name, bytes) in [
        ("nr_free_pages", m.free_bytes),
        ("nr_anon_pages", m.user_bytes),
        ("nr_page_table_pages", m.table_bytes),
    ] {
        let _ = writeln!(out, "{name} {}", bytes / 4096);
    }
    for (name, count) in mm::event_counts().into_iter().chain(folios::vmstat()) {
        let _ = writeln!(out, "{name} {count}");
    }
    let _ = writeln!(out, "oom_kill {}", crate::proc::oom::kills());
    out
}
