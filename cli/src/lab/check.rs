//! `anonmem check`: every case in every way that it is to be explored, as a table.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anonmem_lab::cases::{self, Case, Extent, Run};
use anonmem_lab::explorer::{Report, Search};
use serde_json::{Value, json};

use super::{CheckOptions, ModelOption, find, write};
use crate::error::Error;
use crate::progress::Progress;

/// One exploration and what came of it.
struct Verdict {
    case: &'static Case,
    report: Report,
}

impl Verdict {
    fn broke(&self) -> bool {
        self.report.found.is_some()
    }
}

/// The verdict in words. "Holds" is only what was exhausted, within the search's bound.
fn word(report: &Report) -> &'static str {
    match (report.found.is_some(), report.exhausted) {
        (true, _) => "BROKEN",
        (false, true) => "holds",
        (false, false) => "not broken so far",
    }
}

/// Explores what `options` names; the exit status is 1 if a rule broke.
pub fn check(options: &CheckOptions) -> Result<u8, Error> {
    let chosen: Vec<&'static Case> = match options.cases.as_slice() {
        [] => cases::all().to_vec(),
        names => names.iter().map(|name| find(name)).collect::<Result<_, _>>()?,
    };
    let runs: Vec<(&'static Case, &'static Run)> = chosen
        .iter()
        .flat_map(|case| case.runs.iter().map(move |run| (*case, run)))
        .filter(|(_, run)| ModelOption::is(options.model, run.model))
        .collect();
    if runs.is_empty() {
        return Err(Error::usage("no case named is explored under that memory model"));
    }
    let verdicts = explore_all(&runs, options);
    print_table(&verdicts);
    for verdict in verdicts.iter().filter(|v| v.broke()) {
        print_failure(verdict);
    }
    if let Some(path) = &options.json {
        write(
            path,
            &format!(
                "{:#}\n",
                json!({ "version": 1, "cases": verdicts.iter().map(as_json).collect::<Vec<_>>() })
            ),
        )?;
    }
    if let Some(path) = &options.junit {
        write(path, &junit(&verdicts))?;
    }
    let broken = verdicts.iter().filter(|v| v.broke()).count();
    println!("{} explorations, {broken} broken", verdicts.len());
    Ok(u8::from(broken > 0))
}

/// Explores `jobs` at a time, twice: first with half of the budget, shared equally, where what one leaves of
/// its share is for those that come after; then, with all that is left, those that have not come to their
/// end.
fn explore_all(runs: &[(&'static Case, &'static Run)], options: &CheckOptions) -> Vec<Verdict> {
    let (start, budget) = (Instant::now(), Duration::from_secs(options.budget.max(1)));
    let all: Vec<usize> = (0..runs.len()).collect();
    let mut verdicts = explore_some(runs, &all, options, start + budget / 2);
    let unfinished: Vec<usize> =
        all.into_iter().filter(|i| !is_whole(runs[*i].1, &verdicts[*i].report)).collect();
    let again = explore_some(runs, &unfinished, options, start + budget);
    for (i, verdict) in unfinished.into_iter().zip(again) {
        // Less may have been done than before, if the machine has become busy.
        if verdict.broke() || verdict.report.executions >= verdicts[i].report.executions {
            verdicts[i] = verdict;
        }
    }
    verdicts
}

/// Whether there is no more to explore than `report` says: all bounds up to the last, or a rule broke.
fn is_whole(run: &Run, report: &Report) -> bool {
    let last = match run.extent {
        Extent::Bound(preemptions) => report.search.starts_with(&Search::Bounded { preemptions }.name()),
        Extent::Exhaust | Extent::Sample(_) => true,
    };
    report.found.is_some() || last && (report.exhausted || !report.cuts.is_empty() || sampled(run, report))
}

fn sampled(run: &Run, report: &Report) -> bool {
    matches!(run.extent, Extent::Sample(executions) if report.executions >= executions)
}

/// Explores those that `chosen` names, until `end`; in their order.
fn explore_some(
    runs: &[(&'static Case, &'static Run)],
    chosen: &[usize],
    options: &CheckOptions,
    end: Instant,
) -> Vec<Verdict> {
    let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = options.jobs.unwrap_or_else(cpus).clamp(1, chosen.len().max(1));
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Verdict)>> = Mutex::new(Vec::new());
    let progress = Mutex::new(Progress::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some((case, run)) = chosen.get(i).map(|i| runs[*i]) else { return };
                    let left = end.saturating_duration_since(Instant::now());
                    let share = left * jobs as u32 / (chosen.len() - i) as u32;
                    let program = (case.program)(None);
                    let report = run.explore(&*program, share.clamp(SHORTEST, left.max(SHORTEST)));
                    let mut done = done.lock().expect("no holder panics");
                    done.push((i, Verdict { case, report }));
                    let said = format!("{} of {} explored, {} last", done.len(), chosen.len(), case.name);
                    progress.lock().expect("no holder panics").step(said);
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no holder panicked");
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, verdict)| verdict).collect()
}

/// Even what comes last is tried.
const SHORTEST: Duration = Duration::from_millis(200);

fn print_table(verdicts: &[Verdict]) {
    let width = verdicts.iter().map(|v| v.case.name.len()).max().unwrap_or(4);
    let search = verdicts.iter().map(|v| v.report.search.len()).max().unwrap_or(6);
    println!(
        "{:<width$}  {:<5} {:<search$} {:>4} {:>11} {:>9}  {:<9} verdict",
        "case", "model", "search", "CPUs", "executions", "per s", "exhausted"
    );
    for Verdict { case, report } in verdicts {
        println!(
            "{:<width$}  {:<5} {:<search$} {:>4} {:>11} {:>9}  {:<9} {}",
            case.name,
            report.model,
            report.search,
            report.nr_cpus,
            report.executions,
            report.rate().map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}")),
            exhausted(report),
            word(report),
        );
    }
}

/// Whether everything within the bound was tried, and nothing cut off.
fn exhausted(report: &Report) -> &'static str {
    match (report.exhausted, report.cuts.is_empty()) {
        (true, _) => "yes",
        (false, true) => "no",
        (false, false) => "bounded",
    }
}

fn print_failure(verdict: &Verdict) {
    let Some(found) = &verdict.report.found else { return };
    println!("\n{}: {}\nrule: {}\n", verdict.case.name, found.failure, verdict.case.rule);
    println!("{}", found.trace);
    println!("again: anonmem race {} --replay '{}'\n", verdict.case.name, found.replay);
}

fn as_json(verdict: &Verdict) -> Value {
    let Verdict { case, report } = verdict;
    json!({
        "case": case.name,
        "title": case.title,
        "environment": case.environment,
        "rule": case.rule,
        "model": report.model,
        "search": report.search,
        "cpus": report.nr_cpus,
        "executions": report.executions,
        "redundant": report.redundant,
        "steps": report.steps,
        "turns": report.turns,
        "longest": report.longest,
        "exhausted": report.exhausted,
        "cuts": report.cuts,
        "seconds": report.elapsed.as_secs_f64(),
        "verdict": word(report),
        "failure": report.found.as_ref().map(|f| f.failure.to_string()),
        "replay": report.found.as_ref().map(|f| f.replay.clone()),
    })
}

fn junit(verdicts: &[Verdict]) -> String {
    let failures = verdicts.iter().filter(|v| v.broke()).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"anonmem check\" tests=\"{}\" failures=\"{failures}\">\n",
        verdicts.len()
    );
    for Verdict { case, report } in verdicts {
        xml += &format!(
            "  <testcase classname=\"{}\" name=\"{} {}\" time=\"{:.3}\"",
            super::draw::escape(case.name),
            report.model,
            super::draw::escape(&report.search),
            report.elapsed.as_secs_f64()
        );
        match &report.found {
            Some(found) => {
                let message = super::draw::escape(&found.failure.to_string());
                let columns = super::draw::escape(&found.trace.to_string());
                xml += &format!(">\n    <failure message=\"{message}\">{columns}</failure>\n  </testcase>\n");
            }
            None => xml += "/>\n",
        }
    }
    xml + "</testsuite>\n"
}
