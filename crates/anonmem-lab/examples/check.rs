//! Explores cases and prints a verdict for each: `cargo run --release -p anonmem-lab --example check [CASE...]`.

use anonmem_lab::cases;
use std::{process::ExitCode, time::Duration};

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let mut failed = false;
    for case in cases::all() {
        if !names.is_empty() && !names.iter().any(|n| n == case.name) {
            continue;
        }
        for report in case.check(None, Duration::from_secs(30)) {
            println!("{report}");
            if let Some(found) = &report.found {
                failed = true;
                println!("{}", found.trace);
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
