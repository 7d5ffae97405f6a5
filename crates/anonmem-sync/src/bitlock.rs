//! A sleeping lock in one bit of a word that has other uses: the folio lock (`PG_locked`).
//!
//! | LOCKED | WAITERS | meaning |
//! |---|---|---|
//! | 0 | 0 | free |
//! | 1 | 0 | held |
//! | 1 | 1 | held, and somebody sleeps: the holder wakes all when it leaves |
//!
//! Linux: mm/filemap.c `__folio_lock`, `folio_unlock`.

use crate::{
    atomic::Atomic,
    lockdep::{self, Acquire},
    order::Level,
};
use anonmem_hal::{LockKind, Machine, Probe};
use core::{marker::PhantomData, sync::atomic::Ordering};

/// A view of a word as a lock: bit `LOCKED` and bit `WAITERS`, the rest is left alone.
pub struct BitLock<'a, M, L, const LOCKED: u32, const WAITERS: u32> {
    word: &'a Atomic<u32, M>,
    _level: PhantomData<fn() -> L>,
}

impl<'a, M: Machine, L: Level, const LOCKED: u32, const WAITERS: u32> BitLock<'a, M, L, LOCKED, WAITERS> {
    /// The lock in `word`.
    pub const fn of(word: &'a Atomic<u32, M>) -> Self {
        Self { word, _level: PhantomData }
    }

    /// Takes the lock; sleeps while it is held.
    #[inline]
    #[track_caller]
    pub fn lock(self) -> BitGuard<'a, M, L, LOCKED, WAITERS> {
        lockdep::acquire::<M>(L::RANK, self.word.addr(), Acquire::Blocking);
        if M::Probe::ACTIVE {
            M::Probe::lock(self.word.addr() + 1, LockKind::Exclusive);
        }
        // Acquire pairs with the Release of the previous holder's unlock.
        if self.word.raw_fetch_or(LOCKED, Ordering::Acquire) & LOCKED != 0 {
            self.lock_slow();
        }
        BitGuard { word: self.word, _level: PhantomData }
    }

    #[cold]
    fn lock_slow(&self) {
        M::contended(L::RANK, &mut || self.wait());
    }

    fn wait(&self) {
        loop {
            // WAITERS first, so that a holder that leaves now wakes us. Acquire as above.
            if self.word.raw_fetch_or(LOCKED | WAITERS, Ordering::Acquire) & LOCKED == 0 {
                return;
            }
            let waiting = LOCKED | WAITERS;
            M::park(self.word.addr(), &|| self.word.peek() & waiting == waiting);
        }
    }

    /// Takes the lock if it is free. Exempt from the lock order.
    #[inline]
    #[track_caller]
    pub fn try_lock(self) -> Option<BitGuard<'a, M, L, LOCKED, WAITERS>> {
        if M::Probe::ACTIVE && !M::Probe::try_lock(self.word.addr() + 1, LockKind::Exclusive) {
            return None;
        }
        // Acquire pairs with the Release of the previous holder's unlock.
        if self.word.raw_fetch_or(LOCKED, Ordering::Acquire) & LOCKED != 0 {
            return None;
        }
        lockdep::acquire::<M>(L::RANK, self.word.addr(), Acquire::Try);
        Some(BitGuard { word: self.word, _level: PhantomData })
    }
}

/// Holds a [`BitLock`].
#[must_use = "the lock is released when the guard drops"]
pub struct BitGuard<'a, M: Machine, L: Level, const LOCKED: u32, const WAITERS: u32> {
    word: &'a Atomic<u32, M>,
    _level: PhantomData<fn() -> L>,
}

impl<M: Machine, L: Level, const LOCKED: u32, const WAITERS: u32> Drop
    for BitGuard<'_, M, L, LOCKED, WAITERS>
{
    #[inline]
    fn drop(&mut self) {
        lockdep::release::<M>(L::RANK, self.word.addr());
        if M::Probe::ACTIVE {
            M::Probe::unlock(self.word.addr() + 1, LockKind::Exclusive);
        }
        // Release pairs with the Acquire of the next holder.
        let old = self.word.raw_fetch_and(!(LOCKED | WAITERS), Ordering::Release);
        anonmem_hal::debug_check!(M, old & LOCKED != 0, "unlocked twice");
        if old & WAITERS != 0 {
            M::unpark(self.word.addr(), usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{order::FolioLock, testing::TestMachine};
    use std::{sync::Arc, thread, vec::Vec};

    type Lock<'a> = BitLock<'a, TestMachine, FolioLock, 1, 2>;

    #[test]
    fn the_other_bits_survive_and_sleepers_wake() {
        let word = Arc::new(Atomic::<u32, TestMachine>::new(0));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let word = word.clone();
                thread::spawn(move || {
                    for _ in 0..10_000 {
                        let _g = Lock::of(&word).lock();
                        // Not atomic as a whole: only right if the lock excludes.
                        let v = word.load(Ordering::Relaxed);
                        word.fetch_add(4, Ordering::Relaxed);
                        assert_eq!(word.load(Ordering::Relaxed) >> 2, (v >> 2) + 1);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(word.load(Ordering::Relaxed), 30_000 << 2);
    }
}
