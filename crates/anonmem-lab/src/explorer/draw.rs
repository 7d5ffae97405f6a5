//! Makes the readable columns of what was recorded: functions by name, and the line where the rule broke.

use super::Failure;
use crate::{
    scenario::Program,
    trace::{Action, Line, Recorder, Trace},
};
use std::collections::HashMap;

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
                address: event.address,
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
