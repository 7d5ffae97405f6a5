//! What the environment may do or leave: choices that are explored like schedules.

use crate::{
    explorer::{
        engine::{Phase, phase, with},
        step::choice_turn,
    },
    trace::{Action, Event},
};
use core::panic::Location;

/// Whether a CPU of a scenario is running.
#[inline]
pub(crate) fn running() -> bool {
    matches!(phase(), Phase::Running | Phase::Starting)
}

/// Chooses one of `n` outcomes; the search explores all. `label` shows in the trace.
#[track_caller]
pub fn choose(n: usize, label: &str) -> usize {
    if n < 2 || !running() {
        return 0;
    }
    let at = Location::caller();
    choice_turn(at);
    with(|e| {
        let value = e.pick(n);
        e.record(|e| {
            let word = format!("{label}: {value} of {n}");
            Event::new(e, None, "", Action::Word(word), at)
        });
        value
    })
}

/// Chooses one of `n` outcomes, all but the first of which use up the execution's allowance of misfortune.
pub(crate) fn inject(n: usize) -> usize {
    with(|e| {
        if e.injected >= e.inject.at_most {
            return 0;
        }
        let value = e.pick(n);
        e.injected += u32::from(value != 0);
        value
    })
}

/// As [`inject`], as a step of its own that shows in the trace when it happens.
#[track_caller]
pub(crate) fn misfortune(label: &str) -> bool {
    if !running() || with(|e| e.injected >= e.inject.at_most) {
        return false;
    }
    let at = Location::caller();
    choice_turn(at);
    let happens = inject(2) == 1;
    if happens {
        with(|e| {
            e.record(|e| Event::new(e, None, "", Action::Word(label.into()), at));
        });
    }
    happens
}
