//! Panics of code under test: noted as failures, not printed, and hardly unwound.
//!
//! Unwinding would run destructors of production code, which take locks that other CPUs hold in the middle of
//! their turns. So the first destructor that touches the machine ends the execution:
//! [`escape`](super::step::escape) switches away from the coroutine for good.

use super::{
    engine::{Phase, installed, phase, set_phase, with},
    failure::{Failure, FailureKind},
};
use std::{
    cell::{Cell, RefCell},
    panic::{PanicHookInfo, set_hook, take_hook},
    sync::Once,
};

thread_local! {
    static LAST: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

/// Installs the hook, once.
pub(crate) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let outer = take_hook();
        set_hook(Box::new(move |info| {
            if installed() && !matches!(phase(), Phase::Idle | Phase::Observed) {
                hook(info);
            } else if QUIET.get() {
                remember(info);
            } else {
                outer(info);
            }
        }));
    });
}

thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });

/// Runs `f`; a panic comes back as its message and place, unprinted.
pub(crate) fn quietly<R>(f: impl FnOnce() -> R) -> Result<R, (String, String)> {
    let outer = QUIET.replace(true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
    QUIET.set(outer);
    result.map_err(|_| LAST.take().unwrap_or_default())
}

fn remember(info: &PanicHookInfo<'_>) {
    let message = info.payload();
    let message =
        message.downcast_ref::<&str>().copied().or(message.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("a panic without a message").to_owned();
    let at = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
    LAST.with_borrow_mut(|last| {
        last.get_or_insert((message, at));
    });
}

fn hook(info: &PanicHookInfo<'_>) {
    remember(info);
    match phase() {
        Phase::Unwinding => {
            // A destructor that asserts without asking `Machine::unwinding`: the process will abort.
            let (message, at) = LAST.take().unwrap_or_default();
            eprintln!("a panic during the panic \"{message}\" at {at}: {info}");
        }
        Phase::Predicate => {}
        Phase::Idle | Phase::Starting | Phase::Running | Phase::Observed => set_phase(Phase::Unwinding),
    }
}

/// Turns the panic that was caught last into this execution's failure.
pub(crate) fn note() {
    let (message, at) = LAST.take().unwrap_or_default();
    let lock = ["lock order:", "sleeping while", "taken twice", "released but not held", "still held"];
    let kind =
        if lock.iter().any(|w| message.contains(w)) { FailureKind::LockOrder } else { FailureKind::Panic };
    with(|e| {
        let cpu = Some(e.current);
        e.failure.get_or_insert(Failure { kind, message, cpu, at: (!at.is_empty()).then_some(at) });
        e.next = None;
    });
}
