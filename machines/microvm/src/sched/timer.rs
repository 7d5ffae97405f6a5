//! Deadlines of waits, and the timer interrupt.
//!
//! One list for all CPUs, sorted. Every CPU arms its one-shot timer for the earliest deadline (or its
//! time slice, if that ends earlier), and whoever fires first wakes the sleepers.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::task::Task;
use super::wait::{Interruptible, Wake, park, wake_task};
use crate::arch::lock::IrqLock;
use crate::arch::percpu::this_cpu;
use crate::arch::time;

struct Timers {
    head: *mut Task,
}

// SAFETY: the pointers are to parked tasks, which the scheduler keeps alive; a task removes itself
// before it can end.
unsafe impl Send for Timers {}

static TIMERS: IrqLock<Timers> = IrqLock::new(Timers { head: null_mut() });
static NEXT: AtomicU64 = AtomicU64::new(u64::MAX);

/// The earliest deadline; `u64::MAX` if there is none.
pub(super) fn next_deadline() -> u64 {
    NEXT.load(SeqCst)
}

/// Sleeps until `deadline_ns` ([`crate::arch::time::now_ns`]); `Interrupted` if a signal ended it.
pub fn sleep_until(deadline_ns: u64, interruptible: Interruptible) -> Wake {
    let nobody_knows_it = core::ptr::from_ref(super::current_task()) as usize + 1;
    loop {
        match park(nobody_knows_it, &|| true, Some(deadline_ns), interruptible) {
            Wake::Unparked | Wake::Invalid => {}
            wake => return wake,
        }
    }
}

/// Sorts the task in and arms this CPU's timer.
pub(super) fn insert(task: &'static Task, deadline_ns: u64) {
    let mut timers = TIMERS.lock();
    task.timed_out.store(false, SeqCst);
    task.deadline_ns.store(deadline_ns, Relaxed);
    let (mut prev, mut next) = (null_mut::<Task>(), timers.head);
    while let Some(other) = member(next).filter(|t| t.deadline_ns.load(Relaxed) <= deadline_ns) {
        prev = next;
        next = other.timer_next.load(Relaxed);
    }
    link(&mut timers, task, prev, next);
    time::arm(deadline_ns);
}

fn link(timers: &mut Timers, task: &'static Task, prev: *mut Task, next: *mut Task) {
    let this = core::ptr::from_ref(task).cast_mut();
    task.timer_prev.store(prev, Relaxed);
    task.timer_next.store(next, Relaxed);
    task.timer_linked.store(true, Relaxed);
    match member(prev) {
        Some(prev) => prev.timer_next.store(this, Relaxed),
        None => timers.head = this,
    }
    if let Some(next) = member(next) {
        next.timer_prev.store(this, Relaxed);
    }
    publish(timers);
}

fn unlink(timers: &mut Timers, task: &Task) {
    let (prev, next) = (task.timer_prev.load(Relaxed), task.timer_next.load(Relaxed));
    match member(prev) {
        Some(prev) => prev.timer_next.store(next, Relaxed),
        None => timers.head = next,
    }
    if let Some(next) = member(next) {
        next.timer_prev.store(prev, Relaxed);
    }
    task.timer_linked.store(false, Relaxed);
    publish(timers);
}

/// Forgets the task's deadline.
pub(super) fn remove(task: &Task) {
    let mut timers = TIMERS.lock();
    if task.timer_linked.load(Relaxed) {
        unlink(&mut timers, task);
    }
    task.timed_out.store(false, SeqCst);
}

fn member<'a>(task: *mut Task) -> Option<&'a Task> {
    // SAFETY: null, or a task in the list, which is alive while the list's lock is held.
    unsafe { task.as_ref() }
}

fn publish(timers: &Timers) {
    let next = member(timers.head).map_or(u64::MAX, |task| task.deadline_ns.load(Relaxed));
    NEXT.store(next, SeqCst);
}

/// Wakes everybody whose time has come.
fn expire(now: u64) {
    let mut timers = TIMERS.lock();
    while let Some(task) = member(timers.head).filter(|t| t.deadline_ns.load(Relaxed) <= now) {
        unlink(&mut timers, task);
        // SeqCst: flag before bucket, pairs with `wait::enter`.
        task.timed_out.store(true, SeqCst);
        wake_task(task, Wake::TimedOut);
    }
}

/// The timer interrupt. Interrupts are off.
pub fn interrupt() {
    let now = time::now_ns();
    if next_deadline() <= now {
        expire(now);
    }
    let me = this_cpu();
    if super::run::running().is_null() {
        // The scheduler loop or the idle loop arms it again.
        return;
    }
    let slice_end = me.slice_start.load(Relaxed) + time::SLICE_NS;
    if slice_end <= now {
        me.slice_start.store(now, Relaxed);
        if super::run::anything_runnable() {
            me.need_resched.store(true, Relaxed);
        }
    }
    let slice_end = me.slice_start.load(Relaxed) + time::SLICE_NS;
    time::arm(slice_end.min(next_deadline()));
}
