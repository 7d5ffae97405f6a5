//! Waiting for a condition.

use crate::{atomic::Atomic, lockdep};
use anonmem_hal::{GiveUp, Machine, Probe};
use core::sync::atomic::Ordering;

/// Spins until `ready` holds; for what another CPU brings about in a bounded time.
#[inline]
#[track_caller]
pub fn spin_until<M: Machine>(ready: &dyn Fn() -> bool) {
    if M::Probe::ACTIVE {
        M::Probe::wait_until(ready);
    }
    while !ready() {
        M::relax();
    }
}

/// Lets the other tasks run before a loop goes round again that waits for what they do:
/// [`Sched::yield_now`].
///
/// # Panics
/// If a spin lock is held, in tests: whoever is waited for may want it.
///
/// [`Sched::yield_now`]: anonmem_hal::Sched::yield_now
#[doc(alias = "cond_resched")]
#[track_caller]
pub fn yield_now<M: Machine>() {
    lockdep::might_sleep::<M>();
    M::yield_now();
}

/// Tasks that sleep until a condition, which somebody else makes true, is announced.
///
/// The word counts sleepers, so that announcing to nobody costs one load.
pub struct WaitQueue<M> {
    sleepers: Atomic<u32, M>,
}

impl<M: Machine> WaitQueue<M> {
    /// A queue without sleepers.
    pub const fn new() -> Self {
        Self { sleepers: Atomic::new(0) }
    }

    /// Sleeps until `ready()`.
    #[doc(alias = "wait_event")]
    #[track_caller]
    pub fn wait_until(&self, ready: &dyn Fn() -> bool) {
        lockdep::might_sleep::<M>();
        if ready() {
            return;
        }
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        // SeqCst pairs with the fence in `wake_all`: either the waker sees this sleeper, or `ready` sees
        // what the waker did. An increment that is SeqCst itself would not do: the loads of `ready` could
        // still pass it.
        crate::fence::<M>(Ordering::SeqCst);
        while !ready() {
            M::park(self.sleepers.addr(), &|| !ready());
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }

    /// As [`wait_until`](Self::wait_until), for what another program brings about, if it ever does: says
    /// whether `ready()` holds; if not, the wait was given up.
    #[doc(alias("wait_event_interruptible", "wait_event_killable"))]
    #[track_caller]
    pub fn wait_for_program(&self, ready: &dyn Fn() -> bool, until: GiveUp) -> bool {
        lockdep::might_sleep::<M>();
        if ready() {
            return true;
        }
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        // SeqCst: as in `wait_until`.
        crate::fence::<M>(Ordering::SeqCst);
        let mut given_up = false;
        while !ready() && !given_up {
            given_up = M::park_for_program(self.sleepers.addr(), &|| !ready(), until);
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        ready()
    }

    /// Wakes all sleepers; call it after making their condition true.
    #[doc(alias = "wake_up_all")]
    #[inline]
    #[track_caller]
    pub fn wake_all(&self) {
        self.wake(usize::MAX);
    }

    /// Wakes one sleeper; call it after making the condition true, if one of them makes it untrue again.
    #[doc(alias = "wake_up")]
    #[inline]
    #[track_caller]
    pub fn wake_one(&self) {
        self.wake(1);
    }

    #[inline]
    #[track_caller]
    fn wake(&self, most: usize) {
        // SeqCst pairs with the fence in `wait_until`.
        crate::fence::<M>(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) != 0 {
            M::unpark(self.sleepers.addr(), most);
        }
    }
}

impl<M: Machine> Default for WaitQueue<M> {
    fn default() -> Self {
        Self::new()
    }
}
