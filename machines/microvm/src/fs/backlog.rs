//! Connections that nobody has accepted yet.

use super::event::Event;
use crate::arch::lock::SpinLock;
use alloc::collections::VecDeque;

/// Connections that nobody has accepted yet.
pub struct Backlog<T> {
    /// Those who wait.
    pub state: SpinLock<Queue<T>>,
    /// One more waits, or none will.
    pub arrived: Event,
    /// One waits no more.
    pub accepted: Event,
}

/// Those who wait, in their order.
pub struct Queue<T> {
    /// They.
    pub waiting: VecDeque<T>,
    /// How many may wait.
    pub most: usize,
    /// Nobody will accept them.
    pub closed: bool,
}

impl<T> Backlog<T> {
    /// Makes one where nobody waits yet.
    pub fn new(most: usize) -> Self {
        let queue = Queue { waiting: VecDeque::new(), most, closed: false };
        Backlog { state: SpinLock::new(queue), arrived: Event::new(), accepted: Event::new() }
    }

    /// Accepts nobody any more, and lets those go who wait.
    pub fn close(&self) {
        let left = {
            let mut queue = self.state.lock();
            queue.closed = true;
            core::mem::take(&mut queue.waiting)
        };
        drop(left);
        self.arrived.notify();
        self.accepted.notify();
    }
}
