//! The columns: what each CPU did, line by line, as one would draw it in a mail.
//!
//! While an execution is recorded, every operation adds an `Event` with raw addresses. [`Trace`] is the
//! readable form: objects by name, functions by name, values formatted, the locks that were held.

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
    pub(crate) address: Option<usize>,
    /// The object's name and the values, as they were read at that time.
    pub(crate) object: String,
    pub(crate) what: String,
}

/// The events of one execution.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) events: Vec<Event>,
}

/// One operation, readable.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
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
    /// The object's address, if there is an object.
    pub address: Option<usize>,
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

    /// The same with the locks that the CPU held.
    pub fn full_text(&self) -> String {
        match &self.held[..] {
            [] => self.text(),
            held => format!("{}  [{}]", self.text(), held.join(" ")),
        }
    }
}

/// What stands above the column of a CPU.
fn heading(cpu: usize, caption: &str) -> String {
    format!("CPU{cpu}: {caption}")
}

/// Letters between two columns of text.
const GAP: usize = 2;
/// The widest column of text: a row has one text only, so what is longer runs on over empty columns.
const WIDEST: usize = 64;

impl Trace {
    /// How many letters each column needs, within reason.
    fn widths(&self) -> Vec<usize> {
        let heading = |(cpu, caption): (usize, &String)| heading(cpu, caption).chars().count();
        let mut widths: Vec<_> = self.captions.iter().enumerate().map(heading).collect();
        widths.resize(widths.len().max(1), 8);
        for line in &self.lines {
            let function = line.function.chars().count() + 1;
            let text = line.full_text().chars().count() + 2;
            widths[line.cpu] = widths[line.cpu].max(function).max(text.min(WIDEST));
        }
        widths
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for (cpu, caption) in self.captions.iter().enumerate() {
            write!(f, "{:<width$}", heading(cpu, caption), width = widths[cpu] + GAP)?;
        }
        writeln!(f)?;
        writeln!(f, "{}", "-".repeat(widths.iter().map(|w| w + GAP).sum()))?;
        let mut function = vec![""; widths.len()];
        for line in &self.lines {
            let indent: usize = widths[..line.cpu].iter().map(|w| w + GAP).sum();
            if function[line.cpu] != line.function {
                function[line.cpu] = &line.function;
                if !line.function.is_empty() {
                    writeln!(f, "{:indent$}{}:", "", line.function)?;
                }
            }
            let here = if line.breaks { "   <== here" } else { "" };
            writeln!(f, "{:indent$}  {}{here}", "", line.full_text())?;
        }
        match &self.verdict {
            Some(verdict) => writeln!(f, "=> {verdict}"),
            None => Ok(()),
        }
    }
}
