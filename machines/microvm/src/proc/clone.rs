//! New threads and processes. Linux: kernel/fork.c.

use super::groups::Forking;
use super::process::Process;
use super::thread::{Released, Thread};
use super::{cpulimit, mm, table};
use crate::arch::trap::TrapFrame;
use crate::sched::{self, Task};
use crate::usercopy;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::cred::{Cap, Cred};
use anonmem_oslib::errno::{EAGAIN, EINVAL, ENOMEM, EPERM};
use anonmem_oslib::restart::ERESTARTNOINTR;
use core::sync::atomic::Ordering::SeqCst;
use linux_raw_sys::general as abi;

/// What `clone` and `clone3` are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// `CLONE_*`.
    pub flags: u64,
    /// The new stack pointer; zero for the caller's.
    pub stack: u64,
    /// Where the parent finds the child's number.
    pub parent_tid: u64,
    /// Where the child finds it, and where it is cleared when the child ends.
    pub child_tid: u64,
    /// The child's FS base.
    pub tls: u64,
    /// The signal for the parent when the child ends.
    pub exit_signal: u32,
}

impl Request {
    fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    /// Namespaces are for those who administer the system, and do not exist.
    fn check(&self, cred: &Cred) -> Result<()> {
        let needs = |flag, other| !self.has(flag) || self.has(other);
        let known = needs(abi::CLONE_THREAD, abi::CLONE_SIGHAND) && needs(abi::CLONE_SIGHAND, abi::CLONE_VM);
        const NAMESPACES: u64 =
            (abi::CLONE_NEWNS | abi::CLONE_NEWUTS | abi::CLONE_NEWIPC | abi::CLONE_NEWUSER) as u64
                | (abi::CLONE_NEWPID | abi::CLONE_NEWNET | abi::CLONE_PIDFD | abi::CLONE_NEWCGROUP) as u64;
        if self.flags & NAMESPACES & !u64::from(abi::CLONE_PIDFD) != 0 && !cred.has(Cap::SysAdmin) {
            return Err(EPERM);
        }
        if known && self.flags & NAMESPACES == 0 && self.exit_signal <= 64 { Ok(()) } else { Err(EINVAL) }
    }
}

/// Makes a thread or process that goes on like the caller, with result zero. Gives its number.
///
/// # Errors
/// `EINVAL`, `EPERM`, `ENOMEM`, `EAGAIN`, `EFAULT`; `ERESTARTNOINTR` if a signal waits.
pub fn clone(thread: &Arc<Thread>, frame: &TrapFrame, request: &Request) -> Result<u32> {
    request.check(&thread.cred())?;
    table::check_user(thread)?;
    let space = sched::current_mm().ok_or(EINVAL)?;
    let forking = (!request.has(abi::CLONE_THREAD)).then(|| Forking::begin(thread));
    // What a group was told before is not heard any more: this process hears it first, and may end. Linux:
    // kernel/fork.c `copy_process`.
    if forking.is_some() && thread.has_deliverable() {
        return Err(ERESTARTNOINTR);
    }
    let space = if request.has(abi::CLONE_VM) { space } else { mm::fork(&space)? };
    let fs = if request.has(abi::CLONE_FS) { thread.fs() } else { Arc::new(thread.fs().fork()) };
    let files = if request.has(abi::CLONE_FILES) { thread.files() } else { Arc::new(thread.files().fork()?) };

    let tid = table::number()?;
    let process = if request.has(abi::CLONE_THREAD) {
        thread.process.clone()
    } else {
        new_process(thread, tid, request, &space)
    };
    let child = Thread::new(tid, process, fs, files, *thread.comm.lock());
    child.set_cred(thread.cred());
    inherit_signals(thread, &child, request);
    {
        let mut user = child.user.lock();
        user.set_child_tid = if request.has(abi::CLONE_CHILD_SETTID) { request.child_tid } else { 0 };
        user.clear_child_tid = if request.has(abi::CLONE_CHILD_CLEARTID) { request.child_tid } else { 0 };
    }
    if request.has(abi::CLONE_PARENT_SETTID) {
        usercopy::copy_to_user(request.parent_tid, &tid.to_le_bytes())?;
    }
    let released = request.has(abi::CLONE_VFORK).then(|| Arc::new(Released::default()));
    child.vfork.lock().clone_from(&released);
    start(&child, frame, request, space, forking.as_ref())?;
    drop((child, forking));
    if let Some(released) = released {
        released.wait(thread);
        // The child may have become somebody with other limits while the memory was its own.
        if let Some(space) = sched::current_mm() {
            mm::set_limits(&space, &thread.process.limits(), &thread.cred());
        }
    }
    Ok(tid)
}

fn new_process(thread: &Thread, pid: u32, request: &Request, space: &mm::Space) -> Arc<Process> {
    let process = Process::new(pid, Some(&thread.process));
    process.exit_signal.store(request.exit_signal, SeqCst);
    if request.has(abi::CLONE_PARENT) {
        process.parent.store(thread.process.parent.load(SeqCst), SeqCst);
    }
    drop(process.set_space(Some(space.clone())));
    cpulimit::watch(&process);
    process
}

/// The mask goes along; an alternate stack does not if the memory is shared, unless by `vfork`.
fn inherit_signals(thread: &Thread, child: &Thread, request: &Request) {
    let parent = thread.signals.lock();
    let mut own = child.signals.lock();
    own.mask = parent.mask;
    if !request.has(abi::CLONE_VM) || request.has(abi::CLONE_VFORK) {
        own.altstack = parent.altstack;
    }
}

/// Gives the child its task and lets it run.
fn start(
    child: &Arc<Thread>,
    frame: &TrapFrame,
    request: &Request,
    space: mm::Space,
    forking: Option<&Forking<'_>>,
) -> Result<()> {
    let mut registers = frame.clone();
    registers.rax = 0;
    if request.stack != 0 {
        registers.rsp = request.stack;
    }
    let parent = sched::current();
    let fs_base = if request.has(abi::CLONE_SETTLS) { request.tls } else { parent.fs_base() };
    let task = Task::new_user(child.clone(), space, &registers, fs_base).map_err(|_| ENOMEM)?;
    child.set_task(Some(task.clone()));
    // For `CLONE_CHILD_SETTID`, and for a signal that ends the group while we start.
    child.note_work();
    if child.process.pid != child.tid && child.process.ending().is_some() {
        child.set_task(None);
        return Err(EAGAIN);
    }
    match forking {
        Some(forking) => forking.enter(child),
        None => table::enter(child),
    }
    sched::start(&task);
    Ok(())
}
