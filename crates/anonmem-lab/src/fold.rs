//! A shorter drawing: what more than one CPU touches, and who goes on when; the rest is folded.
//!
//! An execution of production code has hundreds of steps, most of them loads that one CPU makes of what
//! nobody else changes. They stay in the trace; [`Trace::folded`] leaves a line for each run of them that
//! names the functions.

use crate::trace::{Line, Trace};
use std::collections::{HashMap, HashSet};

/// Letters of the functions that a folded line names.
const NAMES: usize = 40;

impl Trace {
    /// The same execution with what concerns one CPU alone folded: a line for each run of such steps.
    #[must_use]
    pub fn folded(&self) -> Self {
        let contended = contended(&self.lines);
        let mut lines: Vec<Line> = Vec::new();
        let mut run: Vec<&Line> = Vec::new();
        for line in &self.lines {
            let touched = line.address.is_none_or(|at| contended.contains(&at));
            let shown = line.breaks || touched || changes_an_entry(line);
            if shown || run.first().is_some_and(|first| first.cpu != line.cpu) {
                lines.extend(fold(&run));
                run.clear();
            }
            if shown {
                lines.push(line.clone());
            } else {
                run.push(line);
            }
        }
        lines.extend(fold(&run));
        Self { captions: self.captions.clone(), lines, verdict: self.verdict.clone() }
    }
}

/// The addresses that more than one CPU touches, at least one of them changing what is there.
fn contended(lines: &[Line]) -> HashSet<usize> {
    let mut touched: HashMap<usize, (u16, bool)> = HashMap::new();
    for line in lines {
        let Some(address) = line.address else { continue };
        let (cpus, changed) = touched.entry(address).or_default();
        *cpus |= 1 << line.cpu;
        *changed |= line.verb != "load";
    }
    let shared = |(_, (cpus, changed)): &(usize, (u16, bool))| *changed && cpus.count_ones() > 1;
    touched.into_iter().filter(shared).map(|(at, _)| at).collect()
}

/// Whether the line changes an entry of a page table: other CPUs use it without a step of theirs, through
/// their TLBs.
fn changes_an_entry(line: &Line) -> bool {
    let is_entry =
        [".pte[", ".pmd["].iter().any(|part| line.object.contains(part)) && line.object.ends_with(']');
    is_entry && line.verb != "load"
}

/// One line for steps of one CPU; none for none.
fn fold(run: &[&Line]) -> Option<Line> {
    let first = run.first()?;
    let mut names: Vec<&str> = Vec::new();
    for line in run {
        let name = line.function.split(' ').next().unwrap_or_default();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut list = String::new();
    for (i, name) in names.iter().enumerate() {
        if list.len() + name.len() > NAMES && i > 0 {
            list += ", …";
            break;
        }
        list += if i == 0 { "" } else { ", " };
        list += name;
    }
    let steps = if run.len() == 1 { "step" } else { "steps" };
    Some(Line {
        cpu: first.cpu,
        function: String::new(),
        what: format!("({} {steps} of its own: {list})", run.len()),
        ..Line::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(cpu: usize, verb: &str, address: usize) -> Line {
        let function = format!("f{address} (x.rs:1)");
        Line { cpu, verb: verb.into(), address: Some(address), function, ..Line::default() }
    }

    #[test]
    fn what_nobody_else_changes_is_folded_by_function() {
        let lines = vec![
            line(0, "load", 1),
            line(0, "store", 2),
            line(0, "load", 3),
            line(1, "load", 2),
            line(1, "load", 3),
            Line { breaks: true, ..line(1, "load", 4) },
        ];
        let trace = Trace { captions: vec!["a".into(), "b".into()], lines, verdict: None };
        let folded = trace.folded();
        let texts: Vec<_> = folded.lines.iter().map(|l| (l.cpu, l.text())).collect();
        let one = |f: &str| format!("(1 step of its own: {f})");
        assert_eq!(
            texts,
            [
                (0, one("f1")),
                (0, "store".into()),
                (0, one("f3")),
                (1, "load".into()),
                (1, one("f3")),
                (1, "load".into())
            ]
        );
        assert!(folded.lines[5].breaks);
    }
}
