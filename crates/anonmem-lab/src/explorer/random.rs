//! Sampling: random walks, and probabilistic concurrency testing.
//!
//! PCT (Burckhardt and others, 2010) gives each CPU a random priority and lowers it at `depth - 1` random
//! steps: a bug that needs `depth` ordering constraints is found with a known minimum probability.

use super::{Search, engine::Engine};

/// A small generator (xorshift64*).
#[derive(Clone, Copy, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (((self.draw() >> 32) * n as u64) >> 32) as usize
    }

    /// An outcome among `n`: half of the time the ordinary one.
    pub fn choice(&mut self, n: usize) -> usize {
        if self.below(2) == 0 { 0 } else { self.below(n) }
    }
}

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
