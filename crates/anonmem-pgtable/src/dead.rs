//! Page tables that were unlinked and wait until nobody can be walking them.
//!
//! Walks without locks (GUP-fast, speculative faults) run in RCU read sections. A table goes back to the
//! allocator a grace period after it was unlinked. The list is linked through the frames' metadata, so
//! that freeing needs no memory.
//!
//! Linux: mm/mmu_gather.c `tlb_remove_table`; `pte_free_defer`.

use crate::words::TableWords as _;
use anonmem_frame::Frames;
use anonmem_hal::{Machine, Pfn};
use anonmem_sync::{Ordering, Rcu, Spin, order::RcuList, rcu::GracePeriod};

/// The tables that wait, in two batches: one whose grace period has started, and one for the next.
pub struct DeadTables<M: Machine> {
    lists: Spin<M, RcuList, Lists>,
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

impl<M: Machine> DeadTables<M> {
    /// None.
    pub const fn new() -> Self {
        Self { lists: Spin::new(Lists { waiting: List::EMPTY, period: None, next: List::EMPTY }) }
    }

    /// Adds a table that is unlinked and whose translations are flushed.
    pub(crate) fn push(&self, frames: &Frames<M>, rcu: &Rcu<M>, table: Pfn) {
        self.lists.lock().next.push(frames, table);
        self.reap(frames, rcu);
    }

    /// Frees what a grace period has passed for. Never waits.
    pub fn reap(&self, frames: &Frames<M>, rcu: &Rcu<M>) {
        let done = {
            let mut lists = self.lists.lock();
            let done = match lists.period {
                Some(period) if rcu.has_ended(period) => {
                    lists.period = None;
                    core::mem::replace(&mut lists.waiting, List::EMPTY)
                }
                Some(_) | None => List::EMPTY,
            };
            if lists.period.is_none() && lists.next.len > 0 {
                lists.waiting = core::mem::replace(&mut lists.next, List::EMPTY);
                lists.period = Some(rcu.start());
            }
            done
        };
        done.free(frames);
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
