//! A sleeping lock.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use super::wait::{Interruptible, park, unpark};

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody may be asleep.
const CONTENDED: u32 = 2;

/// A sleeping lock for task context. Not for interrupt handlers; order among waiters is not promised.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives out one reference at a time.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}
// SAFETY: the value moves with the lock.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}

impl<T> Mutex<T> {
    /// A free lock.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex { state: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// The value, when nobody else can have the lock.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Takes the lock; sleeps while somebody else has it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        // Acquire pairs with the Release in the guard's drop.
        if self.state.compare_exchange(FREE, HELD, Acquire, Relaxed).is_err() {
            while self.state.swap(CONTENDED, Acquire) != FREE {
                park(self.key(), &|| self.state.load(Relaxed) == CONTENDED, None, Interruptible::No);
            }
        }
        MutexGuard { mutex: self }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.state.compare_exchange(FREE, HELD, Acquire, Relaxed).ok()?;
        Some(MutexGuard { mutex: self })
    }

    fn key(&self) -> usize {
        core::ptr::from_ref(&self.state) as usize
    }
}

/// The right to use a [`Mutex`]'s value.
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        let key = self.mutex.key();
        // Release pairs with the Acquire in `lock`.
        if self.mutex.state.swap(FREE, Release) == CONTENDED {
            unpark(key, 1);
        }
    }
}
