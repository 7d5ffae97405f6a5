//! Accesses that are listed and not explored: what the probe and the flushes tell the observer.

use crate::{
    accesses::Touch,
    explorer::engine::{Engine, Phase, phase, with},
};
use anonmem_hal::LockKind;
use core::panic::Location;

/// Notes an access of a CPU whose accesses are being listed.
pub(super) fn observe(at: usize, touch: Touch, caller: &'static Location<'static>) {
    with(|e| {
        let Engine { observer, names, .. } = e;
        if let Some(observer) = observer {
            observer.note(at, touch, caller, names);
        }
    });
}

/// A flush has come to another CPU than the one whose accesses are being listed.
pub(super) fn observe_interrupt() {
    if phase() == Phase::Observed {
        with(|e| e.observer.as_mut().expect("observed").interrupts += 1);
    }
}

pub(super) const fn lock_touch(mode: LockKind) -> Touch {
    match mode {
        LockKind::Exclusive => Touch::Lock,
        LockKind::Shared => Touch::LockShared,
    }
}
