//! Tasks, and who runs where.
//!
//! A [`Task`] is one thread of execution with its own kernel stack: a user thread (it carries the
//! [`UserThread`] of the floors above and, while it lives, an address space) or a kernel thread. The
//! scheduler owns one reference to every started task until the task has exited.
//!
//! Waiting is by key, like a futex: [`park`] sleeps on a number (an address, an id) if a check under
//! the wait queue's lock still holds; [`unpark`] wakes sleepers of that key.
//!
//! The files import one another: queues hold tasks, tasks wait, waits have deadlines, and who is woken is
//! queued.
//!
//! Locks, outermost first: the timer list, a wait bucket, a run queue. All are `IrqLock`s.

mod idle;
mod machine;
mod mutex;
mod reaper;
mod run;
mod stack;
mod task;
mod timer;
mod wait;

pub use machine::{LOCK_WAITS, on_message};
pub use mutex::{Mutex, MutexGuard};
pub use reaper::{init as init_reaper, wait_for_reaper};
pub use run::{exit, run_scheduler, start, yield_now};
pub use stack::{init as init_stacks, is_guard as is_stack_guard, pages as stack_pages};
pub use task::{
    OutOfMemory, Task, UserThread, current, current_mm, current_node_policy, current_task, file_size_limit,
    set_current_mm, set_node_policy, tell_of_file_size, with_current_fpu,
};
pub use timer::{interrupt as timer_interrupt, sleep_until};
pub use wait::{
    Interruptible, Wake, clear_interrupt, interrupt, interrupt_pending, park, unpark, wait_was_interrupted,
};
