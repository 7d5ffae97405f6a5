//! Tasks, and who runs where.
//!
//! A [`Task`] is one thread of execution with its own kernel stack: a user thread (it carries the
//! system side's [`crate::proc::Thread`] and, while it lives, an address space) or a kernel thread. The scheduler
//! owns one reference to every started task until the task has exited.
//!
//! Waiting is by key, like a futex: [`park`] sleeps on a number (an address, an id) if a check under
//! the wait queue's lock still holds; [`unpark`] wakes sleepers of that key.
//!
//! Locks, outermost first: the timer list, a wait bucket, a run queue. All are `IrqLock`s.

mod idle;
mod mutex;
mod reaper;
mod run;
mod stack;
mod task;
mod timer;
mod wait;

pub use mutex::{Mutex, MutexGuard};
pub use reaper::{init as init_reaper, wait_for_reaper};
pub use run::{RunQueue, exit, run_scheduler, start, yield_now};
pub use stack::{init as init_stacks, is_guard as is_stack_guard, pages as stack_pages};
pub use task::{
    OutOfMemory, Task, current, current_mm, current_task, current_thread, set_current_mm, spawn,
    with_current_fpu, with_held_locks,
};
pub use timer::{interrupt as timer_interrupt, sleep_until};
pub use wait::{Interruptible, Wake, clear_interrupt, interrupt, interrupt_pending, park, unpark};
