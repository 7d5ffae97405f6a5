//! A process: a group of threads with one address space, one number, one fate.

use super::Thread;
use super::mm::Space;
use super::signal::ProcessSignals;
use super::tty::Tty;
use crate::arch::lock::SpinLock;
use crate::arch::time;
use crate::fs::event::Event;
use crate::fs::table::NR_OPEN;
use crate::fs::timer::Timer;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::vfs::Inode;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};
use linux_raw_sys::general as abi;

/// How a process or thread ended, as `wait` tells it: `code << 8`, or the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus(pub u32);

impl ExitStatus {
    /// It called `exit`.
    pub fn exited(code: i32) -> Self {
        ExitStatus((code as u32 & 0xff) << 8)
    }

    /// A signal ended it.
    pub fn killed(signal: u32) -> Self {
        ExitStatus(signal & 0x7f)
    }

    /// Gives the number that a shell shows: the code, or 128 and the signal.
    pub fn shell_code(self) -> i32 {
        if self.0 & 0x7f == 0 { (self.0 >> 8) as i32 & 0xff } else { 128 + (self.0 & 0x7f) as i32 }
    }
}

/// What `wait` can learn, and who is in the group.
#[derive(Default)]
pub struct Life {
    /// Threads that have not ended.
    pub threads: BTreeMap<u32, Arc<Thread>>,
    /// Set once all have ended, until somebody waits.
    pub zombie: Option<ExitStatus>,
    /// The signal that stopped it, until somebody has been told.
    pub stop_report: Option<u32>,
    /// Whether it went on, until somebody has been told.
    pub continue_report: bool,
}

/// What it runs.
#[derive(Clone)]
pub struct Program {
    /// The file.
    pub inode: Option<Arc<Inode>>,
    /// Its path.
    pub path: Vec<u8>,
    /// Where the argument strings are in its memory.
    pub args: (u64, u64),
    /// Where the environment strings are in its memory.
    pub env: (u64, u64),
    /// Where the auxiliary vector is in its memory.
    pub auxv: (u64, u64),
    /// Where its heap starts.
    pub brk: u64,
    /// Its first stack pointer.
    pub stack: u64,
}

/// A process.
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's number.
    pub parent: AtomicU32,
    /// Its process group.
    pub pgid: AtomicU32,
    /// Its session.
    pub sid: AtomicU32,
    /// Its terminal. A child inherits it; a session's leader shares it with whoever it starts.
    pub terminal: SpinLock<Option<Arc<Tty>>>,
    /// The group that was in the foreground when the terminal hung up; zero for none.
    pub left_foreground: AtomicU32,
    /// The last signal to several processes that its parent heard before it was there, by its number.
    pub heard: AtomicU64,
    /// Whether it has called `execve`: its parent cannot move it to a group any more.
    pub executed: AtomicBool,
    /// The signal that its parent gets when it ends; zero for none.
    pub exit_signal: AtomicU32,
    /// Its handlers and what is pending for the group.
    pub signals: SpinLock<ProcessSignals>,
    /// A signal was sent to it, blocked or not.
    pub signalled: Event,
    /// Threads and end.
    pub life: SpinLock<Life>,
    /// A child of this process changed, or a thread of it ended.
    pub changed: Event,
    /// While it is stopped, its threads wait.
    pub stopped: AtomicBool,
    /// It goes on.
    pub continued: Event,
    /// What it runs.
    pub program: SpinLock<Program>,
    /// A use of its address space, for `/proc` and for the choice of a victim.
    pub mm: SpinLock<Option<Space>>,
    /// `alarm` and `ITIMER_REAL`.
    pub alarm: SpinLock<Option<Arc<Timer>>>,
    /// Looks at the CPU time, if that is limited.
    pub cpu_watch: SpinLock<Option<Arc<Timer>>>,
    /// `timer_create`.
    pub timers: SpinLock<BTreeMap<u32, Arc<Timer>>>,
    /// Soft and hard limits by `RLIMIT_*`.
    pub limits: SpinLock<ResourceLimits>,
    /// When it started, nanoseconds since boot.
    pub start_ns: u64,
    /// CPU time of threads that have ended.
    pub dead_threads_ns: AtomicU64,
    /// CPU time of children that were waited for.
    pub children_ns: AtomicU64,
    /// Faults of threads that have ended.
    pub dead_threads_faults: AtomicU64,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: AtomicI32,
    /// Lower than this, only who may go beyond limits sets it.
    pub oom_score_adj_least: AtomicI32,
    /// Largest resident set of children that were waited for, bytes.
    pub children_hiwater: AtomicU64,
    /// How the whole group is to end: the status and one, or zero while it is not.
    ending: AtomicU64,
}

/// Soft and hard limits by `RLIMIT_*`.
pub type ResourceLimits = [(u64, u64); 16];

const INFINITY: u64 = abi::RLIM64_INFINITY as u64;

/// The limits of the first process.
fn default_limits() -> ResourceLimits {
    let mut limits = [(INFINITY, INFINITY); 16];
    limits[abi::RLIMIT_STACK as usize] = (8 << 20, INFINITY);
    limits[abi::RLIMIT_NOFILE as usize] = (1024, u64::from(NR_OPEN));
    let tasks = super::table::threads_max() / 2;
    limits[abi::RLIMIT_NPROC as usize] = (tasks, tasks);
    limits[abi::RLIMIT_SIGPENDING as usize] = (tasks, tasks);
    limits[abi::RLIMIT_MEMLOCK as usize] = (8 << 20, 8 << 20);
    limits[abi::RLIMIT_CORE as usize] = (0, INFINITY);
    limits
}

impl Process {
    /// Makes a process without threads and without memory.
    pub fn new(pid: u32, parent: Option<&Process>) -> Arc<Process> {
        let from = |pick: fn(&Process) -> u32| parent.map_or(pid, pick);
        let empty = Program {
            inode: None,
            path: Vec::new(),
            args: (0, 0),
            env: (0, 0),
            auxv: (0, 0),
            brk: 0,
            stack: 0,
        };
        Arc::new(Process {
            pid,
            parent: AtomicU32::new(parent.map_or(0, |p| p.pid)),
            pgid: AtomicU32::new(from(|p| p.pgid.load(SeqCst))),
            sid: AtomicU32::new(from(|p| p.sid.load(SeqCst))),
            terminal: SpinLock::new(parent.and_then(|p| p.terminal.lock().clone())),
            left_foreground: AtomicU32::new(0),
            heard: AtomicU64::new(0),
            executed: AtomicBool::new(false),
            exit_signal: AtomicU32::new(anonmem_oslib::signal::SIGCHLD),
            signals: SpinLock::new(parent.map_or_else(ProcessSignals::new, |p| p.signals.lock().fork())),
            signalled: Event::new(),
            life: SpinLock::default(),
            changed: Event::new(),
            stopped: AtomicBool::new(false),
            continued: Event::new(),
            program: SpinLock::new(parent.map_or(empty, |p| p.program.lock().clone())),
            mm: SpinLock::new(None),
            alarm: SpinLock::new(None),
            cpu_watch: SpinLock::new(None),
            timers: SpinLock::default(),
            limits: SpinLock::new(parent.map_or_else(default_limits, |p| *p.limits.lock())),
            start_ns: time::now_ns(),
            dead_threads_ns: AtomicU64::new(0),
            children_ns: AtomicU64::new(0),
            dead_threads_faults: AtomicU64::new(0),
            oom_score_adj: AtomicI32::new(parent.map_or(0, |p| p.oom_score_adj.load(SeqCst))),
            oom_score_adj_least: AtomicI32::new(parent.map_or(0, |p| p.oom_score_adj_least.load(SeqCst))),
            children_hiwater: AtomicU64::new(0),
            ending: AtomicU64::new(0),
        })
    }

    /// Gives the thread with the next number after `tid`, or the first.
    pub fn thread_after(&self, tid: Option<u32>) -> Option<Arc<Thread>> {
        let from = tid.map_or(0, |tid| tid + 1);
        self.life.lock().threads.range(from..).next().map(|(_, thread)| thread.clone())
    }

    /// Gives soft and hard limits by `RLIMIT_*`.
    pub fn limits(&self) -> ResourceLimits {
        *self.limits.lock()
    }

    /// Gives a use of its address space, if it still has one.
    pub fn space(&self) -> Option<Space> {
        self.mm.lock().clone()
    }

    /// Replaces its use of an address space; gives the former one, to be dropped without locks.
    pub fn set_space(&self, mm: Option<Space>) -> Option<Space> {
        core::mem::replace(&mut *self.mm.lock(), mm)
    }

    /// Makes the whole group end with `status`; the first status counts.
    pub fn end(&self, status: ExitStatus) {
        let first = self.ending.compare_exchange(0, u64::from(status.0) + 1, SeqCst, SeqCst).is_ok();
        if first {
            self.kick_all();
        }
    }

    /// Gives the status that the group ends with, once that is decided.
    pub fn ending(&self) -> Option<ExitStatus> {
        self.ending.load(SeqCst).checked_sub(1).map(|status| ExitStatus(status as u32))
    }

    /// Makes all threads look for work.
    pub fn kick_all(&self) {
        self.threads().for_each(|thread| thread.kick());
        self.continued.notify();
    }

    /// Gives the threads that have not ended, in the order of their numbers, one look at a time: takes no
    /// memory. Who comes or goes meanwhile may be among them or not.
    pub fn threads(&self) -> impl Iterator<Item = Arc<Thread>> {
        let mut after = 0;
        core::iter::from_fn(move || {
            let next =
                self.life.lock().threads.range(after + 1..).next().map(|(_, thread)| thread.clone())?;
            after = next.tid;
            Some(next)
        })
    }

    /// Gives the number of threads that have not ended.
    pub fn nr_threads(&self) -> usize {
        self.life.lock().threads.len()
    }

    /// Gives the CPU time of all its threads, ended ones included.
    pub fn cpu_time_ns(&self) -> u64 {
        let live: u64 = self.threads().map(|thread| thread.cpu_time_ns()).sum();
        live + self.dead_threads_ns.load(SeqCst)
    }

    /// Gives the faults of all its threads, ended ones included.
    pub fn faults(&self) -> u64 {
        let live: u64 = self.threads().map(|thread| thread.faults.load(SeqCst)).sum();
        live + self.dead_threads_faults.load(SeqCst)
    }

    /// Gives its name: its first thread's.
    pub fn name(&self) -> alloc::string::String {
        let first = self.threads().next();
        first.map_or_else(Default::default, |thread| thread.name())
    }
}
