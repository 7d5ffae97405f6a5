//! The verdicts so far, which an interrupt can show at any moment.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anonmem_lab::cases::Case;
use anonmem_lab::explorer::Report;
use signal_hook::consts::SIGINT;
use signal_hook::low_level::pipe;

/// One exploration and what came of it.
pub(super) struct Verdict {
    pub(super) case: &'static Case,
    pub(super) report: Report,
}

impl Verdict {
    pub(super) fn broke(&self) -> bool {
        self.report.found.is_some()
    }
}

/// A place for each exploration.
pub(super) struct Board(Mutex<Vec<Option<Verdict>>>);

impl Board {
    pub(super) fn new(explorations: usize) -> Self {
        Self(Mutex::new((0..explorations).map(|_| None).collect()))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Option<Verdict>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what came of exploration `i`, unless more was known.
    pub(super) fn note(&self, i: usize, new: Verdict) {
        let mut all = self.lock();
        // Less may have been done than before, if the machine has become busy.
        let is_more = |old: &Verdict| new.broke() || new.report.executions >= old.report.executions;
        if all[i].as_ref().is_none_or(is_more) {
            all[i] = Some(new);
        }
    }
}

/// Runs `then` when the user interrupts, on a thread of its own. Without file descriptors, an interrupt ends
/// the process as ever.
pub(super) fn on_interrupt(then: impl FnOnce() + Send + 'static) {
    let Ok((mut read, write)) = UnixStream::pair() else { return };
    if pipe::register(SIGINT, write).is_ok() {
        std::thread::spawn(move || {
            if read.read_exact(&mut [0]).is_ok() {
                then();
            }
        });
    }
}
