//! The committed table of conflicts: `docs/scale.toml`, which tests compare, so that a new conflict fails.
//!
//! A section for each relation and mode; in it a key for each line in conflict, and the pairs that meet
//! there: each operation with those after it.

use super::{MODES, Relation, Study, mode_name};
use std::collections::{BTreeMap, BTreeSet};

/// Conflicts: section, line, pair.
pub type Conflicts = BTreeSet<(String, String, String)>;

const HEAD: &str = "\
# Conflicts of operations that commute, by cache line: `anonmem scale --record docs/scale.toml` writes this file,
# `anonmem scale --compare docs/scale.toml` and `cargo test -p anonmem-lab --test scale` fail on what it does not have.
# docs/scale.md says what each line is. A section: how the two sides are related, and the lock mode.
";

/// What a study found.
pub fn conflicts(study: &Study) -> Conflicts {
    let of = |pair: &super::Pair| {
        let section = section(pair.relation, mode_name(pair.mode));
        let ops = pair.ops.map(|op| op.name).join(" ");
        pair.conflicts.iter().map(move |c| (section.clone(), c.name.clone(), ops.clone())).collect::<Vec<_>>()
    };
    study.pairs.iter().flat_map(of).collect()
}

fn section(relation: Relation, mode: &str) -> String {
    format!("{}.{mode}", relation.name())
}

/// The table's text.
pub fn write(study: &Study) -> String {
    let all = conflicts(study);
    let mut text = HEAD.to_owned();
    for relation in Relation::ALL {
        for mode in MODES {
            let share = study.share(Some(relation), mode);
            let name = section(relation, mode_name(mode));
            let percent = share.percent();
            text += &format!(
                "\n# {} of {} pairs are free of conflicts: {percent:.1} %\n[{name}]\n",
                share.free, share.all
            );
            text += &lines(&all, &name);
        }
    }
    text
}

/// The lines of a section.
fn lines(all: &Conflicts, section: &str) -> String {
    let mut by_line: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for (_, line, ops) in all.iter().filter(|c| c.0 == section) {
        let (a, b) = ops.split_once(' ').expect("a pair");
        by_line.entry(line).or_default().entry(a).or_default().push(b);
    }
    let mut text = String::new();
    for (line, pairs) in by_line {
        text += &format!("\"{line}\" = [\n");
        for (a, bs) in pairs {
            text += &format!("  \"{a}: {}\",\n", bs.join(" "));
        }
        text += "]\n";
    }
    text
}

/// Reads the table's text.
///
/// # Errors
/// The line that is none of this table's.
pub fn read(text: &str) -> Result<Conflicts, String> {
    let mut all = Conflicts::new();
    let (mut section, mut line) = (String::new(), String::new());
    for (number, row) in text.lines().enumerate() {
        let row = row.trim();
        if row.is_empty() || row.starts_with('#') || row == "]" {
        } else if let Some(name) = row.strip_prefix('[').and_then(|r| r.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some(name) = row.strip_suffix("= [").map(str::trim).and_then(quoted) {
            line = name.to_owned();
        } else if let Some((a, bs)) =
            row.strip_suffix(',').and_then(quoted).and_then(|pairs| pairs.split_once(": "))
        {
            all.extend(bs.split(' ').map(|b| (section.clone(), line.clone(), format!("{a} {b}"))));
        } else {
            return Err(format!("line {}: {row}", number + 1));
        }
    }
    Ok(all)
}

fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.strip_suffix('"')
}

/// How a study differs from a table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Difference {
    /// Conflicts that the table does not have.
    pub new: Vec<String>,
    /// Conflicts that are gone: the table can be written anew.
    pub gone: Vec<String>,
}

/// Compares a study with a table; only what was studied is looked for.
pub fn compare(study: &Study, table: &Conflicts) -> Difference {
    let found = conflicts(study);
    let studied: BTreeSet<(String, String)> = study
        .pairs
        .iter()
        .map(|p| (section(p.relation, mode_name(p.mode)), p.ops.map(|op| op.name).join(" ")))
        .collect();
    let shown = |(section, line, ops): &(String, String, String)| format!("{section}: {ops}: {line}");
    Difference {
        new: found.difference(table).map(shown).collect(),
        gone: table
            .difference(&found)
            .filter(|(section, _, ops)| studied.contains(&(section.clone(), ops.clone())))
            .map(shown)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_is_written() {
        let text = "# a\n[threads.spec]\n\"mm.pages\" = [\n  \"read-fault: mmap munmap\",\n]\n";
        let table = read(text).expect("a table");
        let of = |ops: &str| ("threads.spec".to_owned(), "mm.pages".to_owned(), ops.to_owned());
        assert_eq!(table, Conflicts::from([of("read-fault mmap"), of("read-fault munmap")]));
        assert_eq!(lines(&table, "threads.spec"), text.split_once("]\n").expect("a head").1);
        assert_eq!(read("nonsense"), Err("line 1: nonsense".into()));
    }
}
