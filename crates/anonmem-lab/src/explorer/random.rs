//! Sampling: random walks, and probabilistic concurrency testing.
//!
//! PCT (Burckhardt and others, 2010) gives each CPU a random priority and lowers it at `depth - 1` random
//! steps: a bug that needs `depth` ordering constraints is found with a known minimum probability.

use super::{Search, engine::Engine};

pub use super::rng::Rng;

/// Draws what an execution needs at its beginning.
pub(crate) fn begin(engine: &mut Engine) {
    if let Search::Pct { depth, .. } = engine.search {
        let longest = engine.counters.longest.max(16);
        for cpu in 0..engine.nr_cpus {
            engine.cpus[cpu].priority = 1000 + engine.rng.below(1_000_000) as u32;
        }
        engine.change_points.clear();
        for _ in 1..depth {
            let point = engine.rng.below(longest);
            engine.change_points.push(point);
        }
    }
}

/// A CPU of `enabled`, drawn evenly.
pub(crate) fn walk(engine: &mut Engine, enabled: u16) -> usize {
    let nth = engine.rng.below(enabled.count_ones() as usize);
    (0..16).filter(|cpu| enabled >> cpu & 1 == 1).nth(nth).expect("below the count")
}

/// The CPU of `enabled` with the highest priority.
pub(crate) fn pct(engine: &mut Engine, enabled: u16) -> usize {
    if let Some(i) = engine.change_points.iter().position(|p| *p == engine.depth) {
        let current = engine.current;
        engine.cpus[current].priority = i as u32;
    }
    (0..engine.nr_cpus)
        .filter(|cpu| enabled >> cpu & 1 == 1)
        .max_by_key(|cpu| engine.cpus[*cpu].priority)
        .expect("somebody is enabled")
}
