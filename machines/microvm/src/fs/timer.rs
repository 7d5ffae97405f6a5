//! Timers that do something when they are due: alarms, POSIX timers, timerfd.
//!
//! One kernel task sleeps until the earliest is due.

use super::event::Event;
use crate::arch::lock::SpinLock;
use crate::arch::time;
use crate::sched::{self, Interruptible};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use anonmem_oslib::Result;
use anonmem_oslib::errno::ENOMEM;

/// What a timer does; it is told how often it was due since the last time.
pub type Effect = Box<dyn Fn(u64) + Send + Sync>;

/// A timer.
pub struct Timer {
    /// The clock by which it is set (`CLOCK_*`).
    pub clock: u32,
    state: SpinLock<State>,
    effect: Effect,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// When it is due, and its place in the queue.
    due: Option<(u64, u64)>,
    interval_ns: u64,
}

/// A timer's setting: nanoseconds until it is due (zero: never), and between the times after that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Until it is due.
    pub value_ns: u64,
    /// Between the times after that; zero for once only.
    pub interval_ns: u64,
}

struct Queue {
    timers: BTreeMap<(u64, u64), Weak<Timer>>,
    next: u64,
}

static QUEUE: SpinLock<Queue> = SpinLock::new(Queue { timers: BTreeMap::new(), next: 0 });
static CHANGED: Event = Event::new();

impl Timer {
    /// Makes a timer that is not set.
    pub fn new(clock: u32, effect: Effect) -> Arc<Timer> {
        Arc::new(Timer { clock, state: SpinLock::default(), effect })
    }

    /// Sets the timer to be due at `due_ns` (since boot) and then every `interval_ns`; gives what it was.
    pub fn set(self: &Arc<Self>, due_ns: Option<u64>, interval_ns: u64) -> Setting {
        let old = {
            let mut queue = QUEUE.lock();
            let mut state = self.state.lock();
            let old = setting(&state);
            if let Some(place) = state.due.take() {
                queue.timers.remove(&place);
            }
            state.interval_ns = interval_ns;
            if let Some(due) = due_ns {
                self.enqueue(&mut queue, &mut state, due);
            }
            old
        };
        CHANGED.notify();
        old
    }

    /// Makes it never due.
    pub fn disarm(self: &Arc<Self>) {
        self.set(None, 0);
    }

    /// Gives what it is set to.
    pub fn get(&self) -> Setting {
        setting(&self.state.lock())
    }

    fn enqueue(self: &Arc<Self>, queue: &mut Queue, state: &mut State, due: u64) {
        let place = (due, queue.next);
        queue.next += 1;
        queue.timers.insert(place, Arc::downgrade(self));
        state.due = Some(place);
    }

    /// Its time has come: sets it anew if it repeats, then does what it does.
    fn fire(self: &Arc<Self>, now: u64) {
        let times = {
            let mut queue = QUEUE.lock();
            let mut state = self.state.lock();
            let Some((due, _)) = state.due.filter(|&(due, _)| due <= now) else { return };
            state.due = None;
            match state.interval_ns {
                0 => 1,
                interval => {
                    let times = (now - due) / interval + 1;
                    self.enqueue(&mut queue, &mut state, due + times * interval);
                    times
                }
            }
        };
        (self.effect)(times);
    }
}

fn setting(state: &State) -> Setting {
    let now = time::now_ns();
    // A timer that is due but has not fired yet is not off.
    let value_ns = state.due.map_or(0, |(due, _)| due.saturating_sub(now).max(1));
    Setting { value_ns, interval_ns: state.interval_ns }
}

/// Starts the task that fires timers.
///
/// # Errors
/// `ENOMEM`.
pub fn init() -> Result<()> {
    let task = sched::Task::new_kernel(run, 0).map_err(|_| ENOMEM)?;
    sched::start(&task);
    Ok(())
}

fn run(_: usize) {
    loop {
        let now = time::now_ns();
        let due = pop_due(now);
        if let Some(timer) = due {
            if let Some(timer) = timer.upgrade() {
                timer.fire(now);
            }
            continue;
        }
        let next = QUEUE.lock().timers.keys().next().map(|&(due, _)| due);
        let sooner = || {
            let first = QUEUE.lock().timers.keys().next().map(|&(due, _)| due);
            (first != next).then_some(())
        };
        // Both ends of the wait, a change and the deadline, lead to another look.
        let _ = CHANGED.wait(next, Interruptible::No, sooner);
    }
}

fn pop_due(now: u64) -> Option<Weak<Timer>> {
    let mut queue = QUEUE.lock();
    let first = queue.timers.first_entry()?;
    (first.key().0 <= now).then(|| first.remove())
}
