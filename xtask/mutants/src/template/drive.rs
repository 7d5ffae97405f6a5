//! Explores the cases that are named, in that order, and stops at the first that fails.

use anonmem_lab::cases;
use std::{io::Write, process::ExitCode, time::Duration};

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if names.is_empty() {
        cases::all().iter().for_each(|case| println!("{}", case.name));
        return ExitCode::SUCCESS;
    }
    let budget = std::env::var("ANONMEM_BUDGET_MS").ok().and_then(|ms| ms.parse().ok()).unwrap_or(5_000);
    for name in &names {
        let case = cases::find(name).expect("a case of the catalogue");
        println!("case: {name}");
        let _ = std::io::stdout().flush();
        for report in case.check(None, Duration::from_millis(budget)) {
            if let Some(found) = &report.found {
                println!("found: {}", found.failure);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
