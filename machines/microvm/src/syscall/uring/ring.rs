//! A ring: the memory that it shares with its program, what was taken out of it and what is to be put in.

use super::buffers::{Buffers, Files};
use super::rings::Shared;
use crate::arch::lock::SpinLock;
use crate::fs::event::Event;
use crate::fs::file::{IN, OUT, Object, Ready};
use crate::fs::store::Store;
use crate::heap;
use crate::sched::Mutex;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use anonmem_oslib::errno::{EINTR, EINVAL, ENOMEM};
use anonmem_oslib::restart::ERESTARTSYS;
use anonmem_oslib::{Errno, Result};
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use linux_raw_sys::io_uring as abi;

/// The most entries of a submission ring, and of a completion ring.
const ENTRIES_MAX: u32 = 32768;
const COMPLETIONS_MAX: u32 = 2 * ENTRIES_MAX;
/// Completions that are kept at most while their ring is full.
const BACKLOG_MAX: usize = COMPLETIONS_MAX as usize;
/// Bytes of an entry of each ring.
pub(super) const SQE: u32 = 64;
pub(super) const CQE: u32 = 16;

/// Where the words are: each that one side writes has a cache line of its own.
pub(super) const SQ_HEAD: u32 = 0;
pub(super) const SQ_TAIL: u32 = 64;
pub(super) const CQ_HEAD: u32 = 128;
pub(super) const CQ_TAIL: u32 = 192;
pub(super) const SQ_MASK: u32 = 256;
pub(super) const CQ_MASK: u32 = 260;
pub(super) const SQ_ENTRIES: u32 = 264;
pub(super) const CQ_ENTRIES: u32 = 268;
pub(super) const SQ_DROPPED: u32 = 272;
pub(super) const SQ_FLAGS: u32 = 276;
pub(super) const CQ_FLAGS: u32 = 280;
pub(super) const CQ_OVERFLOW: u32 = 284;
pub(super) const CQES: u32 = 320;

/// EBADR: completions were lost.
const EBADR: Errno = Errno(53);

/// The bytes of an entry of the submission ring.
pub(super) type Entry = [u8; SQE as usize];

/// A ring's sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) sq: u32,
    pub(super) cq: u32,
}

impl Sizes {
    /// What a program asks for.
    ///
    /// # Errors
    /// `EINVAL`.
    pub(super) fn of(entries: u32, cq_entries: u32, flags: u32) -> Result<Sizes> {
        let cut = |entries: u32, most: u32| match entries {
            0 => Err(EINVAL),
            n if n > most && flags & abi::IORING_SETUP_CLAMP == 0 => Err(EINVAL),
            n => Ok(n.min(most).next_power_of_two()),
        };
        let sq = cut(entries, ENTRIES_MAX)?;
        let cq =
            if flags & abi::IORING_SETUP_CQSIZE != 0 { cut(cq_entries, COMPLETIONS_MAX)? } else { 2 * sq };
        if cq < sq { Err(EINVAL) } else { Ok(Sizes { sq, cq }) }
    }

    /// Where the submission ring's array of indices is.
    pub(super) fn array(self) -> u32 {
        CQES + self.cq * CQE
    }
}

/// A ring.
pub(in crate::syscall) struct Uring {
    sizes: Sizes,
    flags: u32,
    rings: Shared,
    entries: Shared,
    /// Held while requests are taken and made, and while resources are registered.
    pub(super) submission: Mutex<Submission>,
    completion: SpinLock<Completion>,
    posted: Event,
    /// Whether a completion was lost that nobody was told of.
    lost: AtomicBool,
}

/// The kernel's side of the submission ring, and what is registered.
#[derive(Default)]
pub(super) struct Submission {
    head: u32,
    pub(super) buffers: Option<Buffers>,
    pub(super) files: Option<Files>,
}

/// The kernel's side of the completion ring.
#[derive(Default)]
struct Completion {
    tail: u32,
    /// What found no room.
    backlog: VecDeque<[u8; CQE as usize]>,
}

impl Uring {
    pub(super) fn new(sizes: Sizes, flags: u32) -> Result<Arc<Uring>> {
        let rings = Shared::new(sizes.array() + sizes.sq * 4)?;
        let entries = Shared::new(sizes.sq * SQE)?;
        for (word, value) in
            [(SQ_MASK, sizes.sq - 1), (CQ_MASK, sizes.cq - 1), (SQ_ENTRIES, sizes.sq), (CQ_ENTRIES, sizes.cq)]
        {
            rings.word(word).store(value, Relaxed);
        }
        Ok(Arc::new(Uring {
            sizes,
            flags,
            rings,
            entries,
            submission: Mutex::new(Submission::default()),
            completion: SpinLock::default(),
            posted: Event::new(),
            lost: AtomicBool::new(false),
        }))
    }

    /// What a program maps at `offset` of the descriptor. What is beyond its end is a SIGBUS.
    ///
    /// # Errors
    /// `ENOMEM` for an offset that means nothing.
    pub(in crate::syscall) fn mapped(&self, offset: u64) -> Result<&Store> {
        // As on Linux, where within a place does not matter.
        match u32::try_from(offset).or(Err(ENOMEM))? & abi::IORING_OFF_MMAP_MASK {
            abi::IORING_OFF_SQ_RING | abi::IORING_OFF_CQ_RING => Ok(self.rings.store()),
            abi::IORING_OFF_SQES => Ok(self.entries.store()),
            _ => Err(ENOMEM),
        }
    }

    /// Takes at most `count` entries and has `make` make requests of them; gives how many. An entry that asks
    /// for nothing that there is ends it, unless the ring is to take all.
    pub(super) fn submit(&self, count: u32, make: impl Fn(&Submission, &Entry) -> Result<()>) -> usize {
        let mut submission = self.submission.lock();
        // Acquire pairs with the program's Release: entries come before the tail.
        let there = self.rings.word(SQ_TAIL).load(Acquire).wrapping_sub(submission.head);
        let count = count.min(there).min(self.sizes.sq);
        for done in 0..count as usize {
            let slot = submission.head & (self.sizes.sq - 1);
            let index = self.rings.word(self.sizes.array() + slot * 4).load(Relaxed);
            submission.head = submission.head.wrapping_add(1);
            if index >= self.sizes.sq {
                self.rings.word(SQ_HEAD).store(submission.head, Release);
                self.rings.word(SQ_DROPPED).fetch_add(1, Relaxed);
                return done;
            }
            let entry = self.entries.read::<{ SQE as usize }>(index * SQE);
            // Release: the entry is the program's again, after it was copied.
            self.rings.word(SQ_HEAD).store(submission.head, Release);
            let made = make(&submission, &entry);
            if made.is_err() && self.flags & abi::IORING_SETUP_SUBMIT_ALL == 0 {
                return done + 1;
            }
        }
        count as usize
    }

    /// Tells the program of a request's end.
    pub(super) fn complete(&self, data: u64, result: Result<usize>) {
        let result = match result {
            Ok(n) => i32::try_from(n).unwrap_or(i32::MAX),
            Err(ERESTARTSYS) => -EINTR.0,
            Err(error) => -error.0,
        };
        let mut entry = [0; CQE as usize];
        entry[..8].copy_from_slice(&data.to_le_bytes());
        entry[8..12].copy_from_slice(&result.to_le_bytes());
        {
            let mut completion = self.completion.lock();
            if !completion.backlog.is_empty() || !self.put(&mut completion, entry) {
                self.keep(&mut completion, entry);
            }
        }
        self.posted.notify();
    }

    /// Writes a completion; false if there is no room.
    fn put(&self, completion: &mut Completion, entry: [u8; CQE as usize]) -> bool {
        if self.ready(completion.tail) >= self.sizes.cq {
            return false;
        }
        self.rings.write(CQES + (completion.tail & (self.sizes.cq - 1)) * CQE, entry);
        completion.tail = completion.tail.wrapping_add(1);
        // Release: the completion comes before the tail. Pairs with the program's Acquire.
        self.rings.word(CQ_TAIL).store(completion.tail, Release);
        true
    }

    /// How many completions the program has not taken. What it says of its head is its own affair.
    fn ready(&self, tail: u32) -> u32 {
        // Acquire pairs with the program's Release: it has read what it passed.
        tail.wrapping_sub(self.rings.word(CQ_HEAD).load(Acquire)).min(self.sizes.cq)
    }

    /// Keeps a completion that found no room; counts it if it cannot be kept.
    fn keep(&self, completion: &mut Completion, entry: [u8; CQE as usize]) {
        let backlog = &mut completion.backlog;
        if backlog.len() < BACKLOG_MAX && !heap::is_short() && backlog.try_reserve(1).is_ok() {
            backlog.push_back(entry);
            self.rings.word(SQ_FLAGS).fetch_or(abi::IORING_SQ_CQ_OVERFLOW, Relaxed);
        } else {
            self.rings.word(CQ_OVERFLOW).fetch_add(1, Relaxed);
            self.lost.store(true, Relaxed);
        }
    }

    /// Writes what was kept, as far as there is room; gives how many completions are there then.
    fn flush(&self) -> u32 {
        let mut completion = self.completion.lock();
        while let Some(&entry) = completion.backlog.front() {
            if !self.put(&mut completion, entry) {
                break;
            }
            completion.backlog.pop_front();
            if completion.backlog.is_empty() {
                self.rings.word(SQ_FLAGS).fetch_and(!abi::IORING_SQ_CQ_OVERFLOW, Relaxed);
            }
        }
        self.ready(completion.tail)
    }

    /// Waits until that many completions are there.
    ///
    /// # Errors
    /// `ERESTARTSYS`; `EBADR`, once, if some were lost.
    pub(super) fn wait(&self, count: u32) -> Result<()> {
        let count = count.min(self.sizes.cq);
        self.posted.wait_interruptible(|| {
            if self.lost.swap(false, Relaxed) {
                return Some(Err(EBADR));
            }
            (self.flush() >= count).then_some(Ok(()))
        })?
    }
}

impl Object for Uring {
    fn ready(&self) -> Ready {
        let completions = if self.flush() > 0 { IN } else { 0 };
        let taken =
            self.rings.word(SQ_TAIL).load(Relaxed).wrapping_sub(self.rings.word(SQ_HEAD).load(Relaxed));
        completions | if taken < self.sizes.sq { OUT } else { 0 }
    }

    fn changes(&self, _of: Ready) -> u64 {
        self.posted.changes()
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
