//! The columns: what each CPU did, line by line, as one would draw it in a mail.
//!
//! While an execution is recorded, every operation adds an `Event` with raw addresses. [`Trace`] is the
//! readable form: objects by name, functions by name, values formatted, the locks that were held.

use crate::explorer::engine::Engine;
use anonmem_sync::order;
use core::{fmt, panic::Location};

/// What an event did, with its values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// A load; `age` newer stores were not seen.
    Load { value: u64, age: usize },
    /// A store; `late` newer stores were there already.
    Store { value: u64, late: usize },
    /// A read-modify-write.
    Rmw { old: u64, new: Option<u64> },
    /// Anything else, in words.
    Word(String),
}

/// One operation, as it was recorded.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) cpu: usize,
    pub(crate) order: &'static str,
    pub(crate) action: Action,
    pub(crate) at: &'static Location<'static>,
    pub(crate) held: Vec<&'static str>,
    /// The object's name and the values, as they were read at that time.
    pub(crate) object: String,
    pub(crate) what: String,
}

impl Event {
    /// An event of the CPU that runs.
    pub(crate) fn new(
        e: &Engine,
        address: Option<usize>,
        order: &'static str,
        action: Action,
        at: &'static Location<'static>,
    ) -> Self {
        let held = &e.cpus[e.current].held;
        let held = held.entries[..held.len].iter().map(|h| order::name_of(h.0)).collect();
        let object = address.map(|a| e.names.name(a)).unwrap_or_default();
        let what = e.names.describe(address, &action);
        Self { cpu: e.current, order, action, at, held, object, what }
    }
}

/// The events of one execution.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) events: Vec<Event>,
}

/// One operation, readable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// The CPU, a column.
    pub cpu: usize,
    /// The function of the production code, or `file:line`.
    pub function: String,
    /// `load`, `store`, `rmw`, or nothing if `what` says it all.
    pub verb: String,
    /// The object's name; empty for fences and choices.
    pub object: String,
    /// The value, or what happened.
    pub what: String,
    /// The ordering, empty for relaxed.
    pub order: String,
    /// The locks that the CPU held, oldest first.
    pub held: Vec<String>,
    /// The rule broke here.
    pub breaks: bool,
}

/// An execution as columns.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// What each CPU does.
    pub captions: Vec<String>,
    /// The operations in order.
    pub lines: Vec<Line>,
    /// What went wrong.
    pub verdict: Option<String>,
}

impl Line {
    /// What a column shows.
    pub fn text(&self) -> String {
        let parts = [&self.verb, &self.object, &self.what, &self.order];
        parts.into_iter().filter(|p| !p.is_empty()).cloned().collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.captions.len().max(1);
        let width = self.lines.iter().map(|l| l.text().chars().count()).max().unwrap_or(8).clamp(8, 44) + 2;
        for (cpu, caption) in self.captions.iter().enumerate() {
            write!(
                f,
                "{:<width$}",
                format!("CPU{cpu}: {caption}").chars().take(width - 1).collect::<String>()
            )?;
        }
        writeln!(f)?;
        writeln!(f, "{}", "-".repeat(width * columns))?;
        let mut function = vec![""; columns];
        for line in &self.lines {
            let indent = width * line.cpu;
            if function[line.cpu] != line.function {
                function[line.cpu] = &line.function;
                writeln!(f, "{:indent$}{}:", "", line.function)?;
            }
            write!(f, "{:indent$}  {}", "", line.text())?;
            if !line.held.is_empty() {
                write!(f, "  [{}]", line.held.join(" "))?;
            }
            writeln!(f, "{}", if line.breaks { "   <== here" } else { "" })?;
        }
        match &self.verdict {
            Some(verdict) => writeln!(f, "=> {verdict}"),
            None => Ok(()),
        }
    }
}
