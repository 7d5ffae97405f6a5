//! Waiting for children. Linux: kernel/exit.c `do_wait`.

use super::process::{ExitStatus, Process};
use super::{Thread, mm, table};
use crate::sched::Interruptible;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::ECHILD;
use core::sync::atomic::Ordering::SeqCst;
use linux_raw_sys::general as abi;

/// Which children to wait for.
#[derive(Clone, Copy)]
pub enum Who<'a> {
    /// Any.
    Any,
    /// One.
    Pid(u32),
    /// This one, whoever has its number by now.
    This(&'a Process),
    /// Those of a process group.
    Group(u32),
}

/// What a child did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It ended.
    Ended(ExitStatus),
    /// A signal stopped it.
    Stopped(u32),
    /// It waits for its tracer, with this signal, and the event above it.
    Trapped(u32),
    /// It goes on.
    Continued,
}

/// What `wait` found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The child.
    pub pid: u32,
    /// What it did.
    pub change: Change,
    /// The CPU time that it and its own children used.
    pub cpu_ns: u64,
}

/// Waits for a change of a child of the running thread's process. `None`: nothing yet, and `WNOHANG`.
///
/// # Errors
/// `ECHILD`, `ERESTARTSYS`.
pub fn wait(thread: &Thread, who: Who<'_>, options: u32) -> Result<Option<Found>> {
    let parent = &thread.process;
    let look = || match find(parent, who, options) {
        Ok(None) if options & abi::WNOHANG == 0 => None,
        found => Some(found),
    };
    parent.changed.wait_interruptible(look)?
}

/// Waits for the end of any child of the kernel's own process.
pub fn wait_as_init(init: &Process) -> Option<Found> {
    let look = || match find(init, Who::Any, 0) {
        Ok(None) => None,
        Ok(Some(found)) => Some(Some(found)),
        Err(_) => Some(None),
    };
    init.changed.wait(None, Interruptible::No, look).ok().flatten()
}

/// Looks once. Zombies that are found are removed, unless `WNOWAIT`.
fn find(parent: &Process, who: Who<'_>, options: u32) -> Result<Option<Found>> {
    let mut table = table::lock();
    let mut any = false;
    let mut found = None;
    for child in table.processes.values() {
        let mine = child.parent.load(SeqCst) == parent.pid && child.pid != parent.pid;
        let wanted = match who {
            Who::Any => true,
            Who::Pid(pid) => child.pid == pid,
            Who::This(process) => core::ptr::eq(&**child, process),
            Who::Group(pgid) => child.pgid.load(SeqCst) == pgid,
        };
        if mine && wanted {
            any = true;
            if let Some(change) = change_of(child, options) {
                found = Some((child.clone(), change));
                break;
            }
        }
    }
    if found.is_none() {
        let keep = options & abi::WNOWAIT != 0;
        for thread in table.threads.values() {
            let wanted = match who {
                Who::Any => true,
                Who::Pid(pid) => thread.tid == pid,
                Who::This(process) => core::ptr::eq(&*thread.process, process) && thread.tid == process.pid,
                Who::Group(pgid) => thread.process.pgid.load(SeqCst) == pgid,
            };
            let mut trace = thread.trace.lock();
            if wanted && trace.is_by(parent.pid) {
                any = true;
                if let Some(status) = trace.report(keep) {
                    return Ok(Some(Found { pid: thread.tid, change: Change::Trapped(status), cpu_ns: 0 }));
                }
            }
        }
    }
    let Some((child, change)) = found else {
        return if any { Ok(None) } else { Err(ECHILD) };
    };
    let ended = matches!(change, Change::Ended(_));
    let gone = if ended && options & abi::WNOWAIT == 0 { table.processes.remove(&child.pid) } else { None };
    if gone.is_some() {
        table.zombies -= 1;
    }
    drop(table);
    let cpu_ns = child.cpu_time_ns() + child.children_ns.load(SeqCst);
    if gone.is_some() {
        parent.children_ns.fetch_add(cpu_ns, SeqCst);
    }
    drop(gone);
    Ok(Some(Found { pid: child.pid, change, cpu_ns }))
}

fn change_of(child: &Arc<Process>, options: u32) -> Option<Change> {
    let mut life = child.life.lock();
    if let Some(status) = life.zombie {
        return (options & abi::WEXITED != 0 || options & WAITID == 0).then_some(Change::Ended(status));
    }
    let keep = options & abi::WNOWAIT != 0;
    if options & abi::WUNTRACED != 0
        && let Some(signal) = life.stop_report
    {
        life.stop_report = life.stop_report.filter(|_| keep);
        return Some(Change::Stopped(signal));
    }
    if options & abi::WCONTINUED != 0 && life.continue_report {
        life.continue_report = keep;
        return Some(Change::Continued);
    }
    None
}

/// Set by `waitid`: the end is reported only if `WEXITED` asks for it, as `wait4` always does.
pub const WAITID: u32 = 1 << 20;

/// Gives the largest resident set that the process has had, in bytes.
pub fn hiwater(process: &Process) -> u64 {
    process.space().map_or(0, |mm| mm::counters(&mm).hiwater_rss)
}
