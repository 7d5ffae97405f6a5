//! The way back to user code: pending signals, stops, the end.
//!
//! Handlers get a frame on their stack ([`anonmem_oslib::sigframe`]); a system call that a signal
//! interrupted is set up to run again or to fail with EINTR. Linux: kernel/signal.c `get_signal`,
//! arch/x86/kernel/signal.c.

use super::process::ExitStatus;
use super::signal::{self, Action, SIG_DFL, SIG_IGN};
use super::{Thread, exit, fault, groups, trace};
use crate::arch::fpu;
use crate::arch::trap::TrapFrame;
use crate::sched;
use crate::usercopy::{self, Fault};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use anonmem_oslib::Errno;
use anonmem_oslib::errno::EINTR;
use anonmem_oslib::restart::{
    ERESTART_RESTARTBLOCK, ERESTARTNOHAND, ERESTARTNOINTR, ERESTARTSYS, is_restart,
};
use anonmem_oslib::sigframe::{self, Frame, Registers, Saved, SigInfo, StackKind};
use anonmem_oslib::signal::{DefaultAction, SIGSEGV, SIGSTOP, SigSet, code, default_action};
use core::sync::atomic::Ordering::SeqCst;
use linux_raw_sys::general as abi;

/// Set in `TrapFrame::error` of a system call's frame that must not be run again.
const NO_RESTART: u64 = u64::MAX;
/// Bytes of the `syscall` instruction.
const SYSCALL_LEN: u64 = 2;

/// Does what waits for the running thread before it goes on in user mode.
pub fn before_return_to_user(frame: &mut TrapFrame) {
    if let Some(status) = work(frame) {
        // No frame below this one owns anything: what a task holds is released by now.
        exit::thread(status);
        sched::exit();
    }
}

/// Does the work; gives the status if the thread is to end.
fn work(frame: &mut TrapFrame) -> Option<ExitStatus> {
    let thread = super::current_thread();
    while thread.take_work() {
        store_child_tid(&thread);
        if let Some(status) = exit::requested(&thread) {
            return Some(status);
        }
        stay_stopped(&thread);
        trace::stop_if_asked(&thread, frame);
        if let Some(status) = exit::requested(&thread) {
            return Some(status);
        }
        if !deliver_pending(&thread, frame) {
            restart_without_handler(&thread, frame);
            restore_saved_mask(&thread);
        }
        // A handler may have been set up on a bad stack, or a default action ended the process.
        if let Some(status) = exit::requested(&thread) {
            return Some(status);
        }
    }
    None
}

/// `CLONE_CHILD_SETTID`: the child writes it, into its own memory.
fn store_child_tid(thread: &Thread) {
    let at = core::mem::take(&mut thread.user.lock().set_child_tid);
    if at != 0 {
        // Linux ignores a bad address here, too.
        let _ = usercopy::copy_to_user(at, &thread.tid.to_le_bytes());
    }
}

/// Waits while the process is stopped.
fn stay_stopped(thread: &Thread) {
    let process = &thread.process;
    if process.stopped.load(SeqCst) {
        let go_on = || (!process.stopped.load(SeqCst) || process.ending().is_some()).then_some(());
        // Without a deadline and not interruptible it cannot fail.
        let _ = process.continued.wait(None, sched::Interruptible::No, go_on);
        thread.note_work();
    }
}

/// Delivers all deliverable signals; says whether a handler was set up.
fn deliver_pending(thread: &Arc<Thread>, frame: &mut TrapFrame) -> bool {
    let mut handled = false;
    while let Some((info, action)) = thread.next_signal() {
        let Some((info, action)) = trace::before_signal(thread, frame, info, action) else { continue };
        match action.handler {
            SIG_IGN => {}
            SIG_DFL => match default_action(info.signal) {
                DefaultAction::Ignore | DefaultAction::Continue => {}
                DefaultAction::Stop if is_left_alone(thread, info.signal) => {}
                DefaultAction::Stop if trace::is_traced(thread) => trace::stop_alone(thread, frame, info),
                DefaultAction::Stop => {
                    stop(thread, info.signal);
                    return handled;
                }
                DefaultAction::Terminate => {
                    thread.process.end(ExitStatus::killed(info.signal));
                    return handled;
                }
            },
            _ => {
                restart_for_handler(frame, &action);
                if set_up(thread, frame, &info, &action).is_err() {
                    thread.process.end(ExitStatus::killed(SIGSEGV));
                    return true;
                }
                handled = true;
            }
        }
    }
    handled
}

/// Stops the whole process and tells its parent.
fn stop(thread: &Thread, signal: u32) {
    let process = &thread.process;
    if signal::stop(process, signal) {
        exit::tell_parent(process, code::CLD_STOPPED, signal as i32);
        process.kick_all();
    } else {
        // What else waits is looked at again.
        thread.note_work();
    }
}

/// Says whether a stop would be for ever: nobody is left who could make the group go on.
fn is_left_alone(thread: &Thread, number: u32) -> bool {
    number != SIGSTOP && groups::is_orphaned(thread.process.pgid.load(SeqCst))
}

/// The system call that the frame is from, if it was interrupted.
fn interrupted(frame: &TrapFrame) -> bool {
    frame.is_syscall() && frame.error != NO_RESTART && is_restart(frame.rax)
}

fn run_again(frame: &mut TrapFrame) {
    frame.rax = frame.syscall_nr();
    frame.rip -= SYSCALL_LEN;
    frame.error = NO_RESTART;
}

fn restart_for_handler(frame: &mut TrapFrame, action: &Action) {
    if !interrupted(frame) {
        return;
    }
    let wants = action.flags & u64::from(abi::SA_RESTART) != 0;
    let is = |error: Errno| frame.rax == error.as_return() as u64;
    if wants && is(ERESTARTSYS) || is(ERESTARTNOINTR) {
        run_again(frame);
    } else {
        frame.rax = EINTR.as_return() as u64;
        frame.error = NO_RESTART;
    }
}

fn restart_without_handler(thread: &Thread, frame: &mut TrapFrame) {
    if interrupted(frame) {
        let keeps_deadline = frame.rax == ERESTART_RESTARTBLOCK.as_return() as u64;
        if !keeps_deadline {
            *thread.restart.lock() = None;
        }
        debug_assert!(
            keeps_deadline
                || [ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND]
                    .iter()
                    .any(|e| frame.rax == e.as_return() as u64)
        );
        run_again(frame);
    }
}

/// After `sigsuspend` and the like, when no handler takes the old mask with it.
fn restore_saved_mask(thread: &Thread) {
    let saved = thread.signals.lock().saved_mask.take();
    if let Some(mask) = saved {
        thread.set_mask(mask);
    }
}

/// Makes user code go on in the handler.
fn set_up(thread: &Thread, frame: &mut TrapFrame, info: &SigInfo, action: &Action) -> Result<(), Fault> {
    *thread.restart.lock() = None;
    let (mask, altstack) = {
        let mut signals = thread.signals.lock();
        (signals.saved_mask.take().unwrap_or(signals.mask), signals.altstack)
    };
    let on_alternate = altstack.contains(frame.rsp);
    let wants_alternate = action.flags & u64::from(abi::SA_ONSTACK) != 0;
    let (sp, kind) = if wants_alternate && !on_alternate && altstack.flags & sigframe::SS_DISABLE == 0 {
        (altstack.sp + altstack.size, StackKind::Alternate)
    } else {
        (frame.rsp, StackKind::Interrupted)
    };
    let mut image = vec![0; fpu::image_size()];
    sched::with_current_fpu(|state| fpu::save_user(state, frame, &mut image));
    let saved = Saved { regs: registers(frame), mask, altstack };
    let laid = Frame::build(sp, kind, image.len(), action.restorer, info, &saved, fault::last_trap(info));
    usercopy::copy_to_user(laid.fp_at, &image)?;
    usercopy::copy_to_user(laid.sp, &laid.bytes)?;

    frame.rip = action.handler;
    frame.rsp = laid.sp;
    frame.rdi = u64::from(info.signal);
    frame.rsi = laid.info_at();
    frame.rdx = laid.ucontext_at();
    frame.rax = 0;
    frame.error = NO_RESTART;
    frame.rflags &= !DIRECTION_AND_TRAP;
    frame.sanitize();

    let mut blocked = thread.signals.lock().mask | action.mask;
    if action.flags & u64::from(abi::SA_NODEFER) == 0 {
        blocked.insert(info.signal);
    }
    thread.signals.lock().mask = blocked & !SigSet::UNBLOCKABLE;
    Ok(())
}

/// RFLAGS.DF, TF and RF: clear when a handler starts.
const DIRECTION_AND_TRAP: u64 = 1 << 10 | 1 << 8 | 1 << 16;

/// `rt_sigreturn`: goes back to what the handler interrupted.
pub fn sigreturn(thread: &Thread, frame: &mut TrapFrame) {
    if restore(thread, frame).is_err() {
        crate::klog!("process {}: bad frame in rt_sigreturn", thread.process.pid);
        thread.process.end(ExitStatus::killed(SIGSEGV));
        thread.note_work();
    }
}

fn restore(thread: &Thread, frame: &mut TrapFrame) -> Result<(), Fault> {
    let mut bytes = [0; sigframe::RESTORE];
    usercopy::copy_from_user(&mut bytes, frame.rsp)?;
    let (saved, fp_at) = sigframe::restore(&bytes);
    if fp_at != 0 {
        let mut image: Vec<u8> = vec![0; fpu::image_size()];
        usercopy::copy_from_user(&mut image, fp_at)?;
        sched::with_current_fpu(|state| fpu::restore_user(state, frame, &image));
    }
    set_registers(frame, &saved.regs);
    frame.sanitize();
    frame.error = NO_RESTART;
    thread.signals.lock().altstack = saved.altstack;
    thread.set_mask(saved.mask);
    Ok(())
}

/// Gives the general registers of a frame.
pub fn registers(frame: &TrapFrame) -> Registers {
    Registers {
        r8: frame.r8,
        r9: frame.r9,
        r10: frame.r10,
        r11: frame.r11,
        r12: frame.r12,
        r13: frame.r13,
        r14: frame.r14,
        r15: frame.r15,
        rdi: frame.rdi,
        rsi: frame.rsi,
        rbp: frame.rbp,
        rbx: frame.rbx,
        rdx: frame.rdx,
        rax: frame.rax,
        rcx: frame.rcx,
        rsp: frame.rsp,
        rip: frame.rip,
        rflags: frame.rflags,
    }
}

fn set_registers(frame: &mut TrapFrame, r: &Registers) {
    (frame.r8, frame.r9, frame.r10, frame.r11) = (r.r8, r.r9, r.r10, r.r11);
    (frame.r12, frame.r13, frame.r14, frame.r15) = (r.r12, r.r13, r.r14, r.r15);
    (frame.rdi, frame.rsi, frame.rbp, frame.rbx) = (r.rdi, r.rsi, r.rbp, r.rbx);
    (frame.rdx, frame.rax, frame.rcx, frame.rsp) = (r.rdx, r.rax, r.rcx, r.rsp);
    (frame.rip, frame.rflags) = (r.rip, r.rflags);
}
