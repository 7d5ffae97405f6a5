//! `anonmem race`: one case as columns, CPU by CPU, like the mails draw it.

use std::time::Duration;

use anonmem_lab::cases::{Case, Mutant, Run};
use anonmem_lab::explorer::{Report, replay, representative};
use anonmem_lab::{Exploration, Trace};

use super::{ModelOption, RaceOptions, draw, find, mutant};
use crate::error::{EXIT_UNSURE, Error};
use crate::out;

/// Searches, replays or shows one execution, and draws it. The exit status is 1 if a rule broke, and 3 if a
/// planted bug was not found.
pub fn race(options: &RaceOptions) -> Result<u8, Error> {
    options.rmap.over(|| race_over(options))
}

fn race_over(options: &RaceOptions) -> Result<u8, Error> {
    let case = find(&options.case)?;
    out::check_writable([options.svg.as_deref(), options.html.as_deref()])?;
    let variant = match planted(case, options.mutant.as_deref())? {
        Planted::No => None,
        Planted::Variant(name) => Some(name),
        Planted::Patch(name) => return mutant::race(options, name),
    };
    let runs: Vec<_> = case.runs.iter().filter(|run| ModelOption::is(options.model, run.model)).collect();
    if runs.is_empty() {
        return Err(Error::usage(format!("{} is not explored under that memory model", case.name)));
    }
    out::print(&format!(
        "{}: {}\n\n  what happened  {}\n  locks held     {}\n  rule           {}\n\n",
        case.name, case.title, case.happened, case.environment, case.rule
    ))?;
    // A bug may show only where the environment misbehaves, or memory is weak.
    let share = Duration::from_secs(options.budget.max(1)) / runs.len() as u32;
    let mut shown = None;
    for run in runs {
        let report = explore(case, run, variant, share, options)?;
        let found = report.found.is_some();
        if found || shown.is_none() {
            shown = Some((run, report));
        }
        if found {
            break;
        }
    }
    let (run, report) = shown.expect("there is a run");
    let whole = trace_of(case, run, variant, &report);
    let trace = if options.full { whole } else { whole.folded() };
    out::print(&format!("{trace}\n{report}\n"))?;
    let id = report.found.as_ref().map(|found| &*found.replay).or(options.replay.as_deref());
    let page = draw::Page::new(case, &trace, id);
    if let Some(path) = &options.svg {
        out::write(path, &draw::svg(&page, &trace))?;
    }
    if let Some(path) = &options.html {
        out::write(path, &draw::html(&page, &trace))?;
    }
    Ok(match (&report.found, variant) {
        (Some(_), _) => 1,
        (None, Some(_)) if options.replay.is_none() => EXIT_UNSURE,
        (None, _) => 0,
    })
}

/// What a mutant is.
enum Planted {
    /// None is wanted.
    No,
    /// A variant of the case's own model.
    Variant(&'static str),
    /// A patch of the production source.
    Patch(&'static str),
}

fn planted(case: &Case, mutant: Option<&str>) -> Result<Planted, Error> {
    let Some(wanted) = mutant else { return Ok(Planted::No) };
    match case.mutants.iter().find(|m| m.name() == wanted) {
        Some(Mutant::Variant { name, .. }) => Ok(Planted::Variant(name)),
        Some(Mutant::Patch { name, .. }) => Ok(Planted::Patch(name)),
        None => {
            let names: Vec<_> = case.mutants.iter().map(Mutant::name).collect();
            Err(Error::usage(format!("{} has no mutant {wanted:?}; it has {}", case.name, names.join(", "))))
        }
    }
}

fn explore(
    case: &Case,
    run: &Run,
    variant: Option<&str>,
    budget: Duration,
    options: &RaceOptions,
) -> Result<Report, Error> {
    let program = (case.program)(variant);
    match &options.replay {
        Some(id) => replay(
            &*program,
            &Exploration { model: run.model, inject: run.inject, ..Exploration::default() },
            id,
        )
        .map_err(Error::usage),
        None => Ok(run.explore(&*program, budget)),
    }
}

/// The execution that failed, the one that was replayed, or one that shows how it goes well.
fn trace_of(case: &Case, run: &Run, variant: Option<&str>, report: &Report) -> Trace {
    if let Some(found) = &report.found {
        return found.trace.clone();
    }
    report.representative.clone().unwrap_or_else(|| {
        let config = Exploration { model: run.model, inject: run.inject, ..Exploration::default() };
        representative(&*(case.program)(variant), &config)
    })
}
