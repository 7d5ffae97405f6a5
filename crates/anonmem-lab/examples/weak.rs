//! Explores cases under weak memory with two preemptions, one after the other, whatever the catalogue says:
//! `cargo run --release -p anonmem-lab --example weak [CASE...]`. `cases/weak.rs` keeps what it found. With
//! `--missing`, the cases of which it does not know.

use anonmem_lab::{Exploration, Model, Search, cases, explore_bounded};
use std::{process::ExitCode, time::Instant};

/// More executions than this are too many for every check.
const MOST: u64 = 200_000;

fn main() -> ExitCode {
    let (options, names): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let only_missing = options.iter().any(|o| o == "--missing");
    let mut failed = false;
    for case in cases::all() {
        if !names.is_empty() && !names.iter().any(|n| n == case.name) {
            continue;
        }
        if only_missing && !case.weak_memory().ends_with("not measured") {
            continue;
        }
        let inject = case.runs[0].inject;
        let config =
            Exploration { model: Model::C11, inject, max_executions: MOST, ..Exploration::default() };
        let began = Instant::now();
        let report = explore_bounded(&*(case.program)(None), &config, 2);
        let ended = report.search.starts_with(&Search::Bounded { preemptions: 2 }.name());
        let end = match (&report.found, ended) {
            (Some(_), _) => "BROKEN",
            (None, true) => "held",
            (None, false) => "too many",
        };
        println!("{end:9}{} in {:.1} s: {report}", case.name, began.elapsed().as_secs_f64());
        if let Some(found) = &report.found {
            failed = true;
            println!("{}", found.trace);
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
