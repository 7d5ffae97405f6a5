//! Spin locks of the machine half.
//!
//! [`IrqLock`] may be taken by interrupt handlers; [`SpinLock`] not. Both answer TLB shootdowns while
//! they wait, so a CPU that spins with interrupts off cannot block one that waits for its answer.

use core::ops::{Deref, DerefMut};

use spin::relax::RelaxStrategy;

use super::irq::IrqOff;
use super::tlb;

/// How this kernel's spin locks wait.
pub struct AnswerShootdowns;

impl RelaxStrategy for AnswerShootdowns {
    #[inline]
    fn relax() {
        tlb::relax();
    }
}

/// The spin lock for task context. Hold it briefly; never sleep or touch user memory under it.
///
/// The locks of `anonmem_oslib`, which knows no machine, are `spin::Mutex`: their waits do not answer by
/// themselves. They are taken with interrupts on only, so the interrupt answers.
pub type SpinLock<T> = spin::mutex::SpinMutex<T, AnswerShootdowns>;
/// The right to use a [`SpinLock`]'s value.
pub type SpinGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;

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
