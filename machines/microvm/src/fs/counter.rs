//! Counters that can be waited for: eventfd and timerfd.

use super::event::Event;
use super::file::{IN, OUT, Object, Ready, Wait, block_on, changes_of};
use super::iov::{From, To};
use super::timer::Timer;
use crate::arch::lock::SpinLock;
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use anonmem_oslib::Result;
use anonmem_oslib::errno::EINVAL;
use core::any::Any;

/// What a read takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// The whole count.
    All,
    /// One (`EFD_SEMAPHORE`).
    One,
}

/// A 64-bit count: writes add, reads take, zero makes readers wait.
pub struct Counter {
    count: SpinLock<u64>,
    added: Event,
    taken: Event,
    take: Take,
    /// The timer that counts, if this is a timerfd.
    pub timer: Option<Arc<Timer>>,
}

impl Counter {
    /// Makes a counter.
    pub fn new(count: u64, take: Take) -> Arc<Counter> {
        Arc::new(Counter {
            count: SpinLock::new(count),
            added: Event::new(),
            taken: Event::new(),
            take,
            timer: None,
        })
    }

    /// Makes a counter that a timer of clock `clock` counts up.
    pub fn timed(clock: u32) -> Arc<Counter> {
        Arc::new_cyclic(|counter: &Weak<Counter>| {
            let counter = counter.clone();
            let count = move |times| {
                if let Some(counter) = counter.upgrade() {
                    counter.add(times);
                }
            };
            let timer = Some(Timer::new(clock, Box::new(count)));
            Counter {
                count: SpinLock::new(0),
                added: Event::new(),
                taken: Event::new(),
                take: Take::All,
                timer,
            }
        })
    }

    /// Adds without waiting (a timer fires).
    pub fn add(&self, n: u64) {
        {
            let mut count = self.count.lock();
            *count = count.saturating_add(n).min(u64::MAX - 1);
        }
        self.added.notify();
    }

    /// Sets the count back to zero (a timer is set anew).
    pub fn reset(&self) {
        *self.count.lock() = 0;
    }
}

impl Object for Counter {
    fn read(&self, to: &mut To<'_>, wait: Wait) -> Result<usize> {
        if to.left() < 8 {
            return Err(EINVAL);
        }
        let n = block_on(&self.added, wait, || {
            let mut count = self.count.lock();
            let n = if self.take == Take::One { 1.min(*count) } else { *count };
            *count -= n;
            (n > 0).then_some(Ok(n))
        })?;
        self.taken.notify();
        // Taken before it is delivered, as on Linux (`eventfd_read`).
        to.put_whole(&n.to_le_bytes())
    }

    fn write(&self, from: &mut From<'_>, wait: Wait) -> Result<usize> {
        if from.left() < 8 {
            return Err(EINVAL);
        }
        let mut bytes = [0; 8];
        from.take_whole(&mut bytes)?;
        let n = u64::from_le_bytes(bytes);
        if n == u64::MAX {
            return Err(EINVAL);
        }
        block_on(&self.taken, wait, || {
            let mut count = self.count.lock();
            let sum = count.checked_add(n).filter(|&sum| sum < u64::MAX)?;
            *count = sum;
            Some(Ok(()))
        })?;
        self.added.notify();
        Ok(8)
    }

    fn changes(&self, of: Ready) -> u64 {
        changes_of(of, &self.added, &self.taken)
    }

    fn ready(&self) -> Ready {
        let count = *self.count.lock();
        let readable = if count > 0 { IN } else { 0 };
        readable | if count < u64::MAX - 1 { OUT } else { 0 }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
