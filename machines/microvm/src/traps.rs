//! Where traps go: exceptions, interrupts, system calls; and the way back to user mode.
//!
//! Entry code ([`crate::arch::entry`]) calls the functions here by symbol. They stand on the top floor,
//! because a trap may be anything: a fault of a process, a system call, a device.

use core::sync::atomic::Ordering::Relaxed;

use x86_64::instructions::interrupts;
use x86_64::registers::control::Cr2;

use crate::arch::idt::vector;
use crate::arch::percpu::this_cpu;
use crate::arch::trap::{TrapFrame, USER_CS, USER_SS};
use crate::arch::{apic, cpu, time, tlb};
use crate::proc::{deliver, fault};
use crate::usercopy::{self, USER_END};
use crate::{console, sched, virtio};

/// General protection: what a return to an address outside of user space counts as.
const GENERAL_PROTECTION: u64 = 13;

/// Every exception and interrupt. Called by `trap_common` with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn trap_dispatch(frame: &mut TrapFrame) {
    clear_ac();
    let user = frame.from_user();
    match frame.vector {
        vector::PAGE_FAULT => page_fault(frame),
        vector::FIRST_INTERRUPT.. => interrupt(frame),
        // NMI, double fault and machine check: nothing that a program does.
        vector::NMI | vector::DOUBLE_FAULT | vector::MACHINE_CHECK => fatal(frame, 0),
        _ if user => {
            interrupts::enable();
            fault::exception(frame, frame.vector, frame.error);
        }
        _ => fatal(frame, 0),
    }
    if user {
        return_to_user(frame);
    }
}

/// A user program sets RFLAGS.AC as it likes, and a fault inside a user copy comes with AC set: SMAP
/// protects only with AC clear.
fn clear_ac() {
    if cpu::has_smap() {
        // SAFETY: the CPU has the instruction; it only clears AC.
        unsafe { core::arch::asm!("clac", options(nomem, nostack)) };
    }
}

fn page_fault(frame: &mut TrapFrame) {
    let va = Cr2::read_raw();
    if frame.from_user() {
        interrupts::enable();
        fault::user(va, frame.error);
        return;
    }
    let Some(fixup) = usercopy::fixup(frame.rip).filter(|_| va < USER_END) else {
        fatal(frame, va);
    };
    if this_cpu().nofault.load(Relaxed) {
        frame.rip = fixup;
        return;
    }
    interrupts::enable();
    if !fault::kernel(va, frame.error) {
        frame.rip = fixup;
    }
    interrupts::disable();
}

fn interrupt(frame: &mut TrapFrame) {
    match frame.vector {
        vector::TIMER => {
            apic::eoi();
            time::fired();
            sched::timer_interrupt();
        }
        vector::SHOOTDOWN => {
            apic::eoi();
            tlb::answer();
        }
        // Whoever sent it changed `need_resched`, a task's interrupt flag or the run queue.
        vector::RESCHEDULE => apic::eoi(),
        vector::DEVICE => {
            apic::eoi();
            console::interrupt();
            virtio::block::interrupt();
        }
        vector::SPURIOUS => {}
        _ => apic::eoi(),
    }
}

/// Every system call. Called by `syscall_entry` with interrupts off; true means that `sysret` may be
/// used.
#[unsafe(no_mangle)]
extern "C" fn syscall_dispatch(frame: &mut TrapFrame) -> bool {
    interrupts::enable();
    crate::syscall::syscall(frame);
    return_to_user(frame);
    // `sysret` takes RIP from RCX and RFLAGS from R11, so both registers must hold them; it cannot set
    // RF, and with TF it would trap in the wrong place. `return_to_user` made sure that RIP is below
    // USER_END (with a non-canonical one, Intel CPUs fault in ring 0 on the user's stack).
    const RESUME_AND_TRAP: u64 = 1 << 16 | 1 << 8;
    frame.rcx == frame.rip
        && frame.r11 == frame.rflags
        && frame.cs == USER_CS
        && frame.ss == USER_SS
        && frame.rflags & RESUME_AND_TRAP == 0
}

/// The first thing that a new user task does. Called by `new_user_task` with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn new_user_task_return(frame: &mut TrapFrame) {
    return_to_user(frame);
}

/// What must happen before user code runs on: rescheduling, signals. Leaves with interrupts off.
fn return_to_user(frame: &mut TrapFrame) {
    loop {
        sched::clear_interrupt();
        interrupts::enable();
        deliver::before_return_to_user(frame);
        if frame.rip >= USER_END {
            fault::exception(frame, GENERAL_PROTECTION, 0);
            continue;
        }
        interrupts::disable();
        if this_cpu().need_resched.load(Relaxed) {
            sched::yield_now();
            continue;
        }
        // From here to the return no interrupt comes in: a signal that is sent later sends an
        // interrupt too, which brings the task back here.
        if !sched::interrupt_pending() {
            return;
        }
    }
}

/// The kernel itself did something wrong.
fn fatal(frame: &TrapFrame, va: u64) -> ! {
    let name = match frame.vector {
        vector::PAGE_FAULT if sched::is_stack_guard(va) => "kernel stack overflow",
        vector::PAGE_FAULT => "page fault",
        vector::DOUBLE_FAULT => "double fault",
        vector::NMI => "non-maskable interrupt",
        GENERAL_PROTECTION => "general protection fault",
        6 => "invalid opcode",
        _ => "exception",
    };
    panic!(
        "{name} in the kernel: vector {} error {:#x} at rip {:#x}, address {va:#x}, rsp {:#x} rbp {:#x} rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x} rsi {:#x} rdi {:#x}",
        frame.vector,
        frame.error,
        frame.rip,
        frame.rsp,
        frame.rbp,
        frame.rax,
        frame.rbx,
        frame.rcx,
        frame.rdx,
        frame.rsi,
        frame.rdi
    );
}
