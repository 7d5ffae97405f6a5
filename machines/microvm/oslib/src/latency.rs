//! How long things took, as a histogram: percentiles without keeping every value.
//!
//! Buckets are eighths of powers of two, so a percentile is exact to 12.5 %.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets of a power of two, as a power of two.
const SUB_BITS: u32 = 3;
/// Values from 2^40 ns (18 minutes) on share the last bucket.
const TOP_BIT: u32 = 39;
const BUCKETS: usize = ((TOP_BIT - SUB_BITS + 2) << SUB_BITS) as usize;

/// Counts of durations that one CPU adds to and any may read.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
}

impl Histogram {
    /// An empty one.
    pub const fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS] }
    }

    /// Counts a duration. Only the CPU that owns the histogram calls it.
    pub fn record(&self, ns: u64) {
        let bucket = &self.buckets[bucket_of(ns)];
        bucket.store(bucket.load(Relaxed) + 1, Relaxed);
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

/// The duration that `permille` of all durations in `parts` do not exceed, in nanoseconds; `None` without
/// any.
pub fn percentile(parts: &[Histogram], permille: u64) -> Option<u64> {
    let count = |bucket: usize| parts.iter().map(|part| part.buckets[bucket].load(Relaxed)).sum::<u64>();
    let total: u64 = (0..BUCKETS).map(count).sum();
    let wanted = (total * permille).div_ceil(1000).max(1);
    let mut seen = 0;
    (0..BUCKETS)
        .find(|&bucket| {
            seen += count(bucket);
            seen >= wanted
        })
        .map(upper_edge)
}

fn bucket_of(ns: u64) -> usize {
    let ns = ns.min((1 << (TOP_BIT + 1)) - 1);
    let octave = ns.checked_ilog2().unwrap_or(0).max(SUB_BITS) - SUB_BITS;
    ((u64::from(octave) << SUB_BITS) + (ns >> octave)) as usize
}

/// The largest duration of a bucket.
fn upper_edge(bucket: usize) -> u64 {
    let octave = (bucket >> SUB_BITS).saturating_sub(1);
    (((bucket - (octave << SUB_BITS)) as u64 + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_a_bucket_whose_edge_is_close_above() {
        for ns in (0..4096).chain((12..40).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 12345])) {
            let edge = upper_edge(bucket_of(ns));
            assert!(edge >= ns && edge - ns <= ns / 8, "{ns} in the bucket up to {edge}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_of_all_parts_together() {
        let parts = [Histogram::new(), Histogram::new()];
        assert_eq!(percentile(&parts, 500), None);
        (0..98).for_each(|_| parts[0].record(7));
        (0..2).for_each(|_| parts[1].record(1000));
        assert_eq!(percentile(&parts, 500), Some(7));
        assert_eq!(percentile(&parts, 980), Some(7));
        assert_eq!(percentile(&parts, 990), Some(1023));
    }
}
