//! Threads that another process traces: stops before a signal is delivered, registers, and going on.
//!
//! A thread stops on its way back to user code, where all its registers lie in one frame. It leaves a copy of
//! them with its trace, waits, and takes over what the tracer has changed. Memory is the tracer's to read and
//! write meanwhile ([`super::remote`]).
//!
//! Locks: a thread's `trace` is the last of all.
//!
//! Linux: kernel/ptrace.c, kernel/signal.c `ptrace_signal`. Differs: a traced thread stops alone when its
//! process is stopped. Who traces another's child learns of its end only by `ECHILD`. There are no single
//! steps, and no stops at system calls.

use super::process::ExitStatus;
use super::signal::Action;
use super::{Thread, exit, signal, table};
use crate::arch::trap::TrapFrame;
use crate::sched;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EPERM, ESRCH};
use anonmem_oslib::sigframe::{Detail, SigInfo};
use anonmem_oslib::signal::{SIGCHLD, SIGKILL, SIGSTOP, SIGTRAP, code};
use core::sync::atomic::Ordering::SeqCst;

/// Words of `struct user_regs_struct`.
pub const REGS: usize = 27;
/// Kill the thread's process when its tracer ends.
pub const PTRACE_O_EXITKILL: u32 = 1 << 20;
const PTRACE_EVENT_STOP: u32 = 128;

/// How a thread came to be traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// It asked for it, or was attached to: it gets SIGSTOP then, and SIGTRAP after execve.
    #[default]
    Attached,
    /// Without any sign.
    Seized,
}

/// A thread that waits for its tracer.
#[derive(Debug)]
struct Stop {
    /// The signal, and the event above it.
    status: u32,
    info: SigInfo,
    regs: [u64; REGS],
    /// Whether `wait` is still to tell of it.
    untold: bool,
}

/// What a thread's tracer has to do with it.
#[derive(Debug, Default)]
pub struct Trace {
    /// The tracer's process; zero for none.
    tracer: u32,
    kind: Kind,
    options: u32,
    /// A stop was asked for (`PTRACE_INTERRUPT`).
    interrupt: bool,
    stop: Option<Stop>,
    /// The signal to go on with.
    inject: u32,
    /// The registers to go on with.
    regs: [u64; REGS],
}

impl Trace {
    /// Says whether the process `pid` traces it.
    pub fn is_by(&self, pid: u32) -> bool {
        self.tracer != 0 && self.tracer == pid
    }

    /// Gives the status of a stop that `wait` has not told of yet.
    pub fn report(&mut self, keep: bool) -> Option<u32> {
        let stop = self.stop.as_mut().filter(|stop| stop.untold)?;
        stop.untold = keep;
        Some(stop.status)
    }
}

/// Makes the process `tracer` trace a thread.
///
/// # Errors
/// `EPERM` if somebody does already.
pub fn attach(thread: &Arc<Thread>, tracer: u32, kind: Kind, options: u32) -> Result<()> {
    {
        let mut trace = thread.trace.lock();
        if trace.tracer != 0 {
            return Err(EPERM);
        }
        *trace = Trace { tracer, kind, options, ..Trace::default() };
    }
    if kind == Kind::Attached && thread.process.pid != super::current_thread().process.pid {
        let info = SigInfo { signal: SIGSTOP, code: code::SI_KERNEL, detail: Detail::None };
        signal::send_to_thread(thread, info);
    }
    Ok(())
}

/// Says whether somebody traces the thread.
pub fn is_traced(thread: &Thread) -> bool {
    thread.trace.lock().tracer != 0
}

/// What a tracer does with a thread that waits for it.
pub enum Request<'a> {
    /// Looks at its registers.
    GetRegs(&'a mut [u64; REGS]),
    /// Sets them.
    SetRegs(&'a [u64; REGS]),
    /// Looks at what it was stopped for.
    GetInfo(&'a mut Option<SigInfo>),
    /// Nothing: is it there?
    Look,
    /// Says how it is traced.
    Options(u32),
    /// Lets it go on with a signal, or without.
    Continue(u32),
    /// Lets it go, with a signal or without.
    Detach(u32),
}

/// Does what the process `tracer` asks of a thread.
///
/// # Errors
/// `ESRCH` if it does not trace the thread, or the thread does not wait for it.
pub fn request(thread: &Thread, tracer: u32, request: Request<'_>) -> Result<()> {
    let goes_on = {
        let mut trace = thread.trace.lock();
        if !trace.is_by(tracer) {
            return Err(ESRCH);
        }
        let stop = trace.stop.as_mut().ok_or(ESRCH)?;
        let detaches = matches!(request, Request::Detach(_));
        match request {
            Request::GetRegs(regs) => *regs = stop.regs,
            Request::SetRegs(regs) => stop.regs = *regs,
            Request::GetInfo(info) => *info = Some(stop.info),
            Request::Look => {}
            Request::Options(options) => trace.options = options,
            Request::Continue(signal) | Request::Detach(signal) => trace.go_on(signal),
        }
        if detaches {
            trace.tracer = 0;
        }
        trace.stop.is_none()
    };
    if goes_on {
        thread.process.continued.notify();
    }
    Ok(())
}

impl Trace {
    fn go_on(&mut self, signal: u32) {
        if let Some(stop) = self.stop.take() {
            (self.inject, self.regs) = (signal, stop.regs);
        }
    }
}

/// Asks a seized thread to stop.
///
/// # Errors
/// `ESRCH` if the process does not trace it.
pub fn interrupt(thread: &Thread, tracer: u32) -> Result<()> {
    {
        let mut trace = thread.trace.lock();
        if !trace.is_by(tracer) {
            return Err(ESRCH);
        }
        trace.interrupt = trace.stop.is_none();
    }
    thread.kick();
    Ok(())
}

/// Stops if that was asked for.
pub fn stop_if_asked(thread: &Thread, frame: &mut TrapFrame) {
    let asked = core::mem::take(&mut thread.trace.lock().interrupt);
    if asked {
        let info = SigInfo { signal: SIGTRAP, code: code::SI_KERNEL, detail: Detail::None };
        let _ = stop(thread, frame, info, PTRACE_EVENT_STOP);
    }
}

/// Stops a traced thread before it is given a signal. Gives what it is given then: nothing, or what the
/// tracer says.
pub fn before_signal(
    thread: &Thread,
    frame: &mut TrapFrame,
    info: SigInfo,
    action: Action,
) -> Option<(SigInfo, Action)> {
    if !is_traced(thread) {
        return Some((info, action));
    }
    let tracer = thread.trace.lock().tracer;
    let signal = stop(thread, frame, info, 0);
    if signal == 0 || exit::requested(thread).is_some() {
        return None;
    }
    if signal == info.signal {
        return Some((info, action));
    }
    let detail = Detail::Sender { pid: tracer, uid: 0, value: 0 };
    let action = thread.process.signals.lock().action(signal);
    Some((SigInfo { signal, code: code::SI_KERNEL, detail }, action))
}

/// Stops a traced thread instead of its process.
pub fn stop_alone(thread: &Thread, frame: &mut TrapFrame, info: SigInfo) {
    let _ = stop(thread, frame, info, 0);
}

/// What a program gets that has been executed anew.
pub fn after_exec(thread: &Arc<Thread>) {
    let wants = {
        let trace = thread.trace.lock();
        trace.tracer != 0 && trace.kind == Kind::Attached
    };
    if wants {
        let info = SigInfo { signal: SIGTRAP, code: 0, detail: Detail::None };
        signal::send_to_thread(thread, info);
    }
}

/// Waits for the tracer; gives the signal to go on with.
fn stop(thread: &Thread, frame: &mut TrapFrame, info: SigInfo, event: u32) -> u32 {
    let tracer = {
        let mut trace = thread.trace.lock();
        if trace.tracer == 0 {
            return info.signal;
        }
        let regs = registers(frame);
        let status = info.signal | event << 8;
        (trace.inject, trace.regs) = (info.signal, regs);
        trace.stop = Some(Stop { status, info, regs, untold: true });
        trace.tracer
    };
    tell(thread, tracer, info.signal);
    let process = &thread.process;
    let go_on = || {
        let free = thread.trace.lock().stop.is_none() || exit::requested(thread).is_some();
        free.then_some(())
    };
    // Without a deadline and not interruptible it cannot fail.
    let _ = process.continued.wait(None, sched::Interruptible::No, go_on);
    let (regs, inject) = {
        let mut trace = thread.trace.lock();
        trace.stop = None;
        (trace.regs, trace.inject)
    };
    set_registers(frame, &regs);
    thread.note_work();
    inject
}

/// Tells a tracer of a stop.
fn tell(thread: &Thread, tracer: u32, signal: u32) {
    let Some(tracer) = table::process(tracer) else { return };
    let cpu_ns = thread.cpu_time_ns();
    let detail = Detail::Child { pid: thread.tid, status: signal as i32, cpu_ns };
    signal::send(&tracer, SigInfo { signal: SIGCHLD, code: code::CLD_TRAPPED, detail });
    tracer.changed.notify();
}

/// A thread has ended: its tracer has nothing to wait for.
pub fn forget(thread: &Thread) {
    let tracer = core::mem::take(&mut *thread.trace.lock()).tracer;
    if tracer != 0
        && let Some(tracer) = table::process(tracer)
    {
        tracer.changed.notify();
    }
}

/// A process has ended: those that it traced go on, or end if it wanted that.
pub fn release_tracees(pid: u32) {
    let mut after = 0;
    loop {
        let next = table::lock().threads.range(after + 1..).next().map(|(_, thread)| thread.clone());
        let Some(thread) = next else { return };
        after = thread.tid;
        let options = {
            let mut trace = thread.trace.lock();
            if !trace.is_by(pid) {
                continue;
            }
            trace.go_on(0);
            trace.tracer = 0;
            trace.options
        };
        thread.process.continued.notify();
        if options & PTRACE_O_EXITKILL != 0 {
            thread.process.end(ExitStatus::killed(SIGKILL));
        }
    }
}

/// The words of `struct user_regs_struct`.
fn registers(frame: &TrapFrame) -> [u64; REGS] {
    let task = sched::current_task();
    let orig_rax = if frame.is_syscall() { frame.syscall_nr() } else { u64::MAX };
    [
        frame.r15,
        frame.r14,
        frame.r13,
        frame.r12,
        frame.rbp,
        frame.rbx,
        frame.r11,
        frame.r10,
        frame.r9,
        frame.r8,
        frame.rax,
        frame.rcx,
        frame.rdx,
        frame.rsi,
        frame.rdi,
        orig_rax,
        frame.rip,
        frame.cs,
        frame.rflags,
        frame.rsp,
        frame.ss,
        task.fs_base(),
        task.gs_base(),
        0,
        0,
        0,
        0,
    ]
}

fn set_registers(frame: &mut TrapFrame, r: &[u64; REGS]) {
    (frame.r15, frame.r14, frame.r13, frame.r12) = (r[0], r[1], r[2], r[3]);
    (frame.rbp, frame.rbx, frame.r11, frame.r10) = (r[4], r[5], r[6], r[7]);
    (frame.r9, frame.r8, frame.rax, frame.rcx) = (r[8], r[9], r[10], r[11]);
    (frame.rdx, frame.rsi, frame.rdi) = (r[12], r[13], r[14]);
    if frame.is_syscall() {
        frame.error = r[15];
    }
    (frame.rip, frame.rflags, frame.rsp) = (r[16], r[18], r[19]);
    frame.sanitize();
    let task = sched::current_task();
    task.set_fs_base(r[21]);
    task.set_gs_base(r[22]);
}

/// Makes a traced thread's process end, whatever it does (`PTRACE_KILL`).
///
/// # Errors
/// `ESRCH` if the process does not trace it.
pub fn kill(thread: &Thread, tracer: u32) -> Result<()> {
    if !thread.trace.lock().is_by(tracer) {
        return Err(ESRCH);
    }
    thread.process.end(ExitStatus::killed(SIGKILL));
    thread.process.stopped.store(false, SeqCst);
    Ok(())
}
