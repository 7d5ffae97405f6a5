//! Locks that interrupt handlers may take.

/// A spin lock that keeps interrupts off while it is held. Hold it for a few instructions; never
/// sleep, allocate or touch user memory under it.
pub struct IrqLock<T> {
    _value: core::cell::UnsafeCell<T>,
}
