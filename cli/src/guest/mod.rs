//! `anonmem bench --guest`: one program, measured in the microVM and, beside it, on a Linux kernel in the
//! same QEMU.
//!
//! `program` builds the static program (`program.c`: small loops over one operation of the memory manager
//! each); `ours` runs it on the microVM kernel, `linux` as a Linux kernel's first process; `transcript` reads
//! what it prints; `report` shows both sides. Operations per second come from boots in turns, A B A B.
//! Instructions per operation come from one more boot of each kernel, on one CPU, with QEMU's clock bound to
//! the instructions that it executes: the time stamp counter then counts them, and they hardly depend on the
//! machine.

mod image;
pub mod kinds;
mod linux;
pub mod options;
mod ours;
mod program;
mod report;
mod setup;
mod transcript;

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anonmem_bench::host::load::LoadWatch;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::BenchOptions;
use crate::channel::signals::Signals;
use crate::error::{EXIT_UNSURE, Error, Result};
use crate::out;
use crate::progress::Progress;
use crate::values::Rmap;
use crate::vm::{accel, kernel, qemu};

use kinds::{Kind, Work};
use options::{Clock, GuestOptions};
use setup::{Outcome, Setup, memory_mib, on_host};
use transcript::Transcript;

/// Measures what the options ask for, prints the table and writes the files.
///
/// # Errors
///
/// See [`Error`]; each has its exit status.
pub fn bench(options: &BenchOptions) -> Result<u8> {
    let kinds = kinds::select(&options.table.rows)?;
    if options.table.list {
        out::print(&kinds::list())?;
        return Ok(0);
    }
    refuse_what_is_for_the_host(options)?;
    let table = &options.table;
    out::check_writable([&table.json, &table.csv, &table.markdown].map(|path| path.as_deref()))?;
    let (start, watch) = (Instant::now(), LoadWatch::start());
    let guest = &options.guest;
    let mut setup = prepare(guest, reverse_map(options))?;
    let timed = timed_work(guest, &kinds)?;
    let counted = Work { window_ms: 100, warm_ms: 20, tasks: 1, ..timed.clone() };
    let sides = 1 + u64::from(setup.image.is_some());
    let steps = (timed.rows() * u64::from(options.table.runs) + counted.rows()) * sides;
    setup.bar = bar(steps);
    setup.bar.set_message("counting instructions");
    let counted = both(&mut setup, &counted, Clock::Instructions)?;
    let mut all = Vec::new();
    for run in 1..=options.table.runs {
        setup.bar.set_message(format!("run {run} of {}", options.table.runs));
        all.push(both(&mut setup, &timed, Clock::Time)?);
    }
    setup.bar.finish_and_clear();
    let outcome = Outcome {
        machine: anonmem_bench::host::about::Machine::describe(host_cpus()).line(),
        qemu: version_of(&setup.qemu),
        accelerator: setup.accelerator,
        memory_mib: memory_mib(&setup)?,
        cpus: timed.tasks,
        lock: setup.lock,
        rmap: setup.rmap,
        folios: setup.folios,
        image: setup.image.take(),
        runs: options.table.runs,
        timed: all,
        counted,
        seconds: start.elapsed().as_secs_f64(),
        load: watch.load(),
    };
    let lines = report::lines(&outcome, &kinds);
    match options.table.markdown.as_deref() {
        Some(path) if path == Path::new("-") => out::print(&report::section(&outcome, &lines))?,
        _ => out::print(&report::text(&outcome, &lines))?,
    }
    let document = options.table.markdown.as_deref().filter(|path| *path != Path::new("-"));
    write(document, || {
        let old = document.and_then(|path| std::fs::read_to_string(path).ok());
        report::markdown(old.as_deref(), &outcome, &lines)
    })?;
    write(options.table.json.as_deref(), || report::json(&outcome, &lines))?;
    write(options.table.csv.as_deref(), || report::csv(&lines))?;
    Ok(if outcome.load.is_too_much() { EXIT_UNSURE } else { 0 })
}

fn refuse_what_is_for_the_host(options: &BenchOptions) -> Result<()> {
    if options.table.svg.is_some() {
        return Err(Error::usage("--svg draws the host's rows; with --guest, write --json or --csv"));
    }
    if options.table.baseline.is_some() {
        return Err(Error::usage("--baseline is for the host's rows, not for --guest"));
    }
    if options.table.against == anonmem_bench::options::Against::None {
        return Err(Error::usage(
            "--against is for the host's rows; --guest measures anonmem alone if there is no --kernel",
        ));
    }
    Ok(())
}

/// The reverse map that is asked for. The bench, which knows no microVM, has a name of its own for it.
fn reverse_map(options: &BenchOptions) -> Rmap {
    match options.table.rmap {
        anonmem_bench::options::Rmap::AnonVma => Rmap::AnonVma,
        anonmem_bench::options::Rmap::Family => Rmap::Family,
    }
}

/// Finds and makes everything that can be missing, before anything takes long.
fn prepare(options: &GuestOptions, rmap: Rmap) -> Result<Setup> {
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let image = options.image()?;
    let qemu = qemu::find(options.qemu.as_deref(), &search_path)?;
    let microvm = kernel::find(options.microvm.as_deref())?;
    let dir = tempfile::Builder::new().prefix("anonmem-bench-").tempdir();
    let dir = dir.map_err(|e| on_host("cannot make a temporary directory", &e))?;
    let program = program::build(dir.path(), &search_path)?;
    let mut signals = Signals::new().map_err(|e| on_host("cannot watch for signals", &e))?;
    let mut progress = Progress::new();
    let accelerator = accel::choose(options.accel, &qemu, &microvm, &mut signals, &mut progress)?;
    progress.finish();
    let bar = ProgressBar::hidden();
    let (ram, lock, folios) = (options.ram, options.lock, options.guest_folios.clone());
    Ok(Setup { qemu, microvm, image, program, dir, accelerator, ram, lock, rmap, folios, signals, bar })
}

/// Divides memory: a quarter of it for all the regions that are populated at once, so that none is swapped or
/// killed.
fn timed_work(options: &GuestOptions, kinds: &[&'static Kind]) -> Result<Work> {
    const MOST_PAGES: u64 = 4096;
    const FEWEST_PAGES: u64 = 256;
    let region_pages = (options.ram / 4 / 4096 / u64::from(options.cpus)).min(MOST_PAGES);
    if region_pages < FEWEST_PAGES {
        return Err(Error::usage(format_args!(
            "--ram is too little for {} tasks; give at least {}M, or fewer --cpus",
            options.cpus,
            (FEWEST_PAGES * 4096 * 4 * u64::from(options.cpus)) >> 20
        )));
    }
    let window_ms = (options.seconds * 1000.0).ceil() as u64;
    Ok(Work {
        window_ms,
        warm_ms: window_ms.div_ceil(5),
        tasks: options.cpus,
        region_pages,
        kinds: kinds.into(),
        folios: options.guest_folios.clone(),
    })
}

/// One boot of each kernel.
fn both(setup: &mut Setup, work: &Work, clock: Clock) -> Result<(Transcript, Option<Transcript>)> {
    let ours = ours::run(setup, work, clock)?;
    let linux = if setup.image.is_some() { Some(linux::run(setup, work, clock)?) } else { None };
    Ok((ours, linux))
}

fn host_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn version_of(qemu: &Path) -> String {
    let output = Command::new(qemu).arg("--version").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let line = text.lines().next().unwrap_or("QEMU");
    line.replace("emulator version ", "")
}

fn write(path: Option<&Path>, text: impl FnOnce() -> String) -> Result<()> {
    path.map_or(Ok(()), |path| out::write(path, &text()))
}

/// A bar on standard error, if that is a terminal.
fn bar(steps: u64) -> ProgressBar {
    let target =
        if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(steps), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg} ({elapsed}, {eta} left)") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}
