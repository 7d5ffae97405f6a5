//! The columns: what each CPU did, line by line, as one would draw it in a mail.
//!
//! While an execution is recorded, every operation adds an `Event` with raw addresses. [`Trace`] is the
//! readable form: objects by name, functions by name, values formatted, the locks that were held.

use crate::{
    explorer::{Failure, engine::Engine},
    scenario::Program,
};
use anonmem_sync::order;
use core::{fmt, panic::Location};
use std::collections::HashMap;

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
    object: String,
    what: String,
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

impl Recorder {
    /// The readable form. The line where `failure` happened is marked.
    pub(crate) fn trace(&self, program: &dyn Program, failure: Option<&Failure>) -> Trace {
        let mut functions = Functions::default();
        let lines = self.events.iter().map(|event| {
            let verb = match event.action {
                Action::Load { .. } => "load",
                Action::Store { .. } => "store",
                Action::Rmw { .. } => "rmw",
                Action::Word(_) => "",
            };
            Line {
                cpu: event.cpu,
                function: functions.at(event.at.file(), event.at.line()),
                verb: verb.into(),
                object: event.object.clone(),
                what: event.what.clone(),
                order: event.order.into(),
                held: event.held.iter().map(|h| (*h).into()).collect(),
                breaks: false,
            }
        });
        let mut lines: Vec<_> = lines.collect();
        if let Some(cpu) = failure.and_then(|f| f.cpu)
            && let Some(line) = lines.iter_mut().rev().find(|l| l.cpu == cpu)
        {
            line.breaks = true;
        } else if failure.is_some()
            && let Some(line) = lines.last_mut()
        {
            line.breaks = true;
        }
        let captions = (0..program.nr_cpus()).map(|cpu| program.caption(cpu).to_owned()).collect();
        Trace { captions, lines, verdict: failure.map(ToString::to_string) }
    }
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

type Format = Box<dyn Fn(u64) -> String>;
type Lookup = Box<dyn Fn(usize) -> Option<Named>>;

/// What somebody knows of an address.
pub struct Named {
    /// What it is called.
    pub name: String,
    /// How its values read, if not as numbers.
    pub format: Option<fn(u64) -> String>,
}

/// Names for addresses.
#[derive(Default)]
pub struct Names {
    ranges: Vec<(usize, usize, String, Option<Format>)>,
    lookups: Vec<Lookup>,
}

impl Names {
    /// Calls `object` by `name`.
    pub fn add<T: ?Sized>(&mut self, object: &T, name: impl Into<String>) {
        self.range(core::ptr::from_ref(object).addr(), size_of_val(object), name);
    }

    /// Calls `object` by `name` and shows its values through `format`.
    pub fn add_with<T>(
        &mut self,
        object: &T,
        name: impl Into<String>,
        format: impl Fn(u64) -> String + 'static,
    ) {
        let start = core::ptr::from_ref(object).addr();
        self.ranges.push((start, size_of::<T>(), name.into(), Some(Box::new(format))));
    }

    /// Calls the `len` bytes at `start` by `name`.
    pub fn range(&mut self, start: usize, len: usize, name: impl Into<String>) {
        self.ranges.push((start, len, name.into(), None));
    }

    /// As [`range`](Self::range), with a format for the values.
    pub fn range_with(
        &mut self,
        start: usize,
        len: usize,
        name: impl Into<String>,
        format: impl Fn(u64) -> String + 'static,
    ) {
        self.ranges.push((start, len, name.into(), Some(Box::new(format))));
    }

    /// Asks `lookup` for addresses that are in no range. It is asked in the middle of an execution, about the world as it is
    /// then: it must not make a step, nor lock anything.
    pub fn ask(&mut self, lookup: impl Fn(usize) -> Option<Named> + 'static) {
        self.lookups.push(Box::new(lookup));
    }

    fn look_up(&self, address: usize) -> Option<Named> {
        self.lookups.iter().find_map(|lookup| lookup(address))
    }

    /// What happened to `address`, with the values.
    fn describe(&self, address: Option<usize>, action: &Action) -> String {
        let show = |v: u64| address.map_or_else(|| v.to_string(), |a| self.value(a, v));
        match action {
            Action::Load { value, age: 0 } => show(*value),
            Action::Load { value, age } => format!("{} ({age} newer not seen)", show(*value)),
            Action::Store { value, late: 0 } => format!("= {}", show(*value)),
            Action::Store { value, .. } => format!("= {} (overtaken already)", show(*value)),
            Action::Rmw { old, new: Some(new) } => format!("{} -> {}", show(*old), show(*new)),
            Action::Rmw { old, new: None } => format!("{}, exchange failed", show(*old)),
            Action::Word(word) => word.clone(),
        }
    }

    /// The smallest named range that holds `address`; later ones win.
    fn find(&self, address: usize) -> Option<&(usize, usize, String, Option<Format>)> {
        let holds = |r: &&(usize, usize, String, Option<Format>)| (r.0..r.0 + r.1).contains(&address);
        self.ranges.iter().rev().filter(holds).min_by_key(|r| r.1)
    }

    fn name(&self, address: usize) -> String {
        use crate::explorer::address;
        match address {
            address::SC => return "SC order".into(),
            a if (address::WAKE..address::WAKE + 64).contains(&a) => {
                return format!("wake-up of CPU{}", a - 64);
            }
            a if (address::TLB..address::TLB + 64).contains(&a) => return format!("TLB of CPU{}", a - 128),
            _ => {}
        }
        if address & 1 == 1 {
            return match self.look_up(address) {
                // A lock that is a bit of a word.
                Some(named) => named.name,
                None => format!("wait queue of {}", self.name(address & !1)),
            };
        }
        match (self.find(address), self.look_up(address)) {
            (Some((start, _, name, _)), _) if *start == address => name.clone(),
            (Some((start, _, name, _)), _) => format!("{name}+{:#x}", address - start),
            (None, Some(named)) => named.name,
            (None, None) => format!("{address:#x}"),
        }
    }

    fn value(&self, address: usize, value: u64) -> String {
        match self.find(address) {
            Some((_, _, _, Some(format))) => return format(value),
            Some(_) => {}
            None => {
                if let Some(format) = self.look_up(address).and_then(|named| named.format) {
                    return format(value);
                }
            }
        }
        match value {
            _ if value < 1 << 16 => value.to_string(),
            _ if value >> 31 == 1 => (value as i32).to_string(),
            _ => format!("{value:#x}"),
        }
    }
}

/// Which function a line of source is in, as far as the source can be read.
#[derive(Default)]
struct Functions {
    files: HashMap<&'static str, Vec<(u32, String)>>,
    cache: HashMap<(&'static str, u32), String>,
}

impl Functions {
    fn at(&mut self, file: &'static str, line: u32) -> String {
        if let Some(name) = self.cache.get(&(file, line)) {
            return name.clone();
        }
        let starts = self.files.entry(file).or_insert_with(|| functions_of(file));
        let short = file.rsplit('/').next().unwrap_or(file);
        let name = match starts.iter().rev().find(|(start, _)| *start <= line) {
            Some((_, function)) => format!("{function} ({short}:{line})"),
            None => format!("{short}:{line}"),
        };
        self.cache.insert((file, line), name.clone());
        name
    }
}

/// The functions of a source file: first line and name.
fn functions_of(file: &str) -> Vec<(u32, String)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
    let Ok(text) =
        std::fs::read_to_string(file).or_else(|_| std::fs::read_to_string(format!("{root}{file}")))
    else {
        return Vec::new();
    };
    let name_of = |line: &str| {
        let rest = line.trim_start();
        let rest = &rest[rest
            .find("fn ")
            .filter(|i| rest[..*i].chars().all(|c| c.is_alphanumeric() || " ()_".contains(c)))?
            + 3..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        Some(rest[..end].to_owned())
    };
    text.lines().enumerate().filter_map(|(i, line)| Some((i as u32 + 1, name_of(line)?))).collect()
}
