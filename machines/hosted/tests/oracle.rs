//! Random operations on anonmem and on the oracle, side by side.
//!
//! `ANONMEM_SEED` sets the first seed, `ANONMEM_RUNS` the number of runs; each has its own machine and a
//! thousand operations.

use anonmem::LockMode;
use anonmem_hal::{
    Arch,
    arch::{AArch64, Sv48, X86_64},
};
use anonmem_hosted::{
    oracle::Successes,
    runner::{Inject, run_random},
    system::{Anonmem, FOLIOS, Memory, Moves},
};
use std::sync::{Arc, atomic::Ordering::Relaxed};

const STEPS: usize = 1_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// In every lock mode, with folios of every size: one thread sees no difference, but the code does.
#[track_caller]
fn run(default_runs: u64, memory: Memory, inject: Inject) {
    run_on::<X86_64>(default_runs, memory, inject);
}

/// The same with the page tables of another processor.
#[track_caller]
fn run_on<A: Arch>(default_runs: u64, memory: Memory, inject: Inject) {
    let first = number("ANONMEM_SEED", 1);
    let (moves, mut moving) = (Arc::new(Moves::default()), 0);
    let (successes, runs) = (Arc::new(Successes::default()), number("ANONMEM_RUNS", default_runs));
    for seed in first..first + runs {
        let modes = [LockMode::Mmap, LockMode::Vma, LockMode::Speculative];
        let mode = modes[(seed % 3) as usize];
        let (name, folios) = FOLIOS[((seed / 3) % 5) as usize];
        // Nor may anybody see that pages move, and become large folios.
        let moves_pages = seed % 5 > 2;
        moving += u64::from(moves_pages);
        // Every other run merges equal pages, which nobody may see.
        let start = || {
            let (mut system, mut oracle) = Anonmem::<A>::start_with(mode, memory, folios);
            oracle.count_in(&successes);
            if seed.is_multiple_of(2) {
                system = system.merging();
            }
            if moves_pages {
                system = system.moving(&moves);
            }
            (system, oracle)
        };
        if let Err(failure) = run_random(&start, seed, STEPS, inject) {
            panic!("seed {seed}, {mode:?}, folios {name}: {failure:?}");
        }
    }
    let (moved, collapsed) = (moves.moved.load(Relaxed), moves.collapsed.load(Relaxed));
    // One run that is made again may happen to do neither.
    let enough = moving < 10 || moved >= moving && collapsed >= moving;
    assert!(enough, "{moved} moved, {collapsed} collapsed in {moving} runs");
    // What the oracle lets be refused must not be refused always.
    for (what, count) in successes.each() {
        assert!(runs < 10 || count > 0, "in {runs} runs no page was {what}");
    }
}

#[test]
fn two_hundred_thousand_operations_do_what_the_oracle_says() {
    run(200, Memory::Plenty, Inject::Nothing);
}

#[test]
fn an_operation_without_memory_fails_cleanly_at_every_allocation() {
    run(20, Memory::Plenty, Inject::EveryAllocation { one_in: 3 });
}

#[test]
fn pages_that_were_swapped_out_are_what_they_were() {
    run(40, Memory::Short, Inject::Nothing);
}

#[test]
fn operations_fail_cleanly_while_memory_is_short() {
    run(10, Memory::Short, Inject::EveryAllocation { one_in: 10 });
}

#[test]
fn folios_that_leave_and_return_in_runs_are_what_they_were() {
    run(30, Memory::Tight, Inject::Nothing);
}

#[test]
fn page_tables_of_aarch64_say_the_same() {
    run_on::<AArch64>(30, Memory::Plenty, Inject::Nothing);
    run_on::<AArch64>(20, Memory::Short, Inject::Nothing);
}

#[test]
fn page_tables_of_risc_v_say_the_same() {
    run_on::<Sv48>(30, Memory::Plenty, Inject::Nothing);
    run_on::<Sv48>(20, Memory::Short, Inject::Nothing);
}
