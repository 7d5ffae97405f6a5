//! Read-copy update: what a reader found stays until it has left.
//!
//! Each CPU publishes the epoch in which its outermost read section began, or 0. A grace period ends when
//! every CPU is outside or began after it. A read section may not sleep (the CPU would be left inside).
//!
//! | a CPU's word | meaning |
//! |---|---|
//! | 0 | outside |
//! | `e << 8 | n` | inside n nested sections, the outermost of which began in epoch e |
//!
//! The depth is counted, so that sections may end in any order.
//!
//! Linux: kernel/rcu. Differs: no quiescent-state batching; the readers pay one fence on entry.

use crate::{
    atomic::{Atomic, fence},
    init_fields,
    percpu::PerCpu,
    wait::spin_until,
};
use anonmem_hal::Machine;
use core::{marker::PhantomData, mem::MaybeUninit, sync::atomic::Ordering};

/// How deep a CPU's sections are nested: the low bits of its word.
const DEPTH_BITS: u32 = 8;
const DEPTH: u64 = (1 << DEPTH_BITS) - 1;

/// One domain of read sections.
pub struct Rcu<M: Machine> {
    epoch: Atomic<u64, M>,
    cpus: PerCpu<Atomic<u64, M>, M>,
}

/// A point in time after which a grace period can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GracePeriod(u64);

impl<M: Machine> Rcu<M> {
    /// A domain without readers.
    pub fn new() -> Self {
        Self { epoch: Atomic::new(1), cpus: PerCpu::new(|_| Atomic::new(0)) }
    }

    /// The same, made where it is to stay.
    pub fn init(slot: &mut MaybeUninit<Self>) -> &mut Self {
        init_fields!(slot, { epoch: Atomic::new(1), cpus <- |cpus| PerCpu::init(cpus, |_| Atomic::new(0)) })
    }

    /// Enters a read section. Sections nest.
    #[doc(alias = "rcu_read_lock")]
    #[inline]
    #[track_caller]
    pub fn read_lock(&self) -> RcuGuard<'_, M> {
        let word = self.cpus.this();
        let inside = word.load(Ordering::Relaxed);
        if inside == 0 {
            // Release pairs with the Acquire of `has_ended`: a grace period that finds this section, and
            // takes it for one that began later, has to come after the section before it on this CPU, whose
            // own end it did not see.
            word.store(self.epoch.load(Ordering::Relaxed) << DEPTH_BITS | 1, Ordering::Release);
            // SeqCst pairs with the fence in `start`: either this section sees what was unlinked before
            // the grace period started, or the grace period sees this section.
            fence::<M>(Ordering::SeqCst);
        } else {
            assert!(inside & DEPTH != DEPTH, "255 nested read sections");
            word.store(inside + 1, Ordering::Relaxed);
        }
        RcuGuard { word, _not_send: PhantomData }
    }

    /// Starts a grace period: everything unlinked before may be freed once it [`has_ended`](Self::has_ended).
    #[doc(alias = "start_poll_synchronize_rcu")]
    #[track_caller]
    pub fn start(&self) -> GracePeriod {
        // SeqCst pairs with the fence in `read_lock`.
        fence::<M>(Ordering::SeqCst);
        GracePeriod(self.epoch.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Whether every read section that could have begun before `period` has left.
    #[doc(alias = "poll_state_synchronize_rcu")]
    #[track_caller]
    pub fn has_ended(&self, period: GracePeriod) -> bool {
        // Acquire pairs with the Release of the guard's drop: its loads are done.
        self.cpus
            .iter()
            .all(|word| matches!(word.load(Ordering::Acquire), w if w == 0 || w >> DEPTH_BITS >= period.0))
    }

    /// Waits for a grace period. The caller is in no read section.
    #[doc(alias = "synchronize_rcu")]
    #[track_caller]
    pub fn synchronize(&self) {
        let period = self.start();
        spin_until::<M>(&|| self.has_ended(period));
    }
}

impl<M: Machine> Default for Rcu<M> {
    fn default() -> Self {
        Self::new()
    }
}

/// A read section. Bound to its CPU: neither `Send` nor to be held while sleeping.
#[must_use = "the section ends when the guard drops"]
pub struct RcuGuard<'a, M: Machine> {
    word: &'a Atomic<u64, M>,
    _not_send: PhantomData<*mut ()>,
}

impl<M: Machine> Drop for RcuGuard<'_, M> {
    #[inline]
    fn drop(&mut self) {
        let inside = self.word.load(Ordering::Relaxed);
        let outside = if inside & DEPTH == 1 { 0 } else { inside - 1 };
        // Release pairs with the Acquire of `has_ended`.
        self.word.store(outside, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestMachine;

    #[test]
    fn a_grace_period_waits_for_the_sections_that_came_before_it() {
        let rcu = Rcu::<TestMachine>::new();
        let outer = rcu.read_lock();
        let period = rcu.start();
        let inner = rcu.read_lock();
        assert!(!rcu.has_ended(period));
        drop(inner);
        assert!(!rcu.has_ended(period), "the outer section is still there");
        drop(outer);
        assert!(rcu.has_ended(period));
        let _later = rcu.read_lock();
        assert!(rcu.has_ended(period), "a later section does not hold it up");
    }

    #[test]
    fn sections_may_end_in_any_order() {
        let rcu = Rcu::<TestMachine>::new();
        let first = rcu.read_lock();
        let second = rcu.read_lock();
        drop(first);
        let period = rcu.start();
        assert!(!rcu.has_ended(period), "the second section is still there");
        drop(second);
        assert!(rcu.has_ended(period));
    }
}
