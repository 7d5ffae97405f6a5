//! The sizes and addresses that every floor of the lab agrees on.

/// The most CPUs of a scenario.
pub const MAX_CPUS: usize = 8;

/// Addresses that stand for things that have none.
pub(crate) mod address {
    /// The order of sequentially consistent events.
    pub(crate) const SC: usize = 8;
    /// The wake-up flag of CPU 0; the others follow.
    pub(crate) const WAKE: usize = 64;
    /// The translations of CPU 0; the others follow.
    pub(crate) const TLB: usize = 128;
    /// The lock of the queue of those parked on `key`.
    pub(crate) const fn queue(key: usize) -> usize {
        key | 1
    }
}
