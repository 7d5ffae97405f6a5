//! A number that the administrator sets.

use anonmem_oslib::Result;
use anonmem_oslib::errno::EINVAL;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// A number that can be set, within bounds.
#[derive(Debug)]
pub struct Number {
    value: AtomicU64,
    least: u64,
    most: u64,
}

impl Number {
    /// One that is `value` until it is set, to no less than `least` and no more than `most`.
    pub const fn new(value: u64, least: u64, most: u64) -> Self {
        Number { value: AtomicU64::new(value), least, most }
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.value.load(SeqCst)
    }

    /// Sets it.
    ///
    /// # Errors
    /// `EINVAL` if it is out of bounds.
    pub fn set(&self, value: u64) -> Result<()> {
        if !(self.least..=self.most).contains(&value) {
            return Err(EINVAL);
        }
        self.value.store(value, SeqCst);
        Ok(())
    }
}
