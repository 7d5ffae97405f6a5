//! Counts the instructions of the hot paths and compares them with the committed table.
//!
//! ```text
//! anonmem-instructions check FILE    fail if a row grew by more than 3 %
//! anonmem-instructions record FILE   write the table
//! anonmem-instructions run CASE      what runs under valgrind: prints how many units were counted
//! ```

use anonmem_bench::instructions::{LIMIT_PERCENT, Table, cases, valgrind};
use std::{fs, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["check", file] => check(file),
        ["record", file] => record(file),
        ["run", case] => run(case),
        _ => Err("usage: anonmem-instructions check FILE | record FILE | run CASE".into()),
    };
    match result {
        Ok(code) => code,
        Err(message) => {
            eprintln!("anonmem-instructions: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(name: &str) -> Result<ExitCode, String> {
    let case = cases::find(name).ok_or_else(|| format!("no case is called {name}"))?;
    let world = cases::world();
    let _cpu = world.enter(0);
    println!("{}", (case.run)(&world));
    Ok(ExitCode::SUCCESS)
}

fn record(file: &str) -> Result<ExitCode, String> {
    let table = valgrind::measure().map_err(|e| e.to_string())?;
    fs::write(file, table.text()).map_err(|e| format!("cannot write {file}: {e}"))?;
    print!("{}", table.text());
    Ok(ExitCode::SUCCESS)
}

fn check(file: &str) -> Result<ExitCode, String> {
    let text = fs::read_to_string(file).map_err(|e| format!("cannot read {file}: {e}"))?;
    let before = Table::parse(&text).map_err(|e| format!("{file}: {e}"))?;
    let now = valgrind::measure().map_err(|e| e.to_string())?;
    let changes = before.compare(&now);
    println!("{:18} {:>10} {:>10} {:>8}", "instructions", "committed", "now", "change");
    for change in &changes {
        let number = |n: Option<f64>| n.map_or("-".into(), |n| format!("{n:.1}"));
        let percent = change.percent().map_or("-".into(), |p| format!("{p:+.1} %"));
        let verdict = if change.is_too_much() { "  TOO MUCH" } else { "" };
        println!(
            "{:18} {:>10} {:>10} {percent:>8}{verdict}",
            change.name,
            number(change.before),
            number(change.now)
        );
    }
    if before.rustc != now.rustc {
        println!(
            "NOT JUDGED: the table was made with {}, this is {}. With the new compiler, record it anew.",
            before.rustc, now.rustc
        );
        return Ok(ExitCode::SUCCESS);
    }
    for (a, b) in now.unequal() {
        println!("{b} should cost exactly what {a} does.");
    }
    if !now.unequal().is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    if changes.iter().any(anonmem_bench::instructions::table::Change::is_too_much) {
        println!(
            "A hot path grew by more than {LIMIT_PERCENT} %, or is not in the table. If it must, say why and record."
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
