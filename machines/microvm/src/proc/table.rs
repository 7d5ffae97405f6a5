//! Who exists: processes and threads by number.

use super::Thread;
use super::process::Process;
use crate::arch::lock::{SpinGuard, SpinLock};
use crate::machine;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::cred::Cap;
use anonmem_oslib::errno::EAGAIN;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use linux_raw_sys::general as abi;

/// The number of the kernel's own process, which takes in orphans.
pub const INIT: u32 = 1;
/// The number of the program that the kernel's own process starts, and of its process group.
pub const PROGRAM: u32 = 2;
/// Numbers are below this (`/proc/sys/kernel/pid_max`).
pub const PID_MAX: u32 = 1 << 22;
/// Processes and threads at most, however much memory there is: as many as there are kernel stacks for.
const TASKS_MAX: u64 = 16384;

/// Processes and threads at most (`/proc/sys/kernel/threads-max`): so many that stacks of 16 KiB take an
/// eighth of memory.
///
/// Linux: kernel/fork.c `set_max_threads`.
pub fn threads_max() -> u64 {
    const LEAST: u64 = 64;
    const PAGES_EACH: u64 = 4;
    (machine::vm().stats().frames / (8 * PAGES_EACH)).clamp(LEAST, TASKS_MAX)
}

/// Processes and threads by number.
pub struct Table {
    /// Processes, zombies included.
    pub processes: BTreeMap<u32, Arc<Process>>,
    /// Threads that have not ended.
    pub threads: BTreeMap<u32, Arc<Thread>>,
    /// Processes without threads.
    pub zombies: usize,
    next: u32,
}

static TABLE: SpinLock<Table> =
    SpinLock::new(Table { processes: BTreeMap::new(), threads: BTreeMap::new(), zombies: 0, next: INIT });
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Locks the table.
pub fn lock() -> SpinGuard<'static, Table> {
    TABLE.lock()
}

impl Table {
    /// Gives a number that nobody has.
    ///
    /// # Errors
    /// `EAGAIN` if there are too many.
    pub fn number(&mut self) -> Result<u32> {
        if (self.threads.len() + self.zombies) as u64 >= threads_max() {
            return Err(EAGAIN);
        }
        loop {
            let number = self.next;
            self.next = if number + 1 >= PID_MAX { 300 } else { number + 1 };
            if !self.processes.contains_key(&number) && !self.threads.contains_key(&number) {
                FORKS.fetch_add(1, SeqCst);
                return Ok(number);
            }
        }
    }
}

/// Gives a number that nobody has.
///
/// # Errors
/// `EAGAIN` if there are too many processes and threads.
pub fn number() -> Result<u32> {
    lock().number()
}

/// Fails if the user of `thread` has as many processes and threads as `RLIMIT_NPROC` says; some are above
/// that.
///
/// # Errors
/// `EAGAIN`.
pub fn check_user(thread: &Thread) -> Result<()> {
    let (cred, limits) = (thread.cred(), thread.process.limits());
    if cred.has(Cap::SysResource) || cred.has(Cap::SysAdmin) {
        return Ok(());
    }
    let theirs = lock().threads.values().filter(|t| t.cred().user.real == cred.user.real).count() as u64;
    if theirs >= limits[abi::RLIMIT_NPROC as usize].0 { Err(EAGAIN) } else { Ok(()) }
}

/// Gives how many numbers have been given out.
pub fn numbers_given() -> u64 {
    FORKS.load(SeqCst)
}

/// Finds a process.
pub fn process(pid: u32) -> Option<Arc<Process>> {
    lock().processes.get(&pid).cloned()
}

/// Finds a thread.
pub fn thread(tid: u32) -> Option<Arc<Thread>> {
    lock().threads.get(&tid).cloned()
}

/// Gives all processes but the kernel's own, in the order of their numbers, one look at a time: takes no
/// memory, and the lock only for each step. Who comes or goes meanwhile may be among them or not.
pub fn processes() -> impl Iterator<Item = Arc<Process>> {
    let mut after = INIT;
    core::iter::from_fn(move || {
        let next = lock().processes.range(after + 1..).next().map(|(_, process)| process.clone())?;
        after = next.pid;
        Some(next)
    })
}

/// Enters a thread, and its process if it is its first.
pub fn enter(thread: &Arc<Thread>) {
    let process = &thread.process;
    let mut table = lock();
    table.threads.insert(thread.tid, thread.clone());
    if thread.tid == process.pid {
        table.processes.insert(process.pid, process.clone());
    }
    process.life.lock().threads.insert(thread.tid, thread.clone());
}
