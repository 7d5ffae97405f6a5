//! One small bug: where it is, what it replaces, and its name.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What is wrong with a mutant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A condition is always true or always false: a check that is not made.
    Check,
    /// A boolean constant is the other one.
    Constant,
    /// An ordering is `Relaxed`, or half of what it was.
    Ordering,
    /// A flush does not happen.
    Flush,
    /// A reference, a lock or memory is never given back.
    Put,
    /// A reference is never taken.
    Get,
    /// A lock is given back too early or too late.
    Lock,
    /// A comparison or a sum is off by one, or has the wrong sign.
    OffByOne,
    /// Any other statement is missing.
    Statement,
}

impl Kind {
    pub(crate) const ALL: [Self; 9] = [
        Self::Check,
        Self::Constant,
        Self::Ordering,
        Self::Flush,
        Self::Put,
        Self::Get,
        Self::Lock,
        Self::OffByOne,
        Self::Statement,
    ];

    /// For tables.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Check => "check not made",
            Self::Constant => "constant flipped",
            Self::Ordering => "ordering weakened",
            Self::Flush => "flush skipped",
            Self::Put => "put forgotten",
            Self::Get => "get forgotten",
            Self::Lock => "lock not held, or too long",
            Self::OffByOne => "off by one",
            Self::Statement => "statement dropped",
        }
    }

    /// What goes wrong when a call is left away, by its name.
    pub(crate) fn of_call(name: &str) -> Self {
        const PUT: [&str; 9] =
            ["put", "free", "unlink", "uncommit", "unlock", "release", "drop", "detach", "remove"];
        const GET: [&str; 6] = ["get", "dup", "inc", "commit", "attach", "link"];
        let has = |words: &[&str]| name.split('_').any(|part| words.contains(&part));
        if name.contains("flush") {
            Self::Flush
        } else if has(&PUT) || name == "fetch_sub" {
            Self::Put
        } else if has(&GET) || name == "fetch_add" {
            Self::Get
        } else {
            Self::Statement
        }
    }
}

/// How the text of a site is replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// An expression by another of its type.
    Expr(String),
    /// A statement, or an expression of type `()`, by statements.
    Stmt(String),
    /// Statements are added behind a statement.
    Behind(String),
}

/// One small bug.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mutant {
    /// Counted from 1 over all files.
    pub(crate) id: u32,
    /// The file, from the root of the repository.
    pub(crate) file: String,
    /// `Type::function`.
    pub(crate) function: String,
    /// Counted from 1.
    pub(crate) line: usize,
    pub(crate) kind: Kind,
    /// The source, on one line.
    pub(crate) original: String,
    /// What it becomes, or what happens to it, in parentheses.
    pub(crate) mutated: String,
    /// Which of several that are the same in this function, from 1.
    pub(crate) nth: usize,
    /// The bytes that it replaces.
    pub(crate) span: Range<usize>,
    pub(crate) form: Form,
}

impl Mutant {
    /// Names it without numbers that move.
    pub(crate) fn key(&self) -> (&str, &str, &str, &str, usize) {
        (&self.file, &self.function, &self.original, &self.mutated, self.nth)
    }

    pub(crate) fn describe(&self) -> String {
        let nth = if self.nth > 1 { format!(" (no. {})", self.nth) } else { String::new() };
        format!("{}:{} {}: `{}`{nth} -> {}", self.file, self.line, self.function, self.original, self.mutated)
    }
}
