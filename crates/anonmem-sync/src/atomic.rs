//! Atomic words that the machine's probe sees.

use anonmem_hal::{Machine, Probe};
use core::{
    cell::UnsafeCell,
    fmt,
    marker::PhantomData,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// A value that an [`Atomic`] can hold: 32 or 64 bits without padding.
///
/// # Safety
/// `Self` has the size and alignment of `core`'s atomic of that width and every bit pattern that is stored
/// through [`to_bits`](Self::to_bits) is read back through [`from_bits`](Self::from_bits).
pub unsafe trait Word: Copy {
    /// Whether the word has 64 bits (32 otherwise).
    const WIDE: bool;
    /// The bits, widened.
    fn to_bits(self) -> u64;
    /// The value with these bits.
    fn from_bits(bits: u64) -> Self;
}

macro_rules! words {
    ($($ty:ty, $wide:expr;)*) => {$(
        // SAFETY: an integer of that width; the conversions are truncation and its inverse.
        unsafe impl Word for $ty {
            const WIDE: bool = $wide;
            #[inline(always)]
            fn to_bits(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn from_bits(bits: u64) -> Self {
                bits as Self
            }
        }
    )*};
}
words! { u32, false; i32, false; u64, true; i64, true; usize, true; }
const _: () = assert!(size_of::<usize>() == 8, "anonmem needs a 64-bit target");

/// An atomic word of machine `M`: `core`'s, plus the probe.
#[repr(transparent)]
pub struct Atomic<T, M> {
    value: UnsafeCell<T>,
    _machine: PhantomData<fn() -> M>,
}

// SAFETY: the value is only accessed by atomic operations.
unsafe impl<T: Word, M> Sync for Atomic<T, M> {}
// SAFETY: a word can be moved to another thread.
unsafe impl<T: Word, M> Send for Atomic<T, M> {}

impl<T, M> Atomic<T, M> {
    /// A word that holds `value`.
    pub const fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(value), _machine: PhantomData }
    }
}

impl<T: Word + Default, M> Default for Atomic<T, M> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// Runs one operation on the 32- or the 64-bit form of the word.
macro_rules! core_op {
    ($self:ident, $atomic:ident => $op:expr) => {
        if T::WIDE {
            // SAFETY: `Word` promises the size and alignment of a u64; all accesses are atomic.
            let $atomic = unsafe { AtomicU64::from_ptr($self.value.get().cast()) };
            $op
        } else {
            // SAFETY: `Word` promises the size and alignment of a u32; all accesses are atomic.
            let $atomic = unsafe { AtomicU32::from_ptr($self.value.get().cast()) };
            $op
        }
    };
}

/// Converts to the width that the operand of `core`'s atomic has.
macro_rules! rmw {
    ($self:ident, $order:ident, $name:ident, $value:ident, $new:expr) => {{
        let value = $value.to_bits();
        if !M::Probe::ACTIVE {
            return T::from_bits(core_op!($self, a => widen(a.$name(value as _, $order))));
        }
        let (old, _) = M::Probe::rmw($self.addr(), $order, || {
            let old = core_op!($self, a => widen(a.$name(value as _, $order)));
            #[allow(clippy::redundant_closure_call)]
            (old, Some($new(old, value)))
        });
        T::from_bits(old)
    }};
}

#[inline(always)]
fn widen(bits: impl Into<u64>) -> u64 {
    bits.into()
}

impl<T: Word, M: Machine> Atomic<T, M> {
    /// The address that the probe knows this word by.
    #[inline(always)]
    pub fn addr(&self) -> usize {
        self.value.get() as usize
    }

    /// Loads the value.
    #[inline(always)]
    #[track_caller]
    pub fn load(&self, order: Ordering) -> T {
        // Said here and not left to closures: a large caller does not inline those.
        if !M::Probe::ACTIVE {
            return T::from_bits(core_op!(self, a => widen(a.load(order))));
        }
        T::from_bits(M::Probe::load(self.addr(), order, || core_op!(self, a => widen(a.load(order)))))
    }

    /// Stores `value`.
    #[inline(always)]
    #[track_caller]
    pub fn store(&self, value: T, order: Ordering) {
        let bits = value.to_bits();
        if !M::Probe::ACTIVE {
            return core_op!(self, a => a.store(bits as _, order));
        }
        let old = || self.peek().to_bits();
        M::Probe::store(self.addr(), order, bits, old, || core_op!(self, a => a.store(bits as _, order)));
    }

    /// Stores `value`, returns what was there.
    #[inline(always)]
    #[track_caller]
    pub fn swap(&self, value: T, order: Ordering) -> T {
        rmw!(self, order, swap, value, |_, new| new)
    }

    /// Adds, wrapping; returns the old value.
    #[inline(always)]
    #[track_caller]
    pub fn fetch_add(&self, value: T, order: Ordering) -> T {
        rmw!(self, order, fetch_add, value, |old: u64, v: u64| old.wrapping_add(v))
    }

    /// Subtracts, wrapping; returns the old value.
    #[inline(always)]
    #[track_caller]
    pub fn fetch_sub(&self, value: T, order: Ordering) -> T {
        rmw!(self, order, fetch_sub, value, |old: u64, v: u64| old.wrapping_sub(v))
    }

    /// Ors; returns the old value.
    #[inline(always)]
    #[track_caller]
    pub fn fetch_or(&self, value: T, order: Ordering) -> T {
        rmw!(self, order, fetch_or, value, |old, v| old | v)
    }

    /// Ands; returns the old value.
    #[inline(always)]
    #[track_caller]
    pub fn fetch_and(&self, value: T, order: Ordering) -> T {
        rmw!(self, order, fetch_and, value, |old, v| old & v)
    }

    /// Replaces `current` by `new`.
    ///
    /// # Errors
    /// The value found, if it was not `current`. A failed exchange reads with `Relaxed` unless `order`
    /// acquires, in which case it acquires too.
    #[inline(always)]
    #[track_caller]
    pub fn compare_exchange(&self, current: T, new: T, order: Ordering) -> Result<T, T> {
        if !M::Probe::ACTIVE {
            let failure = failure_order(order);
            let (current, new) = (current.to_bits(), new.to_bits());
            return core_op!(self, a => match a.compare_exchange(current as _, new as _, order, failure) {
                Ok(old) => Ok(T::from_bits(widen(old))),
                Err(old) => Err(T::from_bits(widen(old))),
            });
        }
        let (current, new) = (current.to_bits(), new.to_bits());
        let (old, stored) = M::Probe::rmw(self.addr(), order, || {
            core_op!(self, a => {
                let r = a.compare_exchange(current as _, new as _, order, failure_order(order));
                match r {
                    Ok(old) => (widen(old), Some(new)),
                    Err(old) => (widen(old), None),
                }
            })
        });
        if stored.is_some() { Ok(T::from_bits(old)) } else { Err(T::from_bits(old)) }
    }

    /// Applies `f` until it sticks; returns the old value.
    ///
    /// # Errors
    /// The value for which `f` returned `None`.
    #[inline]
    #[track_caller]
    pub fn fetch_update(&self, order: Ordering, mut f: impl FnMut(T) -> Option<T>) -> Result<T, T> {
        let mut current = self.load(Ordering::Relaxed);
        while let Some(new) = f(current) {
            match self.compare_exchange(current, new, order) {
                Ok(old) => return Ok(old),
                Err(found) => current = found,
            }
        }
        Err(current)
    }

    /// The value without the probe seeing it: for displays and for [`validate`]-like recounts at rest.
    ///
    /// [`validate`]: https://docs.rs/anonmem
    #[inline(always)]
    pub fn peek(&self) -> T {
        T::from_bits(core_op!(self, a => widen(a.load(Ordering::Relaxed))))
    }

    /// Adds with a load and a store that are no steps of the lab: for statistics that one CPU writes.
    #[inline(always)]
    pub fn add_unobserved(&self, value: u64) {
        M::Probe::statistics(self.addr());
        self.raw_store(T::from_bits(self.peek().to_bits().wrapping_add(value)), Ordering::Relaxed);
    }

    /// [`peek`](Self::peek) that acquires: for words that never change again once they hold the value
    /// that is looked for.
    #[inline(always)]
    pub fn peek_acquire(&self) -> T {
        // Acquire pairs with whatever Release store made the word final.
        T::from_bits(core_op!(self, a => widen(a.load(Ordering::Acquire))))
    }

    /// Stores without the probe seeing it: used by locks, which report themselves.
    #[inline(always)]
    pub(crate) fn raw_store(&self, value: T, order: Ordering) {
        let value = value.to_bits();
        core_op!(self, a => a.store(value as _, order));
    }

    /// Compare-exchange without the probe seeing it: used by locks, which report themselves.
    #[inline(always)]
    pub(crate) fn raw_compare_exchange(&self, current: T, new: T, order: Ordering) -> Result<T, T> {
        let (current, new) = (current.to_bits(), new.to_bits());
        core_op!(self, a => match a.compare_exchange(current as _, new as _, order, Ordering::Relaxed) {
            Ok(old) => Ok(T::from_bits(widen(old))),
            Err(old) => Err(T::from_bits(widen(old))),
        })
    }

    /// Adds without the probe seeing it: used by locks, which report themselves.
    #[inline(always)]
    pub(crate) fn raw_fetch_add(&self, value: T, order: Ordering) -> T {
        let value = value.to_bits();
        T::from_bits(core_op!(self, a => widen(a.fetch_add(value as _, order))))
    }

    /// Ands without the probe seeing it: used by locks, which report themselves.
    #[inline(always)]
    pub(crate) fn raw_fetch_and(&self, value: T, order: Ordering) -> T {
        let value = value.to_bits();
        T::from_bits(core_op!(self, a => widen(a.fetch_and(value as _, order))))
    }

    /// Ors without the probe seeing it: used by locks, which report themselves.
    #[inline(always)]
    pub(crate) fn raw_fetch_or(&self, value: T, order: Ordering) -> T {
        let value = value.to_bits();
        T::from_bits(core_op!(self, a => widen(a.fetch_or(value as _, order))))
    }
}

#[inline(always)]
const fn failure_order(order: Ordering) -> Ordering {
    match order {
        Ordering::Release | Ordering::Relaxed => Ordering::Relaxed,
        Ordering::SeqCst => Ordering::SeqCst,
        _ => Ordering::Acquire,
    }
}

/// A fence of machine `M`.
#[inline(always)]
#[track_caller]
pub fn fence<M: Machine>(order: Ordering) {
    M::Probe::fence(order);
}

impl<T: Word + fmt::Debug, M: Machine> fmt::Debug for Atomic<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peek().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestMachine;
    use Ordering::Relaxed;

    #[test]
    fn arithmetic_wraps_at_the_words_width() {
        let a: Atomic<u32, TestMachine> = Atomic::new(u32::MAX);
        assert_eq!(a.fetch_add(1, Relaxed), u32::MAX);
        assert_eq!(a.load(Relaxed), 0);
        let b: Atomic<i32, TestMachine> = Atomic::new(0);
        b.fetch_sub(1, Relaxed);
        assert_eq!(b.load(Relaxed), -1);
    }

    #[test]
    fn a_failed_exchange_returns_what_it_found() {
        let a: Atomic<u64, TestMachine> = Atomic::new(5);
        assert_eq!(a.compare_exchange(4, 6, Ordering::AcqRel), Err(5));
        assert_eq!(a.compare_exchange(5, 6, Ordering::AcqRel), Ok(5));
        assert_eq!(a.fetch_update(Relaxed, |v| (v < 6).then_some(7)), Err(6));
    }
}
