//! Words that a lock protects.

use crate::atomic::{Atomic, Word};
use anonmem_hal::{Machine, Probe};
use core::{fmt, sync::atomic::Ordering};

/// A word that is only accessed under some lock, named where the field is declared.
///
/// On real machines a relaxed load or store, the cost of a plain one. In the lab an access that is not
/// ordered with a conflicting one is reported as a data race, and the access is no scheduling point.
#[repr(transparent)]
pub struct Plain<T, M>(Atomic<T, M>);

impl<T: Word, M: Machine> Plain<T, M> {
    /// A word that holds `value`.
    pub const fn new(value: T) -> Self {
        Self(Atomic::new(value))
    }

    /// The value.
    #[inline(always)]
    #[track_caller]
    pub fn get(&self) -> T {
        M::Probe::plain_read(self.0.addr());
        self.0.peek()
    }

    /// Sets the value.
    #[inline(always)]
    #[track_caller]
    pub fn set(&self, value: T) {
        M::Probe::plain_write(self.0.addr());
        self.0.raw_store(value, Ordering::Relaxed);
    }

    /// Sets the value to `f` of it.
    #[inline(always)]
    #[track_caller]
    pub fn update(&self, f: impl FnOnce(T) -> T) {
        self.set(f(self.get()));
    }

    /// The value without the probe seeing it: for statistics and displays that tolerate an old one.
    #[inline(always)]
    pub fn peek(&self) -> T {
        self.0.peek()
    }
}

impl<T: Word + fmt::Debug, M: Machine> fmt::Debug for Plain<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peek().fmt(f)
    }
}
