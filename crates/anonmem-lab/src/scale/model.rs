//! What the conflicts of an operation with itself cost when many CPUs do nothing else.
//!
//! Bounds of operational analysis (Denning and Buzen, 1978), from numbers that are simulated but for two: the
//! time of a transfer of a cache line, and that of an access. An operation alone takes `accesses` times the
//! time of an access. With other CPUs at work, a line in conflict is elsewhere with probability (n-1)/n, and
//! each visit fetches it. A line serves one visit at a time, and a lock that is held alone one holder. So
//! the busiest of them bounds what all CPUs do together.

use super::pair::Cost;

/// The numbers that are not simulated.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Prices {
    /// Nanoseconds to fetch a line that another CPU has written.
    pub transfer_ns: f64,
    /// Nanoseconds of the work that goes with one access to shared memory.
    pub access_ns: f64,
    /// Nanoseconds that an operation waits for each CPU that it interrupts.
    pub interrupt_ns: f64,
}

/// The most CPUs of a curve.
pub const MOST_CPUS: u32 = 256;

/// The numbers of CPUs of a curve.
pub fn cpus() -> impl Iterator<Item = u32> {
    (0..).map(|i| 1 << i).take_while(|n| *n <= MOST_CPUS)
}

/// Operations a microsecond that `n` CPUs do together.
pub fn throughput(cost: &Cost, prices: &Prices, n: u32) -> f64 {
    let alone = cost.accesses as f64 * prices.access_ns;
    let elsewhere = f64::from(n - 1) / f64::from(n);
    let fetches = cost.visits.iter().sum::<usize>() as f64;
    let interrupts = if n > 1 { cost.interrupts as f64 * prices.interrupt_ns } else { 0.0 };
    let one = alone + elsewhere * fetches * prices.transfer_ns + interrupts;
    let lines = cost.visits.iter().map(|visits| *visits as f64 * prices.transfer_ns);
    let locks = cost.held.iter().map(|(accesses, fetched)| {
        *accesses as f64 * prices.access_ns + (1 + fetched) as f64 * prices.transfer_ns
    });
    let busiest = if n > 1 { lines.chain(locks).fold(0.0, f64::max) } else { 0.0 };
    let unbound = f64::from(n) / one;
    1000.0 * if busiest > 0.0 { unbound.min(1.0 / busiest) } else { unbound }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICES: Prices = Prices { transfer_ns: 100.0, access_ns: 2.0, interrupt_ns: 2000.0 };

    #[test]
    fn without_conflicts_it_grows_with_the_cpus() {
        let cost = Cost { accesses: 100, ..Cost::default() };
        assert_eq!(throughput(&cost, &PRICES, 1), 5.0);
        assert_eq!(throughput(&cost, &PRICES, 256), 256.0 * 5.0);
    }

    #[test]
    fn one_line_bounds_them_all() {
        let cost = Cost { accesses: 100, visits: vec![2], ..Cost::default() };
        assert_eq!(throughput(&cost, &PRICES, 1), 5.0, "alone it costs nothing");
        assert_eq!(
            throughput(&cost, &PRICES, 256),
            5.0,
            "two visits of 100 ns are one operation each 200 ns"
        );
    }

    #[test]
    fn a_lock_bounds_them_by_what_is_done_under_it() {
        let cost = Cost { accesses: 100, visits: vec![1], held: vec![(50, 1)], ..Cost::default() };
        assert_eq!(throughput(&cost, &PRICES, 64), 1000.0 / 300.0);
    }
}
