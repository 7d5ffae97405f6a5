//! Waiting for something to change.
//!
//! An [`Event`] is a count of changes. Who waits notes the count, looks, and sleeps only while the
//! count is the same; who changes something counts up and wakes. So nothing is missed, and the
//! condition itself may be anything.

use crate::sched::{self, Interruptible, Wake};
use anonmem_oslib::Result;
use anonmem_oslib::errno::ETIMEDOUT;
use anonmem_oslib::restart::ERESTARTSYS;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

/// Something that changes from time to time.
#[derive(Debug, Default)]
pub struct Event {
    changes: AtomicU64,
}

/// Counts every change of every [`Event`] while somebody polls: poll and epoll wait for this one.
static ANYTHING: Event = Event::new();
/// Tasks that wait for [`ANYTHING`].
static POLLERS: AtomicUsize = AtomicUsize::new(0);

impl Event {
    /// Makes an event.
    pub const fn new() -> Self {
        Event { changes: AtomicU64::new(0) }
    }

    /// How often something has changed: who remembers it knows whether anything has since.
    pub fn changes(&self) -> u64 {
        self.changes.load(SeqCst)
    }

    fn key(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// Tells everybody who waits that something has changed.
    pub fn notify(&self) {
        self.wake();
        // Pairs with `wait_for_anything`: it counts itself before it looks at the objects, so either we
        // see it here or it sees the change that we were called for.
        if POLLERS.load(SeqCst) > 0 {
            ANYTHING.wake();
        }
    }

    fn wake(&self) {
        self.changes.fetch_add(1, SeqCst);
        sched::unpark(self.key(), usize::MAX);
    }

    /// Waits until `look` gives a value; `deadline_ns` is in time since boot.
    ///
    /// # Errors
    /// `ETIMEDOUT`; `ERESTARTSYS` if a signal came first and the wait is interruptible.
    pub fn wait<T>(
        &self,
        deadline_ns: Option<u64>,
        interruptible: Interruptible,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        loop {
            let seen = self.changes.load(SeqCst);
            if let Some(value) = look() {
                return Ok(value);
            }
            let same = || self.changes.load(SeqCst) == seen;
            match sched::park(self.key(), &same, deadline_ns, interruptible) {
                Wake::Unparked | Wake::Invalid => {}
                Wake::TimedOut => return look().ok_or(ETIMEDOUT),
                Wake::Interrupted => {
                    if let Some(value) = look() {
                        return Ok(value);
                    }
                    if sched::wait_was_interrupted() {
                        return Err(ERESTARTSYS);
                    }
                }
            }
        }
    }

    /// As [`Event::wait`], for a signal to end and without a deadline.
    ///
    /// # Errors
    /// `ERESTARTSYS`.
    pub fn wait_interruptible<T>(&self, look: impl FnMut() -> Option<T>) -> Result<T> {
        self.wait(None, Interruptible::Yes, look)
    }
}

/// Waits until `look`, which may look at any number of objects, gives a value.
///
/// # Errors
/// As [`Event::wait`].
pub fn wait_for_anything<T>(deadline_ns: Option<u64>, look: impl FnMut() -> Option<T>) -> Result<T> {
    POLLERS.fetch_add(1, SeqCst);
    let result = ANYTHING.wait(deadline_ns, Interruptible::Yes, look);
    POLLERS.fetch_sub(1, SeqCst);
    result
}
