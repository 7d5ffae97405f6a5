//! Ends an execution in which the simulated machine saw something that must not happen.

use super::chance::running;
use crate::{
    explorer::{engine::with, failure::FailureKind, step::stop},
    trace::{Action, Event},
};
use core::panic::Location;

/// Ends the execution: the machine saw something that must not happen.
pub(super) fn broken(kind: FailureKind, message: String, at: &'static Location<'static>) {
    if running() {
        with(|e| {
            let word = kind.name().to_owned();
            e.record(|e| Event::new(e, None, "", Action::Word(word), at));
            e.fail(kind, message, Some(at));
        });
        stop();
    }
    panic!("{}: {message}", kind.name());
}
