//! How many executions a second the lab makes: `cargo run --release -p anonmem-lab --example rate [CASE...]`.
//!
//! Explores each run of the cases again and again for a second. Prints per execution the steps, and those
//! that took turns; then executions per second of CPU time on one thread (what else runs on the machine does
//! not matter, setting up the explorations counts), and of time on as many threads as there are CPUs, each
//! with an exploration of its own (as `anonmem check` does). Without names: the seed cases.

use anonmem_lab::cases::{self, Case, Run};
use std::time::{Duration, Instant};

fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let title = format!("{threads} threads/s");
    println!(
        "{:<32} {:<5} {:<16} {:>6} {:>6} {:>10} {title:>12}",
        "case", "model", "search", "steps", "turns", "per CPU-s"
    );
    for case in cases::all() {
        let chosen =
            names.iter().any(|n| n == case.name) || names.is_empty() && case.name.starts_with("seed-");
        for run in case.runs.iter().filter(|_| chosen) {
            let before = cpu_time();
            let one = measure(case, run);
            let per_cpu_second = one.executions as f64 / (cpu_time() - before).as_secs_f64();
            let all: f64 = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..threads).map(|_| scope.spawn(|| measure(case, run).rate())).collect();
                threads.into_iter().map(|t| t.join().expect("explorations do not panic")).sum()
            });
            let per = |n: u64| n as f64 / one.executions as f64;
            println!(
                "{:<32} {:<5} {:<16} {:>6.0} {:>6.0} {per_cpu_second:>10.0} {all:>12.0}",
                case.name,
                run.model.name(),
                one.search,
                per(one.steps),
                per(one.turns)
            );
        }
    }
}

/// What a second of exploring came to.
#[derive(Default)]
struct Measured {
    search: String,
    executions: u64,
    steps: u64,
    turns: u64,
    elapsed: Duration,
}

impl Measured {
    fn rate(&self) -> f64 {
        self.executions as f64 / self.elapsed.as_secs_f64()
    }
}

fn measure(case: &Case, run: &Run) -> Measured {
    let program = (case.program)(None);
    let start = Instant::now();
    let mut sum = Measured::default();
    while start.elapsed() < Duration::from_secs(1) {
        let report = run.explore(&*program, Duration::from_secs(1));
        report.assert_passed();
        sum.search = report.search;
        sum.executions += report.executions;
        sum.steps += report.steps;
        sum.turns += report.turns;
        sum.elapsed += report.elapsed;
    }
    sum
}

/// CPU time of this process: user and system, in ticks of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit(')').next().expect("not empty");
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
