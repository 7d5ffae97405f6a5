//! Random operations on anonmem and on the oracle, side by side.
//!
//! `ANONMEM_SEED` sets the first seed, `ANONMEM_RUNS` the number of runs; each has its own machine and 500 operations.

use anonmem::LockMode;
use anonmem_hosted::{
    runner::{Inject, run_random},
    system::Anonmem,
};

const STEPS: usize = 500;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// In every lock mode: one thread sees no difference, but the code does.
#[track_caller]
fn run(default_runs: u64, inject: Inject) {
    let first = number("ANONMEM_SEED", 1);
    for seed in first..first + number("ANONMEM_RUNS", default_runs) {
        let modes = [LockMode::Mmap, LockMode::Vma, LockMode::Speculative];
        let mode = modes[(seed % 3) as usize];
        if let Err(failure) = run_random(&|| Anonmem::start(mode), seed, STEPS, inject) {
            panic!("seed {seed}, {mode:?}: {failure:?}");
        }
    }
}

#[test]
fn a_hundred_thousand_operations_do_what_the_oracle_says() {
    run(220, Inject::Nothing);
}

#[test]
fn an_operation_without_memory_fails_cleanly_at_every_allocation() {
    run(40, Inject::EveryAllocation { one_in: 3 });
}
