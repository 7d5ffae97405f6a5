//! Running the experiments: sides take turns, run after run.

use crate::{
    PAGE,
    experiments::{EXPERIMENTS, Experiment},
    host::{about::Machine, cpus, entry::Entry, folios::Folios, load::LoadWatch, settings::Settings},
    options::Options,
    outcome::{Bench, Cannot, Outcome, Samples, Side},
    report,
    rows::{self, Row},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    collections::BTreeMap,
    fmt,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

/// Why a bench could not be done.
#[derive(Debug)]
pub enum Error {
    /// No row has such a name.
    NoSuchRow(String),
    /// A report could not be written.
    Write(PathBuf, io::Error),
    /// Standard output could not be written.
    Print(io::Error),
    /// The baseline could not be read.
    Baseline(PathBuf, String),
    /// The host refused something that every row needs.
    Host(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchRow(name) => {
                write!(f, "no row is called \"{name}\"; anonmem bench --list names them")
            }
            Self::Write(path, e) => write!(f, "cannot write {}: {e}", path.display()),
            Self::Print(e) => write!(f, "cannot write to standard output: {e}"),
            Self::Baseline(path, why) => write!(f, "{} is no result of bench --json: {why}", path.display()),
            Self::Host(e) => write!(f, "the host refuses: {e}"),
        }
    }
}

impl std::error::Error for Error {}

/// Whether the times can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The machine was quiet, or nothing was measured.
    Good,
    /// Others were too busy meanwhile.
    Disturbed,
}

/// Measures what the options ask for and reports it.
///
/// # Errors
/// [`Error`].
pub fn bench(options: &Options) -> Result<Trust, Error> {
    if options.list {
        print(&report::table::list())?;
        return Ok(Trust::Good);
    }
    let wanted = select(&options.rows)?;
    let baseline = options.baseline.as_deref().map(read_baseline).transpose()?;
    let outcome = measure(options, &wanted).map_err(Error::Host)?;
    match options.markdown.as_deref() {
        Some(path) if path == Path::new("-") => print(&report::markdown::text(&outcome))?,
        path => {
            print(&report::table::text(&outcome))?;
            write(path, || refreshed(path, &outcome))?;
        }
    }
    if let Some(baseline) = &baseline {
        print(&report::baseline::text(&outcome, baseline))?;
    }
    write(options.json.as_deref(), || report::json::text(&outcome))?;
    write(options.csv.as_deref(), || report::csv::text(&outcome))?;
    write(options.svg.as_deref(), || report::svg::text(&outcome))?;
    Ok(if outcome.load.is_too_much() { Trust::Disturbed } else { Trust::Good })
}

fn read_baseline(path: &Path) -> Result<report::baseline::Baseline, Error> {
    let failed = |why: String| Error::Baseline(path.into(), why);
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    report::baseline::read(&text).map_err(failed)
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Print)
}

fn write(path: Option<&Path>, text: impl FnOnce() -> String) -> Result<(), Error> {
    match path {
        Some(path) => std::fs::write(path, text()).map_err(|e| Error::Write(path.into(), e)),
        None => Ok(()),
    }
}

/// The document at `path` with the new table in it.
fn refreshed(path: Option<&Path>, outcome: &Outcome) -> String {
    let document = path.and_then(|path| std::fs::read_to_string(path).ok());
    report::markdown::refreshed(document.as_deref(), &report::markdown::text(outcome))
}

/// Which rows are asked for.
struct Wanted {
    rows: Vec<&'static Row>,
    not_yet: Vec<&'static rows::NotYet>,
}

fn select(names: &[String]) -> Result<Wanted, Error> {
    let matches = |id: &str| {
        names.is_empty() || names.iter().any(|n| n == id || (!is_exact(n) && id.contains(n.as_str())))
    };
    for name in names {
        if !all_ids().any(|id| id.contains(name.as_str())) {
            return Err(Error::NoSuchRow(name.clone()));
        }
    }
    Ok(Wanted {
        rows: rows::ROWS.iter().filter(|row| matches(row.id)).collect(),
        not_yet: rows::NOT_YET.iter().filter(|row| matches(row.id)).collect(),
    })
}

fn all_ids() -> impl Iterator<Item = &'static str> {
    rows::ROWS.iter().map(|r| r.id).chain(rows::NOT_YET.iter().map(|r| r.id))
}

/// Whether a name is that of a row, and not only a part of some.
fn is_exact(name: &str) -> bool {
    all_ids().any(|id| id == name)
}

fn measure(options: &Options, wanted: &Wanted) -> io::Result<Outcome> {
    let settings = Settings::guard()?;
    let cpus = cpus::allowed()?;
    let watch = (LoadWatch::start(), std::time::Instant::now());
    let machine = Machine::describe(cpus.len());
    let entry = Entry::measure(cpus[0]);
    let bench = Bench::new(cpus)?;
    let chosen: Vec<_> = EXPERIMENTS.iter().filter(|e| e.is_needed_for(&wanted.rows)).collect();
    let mut samples = Samples::default();
    let mut cannot = BTreeMap::new();
    let progress = progress(chosen.len() as u64 * u64::from(options.runs + 1));
    for experiment in chosen {
        progress.set_message(experiment.name);
        run(experiment, options, &bench, &settings, (&mut samples, &mut cannot), &progress);
    }
    progress.finish_and_clear();
    Ok(Outcome {
        machine,
        entry,
        runs: options.runs,
        rows: wanted.rows.clone(),
        not_yet: wanted.not_yet.clone(),
        samples,
        cannot,
        load: watch.0.load(),
        seconds: watch.1.elapsed().as_secs_f64(),
    })
}

/// One experiment: the limit, ours, the host; and again.
fn run(
    experiment: &Experiment,
    options: &Options,
    bench: &Bench,
    settings: &Settings,
    (samples, cannot): (&mut Samples, &mut Cannot),
    progress: &ProgressBar,
) {
    let _ = cpus::pin(bench.cpus[0]);
    let mut ours = experiment.ours;
    let wanted = |f: &Folios| options.against.has_host() && options.folios.contains(f);
    let mut sizes: Vec<_> = experiment.folios.iter().copied().filter(wanted).collect();
    let peer = experiment.peer.filter(|_| options.against.has_peer());
    if experiment.threads > bench.cpus.len() {
        let why = format!("needs {} CPUs", experiment.threads);
        for side in [Side::Ours, Side::Host(Folios::Base)] {
            cannot.extend(experiment.rows.iter().map(|row| ((*row, side), why.clone())));
        }
        (ours, sizes) = (None, Vec::new());
    }
    for turn in 0..=options.runs {
        samples.warming = turn == 0;
        if let Some(ours) = ours {
            ours(bench, samples);
            for &folios in experiment.ours_large.iter().filter(|f| options.folios.contains(f)) {
                samples.ours = folios;
                bench.set_folios(folios);
                ours(bench, samples);
            }
            samples.ours = Folios::Base;
            bench.set_folios(Folios::Base);
        }
        if let Some(peer) = peer {
            peer(bench, samples);
        }
        if let Some(host) = experiment.host {
            sizes.retain(|&folios| {
                let done = settings.with(folios, || host(bench, samples, folios));
                done.inspect_err(|e| cannot_measure(cannot, experiment, Side::Host(folios), e)).is_ok()
            });
        }
        progress.inc(1);
    }
}

fn cannot_measure(cannot: &mut Cannot, experiment: &Experiment, side: Side, why: &io::Error) {
    cannot.extend(experiment.rows.iter().map(|row| ((*row, side), why.to_string())));
}

/// A bar on standard error, if that is a terminal.
fn progress(steps: u64) -> ProgressBar {
    let target =
        if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(steps), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg} ({elapsed}, {eta} left)") {
        bar.set_style(style);
    }
    bar
}

const _: () = assert!(PAGE == anonmem_hal::PAGE_SIZE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_name_selects_all_that_have_it_and_a_name_only_itself() {
        let ids = |names: &[&str]| -> Vec<_> {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            select(&names).unwrap().rows.iter().map(|row| row.id).collect()
        };
        assert_eq!(ids(&["fork"]), ["fork"]);
        assert_eq!(ids(&["lookup"]), ["lookup-10", "lookup-1000", "lookup-100000"]);
        assert_eq!(ids(&[]).len(), rows::ROWS.len());
        assert!(matches!(select(&["nonsense".into()]), Err(Error::NoSuchRow(_))));
    }

    /// Nothing else runs the rows outside of a measurement: a row that panics would be found out there.
    #[test]
    fn every_row_of_ours_gives_a_sample() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        let line: Line = clap::Parser::parse_from(["bench", "--against", "none", "--runs", "1"]);
        let outcome = measure(&line.options, &select(&[]).unwrap()).unwrap();
        for experiment in EXPERIMENTS.iter().filter(|e| e.ours.is_some() && e.threads <= outcome.machine.cpus)
        {
            for row in experiment.rows {
                assert!(outcome.samples.of(row, Side::Ours).is_some(), "{row} has no sample");
            }
        }
    }
}
