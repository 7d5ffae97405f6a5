//! Clocks.

/// Nanoseconds since boot, monotone.
pub fn now_ns() -> u64 {
    todo!()
}

/// Nanoseconds since 1970-01-01 UTC.
pub fn wall_ns() -> u64 {
    todo!()
}
