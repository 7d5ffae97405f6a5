//! When free memory is made whole in the background, and when not, because it does not help.
//!
//! How broken free memory is has a score, in per cent. What the administrator wishes says from which score on
//! work begins, and at which it ends. Work that does not lower the score is not tried again for a while:
//! what is in the way then does not move.
//!
//! Linux: mm/compaction.c `kcompactd`, `fragmentation_score_wmark`, `should_proactive_compact_node`.

/// How often the score is asked.
pub const EVERY_NS: u64 = 500_000_000;
/// How many times as long nothing is tried after work that did not help, as a power of two.
#[doc(alias = "COMPACT_MAX_DEFER_SHIFT")]
const DEFER_SHIFT: u32 = 6;
/// The least score that is ever asked for.
const LEAST: u64 = 5;
/// How far above the score that ends it work begins.
const SLACK: u64 = 10;

/// The score at which work ends, for a wish in per cent.
pub fn low(wish: u64) -> u64 {
    100_u64.saturating_sub(wish).max(LEAST)
}

/// Whether work begins.
pub fn is_due(wish: u64, score: u64) -> bool {
    wish > 0 && score > (low(wish) + SLACK).min(100)
}

/// How long to wait after work that changed the score so.
pub fn pause_ns(before: u64, after: u64) -> u64 {
    if after < before { EVERY_NS } else { EVERY_NS << DEFER_SHIFT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greater_wish_begins_earlier_and_ends_later() {
        assert_eq!([0, 20, 90, 100].map(low), [100, 80, 10, LEAST]);
        assert!(!is_due(0, 100), "nobody wishes anything");
        assert_eq!([90, 91].map(|score| is_due(20, score)), [false, true]);
        assert_eq!([15, 16].map(|score| is_due(100, score)), [false, true]);
        assert!(!is_due(1, 100), "no score is above 100 per cent");
    }

    #[test]
    fn work_that_does_not_help_waits_for_half_a_minute() {
        assert_eq!(pause_ns(50, 49), EVERY_NS);
        assert_eq!([pause_ns(50, 50), pause_ns(50, 60)], [32_000_000_000; 2]);
    }
}
