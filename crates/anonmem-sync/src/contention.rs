//! How long tasks waited for locks: for machines that measure it in
//! [`Sched::contended`](anonmem_hal::Sched::contended).

use crate::order;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Waits for one level of locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Waited {
    /// How often a lock was not free.
    pub times: u64,
    /// How long tasks waited, together.
    pub ns: u64,
}

/// Waits for locks of each level since the machine was started.
///
/// Only whoever had to wait touches it, so one set for all CPUs does.
#[derive(Debug)]
pub struct LockWaits {
    levels: [(AtomicU64, AtomicU64); order::LEVELS],
}

impl LockWaits {
    /// None so far.
    pub const fn new() -> Self {
        Self { levels: [const { (AtomicU64::new(0), AtomicU64::new(0)) }; order::LEVELS] }
    }

    /// Adds a wait of `ns` nanoseconds for a lock of the rank `level`.
    pub fn add(&self, level: u16, ns: u64) {
        let (times, sum) = &self.levels[order::index_of(level)];
        times.fetch_add(1, Relaxed);
        sum.fetch_add(ns, Relaxed);
    }

    /// Waits for locks of the rank `level`.
    pub fn of(&self, level: u16) -> Waited {
        let (times, ns) = &self.levels[order::index_of(level)];
        Waited { times: times.load(Relaxed), ns: ns.load(Relaxed) }
    }
}

impl Default for LockWaits {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::{Level, MmapLock, Zone};

    #[test]
    fn waits_are_kept_apart_by_level_and_together_by_subclass() {
        let waits = LockWaits::new();
        waits.add(MmapLock::RANK, 5);
        waits.add(MmapLock::RANK + 1, 7);
        waits.add(Zone::RANK, 1);
        assert_eq!(waits.of(MmapLock::RANK), Waited { times: 2, ns: 12 });
        assert_eq!(waits.of(Zone::RANK), Waited { times: 1, ns: 1 });
    }
}
