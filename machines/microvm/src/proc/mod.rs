//! Processes and threads: what a Linux program sees of the scheduler.
//!
//! A [`Process`](process::Process) is a thread group; a [`Thread`] is what its tasks carry. Operations have a file
//! each: `clone`, `exec`, `exit`, `wait`, `signal` (sending), `deliver` (handlers and their frames),
//! `futex`, `timer`, `fault`, `oom`, `init`.
//!
//! Locks: [`table`] > a process's `life` > its `signals` > a thread's `signals`. All are spin locks; none is
//! held while something sleeps, and nothing that may tear an address space down or close a file is
//! dropped under one.

pub mod clone;
pub mod deliver;
pub mod exec;
pub mod exit;
pub mod fault;
pub mod futex;
pub mod init;
pub mod mm;
pub mod oom;
pub mod process;
pub mod restart;
pub mod signal;
pub mod table;
pub mod thread;
pub mod timer;
pub mod wait;

pub use thread::Thread;

/// Entry points that the machine side calls. All run on the current task's kernel stack with
/// interrupts on and may sleep, unless the text says otherwise.
pub mod hooks {
    use super::*;
    use crate::arch::trap::TrapFrame;

    /// The machine is up (all CPUs, console, memory manager): runs in the first kernel task.
    /// Starts init, waits for it, writes the bill, powers off.
    pub fn kernel_main() -> ! {
        init::run()
    }

    /// A page fault of user code at `va`. Resolves it through the memory manager, or raises a signal.
    pub fn user_page_fault(_frame: &mut TrapFrame, va: u64, error_code: u64) {
        fault::user(va, error_code);
    }

    /// A page fault at the user address `va` inside `usercopy`: true if the access may be retried,
    /// false makes the copy fail with `Fault`.
    pub fn kernel_page_fault(va: u64, error_code: u64) -> bool {
        fault::kernel(va, error_code)
    }

    /// Any other exception of user code (divide, invalid opcode, general protection, ...).
    pub fn user_exception(frame: &mut TrapFrame, vector: u64, error_code: u64) {
        fault::exception(frame, vector, error_code);
    }

    /// Called before every return to user mode, also after a timer interrupt: delivers signals. Must
    /// be quick when there is nothing to do.
    pub fn before_return_to_user(frame: &mut TrapFrame) {
        deliver::before_return_to_user(frame);
    }

    /// The timer interrupt of a CPU. Interrupts are off: no sleeping, no allocation, only `IrqLock`s
    /// and atomics. `user` says whether it interrupted user code.
    pub fn timer_tick(_user: TickOrigin) {}

    /// A frame from the host arrived on the channel (stdin bytes, end of stdin, a signal). Runs in
    /// the console's kernel task.
    pub fn channel_frame(kind: u8, payload: &[u8]) {
        crate::fs::channel_frame(kind, payload);
    }

    /// What a timer tick interrupted.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum TickOrigin {
        /// User code.
        User,
        /// Kernel code of a task.
        Kernel,
        /// An idle CPU.
        Idle,
    }
}
