//! The scheduler as the memory manager sees it: [`anonmem_hal::Sched`].

use anonmem_hal::{CpuId, HeldLocks, Sched};
use anonmem_sync::LockWaits;

use super::task::with_held_locks;
use super::{Interruptible, park, unpark};
use crate::arch::percpu::{cpu_count, this_cpu};
use crate::arch::{time, tlb};
use crate::machine::Kernel;

/// How long tasks waited for the memory manager's locks.
pub static LOCK_WAITS: LockWaits = LockWaits::new();

// SAFETY: kernel code is not preempted, so a task leaves its CPU only where it parks or yields.
unsafe impl Sched for Kernel {
    #[inline]
    fn current_cpu() -> CpuId {
        CpuId(this_cpu().id() as u32)
    }

    fn nr_cpus() -> usize {
        cpu_count()
    }

    fn park(key: usize, keep_waiting: &dyn Fn() -> bool) {
        park(key, keep_waiting, None, Interruptible::No);
    }

    fn unpark(key: usize, n: usize) {
        unpark(key, n);
    }

    fn relax() {
        tlb::relax();
    }

    fn contended(level: u16, wait: &mut dyn FnMut()) {
        let start = time::now_ns();
        wait();
        LOCK_WAITS.add(level, time::now_ns() - start);
    }

    fn with_held_locks(f: &mut dyn FnMut(&mut HeldLocks)) {
        with_held_locks(f);
    }
}
