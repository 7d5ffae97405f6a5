//! The matrix as text: a letter for each pair, and the lines in conflict.

use std::collections::BTreeMap;

use anonmem_lab::scale::{Pair, Relation, mode_name};

use super::found::Found;

/// What a pair is in the matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cell {
    /// Below the diagonal: said elsewhere.
    Mirror,
    /// The two do not commute.
    DoesNotCommute,
    /// So many lines in conflict; 0 is what scales.
    Conflicts(usize),
}

/// The cell of two operations by their places.
pub(super) fn cell(found: &Found, relation: Relation, mode: usize, row: usize, column: usize) -> Cell {
    if column < row {
        return Cell::Mirror;
    }
    let pair = found.study.pair(relation, found.modes[mode], found.ops[row], found.ops[column]);
    pair.map_or(Cell::DoesNotCommute, |pair| Cell::Conflicts(pair.conflicts.len()))
}

/// A matrix for each relation and mode, and how much of each is free of conflicts.
pub(super) fn text(found: &Found) -> String {
    let mut text = String::new();
    for relation in Relation::ALL {
        for mode in 0..found.modes.len() {
            text += &one(found, relation, mode);
        }
    }
    text + &summary(found)
}

fn one(found: &Found, relation: Relation, mode: usize) -> String {
    let width = found.ops.iter().map(|op| op.name.len()).max().unwrap_or(0);
    let mut text = format!("{}, {}\n", relation.name(), mode_name(found.modes[mode]));
    for row in 0..found.ops.len() {
        text += &format!("{:>width$} ", found.ops[row].name);
        for column in 0..found.ops.len() {
            text.push(match cell(found, relation, mode, row, column) {
                Cell::Mirror => ' ',
                Cell::DoesNotCommute => '-',
                Cell::Conflicts(0) => '.',
                Cell::Conflicts(n @ 1..=9) => (b'0' + n as u8) as char,
                Cell::Conflicts(_) => '#',
            });
            text.push(' ');
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.push('\n');
    text
}

fn summary(found: &Found) -> String {
    let mut text = String::from(
        ". no cache line in conflict; 1 to 9, # more: lines in conflict; - the two do not commute\n\n\
         pairs free of conflicts:",
    );
    found.modes.iter().for_each(|mode| text += &format!("  {:>16}", mode_name(*mode)));
    let relations = Relation::ALL.iter().map(|r| (r.name(), Some(*r))).chain([("together", None)]);
    for (name, relation) in relations {
        text += &format!("\n  {name:<22}");
        for mode in &found.modes {
            let share = found.study.share(relation, *mode);
            text += &format!("  {:>3} of {:>3} {:>5.1}%", share.free, share.all, share.percent());
        }
    }
    text + "\n\n"
}

/// The lines in conflict, those of most pairs first, each with an example of who touches it where.
pub(super) fn lines(found: &Found) -> String {
    let mut by_line: BTreeMap<&str, Vec<(&Pair, usize)>> = BTreeMap::new();
    for pair in &found.study.pairs {
        for (i, conflict) in pair.conflicts.iter().enumerate() {
            by_line.entry(&conflict.name).or_default().push((pair, i));
        }
    }
    let mut sorted: Vec<_> = by_line.into_iter().collect();
    sorted.sort_by_key(|(name, pairs)| (usize::MAX - pairs.len(), *name));
    let mut text =
        String::from("lines in conflict, and the pairs that meet there (all relations and modes):\n");
    for (name, pairs) in sorted {
        let (pair, i) = pairs[0];
        text += &format!("{:>5}  {name}\n", pairs.len());
        for (op, of) in pair.ops.iter().zip(&pair.conflicts[i].uses) {
            let does = if of.writes { "writes" } else { "reads" };
            text += &format!("         {} {does} {} at {}\n", op.name, of.field, of.at);
        }
    }
    text.push('\n');
    text
}
