//! The explorer: runs a scenario in every way that matters, or in as many as asked for.
//!
//! - [`Search::Dpor`] exhausts a scenario: one execution for each class of equivalent ones (`dpor.rs`).
//! - [`Search::Bounded`] tries all executions with at most so many preemptions.
//! - [`Search::Random`], [`Search::Pct`] sample.
//! - [`Search::Plain`] tries everything without reduction; the self-check compares with it.
//!
//! [`explore`] returns a [`Report`] that says what was done, and the failure if there was one: minimised
//! ([`minimise`]), with its trace and a replay id ([`replay()`]).

pub mod config;
pub(crate) mod deadlock;
pub(crate) mod dpor;
pub(crate) mod draw;
pub(crate) mod ends;
pub(crate) mod engine;
pub mod failure;
pub mod minimise;
pub(crate) mod objects;
pub mod op;
pub(crate) mod panics;
pub mod random;
pub(crate) mod record;
pub mod replay;
pub mod report;
pub mod rng;
pub(crate) mod search;
pub(crate) mod step;
pub(crate) mod stopwatch;

pub use crate::limits::MAX_CPUS;
pub use config::{Exploration, Inject, Search};
pub use engine::{Counters, Guide};
pub use failure::{Failure, FailureKind};
pub use op::Broken;
pub use report::{Found, Report};

pub(crate) use search::search;

use crate::scenario::Program;
use core::time::Duration;
use objects::Objects;
use search::{Start, search_from};

/// Explores `program` as `config` says, until it is exhausted, something fails, or the budget is spent.
pub fn explore(program: &dyn Program, config: &Exploration) -> Report {
    explore_knowing(program, config, &mut Objects::new())
}

/// As [`explore`], with what earlier explorations of `program` learned about who touches what.
fn explore_knowing(program: &dyn Program, config: &Exploration, objects: &mut Objects) -> Report {
    let known = core::mem::take(objects);
    let start = Start { objects: known, ..Start::default() };
    let mut outcome = search_from(program, config, start, &mut |_| ());
    let found = outcome.failure.clone().map(|first| minimise::shorten(program, config, first));
    core::mem::swap(objects, &mut outcome.objects);
    Report::new(program, config, &outcome, found)
}

/// Raises the preemption bound from 0 to `most`, until something fails or the budget is spent. The report is
/// that of the last bound; its executions are those of all.
pub fn explore_bounded(program: &dyn Program, config: &Exploration, most: u32) -> Report {
    let mut before = Counters::default();
    let mut elapsed = Duration::ZERO;
    let mut last: Option<Report> = None;
    let mut objects = Objects::new();
    for preemptions in 0..=most {
        let budget = config.budget.saturating_sub(elapsed);
        let config = Exploration { budget, ..config.search(Search::Bounded { preemptions }) };
        let mut report = explore_knowing(program, &config, &mut objects);
        report.executions += before.executions;
        report.redundant += before.redundant;
        report.steps += before.steps;
        report.turns += before.turns;
        report.elapsed += elapsed;
        before = Counters {
            executions: report.executions,
            redundant: report.redundant,
            steps: report.steps,
            turns: report.turns,
            ..before
        };
        elapsed = report.elapsed;
        if !report.ended && report.found.is_none() {
            // Say what is known: the last bound that was exhausted, if there is one.
            return match last {
                Some(done) => Report {
                    executions: report.executions,
                    redundant: report.redundant,
                    steps: report.steps,
                    turns: report.turns,
                    elapsed: report.elapsed,
                    ended: false,
                    ..done
                },
                None => report,
            };
        }
        if report.found.is_some() {
            return report;
        }
        last = Some(report);
    }
    last.expect("at least bound 0")
}

/// Runs the execution that `id` names.
///
/// # Errors
/// Why the id cannot be replayed: it belongs to another scenario or version, or is malformed.
pub fn replay(program: &dyn Program, config: &Exploration, id: &str) -> Result<Report, String> {
    let (model, guide) = replay::decode(program, id)?;
    let config = config.search(Search::Guided).model(model);
    let outcome = search(program, &config, guide.clone(), true, &mut |_| ());
    let found = match &outcome.failure {
        Some((failure, guide)) => Some(Found {
            failure: failure.clone(),
            replay: replay::encode(program, model, guide),
            trace: outcome.recorder.as_ref().map(|r| r.trace(program, Some(failure))).unwrap_or_default(),
            preemptions: None,
        }),
        None => None,
    };
    let mut report = Report::new(program, &config, &outcome, found);
    report.representative = outcome.recorder.map(|r| r.trace(program, None));
    Ok(report)
}

/// Runs one execution without preemptions and returns its trace: a representative schedule.
pub fn representative(program: &dyn Program, config: &Exploration) -> crate::trace::Trace {
    let outcome = search(program, &config.search(Search::Guided), Guide::default(), true, &mut |_| ());
    let failure = outcome.failure.as_ref().map(|f| &f.0);
    outcome.recorder.map(|r| r.trace(program, failure)).unwrap_or_default()
}
