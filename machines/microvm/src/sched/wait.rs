//! Sleeping on a key and being woken.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use super::run::{Action, TaskList, enqueue, reschedule};
use super::task::{Task, current_task, try_current_task};
use super::{idle, timer};
use crate::arch::lock::IrqLock;
use anonmem_hal::GiveUp;

const BUCKETS: usize = 256;

static WAITERS: [IrqLock<TaskList>; BUCKETS] = [const { IrqLock::new(TaskList::new()) }; BUCKETS];
/// How many tasks wait in each bucket: `unpark` without a waiter takes no lock.
static COUNTS: [AtomicUsize; BUCKETS] = [const { AtomicUsize::new(0) }; BUCKETS];

/// Why [`park`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
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

fn bucket_of(key: usize) -> usize {
    (key as u64 >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize >> 32 & (BUCKETS - 1)
}

/// Sleeps until somebody [`unpark`]s `key`.
///
/// `validate` runs under the wait queue's lock with interrupts off: it may read atomics and
/// `usercopy::read_user_nofault`, nothing else; if it returns false, `park` returns at once. So a
/// waker that changes the state first and then calls `unpark` is never missed. May return
/// `Unparked` for a colliding reason: check the state again.
pub fn park(
    key: usize,
    validate: &dyn Fn() -> bool,
    deadline_ns: Option<u64>,
    interruptible: Interruptible,
) -> Wake {
    let task = current_task();
    if let Some(deadline) = deadline_ns {
        timer::insert(task, deadline);
    }
    let wake = match enter(task, key, validate, interruptible) {
        Some(wake) => wake,
        None => {
            reschedule(Action::Park);
            reason(task)
        }
    };
    if deadline_ns.is_some() {
        timer::remove(task);
    }
    wake
}

/// Queues the task in its bucket, or says why not.
fn enter(
    task: &'static Task,
    key: usize,
    validate: &dyn Fn() -> bool,
    interruptible: Interruptible,
) -> Option<Wake> {
    let index = bucket_of(key);
    let mut list = WAITERS[index].lock();
    // SeqCst: count before `validate`; pairs with the waker's change of state before its look at the
    // count. Bucket before the flags; pairs with `wake_task`: flag before bucket.
    COUNTS[index].fetch_add(1, SeqCst);
    task.bucket.store(index + 1, SeqCst);
    let may_interrupt = interruptible == Interruptible::Yes;
    let refused = if !validate() {
        Some(Wake::Invalid)
    } else if may_interrupt && task.interrupted.load(SeqCst) {
        Some(Wake::Interrupted)
    } else if task.timed_out.load(SeqCst) {
        Some(Wake::TimedOut)
    } else {
        None
    };
    if refused.is_some() {
        task.bucket.store(0, SeqCst);
        COUNTS[index].fetch_sub(1, SeqCst);
        return refused;
    }
    task.wait_key.store(key, Relaxed);
    task.wait_interruptible.store(may_interrupt, Relaxed);
    list.push_back(task);
    None
}

fn reason(task: &Task) -> Wake {
    match task.wake_reason.load(Relaxed) {
        r if r == Wake::Interrupted as u8 => Wake::Interrupted,
        r if r == Wake::TimedOut as u8 => Wake::TimedOut,
        _ => Wake::Unparked,
    }
}

/// Takes a waiting task out of its bucket and makes it runnable. The bucket's lock is held.
fn take_out(list: &mut TaskList, index: usize, task: &Task, reason: Wake) {
    list.remove(task);
    COUNTS[index].fetch_sub(1, SeqCst);
    task.bucket.store(0, SeqCst);
    task.wake_reason.store(reason as u8, Relaxed);
    enqueue(task);
}

/// Wakes up to `n` tasks that are parked on `key`; says how many. Callable from interrupt handlers.
pub fn unpark(key: usize, n: usize) -> usize {
    let index = bucket_of(key);
    // The caller's change of state comes first: see `enter`.
    core::sync::atomic::fence(SeqCst);
    if COUNTS[index].load(SeqCst) == 0 {
        return 0;
    }
    let mut list = WAITERS[index].lock();
    let mut woken = 0;
    let mut cursor = list.first();
    while let Some(task) = cursor.filter(|_| woken < n) {
        cursor = list.after(task);
        if task.wait_key.load(Relaxed) == key {
            take_out(&mut list, index, task, Wake::Unparked);
            woken += 1;
        }
    }
    woken
}

/// Ends the wait of one task, if it waits (and, for [`Wake::Interrupted`], interruptibly). The matching
/// flag is already set.
pub(super) fn wake_task(task: &Task, reason: Wake) {
    let bucket = task.bucket.load(SeqCst);
    if bucket == 0 {
        return;
    }
    let mut list = WAITERS[bucket - 1].lock();
    // It may have been woken since, and even wait elsewhere: then it saw the flag when it entered.
    let waits_here = task.bucket.load(SeqCst) == bucket;
    let may = reason != Wake::Interrupted || task.wait_interruptible.load(Relaxed);
    if waits_here && may {
        take_out(&mut list, bucket - 1, task, reason);
    }
}

/// Tells a task that a signal is pending: ends its interruptible wait, or makes a running task pass
/// through `before_return_to_user` soon. The flag stays until that hook runs or
/// [`clear_interrupt`]; while it is set, interruptible waits return `Interrupted` at once.
pub fn interrupt(task: &Task) {
    task.interrupted.store(true, SeqCst);
    wake_task(task, Wake::Interrupted);
    if task.on_cpu.load(SeqCst) {
        idle::kick(task.last_cpu.load(Relaxed) as usize);
    }
}

/// Clears the running task's interrupt flag (a waiter found that no signal is really for it).
pub fn clear_interrupt() {
    current_task().interrupted.store(false, SeqCst);
}

/// Whether the running task's interrupted wait is over. Else the wait goes on.
pub fn wait_was_interrupted() -> bool {
    // Cleared before looking: what comes after the look sets it again.
    clear_interrupt();
    current_task().thread().is_some_and(|thread| thread.wait_is_over())
}

/// Whether the running task's interrupted wait for another program is over.
pub(super) fn wait_was_interrupted_by(until: GiveUp) -> bool {
    let over = wait_was_interrupted();
    match until {
        GiveUp::Signal => over,
        GiveUp::Death => over && current_task().thread().is_some_and(|thread| thread.is_ending()),
    }
}

/// Whether somebody called [`interrupt`] for the running task since the flag was cleared.
pub fn interrupt_pending() -> bool {
    try_current_task().is_some_and(|task| task.interrupted.load(SeqCst))
}
