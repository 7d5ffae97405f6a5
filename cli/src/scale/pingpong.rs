//! How long a cache line takes from one CPU to another, on this machine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Rounds of a batch: some 100 microseconds, so that a few batches run undisturbed on a busy machine.
const ROUNDS: u64 = 1000;
const BATCHES: usize = 200;

/// On lines of its own.
#[repr(align(128))]
struct Ball(AtomicU64);

/// Nanoseconds of one transfer: two threads take turns at one word, and each turn fetches its line. The
/// fastest of many batches counts, because whatever else happens can only add to it.
pub(super) fn transfer_ns() -> f64 {
    let ball = Ball(AtomicU64::new(0));
    let turns = ROUNDS * BATCHES as u64;
    std::thread::scope(|scope| {
        scope.spawn(|| (0..turns).for_each(|turn| hit(&ball, 2 * turn + 1)));
        let batch = |batch: u64| {
            let start = Instant::now();
            (batch * ROUNDS..(batch + 1) * ROUNDS).for_each(|turn| hit(&ball, 2 * turn));
            start.elapsed().as_nanos() as f64 / (2 * ROUNDS) as f64
        };
        (0..BATCHES as u64).map(batch).fold(f64::INFINITY, f64::min)
    })
}

/// Waits for the turn, and passes the ball on.
fn hit(ball: &Ball, turn: u64) {
    let mut spins = 0u32;
    while ball.0.load(Ordering::Acquire) != turn {
        spins += 1;
        // With one CPU for both, the other one has to run.
        if spins.is_multiple_of(4096) { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
    ball.0.store(turn + 1, Ordering::Release);
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_ball_comes_back() {
        assert!(super::transfer_ns() > 0.0);
    }
}
