//! epoll: a set of descriptors that is polled together.
//!
//! Linux: fs/eventpoll.c. Differs: some edges are told that Linux does not tell. A terminal counts whatever
//! changes, also what a reader takes. A signalfd counts all signals of the process, a userfaultfd the
//! messages of all. Every read makes room for a pipe's writer, and not only the first one of a full pipe.

use super::event::Event;
use super::file::{IN, Object, OpenFile, Ready};
use crate::arch::lock::SpinLock;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EEXIST, ELOOP, ENOENT, ENOSPC};
use core::any::Any;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use linux_raw_sys::general as abi;

/// One interest.
struct Interest {
    file: Weak<OpenFile>,
    events: u32,
    data: u64,
    /// What was found last, and how often the file had changed by then, for edge-triggered interests.
    seen: (Ready, u64),
}

/// Interests of one epoll at most: they are small, and no other limit holds for them.
const INTERESTS_MAX: usize = 1 << 16;

/// A set of interests by descriptor.
#[derive(Default)]
pub struct Epoll {
    interests: SpinLock<BTreeMap<u32, Interest>>,
    /// Where the next look starts, so that all get their turn.
    turn: AtomicU32,
    changed: Event,
}

impl Epoll {
    /// Adds a descriptor.
    ///
    /// # Errors
    /// `EEXIST`; `ELOOP` for an epoll inside an epoll; `ENOSPC` if there are too many.
    pub fn add(&self, fd: u32, file: &Arc<OpenFile>, events: u32, data: u64) -> Result<()> {
        if file.object::<Epoll>().is_some() {
            return Err(ELOOP);
        }
        {
            let mut interests = self.interests.lock();
            if interests.get(&fd).is_some_and(|i| i.file.strong_count() > 0) {
                return Err(EEXIST);
            }
            if interests.len() >= INTERESTS_MAX {
                return Err(ENOSPC);
            }
            interests.insert(fd, Interest { file: Arc::downgrade(file), events, data, seen: (0, 0) });
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
            (interest.events, interest.data, interest.seen) = (events, data, (0, 0));
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

    /// Adds ready interests to `ready`, events and data, as far as it has room. Consumes edges and one-shots.
    pub fn collect(&self, ready: &mut Vec<(u32, u64)>) {
        let first = self.turn.load(Relaxed);
        for range in [first..u32::MAX, 0..first] {
            for (fd, file, events) in self.watched(range) {
                if ready.len() == ready.capacity() {
                    self.turn.store(fd, Relaxed);
                    return;
                }
                // Looked at without the lock: a file may do something to find out. What comes between the two
                // looks is told once more, and not lost.
                let changes = file.changes(events);
                let now = if events == 0 { 0 } else { file.ready() & (events | abi::POLLERR | abi::POLLHUP) };
                ready.extend(self.report(fd, now, changes));
            }
        }
    }

    /// Gives what is watched, one look at a time: number, file, events. Forgets files that were closed.
    fn watched(&self, range: core::ops::Range<u32>) -> impl Iterator<Item = (u32, Arc<OpenFile>, u32)> {
        let mut range = range;
        core::iter::from_fn(move || {
            let mut interests = self.interests.lock();
            loop {
                let (&fd, interest) = interests.range(range.clone()).next()?;
                range.start = fd + 1;
                match interest.file.upgrade() {
                    Some(file) => return Some((fd, file, interest.events)),
                    None => drop(interests.remove(&fd)),
                }
            }
        })
    }

    /// Gives what is to be told about an interest that is `now` ready like this. An edge is whatever has come
    /// since the last look, also where nothing was taken away meanwhile. Linux: fs/eventpoll.c
    /// `ep_poll_callback`.
    fn report(&self, fd: u32, now: Ready, changes: u64) -> Option<(u32, u64)> {
        let mut interests = self.interests.lock();
        let interest = interests.get_mut(&fd)?;
        let (seen, changes_then) = core::mem::replace(&mut interest.seen, (now, changes));
        let is_edge = now & !seen != 0 || changes != changes_then;
        if now == 0 || interest.events & abi::EPOLLET != 0 && !is_edge {
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
        let any = self.watched(0..u32::MAX).any(|(_, file, events)| file.ready() & events != 0);
        if any { IN } else { 0 }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
