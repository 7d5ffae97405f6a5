//! Sequence counts: reading a consistent set of words while a writer may be at work.
//!
//! Linux: include/linux/seqlock.h `seqcount_t`. Readers use [`Atomic`] words with `Relaxed` loads inside the
//! section.

use crate::atomic::{Atomic, fence};
use anonmem_hal::Machine;
use core::sync::atomic::Ordering;

/// Even: at rest. Odd: a writer is inside. Writers exclude one another by a lock of their own. 64 bits: a
/// reader that is kept from running for 2^31 writes would take what it read before them for consistent.
pub struct SeqCount<M> {
    sequence: Atomic<u64, M>,
}

impl<M: Machine> SeqCount<M> {
    /// A count at rest.
    pub const fn new() -> Self {
        Self { sequence: Atomic::new(0) }
    }

    /// Starts reading; `None` while a writer is inside.
    #[doc(alias = "raw_read_seqcount")]
    #[inline]
    #[track_caller]
    pub fn try_begin(&self) -> Option<u64> {
        // Acquire pairs with the Release of `end`: what a finished writer wrote is seen.
        let seen = self.sequence.load(Ordering::Acquire);
        (seen & 1 == 0).then_some(seen)
    }

    /// Whether a writer was inside since `seen` was returned: what was read must be discarded.
    #[doc(alias = "read_seqcount_retry")]
    #[inline]
    #[track_caller]
    pub fn retry(&self, seen: u64) -> bool {
        // Pairs with the Release fence of `begin_write`: a reader that saw a word of the new state also
        // sees the odd count.
        fence::<M>(Ordering::Acquire);
        self.sequence.load(Ordering::Relaxed) != seen
    }

    /// Enters a write section, left when the guard drops. The caller holds the lock that excludes other
    /// writers.
    #[doc(alias = "write_seqcount_begin")]
    #[inline]
    #[track_caller]
    pub fn begin_write(&self) -> SeqWriteGuard<'_, M> {
        let seen = self.sequence.load(Ordering::Relaxed);
        anonmem_hal::debug_check!(M, seen & 1 == 0, "two writers in one sequence count");
        self.sequence.store(seen + 1, Ordering::Relaxed);
        // Pairs with the Acquire fence of `retry`.
        fence::<M>(Ordering::Release);
        SeqWriteGuard { count: self }
    }
}

impl<M: Machine> Default for SeqCount<M> {
    fn default() -> Self {
        Self::new()
    }
}

/// A write section of a [`SeqCount`].
#[must_use = "the section ends when the guard drops"]
pub struct SeqWriteGuard<'a, M: Machine> {
    count: &'a SeqCount<M>,
}

impl<M: Machine> Drop for SeqWriteGuard<'_, M> {
    #[inline]
    fn drop(&mut self) {
        let seen = self.count.sequence.load(Ordering::Relaxed);
        // Release pairs with the Acquire of `try_begin`.
        self.count.sequence.store(seen + 1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestMachine;

    #[test]
    fn a_reader_that_met_a_writer_retries() {
        let count = SeqCount::<TestMachine>::new();
        let seen = count.try_begin().unwrap();
        assert!(!count.retry(seen));
        {
            let _w = count.begin_write();
            assert!(count.try_begin().is_none());
            assert!(count.retry(seen));
        }
        assert!(count.retry(seen));
    }
}
