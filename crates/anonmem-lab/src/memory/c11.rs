//! Store histories after C11 (C++20), without load buffering.
//!
//! Each location keeps its stores in modification order. A load by a CPU may return any store from the
//! *floor* on: the newest one that the CPU must have seen, because the store, or a load that returned it,
//! happens before. A store enters the modification order anywhere after its floor, but never between a
//! read-modify-write and the store that it read.
//!
//! Sequentially consistent accesses and fences follow C++20's `psc` axiom with S = the order of execution:
//! an SC access must see every SC store to its location, and every store that happens before an SC fence
//! executed so far; after an SC fence a CPU must see every SC store executed before the fence, and what
//! happens before earlier SC fences.
//!
//! Stronger than C11: a read-modify-write reads the newest store (it never enters the modification order
//! in the middle), so does a compare-exchange that fails; a load never returns a store that executes later
//! (no load buffering, and therefore nothing out of thin air); S agrees with the order of execution.
//! Weaker: nothing known.

use super::{Clock, CpuViews, View, acquires, releases};
use crate::limits::MAX_CPUS;
use core::sync::atomic::Ordering;

/// One store.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    value: u64,
    /// The CPU and its event number; number 0 is the initial value.
    cpu: u8,
    event: u16,
    /// It read its predecessor: nothing may come between.
    rmw: bool,
    /// Its number among the SC events; 0: not SC.
    sc: u32,
    message: View,
    /// For each CPU the number of the first event that returned this store; 0: none.
    readers: Clock,
}

/// The stores of one location, oldest first in modification order.
#[derive(Clone, Debug, Default)]
pub struct History {
    stores: Vec<Store>,
}

/// What sequentially consistent events share.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScState {
    /// SC events so far.
    pub count: u32,
    /// What happens before some SC fence.
    pub fenced: Clock,
}

/// The read half of an access.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// The value.
    pub value: u64,
    /// How many newer stores there are: 0 for the newest value.
    pub age: usize,
}

impl History {
    /// Forgets everything; the next access sees memory as the initial value.
    pub fn clear(&mut self) {
        self.stores.clear();
    }

    /// Whether an initial value is there.
    pub fn is_empty(&self) -> bool {
        self.stores.is_empty()
    }

    /// Starts with `value`, known to all.
    pub fn init(&mut self, value: u64) {
        self.stores.push(Store {
            value,
            cpu: 0,
            event: 0,
            rmw: false,
            sc: 0,
            message: View::ZERO,
            readers: Clock::ZERO,
        });
    }

    /// The index of the newest store that must have been seen.
    fn floor(&self, view: &View, sc: Option<&ScState>) -> usize {
        self.stores
            .iter()
            .rposition(|s| {
                let by_fence =
                    |c: &Clock| s.event == 0 || c.knows(s.cpu.into(), s.event) || read_before(s, c);
                by_fence(&view.seen)
                    || s.sc != 0 && (s.sc <= view.sc || sc.is_some())
                    || sc.is_some_and(|sc| by_fence(&sc.fenced))
            })
            .expect("the initial value is always known")
    }

    /// How many stores a load may choose from.
    pub fn choices(&self, cpu: &CpuViews, order: Ordering, sc: &ScState) -> usize {
        self.stores.len() - self.floor(&cpu.now, (order == Ordering::SeqCst).then_some(sc))
    }

    /// Loads the store that is `age` places from the newest.
    pub fn load(&mut self, who: usize, cpu: &mut CpuViews, order: Ordering, age: usize) -> Loaded {
        let index = self.stores.len() - 1 - age;
        let event = cpu.now.hb.0[who];
        let store = &mut self.stores[index];
        if store.readers.0[who] == 0 {
            store.readers.0[who] = event;
        }
        let (value, message) = (store.value, store.message);
        cpu.receive(&message, order);
        Loaded { value, age }
    }

    /// How many places there are where a store may enter the modification order: `(floor + 1 ..= len)`
    /// without those that would split a read-modify-write from what it read.
    pub fn places(&self, cpu: &CpuViews, order: Ordering, sc: &ScState) -> usize {
        1 + self.late_places(cpu, order, sc).count()
    }

    /// The distance of place number `i` from the newest end.
    pub fn distance(&self, cpu: &CpuViews, order: Ordering, sc: &ScState, i: usize) -> usize {
        let late = |i: usize| self.late_places(cpu, order, sc).nth(i).expect("one of the places");
        i.checked_sub(1).map_or(0, late)
    }

    /// The distances of the places that are not the newest end, nearest first.
    fn late_places(&self, cpu: &CpuViews, order: Ordering, sc: &ScState) -> impl Iterator<Item = usize> {
        let floor = self.floor(&cpu.now, (order == Ordering::SeqCst).then_some(sc));
        let len = self.stores.len();
        (floor + 1..len).rev().filter(|i| !self.stores[*i].rmw).map(move |i| len - i)
    }

    /// Stores `value` `distance` places before the newest end. Returns whether it is the newest.
    pub fn store(
        &mut self,
        who: usize,
        cpu: &CpuViews,
        order: Ordering,
        sc: &mut ScState,
        value: u64,
        distance: usize,
    ) -> bool {
        let store = Store {
            value,
            cpu: who as u8,
            event: cpu.now.hb.0[who],
            rmw: false,
            sc: sc.number(order),
            message: cpu.message(order),
            readers: Clock::ZERO,
        };
        self.stores.insert(self.stores.len() - distance, store);
        distance == 0
    }

    /// Reads the newest store and, unless the exchange failed, replaces it.
    pub fn rmw(
        &mut self,
        who: usize,
        cpu: &mut CpuViews,
        order: Ordering,
        sc: &mut ScState,
        new: Option<u64>,
    ) {
        let read = self.load(who, cpu, order, 0);
        let Some(value) = new else { return };
        let last = self.stores.len() - 1;
        let mut message = cpu.message(order);
        message.join(&self.stores[last].message);
        debug_assert_eq!(read.age, 0);
        let event = cpu.now.hb.0[who];
        self.stores.push(Store {
            value,
            cpu: who as u8,
            event,
            rmw: true,
            sc: sc.number(order),
            message,
            readers: Clock::ZERO,
        });
    }

    /// After waiting for a change: the newest value counts as seen (stores become visible in time).
    pub fn catch_up(&mut self, who: usize, cpu: &CpuViews) {
        if let Some(store) = self.stores.last_mut()
            && store.readers.0[who] == 0
        {
            store.readers.0[who] = cpu.now.hb.0[who];
        }
    }
}

impl ScState {
    fn number(&mut self, order: Ordering) -> u32 {
        if order != Ordering::SeqCst {
            return 0;
        }
        self.count += 1;
        self.count
    }

    /// A fence of a CPU.
    pub fn fence(&mut self, cpu: &mut CpuViews, order: Ordering) {
        if acquires(order) {
            cpu.fence(Ordering::Acquire);
        }
        if order == Ordering::SeqCst {
            self.count += 1;
            cpu.now.seen.join(&self.fenced);
            cpu.now.sc = self.count;
            self.fenced.join(&cpu.now.seen);
        }
        if releases(order) {
            cpu.fence(Ordering::Release);
        }
    }
}

fn read_before(store: &Store, seen: &Clock) -> bool {
    (0..MAX_CPUS).any(|cpu| store.readers.0[cpu] != 0 && seen.knows(cpu, store.readers.0[cpu]))
}
