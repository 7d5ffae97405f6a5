//! Processes and threads: what a Linux program sees of the scheduler.

use crate::arch::trap::TrapFrame;

/// What the system side keeps per user thread; every user [`crate::sched::Task`] carries one.
#[derive(Debug, Default)]
pub struct Thread {}

/// Entry points that the machine side calls. All run on the current task's kernel stack with
/// interrupts on and may sleep, unless the text says otherwise.
pub mod hooks {
    use super::*;

    /// The machine is up (all CPUs, console, memory manager): runs in the first kernel task.
    /// Starts init, waits for it, writes the bill, powers off.
    pub fn kernel_main() -> ! {
        crate::arch::power::off(0)
    }

    /// A page fault of user code at `va`. Resolves it through the memory manager, or raises a signal.
    pub fn user_page_fault(_frame: &mut TrapFrame, _va: u64, _error_code: u64) {}

    /// A page fault at the user address `va` inside `usercopy`: true if the access may be retried,
    /// false makes the copy fail with `Fault`.
    pub fn kernel_page_fault(_va: u64, _error_code: u64) -> bool {
        false
    }

    /// Any other exception of user code (divide, invalid opcode, general protection, ...).
    pub fn user_exception(_frame: &mut TrapFrame, _vector: u64, _error_code: u64) {}

    /// Called before every return to user mode, also after a timer interrupt: delivers signals. Must
    /// be quick when there is nothing to do.
    pub fn before_return_to_user(_frame: &mut TrapFrame) {}

    /// The timer interrupt of a CPU. Interrupts are off: no sleeping, no allocation, only `IrqLock`s
    /// and atomics. `user` says whether it interrupted user code.
    pub fn timer_tick(_user: TickOrigin) {}

    /// A frame from the host arrived on the channel (stdin bytes, end of stdin, a signal). Runs in
    /// the console's kernel task.
    pub fn channel_frame(_kind: u8, _payload: &[u8]) {}

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
