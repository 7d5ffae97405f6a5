//! What can go wrong in an execution.

use core::fmt;

/// The kind of a failure.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FailureKind {
    /// A panic: an assertion, an index, an overflow.
    Panic,
    /// The declared lock order was violated, or a lock was released that was not held.
    LockOrder,
    /// Two accesses to a plain word that nothing orders.
    DataRace,
    /// Nobody can go on, and not everybody is done.
    Deadlock,
    /// Too many steps without an end.
    Livelock,
    /// The scenario's own check at the end.
    Check,
    /// A translation outlived the page, or a page was read through it.
    StaleTranslation,
    /// A frame was freed twice, or used while free.
    Frame,
    /// The scenario did not do the same thing twice.
    Nondeterminism,
}

impl FailureKind {
    /// The words for it in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::LockOrder => "lock order",
            Self::DataRace => "data race",
            Self::Deadlock => "deadlock",
            Self::Livelock => "livelock",
            Self::Check => "check",
            Self::StaleTranslation => "stale translation",
            Self::Frame => "frame misuse",
            Self::Nondeterminism => "nondeterminism",
        }
    }
}

/// One failure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Its kind.
    pub kind: FailureKind,
    /// What happened, in a sentence.
    pub message: String,
    /// The CPU on which it happened, if on one.
    pub cpu: Option<usize>,
    /// `file:line` of the code that noticed, if known.
    pub at: Option<String>,
}

impl Failure {
    /// Whether `other` is the same failure, found on another path.
    pub fn same_as(&self, other: &Self) -> bool {
        self.kind == other.kind && self.at == other.at
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)?;
        if let Some(cpu) = self.cpu {
            write!(f, " (CPU{cpu}")?;
            match &self.at {
                Some(at) => write!(f, ", {at})")?,
                None => write!(f, ")")?,
            }
        }
        Ok(())
    }
}
