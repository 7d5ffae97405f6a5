//! The ends that were found to be right: executions that leave the same memory behind need not all be
//! checked.
//!
//! A scenario's check of a whole memory manager takes as long as the execution before it, and most executions
//! of an exploration end alike. What a check may look at is the memory that is copied back; so its
//! fingerprint stands for the check's result. Debug builds check every so many of them all the same.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
};

/// Fingerprints of right ends.
#[derive(Default)]
pub(crate) struct Ends {
    right: HashSet<u128, BuildHasherDefault<Folded>>,
    asked: u64,
    met: u64,
}

/// After so many ends it shows whether they are alike.
const TRIAL: u64 = 512;
/// The most that are remembered.
const MOST: usize = 1 << 20;

impl Ends {
    /// Whether a fingerprint is worth its while.
    pub(crate) fn are_alike(&self) -> bool {
        self.asked < TRIAL || self.met * 4 >= self.asked
    }

    /// Whether an end like this one was right.
    pub(crate) fn knows(&mut self, fingerprint: u128) -> bool {
        self.asked += 1;
        let known = self.right.contains(&fingerprint);
        self.met += u64::from(known);
        known && !(cfg!(debug_assertions) && self.met.is_multiple_of(64))
    }

    /// Notes a right end.
    pub(crate) fn add(&mut self, fingerprint: u128) {
        if self.right.len() < MOST {
            self.right.insert(fingerprint);
        }
    }
}

/// A fingerprint is a hash already.
#[derive(Default)]
struct Folded(u64);

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = self.0.rotate_left(8) ^ u64::from(*b));
    }

    fn write_u128(&mut self, n: u128) {
        self.0 = n as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
