//! The end of threads and processes.
//!
//! A thread ends on its way back to user code, where no kernel stack frame owns anything any more: the
//! system calls only ask for it. Linux: kernel/exit.c.

use super::process::{ExitStatus, Process};
use super::signal::{self, SIG_IGN};
use super::{Thread, folios, futex, groups, ipc, mm, table, trace, tty};
use crate::arch::lock::SpinLock;
use crate::fs::FsContext;
use crate::fs::parcel;
use crate::fs::table::FdTable;
use crate::sched;
use alloc::sync::Arc;
use anonmem_oslib::sigframe::{Detail, SigInfo};
use anonmem_oslib::signal::{SIGCHLD, SIGKILL, code};
use core::sync::atomic::Ordering::SeqCst;
use linux_raw_sys::general as abi;

/// Threads that are to end alone, with their status.
static REQUESTS: SpinLock<alloc::collections::BTreeMap<u32, ExitStatus>> =
    SpinLock::new(alloc::collections::BTreeMap::new());

/// Asks that one thread ends.
pub fn request(thread: &Thread, status: ExitStatus) {
    REQUESTS.lock().insert(thread.tid, status);
    thread.kick();
    thread.process.continued.notify();
}

/// Gives the status if the thread is to end, alone or with its group.
pub fn requested(thread: &Thread) -> Option<ExitStatus> {
    thread.process.ending().or_else(|| REQUESTS.lock().get(&thread.tid).copied())
}

/// Ends the running thread's process, which cannot go on.
pub fn kill_self() {
    let thread = super::current_thread();
    thread.process.end(ExitStatus::killed(SIGKILL));
    thread.note_work();
}

/// Takes the running thread apart. Afterwards only its task is left.
pub fn thread(status: ExitStatus) {
    let thread = super::current_thread();
    let process = thread.process.clone();
    REQUESTS.lock().remove(&thread.tid);
    futex::release_robust_list(&thread);
    clear_child_tid(&thread);
    mm::note_peak();
    sched::set_current_mm(None);
    release_vfork_parent(&thread);
    thread.set_files(Arc::new(FdTable::default()));
    parcel::collect();
    thread.set_fs(Arc::new(FsContext::new(crate::fs::vfs().root().clone())));

    process.dead_threads_ns.fetch_add(thread.cpu_time_ns(), SeqCst);
    process.dead_threads_faults.fetch_add(thread.faults.load(SeqCst), SeqCst);
    table::lock().threads.remove(&thread.tid);
    let last = {
        let mut life = process.life.lock();
        life.threads.remove(&thread.tid);
        life.threads.is_empty()
    };
    thread.set_task(None);
    trace::forget(&thread);
    if last {
        end_process(&process, process.ending().unwrap_or(status));
    } else {
        process.changed.notify();
    }
}

fn clear_child_tid(thread: &Thread) {
    let at = core::mem::take(&mut thread.user.lock().clear_child_tid);
    if at != 0 && crate::usercopy::copy_to_user(at, &0u32.to_le_bytes()).is_ok() {
        futex::wake_address(at, 1);
    }
}

/// Lets a parent that called `vfork` go on: the child has left its memory.
pub fn release_vfork_parent(thread: &Thread) {
    let released = thread.vfork.lock().take();
    if let Some(released) = released {
        released.release();
    }
}

/// What is left to do when the last thread is gone.
fn end_process(process: &Arc<Process>, status: ExitStatus) {
    let alarm = process.alarm.lock().take();
    let cpu_watch = process.cpu_watch.lock().take();
    let timers = core::mem::take(&mut *process.timers.lock());
    alarm.iter().chain(&cpu_watch).chain(timers.values()).for_each(|timer| timer.disarm());
    drop((alarm, cpu_watch, timers));
    tty::leave(process, tty::Leaving::Ended);
    if process.pid == table::PROGRAM {
        folios::note_end();
    }
    ipc::sem::end_process(process.pid);
    // The address space goes before anybody can learn of the end.
    drop(process.set_space(None));
    ipc::shm::sweep();

    trace::release_tracees(process.pid);
    groups::abandon(process);
    let orphans = give_children_to_init(process.pid);
    let told = bury(process, status);
    if orphans && let Some(init) = table::process(table::INIT) {
        init.changed.notify();
    }
    if told {
        let killed = status.0 & 0x7f;
        let (why, value) =
            if killed == 0 { (code::CLD_EXITED, status.0 >> 8) } else { (code::CLD_KILLED, killed) };
        tell_parent(process, why, value as i32);
    }
}

/// Gives the children to init, which cares about none of them: those that have ended go at once. Says whether
/// any did.
fn give_children_to_init(pid: u32) -> bool {
    let mut any = false;
    loop {
        let mut table = table::lock();
        let mut gone = None;
        for child in table.processes.values().filter(|p| p.parent.load(SeqCst) == pid) {
            child.parent.store(table::INIT, SeqCst);
            if child.life.lock().zombie.is_some() {
                gone = Some(child.pid);
                break;
            }
        }
        let Some(number) = gone else { return any };
        let gone = table.processes.remove(&number);
        table.zombies -= 1;
        drop(table);
        drop(gone);
        any = true;
    }
}

/// Makes the process a zombie, or removes it if its parent does not care. Says whether the parent is told.
fn bury(process: &Arc<Process>, status: ExitStatus) -> bool {
    let mut table = table::lock();
    let parent = table.processes.get(&process.parent.load(SeqCst)).cloned();
    let orphan = process.parent.load(SeqCst) == table::INIT && process.pid != table::PROGRAM;
    let ignored = orphan
        || parent.as_ref().is_some_and(|parent| {
            let action = parent.signals.lock().action(SIGCHLD);
            action.handler == SIG_IGN || action.flags & u64::from(abi::SA_NOCLDWAIT) != 0
        });
    let gone = if ignored { table.processes.remove(&process.pid) } else { None };
    process.life.lock().zombie = Some(status);
    if !ignored {
        table.zombies += 1;
    }
    drop(table);
    drop(gone);
    if ignored && let Some(parent) = parent {
        parent.changed.notify();
    }
    !ignored
}

/// Tells the parent of a change: SIGCHLD, and whoever waits.
pub fn tell_parent(process: &Process, why: i32, status: i32) {
    let Some(parent) = table::process(process.parent.load(SeqCst)) else { return };
    let is_end = why == code::CLD_EXITED || why == code::CLD_KILLED;
    // Whoever is told nothing of an end is told of stops.
    let signal = if is_end { process.exit_signal.load(SeqCst) } else { SIGCHLD };
    let no_stops = parent.signals.lock().action(SIGCHLD).flags & u64::from(abi::SA_NOCLDSTOP) != 0;
    if signal != 0 && (is_end || !no_stops) {
        let detail = Detail::Child { pid: process.pid, status, cpu_ns: process.cpu_time_ns() };
        signal::send(&parent, SigInfo { signal, code: why, detail });
    }
    parent.changed.notify();
}

/// Ends all other threads of the running thread's process (execve); waits until they are gone.
///
/// Gives false if the process is ending as a whole.
pub fn end_other_threads(thread: &Thread) -> bool {
    let process = &thread.process;
    // Asked at every look: a thread that is asked may have started another before it saw it.
    let alone = || {
        let others = process.threads().filter(|t| t.tid != thread.tid);
        others.for_each(|t| request(&t, ExitStatus::exited(0)));
        (process.nr_threads() == 1 || process.ending().is_some()).then_some(())
    };
    // Without a deadline and not interruptible it cannot fail.
    let _ = process.changed.wait(None, sched::Interruptible::No, alone);
    process.ending().is_none()
}
