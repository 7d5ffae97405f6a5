//! What came about of operations that may be refused.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What came about of operations that may be refused for reasons the model does not know. Pages may be
/// shared, or pinned by somebody, and mappings end where the model sees no end. A bug that refuses all is
/// seen by these counts.
#[derive(Debug, Default)]
pub struct Successes {
    /// Pages that were written to, and moved.
    pub moved: AtomicU64,
    /// Pages that were filled.
    pub filled: AtomicU64,
    /// Writes to ranges that were protected.
    pub protected: AtomicU64,
    /// Pages that a device wrote to.
    pub device_wrote: AtomicU64,
    /// Pages that a device had for long.
    pub held: AtomicU64,
}

impl Successes {
    /// Each with its name.
    pub fn each(&self) -> [(&'static str, u64); 5] {
        [
            ("moved", &self.moved),
            ("filled", &self.filled),
            ("protected", &self.protected),
            ("written by devices", &self.device_wrote),
            ("held by devices", &self.held),
        ]
        .map(|(name, count)| (name, count.load(Relaxed)))
    }
}
