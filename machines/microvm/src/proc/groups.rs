//! Process groups and sessions: who belongs together, and who has lost everybody that could make them go on.
//!
//! A group is orphaned if no member has a parent in another group of the same session: no shell is left that
//! would continue what is stopped. Linux: kernel/exit.c `will_become_orphaned_pgrp`, `kill_orphaned_pgrp`.

use super::process::Process;
use super::table::Table;
use super::{Thread, signal, table, tty};
use alloc::sync::Arc;
use anonmem_oslib::sigframe::{Detail, SigInfo};
use anonmem_oslib::signal::{SIGCONT, SIGHUP, SigSet, code};
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Gives the session that has a member in the group `pgid`; `None` without such a group.
pub fn session_of(pgid: u32) -> Option<u32> {
    let table = table::lock();
    table.processes.values().find(|p| p.pgid.load(SeqCst) == pgid).map(|p| p.sid.load(SeqCst))
}

/// Says whether nobody outside of the group, but in its session, has a child in it.
pub fn is_orphaned(pgid: u32) -> bool {
    is_orphaned_in(&table::lock(), pgid, None)
}

/// The same once the process `leaving` has ended, and its children are nobody's.
fn is_orphaned_in(table: &Table, pgid: u32, leaving: Option<u32>) -> bool {
    let holds = |member: &Process| {
        let parent = member.parent.load(SeqCst);
        let leaves = leaving == Some(member.pid) || leaving == Some(parent);
        if leaves || parent == table::INIT || member.life.lock().zombie.is_some() {
            return false;
        }
        table.processes.get(&parent).is_some_and(|parent| {
            parent.pgid.load(SeqCst) != pgid && parent.sid.load(SeqCst) == member.sid.load(SeqCst)
        })
    };
    !table.processes.values().any(|p| p.pgid.load(SeqCst) == pgid && holds(p))
}

/// Says whether the end of `leaving` orphans the group while a member is stopped.
fn is_abandoned(pgid: u32, leaving: u32) -> bool {
    let table = table::lock();
    let stops = |p: &Process| p.stopped.load(SeqCst) && p.ending().is_none();
    let stopped = |p: &Process| p.pgid.load(SeqCst) == pgid && stops(p);
    table.processes.values().any(|p| stopped(p)) && is_orphaned_in(&table, pgid, Some(leaving))
}

/// Hangs up on stopped groups that the end of `process` orphans: its own, and those of its children.
pub fn abandon(process: &Process) {
    let (pid, pgid, sid) = (process.pid, process.pgid.load(SeqCst), process.sid.load(SeqCst));
    let parent = table::process(process.parent.load(SeqCst));
    let held = |other: &Process| other.pgid.load(SeqCst) != pgid && other.sid.load(SeqCst) == sid;
    for child in table::processes().filter(|p| p.parent.load(SeqCst) == pid && held(p)) {
        hang_up_if_abandoned(child.pgid.load(SeqCst), pid);
    }
    if parent.is_some_and(|parent| held(&parent)) {
        hang_up_if_abandoned(pgid, pid);
    }
}

fn hang_up_if_abandoned(pgid: u32, leaving: u32) {
    if is_abandoned(pgid, leaving) {
        tell(pgid, SIGHUP);
        tell(pgid, SIGCONT);
    }
}

/// Sends a signal of the kernel's to a group.
pub fn tell(pgid: u32, signal: u32) {
    signal::send_to_group(pgid, SigInfo { signal, code: code::SI_KERNEL, detail: Detail::None });
}

/// Numbers the signals to several processes.
static TELLINGS: AtomicU64 = AtomicU64::new(0);

/// What several processes were told, this one among them, while a thread of it forks: the child is to hear
/// it, too, or it would live on where all were to end. Linux: `struct multiprocess_signals`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    /// The number of the last.
    telling: u64,
    signals: SigSet,
}

/// A signal that is sent to several processes, one after the other.
#[derive(Debug)]
pub struct Telling(u64);

impl Telling {
    /// Begins.
    pub fn begin() -> Telling {
        Telling(TELLINGS.fetch_add(1, SeqCst) + 1)
    }

    /// Sends it to one of them, and to a child that it is about to have.
    pub fn tell(&self, process: &Arc<Process>, info: SigInfo) {
        if process.heard.load(SeqCst) == self.0 {
            return;
        }
        // First: a fork that begins meanwhile finds it pending, or hears it.
        signal::send(process, info);
        let mut after = None;
        while let Some(thread) = process.thread_after(after) {
            if let Some(heard) = thread.forking.lock().as_mut() {
                heard.telling = self.0;
                heard.signals = heard.signals & !signal::taken_back_by(info.signal) | SigSet::of(info.signal);
            }
            after = Some(thread.tid);
        }
    }
}

/// A thread forks, until this is dropped.
#[derive(Debug)]
pub struct Forking<'a>(&'a Thread);

impl<'a> Forking<'a> {
    /// Begins.
    pub fn begin(thread: &'a Thread) -> Forking<'a> {
        *thread.forking.lock() = Some(Heard::default());
        Forking(thread)
    }

    /// Enters the first thread of the child, which is in its parent's group and session as they are now.
    pub fn enter(&self, child: &Arc<Thread>) {
        let (from, process) = (&self.0.process, &child.process);
        let heard = {
            // Who tells the parent something after this finds the child in the table.
            let mut forking = self.0.forking.lock();
            let heard = forking.take().unwrap_or_default();
            process.heard.store(heard.telling, SeqCst);
            process.sid.store(from.sid.load(SeqCst), SeqCst);
            process.pgid.store(from.pgid.load(SeqCst), SeqCst);
            table::enter(child);
            heard
        };
        tty::check_inherited(process);
        let mut signals = heard.signals;
        while let Some(signal) = signals.first() {
            signals.remove(signal);
            signal::send(process, SigInfo { signal, code: code::SI_USER, detail: Detail::None });
        }
    }
}

impl Drop for Forking<'_> {
    fn drop(&mut self) {
        *self.0.forking.lock() = None;
    }
}
