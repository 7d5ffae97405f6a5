//! How long ago a page left: whether reclaim took what a program still needed.
//!
//! Time is counted in pages that left. A page that comes back before as many others left as memory holds is a
//! *refault*. It would have stayed, had there been twice the memory. Many refaults say that memory is too
//! small for what the programs use at a time. Other swap-ins only say that something was parked for long.
//!
//! A slot keeps its page's time in five bits ([`EvictionStamp`]), in units of an eighth of memory, modulo
//! four times memory. So a page that stayed away for longer may be mistaken for one that came back soon.
//!
//! Linux: mm/workingset.c `workingset_eviction`, `workingset_refault`; its shadow entries are cut to what
//! fits in the same way.

use anonmem_frame::EvictionStamp;
use anonmem_hal::Machine;
use anonmem_sync::{Atomic, Ordering};

/// Units of time in which as many pages leave as memory holds.
const UNITS_PER_MEMORY: u64 = 8;

/// Reclaim's clock.
pub(crate) struct Workingset<M> {
    /// Pages that have left.
    evictions: Atomic<u64, M>,
    /// Evictions in a unit of time.
    unit: u64,
}

impl<M: Machine> Workingset<M> {
    /// A clock that stands at 0, for a memory of `nr_frames`.
    pub(crate) fn new(nr_frames: u64) -> Self {
        Self { evictions: Atomic::new(0), unit: nr_frames.div_ceil(UNITS_PER_MEMORY) }
    }

    /// The time at which a page leaves, which moves the clock.
    #[doc(alias = "workingset_eviction")]
    pub(crate) fn evict(&self) -> EvictionStamp {
        EvictionStamp::of(self.evictions.fetch_add(1, Ordering::Relaxed) / self.unit)
    }

    /// Whether a page that left at `then` comes back soon.
    #[doc(alias = "workingset_refault")]
    pub(crate) fn is_refault(&self, then: EvictionStamp) -> bool {
        let now = EvictionStamp::of(self.evictions.load(Ordering::Relaxed) / self.unit);
        then.age_at(now) <= UNITS_PER_MEMORY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::M;

    #[test]
    fn a_page_refaults_while_fewer_left_than_memory_holds() {
        let clock = Workingset::<M>::new(80);
        let then = clock.evict();
        assert!(clock.is_refault(then));
        (0..80).for_each(|_| _ = clock.evict());
        assert!(clock.is_refault(then), "eight units later");
        (0..10).for_each(|_| _ = clock.evict());
        assert!(!clock.is_refault(then), "nine units later");
    }
}
