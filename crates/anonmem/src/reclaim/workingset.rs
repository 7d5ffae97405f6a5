//! How long ago a page left: whether reclaim took what a program still needed.
//!
//! Time is counted in pages that left. A page that comes back before as many others left as memory holds is a
//! *refault*. It would have stayed, had there been twice the memory. Many refaults say that memory is too
//! small for what the programs use at a time. Other swap-ins only say that something was parked for long.
//!
//! Each CPU counts for itself, and moves the clock for several pages at once. So the clock may be behind by a
//! quarter of a unit.
//!
//! A slot keeps its page's time in five bits ([`EvictionStamp`]), in units of an eighth of memory, modulo
//! four times memory. So a page that stayed away for longer may be mistaken for one that came back soon.
//!
//! Linux: mm/workingset.c `workingset_eviction`, `workingset_refault`; its shadow entries are cut to what
//! fits in the same way.

use crate::cpu::CpuWords;
use anonmem_frame::EvictionStamp;
use anonmem_hal::Machine;
use anonmem_sync::{Atomic, Ordering};

/// Units of time in which as many pages leave as memory holds.
const UNITS_PER_MEMORY: u64 = 8;

/// Reclaim's clock.
pub(crate) struct Workingset<M> {
    /// Pages that have left, as far as CPUs have told.
    evictions: Atomic<u64, M>,
    /// Evictions in a unit of time.
    unit: u64,
    /// Evictions of a CPU that it tells at once.
    batch: u64,
}

/// The most evictions that a CPU tells at once.
const MOST_BATCH: u64 = 32;

impl<M: Machine> Workingset<M> {
    /// A clock that stands at 0, for a memory of `nr_frames`.
    pub(crate) fn new(nr_frames: u64) -> Self {
        let unit = nr_frames.div_ceil(UNITS_PER_MEMORY);
        // All CPUs together keep a quarter of a unit to themselves at most.
        let batch = (unit / (4 * M::nr_cpus() as u64)).clamp(1, MOST_BATCH);
        Self { evictions: Atomic::new(0), unit, batch }
    }

    /// The time at which a page leaves, which moves the clock.
    #[doc(alias = "workingset_eviction")]
    pub(crate) fn evict(&self, cpu: &CpuWords<M>) -> EvictionStamp {
        let untold = cpu.evicted.load(Ordering::Relaxed) + 1;
        // One that another task of this CPU counts meanwhile is lost; it moves the clock by a page.
        cpu.evicted.store(if untold < self.batch { untold } else { 0 }, Ordering::Relaxed);
        if untold >= self.batch {
            self.evictions.fetch_add(untold, Ordering::Relaxed);
        }
        self.now()
    }

    fn now(&self) -> EvictionStamp {
        EvictionStamp::of(self.evictions.load(Ordering::Relaxed) / self.unit)
    }

    /// Whether a page that left at `then` comes back soon.
    #[doc(alias = "workingset_refault")]
    pub(crate) fn is_refault(&self, then: EvictionStamp) -> bool {
        then.age_at(self.now()) <= UNITS_PER_MEMORY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::M;

    #[test]
    fn a_page_refaults_while_fewer_left_than_memory_holds() {
        let (clock, cpu) = (Workingset::<M>::new(80), CpuWords::new());
        let then = clock.evict(&cpu);
        assert!(clock.is_refault(then));
        (0..80).for_each(|_| _ = clock.evict(&cpu));
        assert!(clock.is_refault(then), "eight units later");
        (0..10).for_each(|_| _ = clock.evict(&cpu));
        assert!(!clock.is_refault(then), "nine units later");
    }

    #[test]
    fn a_cpu_moves_the_clock_once_for_several_pages() {
        let (clock, cpu) = (Workingset::<M>::new(1 << 20), CpuWords::new());
        (1..MOST_BATCH).for_each(|_| _ = clock.evict(&cpu));
        assert_eq!((clock.evictions.peek(), cpu.evicted.peek()), (0, MOST_BATCH - 1));
        let _ = clock.evict(&cpu);
        assert_eq!((clock.evictions.peek(), cpu.evicted.peek()), (MOST_BATCH, 0));
    }
}
