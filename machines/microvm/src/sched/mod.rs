//! Tasks, and who runs where.
//!
//! A [`Task`] is one thread of execution with its own kernel stack: a user thread (it carries the
//! system side's [`Thread`] and, while it lives, an address space) or a kernel thread. The scheduler
//! owns one reference to every started task until the task has exited.
//!
//! Waiting is by key, like a futex: [`park`] sleeps on a number (an address, an id) if a check under
//! the wait queue's lock still holds; [`unpark`] wakes sleepers of that key.

use alloc::sync::Arc;

use crate::arch::trap::TrapFrame;
use crate::machine::Mm;
use crate::proc::Thread;

/// Why [`park`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Somebody called [`unpark`] for this key.
    Unparked,
    /// `validate` returned false: it did not sleep.
    Invalid,
    /// The deadline passed.
    TimedOut,
    /// [`interrupt`] was called for the task (only interruptible waits).
    Interrupted,
}

/// Whether a signal may end a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruptible {
    /// [`interrupt`] ends the wait.
    Yes,
    /// Only [`unpark`] or the deadline ends the wait.
    No,
}

/// No memory for a kernel stack or a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory;

/// One thread of execution.
pub struct Task {}

impl Task {
    /// Makes a user task that will return to ring 3 with `frame`. It does not run before [`start`].
    /// The child inherits the caller's floating-point state if the caller is a user task.
    pub fn new_user(
        _thread: Arc<Thread>,
        _mm: Mm,
        _frame: &TrapFrame,
        _fs_base: u64,
    ) -> Result<Arc<Task>, OutOfMemory> {
        todo!()
    }

    /// Makes a kernel task that runs `entry(argument)` and exits when it returns.
    pub fn new_kernel(_entry: fn(usize), _argument: usize) -> Result<Arc<Task>, OutOfMemory> {
        todo!()
    }

    /// The system side's part of a user task.
    pub fn thread(&self) -> Option<&Arc<Thread>> {
        todo!()
    }

    /// A number that no other task has had since boot.
    pub fn id(&self) -> u64 {
        todo!()
    }

    /// Nanoseconds of CPU time used so far (user and kernel together).
    pub fn cpu_time_ns(&self) -> u64 {
        todo!()
    }

    /// The base of FS (thread-local storage) of a user task. Current task only.
    pub fn fs_base(&self) -> u64 {
        todo!()
    }

    /// Sets the base of FS. Current task only: takes effect at once.
    pub fn set_fs_base(&self, _base: u64) {
        todo!()
    }

    /// The base of GS of user code.
    pub fn gs_base(&self) -> u64 {
        todo!()
    }

    /// Sets the base of GS of user code. Current task only.
    pub fn set_gs_base(&self, _base: u64) {
        todo!()
    }
}

/// The running task. Panics when the CPU has none (boot, idle).
pub fn current() -> Arc<Task> {
    todo!()
}

/// The running user task's thread. Panics in a kernel task.
pub fn current_thread() -> Arc<Thread> {
    todo!()
}

/// Makes a task runnable for the first time.
pub fn start(_task: &Arc<Task>) {
    todo!()
}

/// `Task::new_user` and `start` in one.
pub fn spawn(thread: Arc<Thread>, mm: Mm, frame: &TrapFrame, fs_base: u64) -> Result<Arc<Task>, OutOfMemory> {
    let task = Task::new_user(thread, mm, frame, fs_base)?;
    start(&task);
    Ok(task)
}

/// Replaces the running task's address space (execve), or leaves it for good (`None`, exit: releases
/// the task's use of it, so the last thread's call tears the address space down, and may sleep).
/// The CPU runs on the new tables when it returns.
pub fn set_current_mm(_mm: Option<Mm>) {
    todo!()
}

/// A use of the running task's address space, if it has one.
pub fn current_mm() -> Option<Mm> {
    todo!()
}

/// Ends the running task. Release what may sleep before (address space, files): whatever `Arc`s the
/// task still holds are dropped by a kernel task soon after.
pub fn exit() -> ! {
    todo!()
}

/// Lets other runnable tasks run.
pub fn yield_now() {
    todo!()
}

/// Sleeps until somebody [`unpark`]s `key`.
///
/// `validate` runs under the wait queue's lock with interrupts off: it may read atomics and
/// `usercopy::read_user_nofault`, nothing else; if it returns false, `park` returns at once. So a
/// waker that changes the state first and then calls `unpark` is never missed. May return
/// `Unparked` for a colliding reason: check the state again.
pub fn park(
    _key: usize,
    _validate: &dyn Fn() -> bool,
    _deadline_ns: Option<u64>,
    _interruptible: Interruptible,
) -> Wake {
    todo!()
}

/// Wakes up to `n` tasks that are parked on `key`; says how many. Callable from interrupt handlers.
pub fn unpark(_key: usize, _n: usize) -> usize {
    todo!()
}

/// Sleeps until `deadline_ns` ([`crate::arch::time::now_ns`]); `Interrupted` if a signal ended it.
pub fn sleep_until(_deadline_ns: u64, _interruptible: Interruptible) -> Wake {
    todo!()
}

/// Tells a task that a signal is pending: ends its interruptible wait, or makes a running task pass
/// through `before_return_to_user` soon. The flag stays until that hook runs or
/// [`clear_interrupt`]; while it is set, interruptible waits return `Interrupted` at once.
pub fn interrupt(_task: &Task) {
    todo!()
}

/// Clears the running task's interrupt flag (a waiter found that no signal is really for it).
pub fn clear_interrupt() {
    todo!()
}

/// Waits until all tasks that have exited are really gone (kernel stacks freed, `Arc`s dropped).
pub fn wait_for_reaper() {
    todo!()
}

/// A sleeping lock for the system side (FIFO is not promised). Must not be taken by interrupt handlers.
pub struct Mutex<T> {
    _value: core::cell::UnsafeCell<T>,
}
