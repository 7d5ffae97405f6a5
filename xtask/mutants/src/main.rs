//! Plants small bugs, one at a time, and says which of them the lab and the tests find.
//!
//! `make mutants-generated` runs it over the files whose protocols matter most. All bugs are written into one
//! copy of the tree, each behind a question that the environment answers, so the tree is built once.
//!
//! - [`patch`], [`by_hand`]: the bugs of `mutants/`, planted in the same way (`mutants/run`).
//! - [`mutant`], [`sites`]: where a file can be broken, and how.
//! - [`plant`]: writes all mutants into a file.
//! - [`tree`], [`build`]: the copy, and building it without the mutants that do not compile.
//! - [`suites`], [`process`]: shows a mutant to the lab and the tests that come past it.
//! - [`survivors`], [`report`]: why some survive, and what came of it.

mod build;
mod by_hand;
mod mutant;
mod patch;
mod plant;
mod process;
mod report;
mod sites;
mod suites;
mod survivors;
mod tree;

use std::collections::BTreeSet;
use std::fs;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use mutant::Mutant;
use report::{Before, Report, Row};
use suites::{Outcome, Pace, Suites};

/// Where the explanations are.
pub(crate) const SURVIVORS: &str = "mutants/survivors.toml";
/// Where the pages with the last results are.
const DOCS: &str = "docs/mutants";
/// What follows in such a page is the last result.
const MARKER: &str = "<!-- result -->";
const LISTED: [&str; 4] = [
    "crates/anonmem/src/rmap",
    "crates/anonmem/src/fault",
    "crates/anonmem/src/fork.rs",
    "crates/anonmem/src/gup",
];
/// What only tests over the families run.
const FAMILIES: &str = "crates/anonmem/src/rmap/family/";
/// At least so many of a thousand are to be caught.
const LEAST: usize = 900;

const USAGE: &str = "\
usage: anonmem-mutants --by-hand [--quick] [--again] [--list] [--docs] [--jobs N] [NAME|named|holes...]
       anonmem-mutants [--list] [--again] [--report] [--docs] [--jobs N] [FILE|FOLDER...]
Plants bugs in a copy of the tree and says which of them the lab and the tests find. Without files: rmap/, fault/, fork.rs, gup/.
  --by-hand plant the patches of mutants/ instead, all of them or those of NAME;
            holes: all of mutants/holes; named: those that name what must find them
  --list    only list the mutants; of the patches, which are planted together
  --quick   with --by-hand: a short look; --again then asks those that nobody found for longer
  --again   go on with the last run: ask those that it did not come to, or that survived it without an explanation
  --report  run nothing: print the last run's result again, with what mutants/survivors.toml says by now
  --docs    write the result into docs/mutants
  --jobs N  so many at a time (default: one for each processor)
Exit status 1: under 90 % are caught, or a survivor is not explained in mutants/survivors.toml.";

#[derive(Default)]
struct Options {
    by_hand: bool,
    quick: bool,
    list: bool,
    again: bool,
    report: bool,
    docs: bool,
    jobs: usize,
    paths: Vec<String>,
}

impl Options {
    fn pace(&self) -> Pace {
        if self.quick { Pace::Quick } else { Pace::Slow }
    }
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."));
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    match run(root, &options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("mutants: {message}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, &'static str> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { jobs, ..Options::default() };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--by-hand" => options.by_hand = true,
            "--quick" => options.quick = true,
            "--list" => options.list = true,
            "--again" => options.again = true,
            "--report" => options.report = true,
            "--docs" => options.docs = true,
            "--jobs" => {
                let jobs = arguments.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
                options.jobs = jobs.ok_or(USAGE)?;
            }
            path if !path.starts_with('-') => options.paths.push(path.into()),
            _ => return Err(USAGE),
        }
    }
    Ok(options)
}

fn run(root: &Path, options: &Options) -> Result<bool, String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    if options.by_hand {
        return by_hand::run(root, &target.join("mutants/by-hand"), options);
    }
    let files = tree::sources(root, &listed(root, options))?;
    let mutants = find(root, &files)?;
    if options.list {
        mutants.iter().for_each(|m| println!("{}", m.describe()));
        println!("{} mutants", mutants.len());
        return Ok(true);
    }
    let explanations = explanations(root, &files, &mutants)?;
    let work = target.join("mutants/generated");
    let json = work.join("result.json");
    if options.report {
        let report = Report::again(report::read(&json)?, mutants, explanations);
        return publish(root, &json, &report, options.docs);
    }
    let last = options.again.then(|| report::read(&json)).transpose()?;
    let report = measure(root, options, &work, (&files, mutants, explanations), last.as_ref())?;
    publish(root, &json, &report, options.docs)
}

/// The files and folders to plant mutants in.
fn listed(root: &Path, options: &Options) -> Vec<String> {
    if options.paths.is_empty() {
        let there = |p: &&&str| root.join(p).exists();
        LISTED.iter().filter(there).map(ToString::to_string).collect()
    } else {
        options.paths.clone()
    }
}

/// The files, the mutants of them, and what is known of those that survive.
type Subject<'a> = (&'a [String], Vec<Mutant>, Vec<survivors::Explanation>);

/// Plants the mutants, builds, shows every one to what runs its code, and writes down what came of it as it
/// comes. What `last` knows already is not shown again.
fn measure(
    root: &Path,
    options: &Options,
    work: &Path,
    (files, mut mutants, explanations): Subject<'_>,
    last: Option<&report::Json>,
) -> Result<Report, String> {
    let start = Instant::now();
    let (suites, refused) = build_suites(root, work, files, &mut mutants)?;
    let (cases, code) = (suites.cases(), tree::code(root)?);
    let mut report =
        Report { rows: Vec::new(), refused, explanations: explanations.clone(), seconds: 0, cases, code };
    let (before, before_seconds) = (last.map(Before::all), last.map_or(0, |last| last.seconds));
    let is_explained = |mutant: &Mutant| explanations.iter().any(|e| e.names(mutant));
    let known = |mutant: &Mutant| {
        let outcome = before.as_ref()?.outcome(mutant)?;
        // Survivors that are explained stay what they are.
        let settled = !matches!(outcome, Outcome::Survived { .. }) || is_explained(mutant);
        settled.then(|| outcome.clone())
    };
    let so_far = Mutex::new(&mut report);
    show_all(&mutants, &suites, options.jobs, known, is_explained, |row| {
        let mut report = so_far.lock().map_err(|_| "a worker panicked")?;
        report.rows.push(row);
        report.seconds = start.elapsed().as_secs() + before_seconds;
        progress(&report.rows, mutants.len());
        // A run that is stopped goes on with --again.
        if report.rows.len() % 20 == 0 { write_json(&work.join("result.json"), &report) } else { Ok(()) }
    })?;
    report.rows.sort_by_key(|r| r.mutant.id);
    Ok(report)
}

/// Plants the mutants in a copy of the tree and builds its tests; says which mutants do not compile, and why.
fn build_suites(
    root: &Path,
    work: &Path,
    files: &[String],
    mutants: &mut Vec<Mutant>,
) -> Result<(Suites, Vec<String>), String> {
    let copy = build::Copy { root, tree: &work.join("tree"), target: &work.join("target") };
    eprintln!("planting {} mutants in {} files", mutants.len(), files.len());
    let refused = copy.plant(mutants)?;
    eprintln!("building; {} do not compile", refused.len());
    let mut packages: BTreeSet<String> = files.iter().map(|f| tree::package_of(f).to_owned()).collect();
    packages.insert("anonmem".into());
    let programs = copy.build(&packages, &[])?;
    eprintln!("running everything once without a mutant");
    let of_families = mutants.iter().filter(|m| m.file.starts_with(FAMILIES)).map(|m| m.id).collect();
    let suites = Suites::measure(&programs, work.join("logs"), &of_families)?;
    eprintln!("{} of {} mutants are in code that something runs", suites.reached().len(), mutants.len());
    Ok((suites, refused.iter().map(|(m, why)| format!("{}: {why}", m.describe())).collect()))
}

fn find(root: &Path, files: &[String]) -> Result<Vec<Mutant>, String> {
    let mut mutants: Vec<Mutant> = Vec::new();
    for file in files {
        let text = fs::read_to_string(root.join(file)).map_err(|e| format!("{file}: {e}"))?;
        let next = mutants.last().map_or(1, |m| m.id + 1);
        mutants.extend(sites::find(file, &text, next)?);
    }
    Ok(mutants)
}

fn explanations(
    root: &Path,
    files: &[String],
    mutants: &[Mutant],
) -> Result<Vec<survivors::Explanation>, String> {
    let text = fs::read_to_string(root.join(SURVIVORS)).map_err(|e| format!("{SURVIVORS}: {e}"))?;
    let explanations = survivors::parse(&text).map_err(|e| format!("{SURVIVORS}: {e}"))?;
    let stale: Vec<String> =
        survivors::stale(&explanations, files, mutants).iter().map(|e| e.describe()).collect();
    if stale.is_empty() {
        Ok(explanations)
    } else {
        Err(format!("{SURVIVORS} is about code that has changed:\n{}", stale.join("\n")))
    }
}

/// Shows every mutant to the suites, several at a time: first to what is quick, then what is left, and is not
/// explained, to what is slow.
fn show_all(
    mutants: &[Mutant],
    suites: &Suites,
    jobs: usize,
    known: impl Fn(&Mutant) -> Option<Outcome> + Sync,
    is_explained: impl Fn(&Mutant) -> bool + Sync,
    done: impl Fn(Row) -> Result<(), String> + Sync,
) -> Result<(), String> {
    let row = |mutant: &Mutant, outcome| done(Row { mutant: mutant.clone(), outcome });
    let survived = |mutant: &Mutant| Outcome::Survived { reached: suites.reach(mutant.id) };
    let left = Mutex::new(Vec::new());
    each(mutants, jobs, |mutant| {
        match known(mutant)
            .map_or_else(|| suites.show(mutant.id, Pace::Quick), |outcome| Ok(Some(outcome)))?
        {
            Some(outcome) => row(mutant, outcome)?,
            None if is_explained(mutant) => row(mutant, survived(mutant))?,
            None => left.lock().map_err(|_| "a worker panicked")?.push(mutant),
        }
        Ok(())
    })?;
    let mut left = left.into_inner().map_err(|_| "a worker panicked")?;
    left.sort_by_key(|m| m.id);
    eprintln!("{} are left for what is slow", left.len());
    left.iter().for_each(|m| eprintln!("left: {}", m.describe()));
    each(&left, jobs, |mutant| {
        let outcome = suites.show(mutant.id, Pace::Slow)?;
        row(mutant, outcome.unwrap_or_else(|| survived(mutant)))
    })
}

/// Calls `f` for every item, in their order, on several threads.
fn each<'a, T: Sync>(
    items: &'a [T],
    jobs: usize,
    f: impl Fn(&'a T) -> Result<(), String> + Sync,
) -> Result<(), String> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), String> {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            f(item)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|w| w.join().map_err(|_| "a worker panicked".to_owned())?)
    })
}

/// One line that changes on a terminal; elsewhere the survivors, as they come.
fn progress(rows: &[Row], all: usize) {
    let survived = |r: &&Row| matches!(r.outcome, Outcome::Survived { .. });
    let nr_survived = rows.iter().filter(survived).count();
    if std::io::stderr().is_terminal() {
        eprint!("\r{}/{all} mutants, {nr_survived} survived ", rows.len());
        if rows.len() == all {
            eprintln!();
        }
    } else if let Some(row) = rows.last().filter(survived) {
        eprintln!("{}/{all}, survived: {}", rows.len(), row.mutant.describe());
    }
}

/// Prints and writes what came of it; whether it is good enough.
fn publish(root: &Path, json: &Path, report: &Report, docs: bool) -> Result<bool, String> {
    let text = report.markdown();
    println!("{text}");
    for explanation in report.superfluous() {
        println!("{SURVIVORS}: no longer needed: {}", explanation.describe());
    }
    let write =
        |path: &Path, text: String| fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()));
    write_json(json, report)?;
    write(&json.with_extension("md"), text.clone())?;
    if docs {
        into_docs(root, "generated", &text)?;
    }
    let (rate, unexplained) = (report.rate(), report.unexplained());
    if rate < LEAST {
        println!("under {} % are caught", LEAST / 10);
    }
    if unexplained > 0 {
        println!(
            "{unexplained} survivors are not explained: write why into {SURVIVORS}, or a test that catches them"
        );
    }
    Ok(rate >= LEAST && unexplained == 0)
}

fn write_json(path: &Path, report: &Report) -> Result<(), String> {
    let text = serde_json::to_string_pretty(&report.json()).map_err(|e| e.to_string())?;
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Writes `text` into the page about `what`.
fn into_docs(root: &Path, what: &str, text: &str) -> Result<(), String> {
    let path = root.join(DOCS).join(what).with_extension("md");
    let old = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let new = below_marker(&old, text).ok_or_else(|| format!("{} has no {MARKER}", path.display()))?;
    fs::write(&path, new).map_err(|e| format!("{}: {e}", path.display()))
}

/// The page with `text` instead of its last result.
fn below_marker(page: &str, text: &str) -> Option<String> {
    let (head, _) = page.split_once(MARKER)?;
    Some(format!("{head}{MARKER}\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_what_the_usage_says() {
        let words = |line: &str| parse(line.split_whitespace().map(str::to_owned));
        let options = words("--again --jobs 3 a.rs").unwrap();
        assert!(options.again && !options.list && options.jobs == 3 && options.paths == ["a.rs"]);
        assert!(words("--jobs 0").is_err() && words("--what").is_err());
    }

    #[test]
    fn the_page_keeps_what_is_above_the_result() {
        let page = "a\n<!-- result -->\nold\n";
        assert_eq!(below_marker(page, "new\n").unwrap(), "a\n<!-- result -->\nnew\n");
        assert!(below_marker("nothing", "new").is_none());
    }
}
