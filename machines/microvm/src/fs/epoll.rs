//! epoll: a set of descriptors that is polled together.

use super::event::Event;
use super::file::{IN, Object, OpenFile, Ready};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EEXIST, ELOOP, ENOENT};
use core::any::Any;
use linux_raw_sys::general as abi;
use spin::Mutex;

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
    interests: Mutex<BTreeMap<u32, Interest>>,
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
        // The files are dropped after the lock: the last reference to one may notify.
        let mut held = Vec::new();
        let mut interests = self.interests.lock();
        interests.retain(|_, interest| interest.file.strong_count() > 0);
        for interest in interests.values_mut() {
            if ready.len() == max {
                break;
            }
            let Some(file) = interest.file.upgrade() else { continue };
            let now = interest.now(&file);
            held.push(file);
            let report = if interest.events & abi::EPOLLET != 0 { now & !interest.seen } else { now };
            interest.seen = now;
            if report != 0 {
                ready.push((now, interest.data));
                if interest.events & abi::EPOLLONESHOT != 0 {
                    interest.events = 0;
                }
            }
        }
        drop(interests);
        ready
    }
}

impl Interest {
    fn now(&self, file: &OpenFile) -> Ready {
        if self.events == 0 { 0 } else { file.ready() & (self.events | abi::POLLERR | abi::POLLHUP) }
    }
}

impl Object for Epoll {
    fn ready(&self) -> Ready {
        let files: Vec<(Option<Arc<OpenFile>>, u32)> =
            self.interests.lock().values().map(|i| (i.file.upgrade(), i.events)).collect();
        let any = files.iter().any(|(file, events)| file.as_ref().is_some_and(|f| f.ready() & events != 0));
        if any { IN } else { 0 }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
