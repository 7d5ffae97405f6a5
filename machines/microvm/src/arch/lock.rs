//! Spin locks of the machine half.
//!
//! [`IrqLock`] may be taken by interrupt handlers; [`SpinLock`] not. Both answer TLB shootdowns while
//! they wait, so a CPU that spins with interrupts off cannot block one that waits for its answer.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use x86_64::instructions::interrupts;

/// Waits a moment in a spin loop: answers shootdowns.
#[inline]
pub fn relax() {
    super::tlb::answer();
    core::hint::spin_loop();
}

/// A spin lock for task context. Hold it briefly; never sleep or touch user memory under it.
pub struct SpinLock<T> {
    locked: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives out one reference at a time.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        SpinLock { locked: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Takes the lock.
    #[inline]
    pub fn lock(&self) -> SpinGuard<'_, T> {
        // Acquire pairs with the Release in the guard's drop.
        while self.locked.compare_exchange_weak(false, true, Acquire, Relaxed).is_err() {
            while self.locked.load(Relaxed) {
                relax();
            }
        }
        SpinGuard { lock: self }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        self.locked.compare_exchange(false, true, Acquire, Relaxed).ok()?;
        Some(SpinGuard { lock: self })
    }
}

/// The right to use a [`SpinLock`]'s value.
pub struct SpinGuard<'a, T> {
    lock: &'a SpinLock<T>,
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Release pairs with the Acquire in `lock`.
        self.lock.locked.store(false, Release);
    }
}

/// A spin lock that keeps interrupts off while it is held. Hold it for a few instructions; never
/// sleep, allocate or touch user memory under it.
pub struct IrqLock<T> {
    lock: SpinLock<T>,
}

impl<T> IrqLock<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        IrqLock { lock: SpinLock::new(value) }
    }

    /// Turns interrupts off and takes the lock.
    #[inline]
    pub fn lock(&self) -> IrqGuard<'_, T> {
        let interrupts = IrqOff::new();
        IrqGuard { guard: self.lock.lock(), _interrupts: interrupts }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<IrqGuard<'_, T>> {
        let interrupts = IrqOff::new();
        Some(IrqGuard { guard: self.lock.try_lock()?, _interrupts: interrupts })
    }
}

/// The right to use an [`IrqLock`]'s value. Field order matters: unlock first, then interrupts on.
pub struct IrqGuard<'a, T> {
    guard: SpinGuard<'a, T>,
    _interrupts: IrqOff,
}

impl<T> Deref for IrqGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// Interrupts off until it is dropped (then as they were).
pub struct IrqOff {
    were_on: bool,
    _not_send: core::marker::PhantomData<*mut ()>,
}

impl IrqOff {
    /// Turns interrupts off.
    #[inline]
    #[allow(clippy::new_without_default, reason = "it has an effect")]
    pub fn new() -> IrqOff {
        let were_on = interrupts::are_enabled();
        if were_on {
            interrupts::disable();
        }
        IrqOff { were_on, _not_send: core::marker::PhantomData }
    }
}

impl Drop for IrqOff {
    #[inline]
    fn drop(&mut self) {
        if self.were_on {
            interrupts::enable();
        }
    }
}
