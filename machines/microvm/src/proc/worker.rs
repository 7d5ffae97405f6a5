//! A kernel task with a switch: it works in rounds while it is on.
//!
//! The task is made when it is first switched on. While it is off it waits, and it ends when the kernel does.
//! Between two rounds it sleeps, until the time is over or it is told something else.
//!
//! Linux: kernel/kthread.c `kthread_run`, `kthread_should_stop`.

use super::number::Number;
use crate::arch::time;
use crate::sched::{self, Interruptible, MutexGuard, Task};
use anonmem_oslib::Result;
use anonmem_oslib::errno::ENOMEM;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Nothing is to be done. So say all other numbers, too, but [`ON`]; they are their owner's.
pub const OFF: u64 = 0;
/// Rounds are to be done.
pub const ON: u64 = 1;
/// The task is to end.
const END: u64 = u64::MAX;

/// A task, and what it was told.
pub struct Worker {
    told: AtomicU64,
    /// Whether there is a task: 1 if so.
    lives: AtomicU64,
    /// Who tells does it one after the other.
    changes: sched::Mutex<()>,
}

/// Which round it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Round {
    /// The first since the task was off.
    First,
    /// Another.
    Next,
}

/// How long the task sleeps after a round, unless a number has changed since it had a value.
pub struct Nap {
    ns: u64,
    number: &'static Number,
    value: u64,
}

impl Nap {
    /// So many nanoseconds, while `number` is `value`.
    pub const fn new(ns: u64, number: &'static Number, value: u64) -> Self {
        Nap { ns, number, value }
    }

    /// As many milliseconds as the number says.
    pub fn of_millis(number: &'static Number) -> Self {
        let value = number.get();
        Nap { ns: value * 1_000_000, number, value }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Worker::new()
    }
}

impl Worker {
    /// One that is off.
    pub const fn new() -> Self {
        Worker { told: AtomicU64::new(OFF), lives: AtomicU64::new(0), changes: sched::Mutex::new(()) }
    }

    fn key(&self) -> usize {
        core::ptr::from_ref(&self.told) as usize
    }

    /// What it was told last.
    pub fn told(&self) -> u64 {
        self.told.load(SeqCst)
    }

    /// Whether rounds are to be done.
    pub fn is_on(&self) -> bool {
        self.told() == ON
    }

    /// Keeps others from telling it anything until the guard is gone.
    pub fn changing(&self) -> MutexGuard<'_, ()> {
        self.changes.lock()
    }

    /// Tells it what to do; the first [`ON`] makes the task, which runs `task`.
    ///
    /// # Errors
    /// `ENOMEM` if there is no memory for the task: nothing has changed.
    pub fn tell(&self, told: u64, task: fn(usize), _changing: &MutexGuard<'_, ()>) -> Result<()> {
        if told == ON && self.lives.load(SeqCst) == 0 {
            let task = Task::new_kernel(task, 0).map_err(|_| ENOMEM)?;
            self.lives.store(1, SeqCst);
            sched::start(&task);
        }
        self.told.store(told, SeqCst);
        self.wake();
        Ok(())
    }

    /// Ends its sleep, if what it sleeps for is over: a number has changed.
    pub fn wake(&self) {
        sched::unpark(self.key(), usize::MAX);
    }

    /// Works until the end: what the task does.
    pub fn work(&self, mut round: impl FnMut(Round) -> Nap) {
        let mut next = Round::First;
        loop {
            match self.told() {
                END => break,
                ON => {
                    let nap = round(next);
                    next = Round::Next;
                    let sleeps = || self.is_on() && nap.number.get() == nap.value;
                    sched::park(self.key(), &sleeps, Some(time::now_ns() + nap.ns), Interruptible::No);
                }
                _ => {
                    next = Round::First;
                    let waits = || !matches!(self.told(), ON | END);
                    sched::park(self.key(), &waits, None, Interruptible::No);
                }
            }
        }
        self.lives.store(0, SeqCst);
        sched::unpark(core::ptr::from_ref(&self.lives) as usize, usize::MAX);
    }

    /// Ends the task, and waits until it has ended. Nobody tells it anything any more.
    pub fn finish(&self) {
        self.told.store(END, SeqCst);
        self.wake();
        let lives = || self.lives.load(SeqCst) != 0;
        while lives() {
            sched::park(core::ptr::from_ref(&self.lives) as usize, &lives, None, Interruptible::No);
        }
    }
}
