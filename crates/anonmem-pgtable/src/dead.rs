//! Page tables that were unlinked and wait until nobody can be walking them.
//!
//! Walks without locks (GUP-fast, speculative faults) run in RCU read sections. A table goes back to the
//! allocator a grace period after it was unlinked. The list is linked through the frames' metadata, so
//! that freeing needs no memory.
//!
//! A grace period begins with a write to what every read section reads. So it begins for [`BATCH`] tables at
//! once, or when somebody wants memory ([`DeadTables::reap`]).
//!
//! Linux: mm/mmu_gather.c `tlb_remove_table`; `pte_free_defer`.

use crate::words::TableWords as _;
use anonmem_frame::Frames;
use anonmem_hal::{Machine, Pfn};
use anonmem_sync::{CachePadded, Ordering, Rcu, Spin, order::RcuList, rcu::GracePeriod};

/// Tables that wait before a grace period begins for them.
const BATCH: u64 = 16;

/// The tables that wait, in two batches: one whose grace period has started, and one for the next.
pub struct DeadTables<M: Machine> {
    /// On lines of its own: faults read what is beside it.
    lists: CachePadded<Spin<M, RcuList, Lists>>,
}

struct Lists {
    waiting: List,
    period: Option<GracePeriod>,
    next: List,
}

/// A stack of frames linked through `table_link`; 0 ends it.
#[derive(Clone, Copy)]
struct List {
    head: u64,
    len: u64,
}

impl List {
    const EMPTY: Self = Self { head: 0, len: 0 };

    fn push<M: Machine>(&mut self, frames: &Frames<M>, table: Pfn) {
        frames.table_link(table).store(self.head, Ordering::Relaxed);
        self.head = table.0;
        self.len += 1;
    }

    fn free<M: Machine>(self, frames: &Frames<M>) {
        let mut at = self.head;
        while at != 0 {
            let table = Pfn(at);
            at = frames.table_link(table).load(Ordering::Relaxed);
            // SAFETY: the gather gave it to this list, which forgets it.
            drop(unsafe { frames.table_frame(table) });
        }
    }
}

impl Lists {
    /// Begins the next grace period if none is running, and takes the tables whose own is over.
    fn next_done<M: Machine>(&mut self, rcu: &Rcu<M>) -> List {
        if self.period.is_none() && self.next.len > 0 {
            self.waiting = core::mem::replace(&mut self.next, List::EMPTY);
            self.period = Some(rcu.start());
        }
        match self.period {
            Some(period) if rcu.has_ended(period) => {
                self.period = None;
                core::mem::replace(&mut self.waiting, List::EMPTY)
            }
            Some(_) | None => List::EMPTY,
        }
    }
}

impl<M: Machine> DeadTables<M> {
    /// None.
    pub const fn new() -> Self {
        let lists = Lists { waiting: List::EMPTY, period: None, next: List::EMPTY };
        Self { lists: CachePadded(Spin::new(lists)) }
    }

    /// Adds a table that is unlinked and whose translations are flushed.
    pub(crate) fn push(&self, frames: &Frames<M>, rcu: &Rcu<M>, table: Pfn) {
        let mut lists = self.lists.lock();
        lists.next.push(frames, table);
        let many = lists.next.len >= BATCH;
        drop(lists);
        if many {
            self.reap(frames, rcu);
        }
    }

    /// Begins a grace period for what waits, and frees what one has passed for; returns how many tables that
    /// is. Never waits.
    pub fn reap(&self, frames: &Frames<M>, rcu: &Rcu<M>) -> u64 {
        let mut freed = 0;
        loop {
            let done = self.lists.lock().next_done(rcu);
            if done.len == 0 {
                return freed;
            }
            freed += done.len;
            done.free(frames);
        }
    }

    /// Waits for grace periods until the list is empty. The caller is in no read section and holds no spin
    /// lock.
    pub fn drain(&self, frames: &Frames<M>, rcu: &Rcu<M>) {
        while !self.is_empty() {
            rcu.synchronize();
            self.reap(frames, rcu);
        }
    }

    /// The number of tables that wait.
    pub fn len(&self) -> u64 {
        let lists = self.lists.lock();
        lists.waiting.len + lists.next.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<M: Machine> Default for DeadTables<M> {
    fn default() -> Self {
        Self::new()
    }
}
