//! `anonmem check`: every case in every way that it is to be explored, as a table.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anonmem_lab::cases::{self, Case, Extent, Run};
use anonmem_lab::explorer::{Report, Search};
use serde_json::{Value, json};

use super::board::{Board, Verdict, on_interrupt};
use super::{CheckOptions, ModelOption, find};
use crate::error::{EXIT_INTERRUPTED, Error};
use crate::out;
use crate::progress::Progress;
use crate::values::Rmap;

/// The verdict in words. "Holds" is only what was exhausted, within the search's bound.
fn word(report: &Report) -> &'static str {
    match (report.found.is_some(), report.exhausted) {
        (true, _) => BROKEN,
        (false, true) => HOLDS,
        (false, false) => OPEN,
    }
}

const HOLDS: &str = "holds";
const OPEN: &str = "not broken so far";
const BROKEN: &str = "BROKEN";

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
    out::check_writable([options.json.as_deref(), options.junit.as_deref()])?;
    let board = Arc::new(Board::new(runs.len()));
    let rmap = options.rmap;
    let (seen, files) = (board.clone(), (options.json.clone(), options.junit.clone()));
    on_interrupt(move || {
        let verdicts = seen.lock();
        // Whatever cannot be written now, the status says what happened.
        let _ = conclude(&verdicts, rmap, files.0.as_deref(), files.1.as_deref());
        out::say("interrupted; this is what was explored so far");
        std::process::exit(EXIT_INTERRUPTED.into());
    });
    explore_all(&runs, options, &board);
    conclude(&board.lock(), rmap, options.json.as_deref(), options.junit.as_deref())
}

/// Says what was found out; the exit status is 1 if a rule broke.
fn conclude(
    all: &[Option<Verdict>],
    rmap: Rmap,
    json: Option<&Path>,
    junit: Option<&Path>,
) -> Result<u8, Error> {
    let verdicts: Vec<&Verdict> = all.iter().flatten().collect();
    let mut text = table(&verdicts);
    verdicts.iter().for_each(|verdict| text += &failure(verdict, rmap));
    text += &sum(&verdicts, all.len());
    if let Some(path) = json {
        let cases: Vec<_> = verdicts.iter().map(|verdict| as_json(verdict)).collect();
        out::write(path, &format!("{:#}\n", json!({ "version": 1, "cases": cases })))?;
    }
    if let Some(path) = junit {
        out::write(path, &self::junit(&verdicts))?;
    }
    out::print(&text)?;
    Ok(u8::from(verdicts.iter().any(|v| v.broke())))
}

/// How many of each verdict.
fn sum(verdicts: &[&Verdict], wanted: usize) -> String {
    let of = |wanted| verdicts.iter().filter(|v| word(&v.report) == wanted).count();
    let (holds, open, broken) = (of(HOLDS), of(OPEN), of(BROKEN));
    let missing = wanted - verdicts.len();
    let rest = if missing > 0 { format!(", {missing} not explored") } else { String::new() };
    format!(
        "{} explorations: {holds} hold, {open} not broken so far, {broken} broken{rest}\n",
        verdicts.len()
    )
}

/// Explores `jobs` at a time, twice: first with half of the budget, shared equally, where what one leaves of
/// its share is for those that come after; then, with all that is left, those that have not come to their
/// end.
fn explore_all(runs: &[(&'static Case, &'static Run)], options: &CheckOptions, board: &Board) {
    let (start, budget) = (Instant::now(), Duration::from_secs(options.budget.max(1)));
    let all: Vec<usize> = (0..runs.len()).collect();
    let jobs = options.jobs.unwrap_or_else(cpus).clamp(1, runs.len().max(1));
    explore_some(
        runs,
        &all,
        (jobs, options.rmap),
        (start + budget / 2, least(budget, jobs, runs.len())),
        board,
    );
    let is_open = |i: &usize| board.lock()[*i].as_ref().is_none_or(|v| !is_whole(runs[*i].1, &v.report));
    let unfinished: Vec<usize> = all.into_iter().filter(is_open).collect();
    explore_some(runs, &unfinished, (jobs, options.rmap), (start + budget, Duration::ZERO), board);
}

/// How long an exploration that comes too late is tried all the same: a quarter of the budget is enough for
/// all of them.
fn least(budget: Duration, jobs: usize, runs: usize) -> Duration {
    SHORTEST.min(budget * jobs as u32 / (4 * runs.max(1)) as u32)
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
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

/// Explores those that `chosen` names, until `end`; for `least` each afterwards, or not at all if that is 0.
fn explore_some(
    runs: &[(&'static Case, &'static Run)],
    chosen: &[usize],
    (jobs, rmap): (usize, Rmap),
    (end, least): (Instant, Duration),
    board: &Board,
) {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let progress = Mutex::new(Progress::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&place) = chosen.get(i) else { return };
                    let (case, run) = runs[place];
                    let left = end.saturating_duration_since(Instant::now());
                    let share = left * jobs as u32 / (chosen.len() - i) as u32;
                    if left.max(least).is_zero() {
                        return;
                    }
                    let share = share.clamp(least, left.max(least));
                    let report = rmap.over(|| run.explore(&*(case.program)(None), share));
                    board.note(place, Verdict { case, report });
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    let said = format!("{done} of {} explored, {} last", chosen.len(), case.name);
                    progress.lock().expect("no holder panics").step(said);
                }
            });
        }
    });
}

/// No exploration that comes too late is tried for longer.
const SHORTEST: Duration = Duration::from_millis(200);

fn table(verdicts: &[&Verdict]) -> String {
    let width = verdicts.iter().map(|v| v.case.name.len()).max().unwrap_or(4);
    let search = verdicts.iter().map(|v| v.report.search.len()).max().unwrap_or(6);
    let mut text = format!(
        "{:<width$}  {:<5} {:<search$} {:>4} {:>11} {:>9}  {:<9} verdict\n",
        "case", "model", "search", "CPUs", "executions", "per s", "exhausted"
    );
    for Verdict { case, report } in verdicts {
        text += &format!(
            "{:<width$}  {:<5} {:<search$} {:>4} {:>11} {:>9}  {:<9} {}\n",
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
    text
}

/// Whether everything within the bound was tried, and nothing cut off.
fn exhausted(report: &Report) -> &'static str {
    match (report.exhausted, report.cuts.is_empty()) {
        (true, _) => "yes",
        (false, true) => "no",
        (false, false) => "bounded",
    }
}

/// How a rule broke, and how to see it again; nothing for others.
fn failure(verdict: &Verdict, rmap: Rmap) -> String {
    let Some(found) = &verdict.report.found else { return String::new() };
    let (name, rule) = (verdict.case.name, verdict.case.rule);
    format!(
        "\n{name}: {}\nrule: {rule}\n\n{}\nagain: anonmem race {name}{} --replay '{}'\n\n",
        found.failure,
        found.trace,
        rmap.argument(),
        found.replay
    )
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

fn junit(verdicts: &[&Verdict]) -> String {
    let failures = verdicts.iter().filter(|v| v.broke()).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"anonmem check\" tests=\"{}\" failures=\"{failures}\">\n",
        verdicts.len()
    );
    for Verdict { case, report } in verdicts {
        xml += &format!(
            "  <testcase classname=\"{}\" name=\"{} {}\" time=\"{:.3}\"",
            out::escape(case.name),
            report.model,
            out::escape(&report.search),
            report.elapsed.as_secs_f64()
        );
        match &report.found {
            Some(found) => {
                let message = out::escape(&found.failure.to_string());
                let columns = out::escape(&found.trace.to_string());
                xml += &format!(">\n    <failure message=\"{message}\">{columns}</failure>\n  </testcase>\n");
            }
            None => xml += "/>\n",
        }
    }
    xml + "</testsuite>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_too_late_does_not_overrun_the_budget() {
        for (seconds, jobs, runs) in [(1, 2, 212), (5, 2, 212), (60, 1, 212), (600, 64, 212), (60, 2, 1)] {
            let budget = Duration::from_secs(seconds);
            let late = least(budget, jobs, runs) * runs as u32 / jobs as u32;
            assert!(late <= budget / 4, "{seconds} s: {late:?} for those that come too late");
        }
        assert_eq!(least(Duration::from_secs(600), 2, 212), SHORTEST);
    }
}
