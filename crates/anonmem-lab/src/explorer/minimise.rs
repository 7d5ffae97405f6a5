//! Makes a failure's trace readable: fewest preemptions first, then fewest steps.
//!
//! The preemption bound is raised from zero until the same failure shows, within a budget of time; then the
//! shortest execution with that many is kept. If the budget runs out first, the original stays, with those
//! of its preemptions removed that turn out not to matter.

use super::{
    Exploration, Failure, Guide, Search,
    engine::{Engine, install, with},
    objects::Objects,
    replay,
    report::Found,
    search::{Outcome, judge, next_path, path, search},
    step,
};
use crate::scenario::Program;
use std::time::{Duration, Instant};

/// Finds a short execution with the same failure and records it.
pub(crate) fn shorten(program: &dyn Program, config: &Exploration, first: (Failure, Guide)) -> Found {
    let deadline = Instant::now() + config.minimise;
    let mut best = first;
    let mut preemptions = None;
    for bound in 0..=6 {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let config = Exploration { budget: left, ..config.search(Search::Bounded { preemptions: bound }) };
        if let Some(shorter) = shortest(program, &config, &best.0, left / 4) {
            (best, preemptions) = (shorter, Some(bound));
            break;
        }
    }
    if preemptions.is_none() {
        best = smoothen(program, config, best, deadline);
    }
    let (failure, guide) = best;
    let recorded = search(program, &config.search(Search::Guided), guide.clone(), true, &mut |_| ());
    let trace = match (&recorded.recorder, &recorded.failure) {
        (Some(recorder), again) => recorder.trace(program, Some(again.as_ref().map_or(&failure, |f| &f.0))),
        (None, _) => Default::default(),
    };
    Found { replay: replay::encode(program, config.model, &guide), failure, trace, preemptions }
}

/// The shortest execution within the bound that fails like `like`; `None` if there is none in time. Once one
/// is found, `patience` more is spent on shorter ones.
fn shortest(
    program: &dyn Program,
    config: &Exploration,
    like: &Failure,
    patience: Duration,
) -> Option<(Failure, Guide)> {
    super::panics::install_hook();
    let shared = Shared(program);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let shared = shared;
            shortest_here(shared.0, config, like, patience)
        });
        thread.join().ok().flatten()
    })
}

struct Shared<'a>(&'a dyn Program);
// SAFETY: the thread that made it waits until the one that got it has ended.
unsafe impl Send for Shared<'_> {}

fn shortest_here(
    program: &dyn Program,
    config: &Exploration,
    like: &Failure,
    patience: Duration,
) -> Option<(Failure, Guide)> {
    let mut deadline = Instant::now() + config.budget;
    let mut stacks = step::Stacks::new(program.nr_cpus());
    let mut engine = Engine::new(config, program, Objects::new());
    let mut best: Option<(Failure, Guide)> = None;
    install(&mut engine, || {
        loop {
            step::run(program, &mut stacks);
            if let Some(failure) = judge(program)
                && failure.same_as(like)
            {
                let guide = with(|e| path(e));
                if best.as_ref().is_none_or(|b| guide.cpus.len() < b.1.cpus.len()) {
                    best = Some((failure, guide));
                    deadline = deadline.min(Instant::now() + patience);
                }
            }
            if Instant::now() >= deadline || !with(|e| next_path(e, config)) {
                break;
            }
        }
    });
    best
}

/// Removes the context switches that the failure does not need, one after the other.
fn smoothen(
    program: &dyn Program,
    config: &Exploration,
    mut best: (Failure, Guide),
    deadline: Instant,
) -> (Failure, Guide) {
    let config = config.search(Search::Guided);
    let mut at = 1;
    while at < best.1.cpus.len() && Instant::now() < deadline {
        let cpus = &best.1.cpus;
        if cpus[at] != cpus[at - 1]
            && let Some(resumed) = cpus[at..].iter().position(|c| *c == cpus[at - 1])
        {
            // The run that goes on later goes on at once.
            let mut guide = best.1.clone();
            let run = guide.cpus[at + resumed..].iter().take_while(|c| **c == cpus[at - 1]).count();
            guide.cpus[at..at + resumed + run].rotate_left(resumed);
            let Outcome { failure, .. } = search(program, &config, guide, false, &mut |_| ());
            if let Some((failure, guide)) = failure
                && failure.same_as(&best.0)
                && guide.cpus.len() <= best.1.cpus.len()
                && switches(&guide) < switches(&best.1)
            {
                best = (failure, guide);
                continue;
            }
        }
        at += 1;
    }
    best
}

fn switches(guide: &Guide) -> usize {
    guide.cpus.windows(2).filter(|w| w[0] != w[1]).count()
}
