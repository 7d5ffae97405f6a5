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
pub mod replay;
pub mod report;
pub(crate) mod step;

pub use crate::limits::MAX_CPUS;
pub use config::{Config, Inject, Search};
pub use engine::{Counters, Guide};
pub use failure::{Failure, FailureKind};
pub use op::Broken;
pub use report::{Found, Report};

use crate::{scenario::Program, trace::Recorder};
use core::time::Duration;
use engine::{Engine, install, with};
use objects::Objects;
use std::time::Instant;
use step::Stacks;

/// What a search came to.
pub(crate) struct Outcome {
    pub(crate) counters: Counters,
    pub(crate) exhausted: bool,
    pub(crate) cuts: Vec<&'static str>,
    pub(crate) failure: Option<(Failure, Guide)>,
    pub(crate) elapsed: Duration,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) objects: Objects,
}

/// What a search begins with.
#[derive(Default)]
struct Start {
    guide: Guide,
    recorder: Option<Recorder>,
    objects: Objects,
}

/// Explores `program` as `config` says, until it is exhausted, something fails, or the budget is spent.
pub fn explore(program: &dyn Program, config: &Config) -> Report {
    explore_knowing(program, config, &mut Objects::new())
}

/// As [`explore`], with what earlier explorations of `program` learned about who touches what.
fn explore_knowing(program: &dyn Program, config: &Config, objects: &mut Objects) -> Report {
    let known = core::mem::take(objects);
    let start = Start { objects: known, ..Start::default() };
    let mut outcome = search_from(program, config, start, &mut |_| ());
    let found = outcome.failure.clone().map(|first| minimise::shorten(program, config, first));
    core::mem::swap(objects, &mut outcome.objects);
    Report::new(program, config, &outcome, found)
}

/// Raises the preemption bound from 0 to `most`, until something fails or the budget is spent. The report is
/// that of the last bound; its executions are those of all.
pub fn explore_bounded(program: &dyn Program, config: &Config, most: u32) -> Report {
    let start = Instant::now();
    let mut before = Counters::default();
    let mut elapsed = Duration::ZERO;
    let mut last: Option<Report> = None;
    let mut objects = Objects::new();
    for preemptions in 0..=most {
        let budget = config.budget.saturating_sub(start.elapsed());
        let config = Config { budget, ..config.search(Search::Bounded { preemptions }) };
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
pub fn replay(program: &dyn Program, config: &Config, id: &str) -> Result<Report, String> {
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
pub fn representative(program: &dyn Program, config: &Config) -> crate::trace::Trace {
    let outcome = search(program, &config.search(Search::Guided), Guide::default(), true, &mut |_| ());
    let failure = outcome.failure.as_ref().map(|f| &f.0);
    outcome.recorder.map(|r| r.trace(program, failure)).unwrap_or_default()
}

struct Shared<'a>(&'a dyn Program, &'a mut dyn FnMut(&Engine));
// SAFETY: the thread that made it waits until the one that got it has ended.
unsafe impl Send for Shared<'_> {}

/// Searches on a thread of its own. `each` is shown the engine after every execution that came to its end.
pub(crate) fn search(
    program: &dyn Program,
    config: &Config,
    guide: Guide,
    record: bool,
    each: &mut dyn FnMut(&Engine),
) -> Outcome {
    let recorder = record.then(Recorder::default);
    search_from(program, config, Start { guide, recorder, ..Start::default() }, each)
}

fn search_from(
    program: &dyn Program,
    config: &Config,
    start: Start,
    each: &mut dyn FnMut(&Engine),
) -> Outcome {
    panics::install_hook();
    let shared = Shared(program, each);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let shared = shared;
            search_here(shared.0, config, start, shared.1)
        });
        match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn search_here(
    program: &dyn Program,
    config: &Config,
    from: Start,
    each: &mut dyn FnMut(&Engine),
) -> Outcome {
    let mut stacks = Stacks::new(program.nr_cpus());
    let mut engine = Engine::new(config, program, from.objects);
    engine.guide = from.guide;
    engine.recorder = from.recorder;
    // Builds the world, so that the time that is measured is that of executions.
    install(&mut engine, || program.reset(true));
    let start = Instant::now();
    let (exhausted, failure) = install(&mut engine, || {
        loop {
            step::run(program, &mut stacks);
            if let Some(failure) = judge(program) {
                return (false, Some((failure, with(|e| path(e)))));
            }
            with(|e| {
                if !e.redundant {
                    each(e);
                }
            });
            if !with(|e| next_path(e, config)) {
                return (with(|e| is_exhaustive(e)), None);
            }
            let executions = with(|e| e.counters.executions);
            if executions >= config.max_executions
                || executions & 127 == 0 && start.elapsed() >= config.budget
            {
                return (false, None);
            }
        }
    });
    let Engine { counters, recorder, objects, cuts, .. } = engine;
    Outcome { counters, exhausted, cuts, failure, elapsed: start.elapsed(), recorder, objects }
}

/// The failure of the execution that ran, the scenario's own check included.
fn judge(program: &dyn Program) -> Option<Failure> {
    let (failure, ended) = with(|e| (e.failure.take(), e.ended && !e.redundant));
    if failure.is_some() || !ended {
        return failure;
    }
    // The check is the same whoever made the last step.
    let alike = with(|e| {
        e.current = 0;
        e.ends.are_alike()
    });
    let fingerprint = alike.then(|| program.fingerprint()).flatten();
    if fingerprint.is_some_and(|f| with(|e| e.ends.knows(f))) {
        return None;
    }
    match panics::quietly(|| program.check()) {
        Ok(Ok(())) => {
            fingerprint.inspect(|f| with(|e| e.ends.add(*f)));
            None
        }
        Ok(Err(message)) => Some(Failure { kind: FailureKind::Check, message, cpu: None, at: None }),
        Err((message, at)) => {
            Some(Failure { kind: FailureKind::Check, message, cpu: None, at: (!at.is_empty()).then_some(at) })
        }
    }
}

/// The schedule of the execution that ran.
pub(crate) fn path(e: &Engine) -> Guide {
    let nodes = &e.nodes[..e.depth.min(e.nodes.len())];
    // Private operations come before the same CPU's next step.
    let ends = nodes.iter().skip(1).map(|n| n.ops).chain([e.ops]);
    let runs = nodes.iter().zip(ends).map(|(n, end)| core::iter::repeat_n(n.cpu, end - n.ops));
    Guide {
        cpus: runs.flatten().collect(),
        choices: e.choices[..e.choice.min(e.choices.len())].iter().map(|c| c.value).collect(),
    }
}

/// Prepares the next execution; `false` if there is none.
fn next_path(e: &mut Engine, config: &Config) -> bool {
    if e.astray() {
        // From the beginning, with what is known now.
        (e.objects.learned, e.objects.learned_rules) = (false, false);
        e.counters.restarts += 1;
        e.nodes.clear();
        e.choices.clear();
        return true;
    }
    match config.search {
        Search::Dpor | Search::Plain | Search::Bounded { .. } => e.backtrack(),
        Search::Random { executions, .. } | Search::Pct { executions, .. } => {
            e.nodes.clear();
            e.choices.clear();
            e.counters.executions < executions
        }
        Search::Guided => false,
    }
}

fn is_exhaustive(e: &Engine) -> bool {
    matches!(e.search, Search::Dpor | Search::Plain | Search::Bounded { .. })
}
