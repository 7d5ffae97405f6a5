//! One search: executions one after the other on a thread of its own, until there is nothing left to try.

use super::{
    Counters, Exploration, Failure, FailureKind, Guide, Search,
    engine::{Engine, install, with},
    objects::Objects,
    panics,
    step::{self, Stacks},
    stopwatch::Stopwatch,
};
use crate::{scenario::Program, trace::Recorder};
use core::time::Duration;

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
pub(super) struct Start {
    pub(super) guide: Guide,
    pub(super) recorder: Option<Recorder>,
    pub(super) objects: Objects,
}

struct Shared<'a>(&'a dyn Program, &'a mut dyn FnMut(&Engine));
// SAFETY: the thread that made it waits until the one that got it has ended.
unsafe impl Send for Shared<'_> {}

/// Searches on a thread of its own. `each` is shown the engine after every execution that came to its end.
pub(crate) fn search(
    program: &dyn Program,
    config: &Exploration,
    guide: Guide,
    record: bool,
    each: &mut dyn FnMut(&Engine),
) -> Outcome {
    let recorder = record.then(Recorder::default);
    search_from(program, config, Start { guide, recorder, ..Start::default() }, each)
}

pub(super) fn search_from(
    program: &dyn Program,
    config: &Exploration,
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
    config: &Exploration,
    from: Start,
    each: &mut dyn FnMut(&Engine),
) -> Outcome {
    let mut stacks = Stacks::new(program.nr_cpus());
    let mut engine = Engine::new(config, program, from.objects);
    engine.guide = from.guide;
    engine.recorder = from.recorder;
    // Builds the world, so that the time that is measured is that of executions.
    install(&mut engine, || program.reset(true));
    let start = Stopwatch::start();
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
pub(super) fn judge(program: &dyn Program) -> Option<Failure> {
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
pub(super) fn next_path(e: &mut Engine, config: &Exploration) -> bool {
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
