//! How many pages KSM looks at a time, so that a sweep over all of them takes as long as it should.
//!
//! After each sweep the number follows how long the sweep took: twice the time that it should take means
//! twice the pages. It moves by a third of the way, so that one odd sweep does not count for much, and stays
//! within what the administrator allows. What it may use of a processor bounds it, too.
//!
//! Linux: mm/ksm.c `scan_time_advisor`.

/// What the administrator allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advisor {
    /// Milliseconds that a sweep should take.
    pub target_ms: u64,
    /// The most of one processor that the scanner may use, in per cent.
    pub max_cpu: u64,
    /// The fewest pages at a time.
    pub min_pages: u64,
    /// The most pages at a time.
    pub max_pages: u64,
}

/// What a sweep has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// From its start to its end, in milliseconds.
    pub took_ms: u64,
    /// Milliseconds of a processor's time.
    pub worked_ms: u64,
}

/// Of a hundred: how far the number moves after one sweep.
const WEIGHT: u64 = 30;

impl Advisor {
    /// The pages to look at a time after a sweep at `pages` a time.
    pub fn pages_after(&self, pages: u64, sweep: Sweep) -> u64 {
        let took = sweep.took_ms.max(1);
        let wanted = pages.saturating_mul(took) / self.target_ms.max(1);
        let moved = wanted.saturating_mul(WEIGHT).saturating_add(pages.saturating_mul(100 - WEIGHT)) / 100;
        // As many pages in the same time cost as much more of the processor.
        let used = (sweep.worked_ms.saturating_mul(100) / took).max(1);
        let affordable = pages.saturating_mul(self.max_cpu) / used;
        moved.min(affordable.max(1)).clamp(self.min_pages, self.max_pages.max(self.min_pages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADVISOR: Advisor = Advisor { target_ms: 200_000, max_cpu: 70, min_pages: 500, max_pages: 30_000 };

    fn after(pages: u64, took_ms: u64, worked_ms: u64) -> u64 {
        ADVISOR.pages_after(pages, Sweep { took_ms, worked_ms })
    }

    #[test]
    fn a_sweep_that_takes_too_long_gets_more_pages_and_a_short_one_fewer() {
        assert_eq!(after(1000, 200_000, 10), 1000);
        assert_eq!(after(1000, 400_000, 10), 1300);
        assert_eq!(after(1000, 100_000, 10), 850);
    }

    #[test]
    fn the_number_stays_within_its_bounds() {
        assert_eq!(after(600, 0, 0), 500);
        assert_eq!(after(30_000, 9_000_000, 10), 30_000);
        let odd = Advisor { min_pages: 700, max_pages: 100, target_ms: 0, ..ADVISOR };
        assert_eq!(odd.pages_after(u64::MAX, Sweep { took_ms: u64::MAX, worked_ms: 0 }), 700);
    }

    #[test]
    fn the_processor_bounds_it() {
        // 90 of 100 milliseconds: 1,000 pages are too many already.
        assert_eq!(after(1000, 400_000, 360_000), 777);
        assert_eq!(after(1000, 400_000, 100_000), 1300);
    }
}
