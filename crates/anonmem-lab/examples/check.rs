//! Explores cases and prints a verdict for each: `cargo run --release -p anonmem-lab --example check
//! [CASE...]`. With `--first`, the first that breaks a rule is the last. `--budget=SECONDS` is what each way
//! of a case may use of a processor's time, 30 without it.

use anonmem_lab::cases;
use std::{process::ExitCode, time::Duration};

fn main() -> ExitCode {
    let (options, names): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let only_first = options.iter().any(|o| o == "--first");
    let budget = options.iter().find_map(|o| o.strip_prefix("--budget="));
    let budget = Duration::from_secs(budget.map_or(30, |b| b.parse().expect("seconds")));
    let mut failed = false;
    for case in cases::all() {
        if !names.is_empty() && !names.iter().any(|n| n == case.name) {
            continue;
        }
        for report in case.check(None, budget) {
            println!("{report}");
            if let Some(found) = &report.found {
                failed = true;
                println!("broken: {}\n{}", case.name, found.trace);
            }
        }
        if failed && only_first {
            break;
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
