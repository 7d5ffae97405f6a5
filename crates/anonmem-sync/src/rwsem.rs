//! Sleeping reader/writer locks.
//!
//! State table of the word:
//!
//! | WRITER | PARKED | readers | meaning |
//! |---|---|---|---|
//! | 0 | 0 | 0 | free |
//! | 0 | 0 | n | n readers |
//! | 1 | 0 | 0 | a writer |
//! | any | 0 | any | as above; who waits spins, of which the word tells nothing |
//! | any | 1 | any | as above, and somebody sleeps: new readers sleep too, so that writers are not starved, and nobody spins; the last one out clears the bit and wakes all |
//!
//! Who finds the lock taken first spins
//! ([`Sched::optimistic_spin`](anonmem_hal::Sched::optimistic_spin)), because the lock is mostly free again
//! before its waiter were asleep. The holder is not known: to write it down would cost everybody who finds
//! the lock free. So nobody can ask whether the holder sleeps, and two rules stand in for that.
//!
//! - A machine lets nobody spin where no other CPU runs a task, nor for longer than a sleep costs. So a wait
//!   costs at most twice what it had to. That also holds where a host takes the holder's CPU away, which no
//!   kernel can know.
//! - Whoever has spun in vain sets PARKED and sleeps. Then all others stop spinning, and newcomers do not
//!   begin. So a holder that sleeps costs each CPU one spin at most. Whoever lost to those that spin is woken
//!   by the next to let go of the lock.
//!
//! Linux: kernel/locking/rwsem.c. Differs: who spins does not know the owner, and spins for a bounded time
//! for writers, too; those who spin do not queue; no hand-off.

use crate::{
    atomic::Atomic,
    lockdep::{self, Acquire},
    order::Level,
};
use anonmem_hal::{LockKind, Machine, Probe};
use core::{
    cell::{Cell, UnsafeCell},
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    sync::atomic::Ordering,
};

const WRITER: u32 = 1 << 31;
const PARKED: u32 = 1 << 30;
const READERS: u32 = PARKED - 1;

/// A sleeping reader/writer lock around a value, at level `L` of the lock order.
pub struct RwSem<M, L, T> {
    state: Atomic<u32, M>,
    value: UnsafeCell<T>,
    _level: PhantomData<fn() -> L>,
}

// SAFETY: readers get `&T`, a writer is alone: the usual bounds of a reader/writer lock.
unsafe impl<M: Machine, L: Level, T: Send + Sync> Sync for RwSem<M, L, T> {}

impl<M: Machine, L: Level, T> RwSem<M, L, T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { state: Atomic::new(0), value: UnsafeCell::new(value), _level: PhantomData }
    }

    /// Takes the lock for reading; sleeps while a writer has it or waits.
    #[inline]
    #[track_caller]
    pub fn read(&self) -> RwSemReadGuard<'_, M, L, T> {
        lockdep::acquire::<M>(L::RANK, self.state.addr(), Acquire::Blocking);
        if M::Probe::ACTIVE {
            M::Probe::lock(self.state.addr(), LockKind::Shared);
        }
        if !self.try_add_reader() {
            self.read_slow();
        }
        RwSemReadGuard { lock: self }
    }

    /// Takes the lock for reading if that needs no waiting. Exempt from the lock order.
    #[inline]
    #[track_caller]
    pub fn try_read(&self) -> Option<RwSemReadGuard<'_, M, L, T>> {
        if M::Probe::ACTIVE && !M::Probe::try_lock(self.state.addr(), LockKind::Shared) {
            return None;
        }
        self.try_add_reader().then(|| {
            lockdep::acquire::<M>(L::RANK, self.state.addr(), Acquire::Try);
            RwSemReadGuard { lock: self }
        })
    }

    /// Takes the lock for writing; sleeps while anybody else has it.
    #[inline]
    #[track_caller]
    pub fn write(&self) -> RwSemWriteGuard<'_, M, L, T> {
        self.write_nested(0)
    }

    /// Takes the lock for writing as the `subclass`-th one of its level.
    #[inline]
    #[track_caller]
    pub fn write_nested(&self, subclass: u16) -> RwSemWriteGuard<'_, M, L, T> {
        let rank = L::RANK + subclass;
        lockdep::acquire::<M>(rank, self.state.addr(), Acquire::Blocking);
        if M::Probe::ACTIVE {
            M::Probe::lock(self.state.addr(), LockKind::Exclusive);
        }
        // Acquire pairs with the Release of the previous holders' unlocks.
        if self.state.raw_compare_exchange(0, WRITER, Ordering::Acquire).is_err() {
            self.write_slow();
        }
        RwSemWriteGuard { lock: self, rank }
    }

    /// Takes the lock for writing if that needs no waiting. Exempt from the lock order.
    #[inline]
    #[track_caller]
    pub fn try_write(&self) -> Option<RwSemWriteGuard<'_, M, L, T>> {
        if M::Probe::ACTIVE && !M::Probe::try_lock(self.state.addr(), LockKind::Exclusive) {
            return None;
        }
        // Acquire pairs with the Release of the previous holders' unlocks.
        self.state.raw_compare_exchange(0, WRITER, Ordering::Acquire).ok()?;
        lockdep::acquire::<M>(L::RANK, self.state.addr(), Acquire::Try);
        Some(RwSemWriteGuard { lock: self, rank: L::RANK })
    }

    /// Whether anybody holds the lock, for assertions.
    pub fn is_locked(&self) -> bool {
        self.state.peek() & (WRITER | READERS) != 0
    }

    /// Whether a writer holds the lock, for assertions.
    pub fn is_write_locked(&self) -> bool {
        self.state.peek() & WRITER != 0
    }

    #[inline]
    fn try_add_reader(&self) -> bool {
        let mut state = self.state.peek();
        while state & (WRITER | PARKED) == 0 {
            assert!(state < READERS, "too many readers of one lock");
            // Acquire pairs with the Release of the last writer's unlock.
            match self.state.raw_compare_exchange(state, state + 1, Ordering::Acquire) {
                Ok(_) => return true,
                Err(found) => state = found,
            }
        }
        false
    }

    #[cold]
    fn read_slow(&self) {
        M::contended(L::RANK, &mut || self.wait(WRITER | PARKED, &|| self.try_add_reader()));
    }

    #[cold]
    fn write_slow(&self) {
        M::contended(L::RANK, &mut || self.wait(WRITER | READERS, &|| self.try_add_writer()));
    }

    fn try_add_writer(&self) -> bool {
        let state = self.state.peek();
        // Acquire pairs with the Release of the previous holders' unlocks.
        state & (WRITER | READERS) == 0
            && self.state.raw_compare_exchange(state, state | WRITER, Ordering::Acquire).is_ok()
    }

    /// Waits until `take` has taken the lock, which it cannot while a bit of `busy` is set.
    fn wait(&self, busy: u32, take: &dyn Fn() -> bool) {
        let taken = Cell::new(false);
        loop {
            M::optimistic_spin(&|| {
                taken.set(taken.get() || take());
                !taken.get() && self.state.peek() & PARKED == 0
            });
            if taken.get() || take() {
                return;
            }
            self.park_while(busy);
        }
    }

    /// Sleeps if any bit of `busy` is set and the lock is held, having set PARKED.
    fn park_while(&self, busy: u32) {
        let mut state = self.state.peek();
        // Until it says so, readers come and go, and each of them changes the word.
        while state & busy & !PARKED != 0 && state & PARKED == 0 {
            match self.state.raw_compare_exchange(state, state | PARKED, Ordering::Relaxed) {
                Ok(_) => state |= PARKED,
                Err(found) => state = found,
            }
        }
        if state & (WRITER | READERS) == 0 {
            // Nobody is there to wake us: a stale PARKED bit is cleared by whoever gets the lock next.
            if state == PARKED {
                let _ = self.state.raw_compare_exchange(PARKED, 0, Ordering::Relaxed);
            }
            return;
        }
        if state & busy == 0 {
            return;
        }
        M::park(self.state.addr(), &|| {
            let state = self.state.peek();
            state & PARKED != 0 && state & (WRITER | READERS) != 0
        });
    }

    #[inline]
    fn release_read(&self) {
        // Release pairs with the Acquire of the next writer.
        let old = self.state.raw_fetch_add(u32::MAX, Ordering::Release);
        if old & (READERS | PARKED) == 1 | PARKED {
            self.wake();
        }
    }

    #[inline]
    fn release_write(&self) {
        // Release pairs with the Acquire of the next holder.
        if self.state.raw_compare_exchange(WRITER, 0, Ordering::Release).is_err() {
            // Release as above.
            self.state.raw_fetch_and(!WRITER, Ordering::Release);
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        self.state.raw_fetch_and(!PARKED, Ordering::Relaxed);
        M::unpark(self.state.addr(), usize::MAX);
    }
}

impl<M: Machine, L: Level, T> fmt::Debug for RwSem<M, L, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RwSem<{}>({:#x})", L::NAME, self.state.peek())
    }
}

/// Holds an [`RwSem`] for reading.
#[must_use = "the lock is released when the guard drops"]
pub struct RwSemReadGuard<'a, M: Machine, L: Level, T> {
    lock: &'a RwSem<M, L, T>,
}

impl<M: Machine, L: Level, T> RwSemReadGuard<'_, M, L, T> {
    /// Whether this is a guard of `lock`.
    pub fn guards(&self, lock: &RwSem<M, L, T>) -> bool {
        core::ptr::eq(self.lock, lock)
    }
}

impl<M: Machine, L: Level, T> Deref for RwSemReadGuard<'_, M, L, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: while a reader is counted there is no writer, so no `&mut T`.
        unsafe { &*self.lock.value.get() }
    }
}

impl<M: Machine, L: Level, T> Drop for RwSemReadGuard<'_, M, L, T> {
    #[inline]
    fn drop(&mut self) {
        lockdep::release::<M>(L::RANK, self.lock.state.addr());
        if M::Probe::ACTIVE {
            M::Probe::unlock(self.lock.state.addr(), LockKind::Shared);
        }
        self.lock.release_read();
    }
}

/// Holds an [`RwSem`] for writing.
#[must_use = "the lock is released when the guard drops"]
pub struct RwSemWriteGuard<'a, M: Machine, L: Level, T> {
    lock: &'a RwSem<M, L, T>,
    rank: u16,
}

impl<M: Machine, L: Level, T> RwSemWriteGuard<'_, M, L, T> {
    /// Whether this is a guard of `lock`.
    pub fn guards(&self, lock: &RwSem<M, L, T>) -> bool {
        core::ptr::eq(self.lock, lock)
    }
}

impl<M: Machine, L: Level, T> Deref for RwSemWriteGuard<'_, M, L, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the only guard.
        unsafe { &*self.lock.value.get() }
    }
}

impl<M: Machine, L: Level, T> DerefMut for RwSemWriteGuard<'_, M, L, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the only guard, borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<M: Machine, L: Level, T> Drop for RwSemWriteGuard<'_, M, L, T> {
    #[inline]
    fn drop(&mut self) {
        lockdep::release::<M>(self.rank, self.lock.state.addr());
        if M::Probe::ACTIVE {
            M::Probe::unlock(self.lock.state.addr(), LockKind::Exclusive);
        }
        self.lock.release_write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        order::MmapLock,
        testing::{TestMachine, Waits},
    };
    use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::{
        sync::Arc,
        thread,
        time::{Duration, Instant},
        vec::Vec,
    };

    type Lock = RwSem<TestMachine, MmapLock, u64>;

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let lock = Lock::new(0);
        let reader = lock.try_read().unwrap();
        assert!(lock.try_read().is_some());
        assert!(lock.try_write().is_none());
        drop(reader);
        let writer = lock.try_write().unwrap();
        assert!(lock.try_read().is_none());
        drop(writer);
        assert!(!lock.is_locked());
    }

    #[test]
    fn sleepers_wake_and_no_increment_is_lost() {
        let lock = Arc::new(Lock::new(0));
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let lock = lock.clone();
                thread::spawn(move || {
                    for n in 0..20_000 {
                        if (n + i) % 3 == 0 {
                            let seen = *lock.read();
                            assert!(seen <= 80_000);
                        } else {
                            *lock.write() += 1;
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        let expected =
            (0..4u64).map(|i| (0..20_000).filter(|n| (n + i) % 3 != 0).count() as u64).sum::<u64>();
        assert_eq!(*lock.read(), expected);
        assert_eq!(lock.state.peek() & !1, 0, "no stale bits");
    }

    /// Whether `what` comes to be; a test that fails does not hang.
    fn comes(what: impl Fn() -> bool) -> bool {
        let end = Instant::now() + Duration::from_secs(5);
        while !what() && Instant::now() < end {
            thread::yield_now();
        }
        what()
    }

    /// What a thread sees that has the lock, until it lets go of it; `waiters` wait for it meanwhile.
    fn held_while(lock: &Lock, seen: impl Fn() -> bool + Sync, waiters: &[&(dyn Fn() + Sync)]) -> bool {
        thread::scope(|s| {
            let holder = s.spawn(|| {
                let _held = lock.write();
                comes(&seen)
            });
            assert!(comes(|| lock.is_locked()), "the holder came");
            waiters.iter().for_each(|waiter| drop(s.spawn(waiter)));
            holder.join().unwrap()
        })
    }

    #[test]
    fn who_waits_for_a_holder_that_runs_does_not_sleep() {
        static SPUN: AtomicU32 = AtomicU32::new(0);
        static SLEPT: AtomicU32 = AtomicU32::new(0);
        let (lock, waits) = (Lock::new(0), Waits { turns: u32::MAX, spun: &SPUN, slept: &SLEPT });
        let (writer, reader) = (
            || {
                waits.begin();
                *lock.write() += 1;
            },
            || {
                waits.begin();
                drop(lock.read());
            },
        );
        for waiter in [&writer as &(dyn Fn() + Sync), &reader] {
            let before = SPUN.load(SeqCst);
            assert!(held_while(&lock, || SPUN.load(SeqCst) > before + 2, &[waiter]), "it spins");
        }
        assert_eq!((*lock.read(), SLEPT.load(SeqCst)), (1, 0));
    }

    #[test]
    fn who_has_spun_in_vain_sleeps_until_it_is_woken() {
        static SPUN: AtomicU32 = AtomicU32::new(0);
        static SLEPT: AtomicU32 = AtomicU32::new(0);
        let lock = Lock::new(0);
        let waiter = || {
            Waits { turns: 5, spun: &SPUN, slept: &SLEPT }.begin();
            *lock.write() += 1;
        };
        let asleep = || SLEPT.load(SeqCst) > 0 && lock.state.peek() & PARKED != 0;
        assert!(held_while(&lock, asleep, &[&waiter]), "it sleeps, and says so");
        assert_eq!((*lock.read(), SPUN.load(SeqCst)), (1, 5));
    }

    #[test]
    fn nobody_spins_while_somebody_sleeps() {
        static SPUN: AtomicU32 = AtomicU32::new(0);
        static SLEPT: AtomicU32 = AtomicU32::new(0);
        let lock = Lock::new(0);
        let waits = |turns| Waits { turns, spun: &SPUN, slept: &SLEPT }.begin();
        let (sleeper, spinner, latecomer) = (
            || {
                assert!(comes(|| SPUN.load(SeqCst) > 0), "one that came before spins");
                waits(0);
                *lock.write() += 1;
            },
            || {
                waits(u32::MAX);
                *lock.write() += 1;
            },
            || {
                assert!(comes(|| lock.state.peek() & PARKED != 0), "somebody sleeps");
                waits(u32::MAX);
                drop(lock.read());
            },
        );
        let seen = || SLEPT.load(SeqCst) >= 3;
        assert!(held_while(&lock, seen, &[&sleeper, &spinner, &latecomer]), "all sleep");
        assert_eq!(*lock.read(), 2);
    }
}
