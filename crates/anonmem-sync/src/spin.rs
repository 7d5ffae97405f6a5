//! Spin locks with a place in the lock order.

use crate::{
    atomic::Atomic,
    lockdep::{self, Acquire},
    order::Level,
};
use anonmem_hal::{LockKind, Machine, Probe};
use core::{
    cell::UnsafeCell,
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    sync::atomic::Ordering,
};

/// A spin lock without data, 4 bytes: 0 free, 1 taken.
///
/// For locks that live in metadata slots, such as a page table's. Prefer [`Spin`].
#[repr(transparent)]
pub struct RawSpin<M, L> {
    word: Atomic<u32, M>,
    _level: PhantomData<fn() -> L>,
}

impl<M: Machine, L: Level> RawSpin<M, L> {
    /// A free lock.
    pub const fn new() -> Self {
        Self { word: Atomic::new(0), _level: PhantomData }
    }

    /// Takes the lock; the guard releases it.
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> RawSpinGuard<'_, M, L> {
        self.lock_nested(0)
    }

    /// Takes the lock as the `subclass`-th one of its level, for code that holds several in a defined order.
    #[inline]
    #[track_caller]
    pub fn lock_nested(&self, subclass: u16) -> RawSpinGuard<'_, M, L> {
        let rank = L::RANK + subclass;
        lockdep::acquire::<M>(rank, self.word.addr(), Acquire::Blocking);
        if M::Probe::ACTIVE {
            M::Probe::lock(self.word.addr(), LockKind::Exclusive);
        }
        // Acquire pairs with the Release store of the previous holder's unlock.
        if self.word.raw_compare_exchange(0, 1, Ordering::Acquire).is_err() {
            self.lock_slow();
        }
        RawSpinGuard { lock: self, rank }
    }

    #[cold]
    fn lock_slow(&self) {
        M::contended(L::RANK, &mut || self.wait());
    }

    fn wait(&self) {
        loop {
            while self.word.peek() != 0 {
                M::relax();
            }
            // Acquire pairs with the Release store of the previous holder's unlock.
            if self.word.raw_compare_exchange(0, 1, Ordering::Acquire).is_ok() {
                return;
            }
        }
    }

    /// Takes the lock if it is free. Exempt from the lock order.
    #[inline]
    #[track_caller]
    pub fn try_lock(&self) -> Option<RawSpinGuard<'_, M, L>> {
        if M::Probe::ACTIVE && !M::Probe::try_lock(self.word.addr(), LockKind::Exclusive) {
            return None;
        }
        // Acquire pairs with the Release store of the previous holder's unlock.
        self.word.raw_compare_exchange(0, 1, Ordering::Acquire).ok()?;
        lockdep::acquire::<M>(L::RANK, self.word.addr(), Acquire::Try);
        Some(RawSpinGuard { lock: self, rank: L::RANK })
    }

    /// Takes the lock if it is free, for whoever takes so many that the checker has no room for them. That
    /// they are only tried exempts them from the order.
    pub fn try_lock_unnoted(&self) -> bool {
        if M::Probe::ACTIVE && !M::Probe::try_lock(self.word.addr(), LockKind::Exclusive) {
            return false;
        }
        // Acquire: as in `try_lock`.
        self.word.raw_compare_exchange(0, 1, Ordering::Acquire).is_ok()
    }

    /// Lets go of it.
    ///
    /// # Safety
    /// The caller has taken it with [`try_lock_unnoted`](Self::try_lock_unnoted).
    pub unsafe fn unlock_unnoted(&self) {
        if M::Probe::ACTIVE {
            M::Probe::unlock(self.word.addr(), LockKind::Exclusive);
        }
        // Release: as when a guard drops.
        self.word.raw_store(0, Ordering::Release);
    }

    /// Whether somebody holds the lock, for assertions.
    pub fn is_locked(&self) -> bool {
        self.word.peek() != 0
    }
}

impl<M: Machine, L: Level> Default for RawSpin<M, L> {
    fn default() -> Self {
        Self::new()
    }
}

/// Holds a [`RawSpin`].
#[must_use = "the lock is released when the guard drops"]
pub struct RawSpinGuard<'a, M: Machine, L: Level> {
    lock: &'a RawSpin<M, L>,
    rank: u16,
}

impl<M: Machine, L: Level> Drop for RawSpinGuard<'_, M, L> {
    #[inline]
    fn drop(&mut self) {
        lockdep::release::<M>(self.rank, self.lock.word.addr());
        if M::Probe::ACTIVE {
            M::Probe::unlock(self.lock.word.addr(), LockKind::Exclusive);
        }
        // Release pairs with the Acquire of the next holder.
        self.lock.word.raw_store(0, Ordering::Release);
    }
}

/// A spin lock around a value, at level `L` of the lock order.
pub struct Spin<M, L, T> {
    raw: RawSpin<M, L>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, and there is at most one guard.
unsafe impl<M: Machine, L: Level, T: Send> Sync for Spin<M, L, T> {}

impl<M: Machine, L: Level, T> Spin<M, L, T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { raw: RawSpin::new(), value: UnsafeCell::new(value) }
    }

    /// Takes the lock.
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> SpinGuard<'_, M, L, T> {
        SpinGuard { _raw: self.raw.lock(), value: &self.value }
    }

    /// Takes the lock as the `subclass`-th one of its level.
    #[inline]
    #[track_caller]
    pub fn lock_nested(&self, subclass: u16) -> SpinGuard<'_, M, L, T> {
        SpinGuard { _raw: self.raw.lock_nested(subclass), value: &self.value }
    }

    /// Takes the lock if it is free. Exempt from the lock order.
    #[inline]
    #[track_caller]
    pub fn try_lock(&self) -> Option<SpinGuard<'_, M, L, T>> {
        Some(SpinGuard { _raw: self.raw.try_lock()?, value: &self.value })
    }

    /// The value, for an owner that is alone.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<M: Machine, L: Level, T> fmt::Debug for Spin<M, L, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spin<{}>(locked: {})", L::NAME, self.raw.is_locked())
    }
}

/// Holds a [`Spin`] and gives its value.
#[must_use = "the lock is released when the guard drops"]
pub struct SpinGuard<'a, M: Machine, L: Level, T> {
    _raw: RawSpinGuard<'a, M, L>,
    value: &'a UnsafeCell<T>,
}

impl<M: Machine, L: Level, T> Deref for SpinGuard<'_, M, L, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the raw guard is the only one, so no `&mut T` to the value exists.
        unsafe { &*self.value.get() }
    }
}

impl<M: Machine, L: Level, T> DerefMut for SpinGuard<'_, M, L, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the raw guard is the only one, and `self` is borrowed mutably.
        unsafe { &mut *self.value.get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        order::{AnonVmaRoot, Ptl, Zone},
        testing::TestMachine,
    };
    use std::{sync::Arc, thread, vec::Vec};

    #[test]
    fn two_threads_never_hold_the_lock_together() {
        let lock: Arc<Spin<TestMachine, Zone, u64>> = Arc::new(Spin::new(0));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let lock = lock.clone();
                thread::spawn(move || (0..100_000).for_each(|_| *lock.lock() += 1))
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(*lock.lock(), 200_000);
    }

    #[test]
    #[should_panic(expected = "lock order: Ptl")]
    fn a_lock_out_of_order_panics() {
        let (ptl, zone) = (RawSpin::<TestMachine, Ptl>::new(), RawSpin::<TestMachine, Zone>::new());
        let _z = zone.lock();
        let _p = ptl.lock();
    }

    #[test]
    #[should_panic(expected = "lock order: AnonVmaRoot")]
    fn a_sleeping_lock_under_a_spin_lock_panics() {
        let anon_vma = crate::RwSem::<TestMachine, AnonVmaRoot, ()>::new(());
        let ptl = RawSpin::<TestMachine, Ptl>::new();
        let _p = ptl.lock();
        let _a = anon_vma.read();
    }

    #[test]
    #[should_panic(expected = "sleeping while the spin lock Zone is held")]
    fn waiting_under_a_spin_lock_panics() {
        let zone = RawSpin::<TestMachine, Zone>::new();
        let _z = zone.lock();
        crate::WaitQueue::<TestMachine>::new().wait_until(&|| true);
    }

    #[test]
    fn a_call_that_ends_without_locks_is_content() {
        let zone = RawSpin::<TestMachine, Zone>::new();
        drop(zone.lock());
        lockdep::assert_none_held::<TestMachine>();
    }

    #[test]
    #[should_panic(expected = "Zone still held")]
    fn a_call_that_ends_with_a_lock_panics() {
        let zone = RawSpin::<TestMachine, Zone>::new();
        let _z = zone.try_lock();
        lockdep::assert_none_held::<TestMachine>();
    }

    #[test]
    fn a_trylock_is_exempt_from_the_order() {
        let (ptl, zone) = (RawSpin::<TestMachine, Ptl>::new(), RawSpin::<TestMachine, Zone>::new());
        let _z = zone.lock();
        assert!(ptl.try_lock().is_some());
    }

    #[test]
    fn two_page_tables_are_locked_as_subclasses() {
        let (a, b) = (RawSpin::<TestMachine, Ptl>::new(), RawSpin::<TestMachine, Ptl>::new());
        let _a = a.lock();
        let _b = b.lock_nested(1);
    }
}
