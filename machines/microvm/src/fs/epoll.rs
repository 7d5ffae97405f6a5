//! epoll: a set of descriptors that is polled together.

use super::event::Event;
use super::file::{IN, Object, OpenFile, Ready};
use crate::arch::lock::SpinLock;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EEXIST, ELOOP, ENOENT};
use core::any::Any;
use linux_raw_sys::general as abi;

/// One interest.
struct Interest {
    file: Weak<OpenFile>,
    events: u32,
    data: u64,
    /// What was reported last, for edge-triggered interests.
    seen: Ready,
}

/// A set of interests by descriptor.
#[derive(Default)]
pub struct Epoll {
    interests: SpinLock<BTreeMap<u32, Interest>>,
    changed: Event,
}

impl Epoll {
    /// Adds a descriptor.
    ///
    /// # Errors
    /// `EEXIST`; `ELOOP` for an epoll inside an epoll.
    pub fn add(&self, fd: u32, file: &Arc<OpenFile>, events: u32, data: u64) -> Result<()> {
        if file.object::<Epoll>().is_some() {
            return Err(ELOOP);
        }
        {
            let mut interests = self.interests.lock();
            if interests.get(&fd).is_some_and(|i| i.file.strong_count() > 0) {
                return Err(EEXIST);
            }
            interests.insert(fd, Interest { file: Arc::downgrade(file), events, data, seen: 0 });
        }
        self.changed.notify();
        Ok(())
    }

    /// Changes what is waited for.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn modify(&self, fd: u32, events: u32, data: u64) -> Result<()> {
        {
            let mut interests = self.interests.lock();
            let interest = interests.get_mut(&fd).ok_or(ENOENT)?;
            (interest.events, interest.data, interest.seen) = (events, data, 0);
        }
        self.changed.notify();
        Ok(())
    }

    /// Removes a descriptor.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn remove(&self, fd: u32) -> Result<()> {
        self.interests.lock().remove(&fd).map(drop).ok_or(ENOENT)
    }

    /// Gives up to `max` ready interests: events and data. Consumes edges and one-shots.
    pub fn collect(&self, max: usize) -> Vec<(u32, u64)> {
        let mut ready = Vec::new();
        for (fd, file, events) in self.watched() {
            if ready.len() == max {
                break;
            }
            // Looked at without the lock: a file may do something to find out.
            let now = if events == 0 { 0 } else { file.ready() & (events | abi::POLLERR | abi::POLLHUP) };
            ready.extend(self.report(fd, now));
        }
        ready
    }

    /// Gives what is watched: number, file, events. Forgets files that were closed.
    fn watched(&self) -> Vec<(u32, Arc<OpenFile>, u32)> {
        let mut interests = self.interests.lock();
        interests.retain(|_, interest| interest.file.strong_count() > 0);
        interests.iter().filter_map(|(&fd, i)| Some((fd, i.file.upgrade()?, i.events))).collect()
    }

    /// Gives what is to be told about an interest that is `now` ready like this.
    fn report(&self, fd: u32, now: Ready) -> Option<(u32, u64)> {
        let mut interests = self.interests.lock();
        let interest = interests.get_mut(&fd)?;
        let news = if interest.events & abi::EPOLLET != 0 { now & !interest.seen } else { now };
        interest.seen = now;
        if news == 0 {
            return None;
        }
        if interest.events & abi::EPOLLONESHOT != 0 {
            interest.events = 0;
        }
        Some((now, interest.data))
    }
}

impl Object for Epoll {
    fn ready(&self) -> Ready {
        let any = self.watched().into_iter().any(|(_, file, events)| file.ready() & events != 0);
        if any { IN } else { 0 }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
