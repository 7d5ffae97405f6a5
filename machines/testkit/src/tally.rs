//! What tasks that run at once find, collected without a lock or a heap.

use crate::checks::{Broken, Stop};
use anonmem::Machine;
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};

/// The first broken promise that any task found.
pub(crate) struct Tally {
    taken: AtomicBool,
    what: AtomicPtr<u8>,
    len: AtomicUsize,
    expected: AtomicU64,
    found: AtomicU64,
}

impl Tally {
    pub(crate) const fn new() -> Self {
        Self {
            taken: AtomicBool::new(false),
            what: AtomicPtr::new(core::ptr::null_mut()),
            len: AtomicUsize::new(0),
            expected: AtomicU64::new(0),
            found: AtomicU64::new(0),
        }
    }

    /// Whether nothing was broken so far.
    pub(crate) fn is_clean(&self) -> bool {
        !self.taken.load(Relaxed)
    }

    /// Keeps a broken promise, if it is the first.
    pub(crate) fn note(&self, result: Result<(), Broken>) {
        let Err(broken) = result else { return };
        if self.taken.swap(true, SeqCst) {
            return;
        }
        self.expected.store(broken.expected, Relaxed);
        self.found.store(broken.found, Relaxed);
        self.len.store(broken.what.len(), Relaxed);
        self.what.store(broken.what.as_ptr().cast_mut(), SeqCst);
    }

    /// As [`note`](Self::note). A task that has nothing to try has found nothing.
    pub(crate) fn note_stop(&self, result: Result<(), Stop>) {
        match result {
            Ok(()) | Err(Stop::NotTried(_)) => {}
            Err(Stop::Broken(broken)) => self.note(Err(broken)),
        }
    }

    /// What was found, when all tasks have returned.
    pub(crate) fn result(&self) -> Result<(), Broken> {
        if self.is_clean() {
            return Ok(());
        }
        let (what, len) = (self.what.load(SeqCst).cast_const(), self.len.load(Relaxed));
        // SAFETY: the address and the length of a `&'static str`, kept by the one task that took the place.
        let bytes = unsafe { core::slice::from_raw_parts(what, len) };
        let what = core::str::from_utf8(bytes).unwrap_or("");
        Err(Broken { what, expected: self.expected.load(Relaxed), found: self.found.load(Relaxed) })
    }
}

/// A step that several tasks take together.
pub(crate) struct Step(AtomicUsize);

impl Step {
    pub(crate) const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Says that this task has come, and waits until `tasks` have, times the `round`, which counts from 1.
    /// Spins in `relax`, which answers the flushes of others.
    pub(crate) fn meet<M: Machine>(&self, tasks: usize, round: usize) {
        self.0.fetch_add(1, SeqCst);
        while self.0.load(SeqCst) < tasks * round {
            M::relax();
        }
    }
}

/// Spins for about `ns` nanoseconds, or for as long as a machine whose clock stands still might take.
pub(crate) fn pause<M: Machine>(machine: &M, ns: u64) {
    let start = machine.now_ns();
    for _ in 0..5_000_000 {
        if machine.now_ns().saturating_sub(start) >= ns {
            return;
        }
        M::relax();
    }
}
