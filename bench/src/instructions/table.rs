//! The table of counts: as a file, and compared with another one.

use super::{LIMIT_PERCENT, cases};
use std::{collections::BTreeMap, fmt::Write};

/// Instructions per unit, by case.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Table {
    /// The compiler that made the code.
    pub rustc: String,
    /// The counts.
    pub rows: BTreeMap<String, f64>,
}

/// What a comparison says of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The row.
    pub name: String,
    /// The committed count; none if the row is new.
    pub before: Option<f64>,
    /// The count now; none if the row is gone.
    pub now: Option<f64>,
}

impl Change {
    /// How much it grew, in per cent.
    pub fn percent(&self) -> Option<f64> {
        Some((self.now? / self.before? - 1.0) * 100.0)
    }

    /// Whether it is more than may be.
    pub fn is_too_much(&self) -> bool {
        match (self.before, self.now) {
            (Some(_), Some(_)) => self.percent().is_some_and(|p| p > LIMIT_PERCENT),
            _ => true,
        }
    }
}

/// Rows of which the second has to cost what the first does: what it has beside has no part in the path.
const SAME: [(&str, &str); 1] = [("fault-beside", "fault-beside-uffd")];

impl Table {
    /// Pairs of rows that should be the same and are not.
    pub fn unequal(&self) -> Vec<(&'static str, &'static str)> {
        let of = |name| self.rows.get(name).copied().unwrap_or(f64::NAN);
        SAME.into_iter().filter(|&(a, b)| (of(a) - of(b)).abs() > 0.05).collect()
    }

    /// Reads what [`text`](Self::text) wrote.
    ///
    /// # Errors
    /// The line that makes no sense.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut table = Self::default();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with(['#', '['])) {
            let (name, value) = line.split_once('=').ok_or_else(|| format!("\"{line}\" is no row"))?;
            let (name, value) = (name.trim(), value.trim());
            let value = value.split('#').next().unwrap_or(value).trim();
            if name == "rustc" {
                table.rustc = value.trim_matches('"').into();
            } else {
                let count = value.parse().map_err(|_| format!("\"{line}\" has no number"))?;
                table.rows.insert(name.into(), count);
            }
        }
        Ok(table)
    }

    /// As a TOML file.
    pub fn text(&self) -> String {
        let mut text = String::from(
            "# Instructions of the hot paths, counted by callgrind: `make bench-instructions` measures them and fails when\n\
             # one grows by more than 3 %; `make bench-instructions-record` writes this file. Per page, call or pair;\n\
             # without the zeroing and copying of pages.\n",
        );
        let _ = writeln!(text, "rustc = \"{}\"\n\n[instructions]", self.rustc);
        for case in cases::CASES {
            if let Some(count) = self.rows.get(case.name) {
                // The rounding of a small count is not to be taken for a change of it.
                let digits = if *count < 10.0 { 3 } else { 1 };
                let row = format!("{} = {count:.digits$}", case.name);
                let _ = writeln!(text, "{row:28} # {}", case.what);
            }
        }
        text
    }

    /// What changed from `self` to `now`, in the order of the cases.
    pub fn compare(&self, now: &Self) -> Vec<Change> {
        let names = cases::CASES.iter().map(|case| case.name.to_string());
        let gone = self.rows.keys().filter(|name| cases::find(name).is_none()).cloned();
        names
            .chain(gone)
            .map(|name| Change {
                before: self.rows.get(&name).copied(),
                now: now.rows.get(&name).copied(),
                name,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, f64)]) -> Table {
        Table { rustc: "rustc 1".into(), rows: rows.iter().map(|(n, c)| (n.to_string(), *c)).collect() }
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let written = table(&[("zap", 12.5), ("fork", 90.0), ("zap-2m", 3.875)]);
        assert_eq!(Table::parse(&written.text()).unwrap(), written);
    }

    #[test]
    fn what_has_no_part_in_a_path_costs_it_nothing() {
        let now = |other| table(&[("fault-beside", 100.0), ("fault-beside-uffd", other)]);
        assert_eq!((now(100.0).unequal().len(), now(100.1).unequal().len()), (0, 1));
        let committed = Table::parse(include_str!("../../instructions.toml")).unwrap();
        assert!(committed.unequal().is_empty() && committed.rows.contains_key("fault-beside-uffd"));
    }

    /// The second column of the table in docs/porting.md names rows of the file.
    #[test]
    fn what_porting_says_it_costs_is_what_was_counted() {
        let committed = Table::parse(include_str!("../../instructions.toml")).unwrap();
        let page = include_str!("../../../docs/porting.md");
        let costs = page.split("\n## What it costs\n").nth(1).expect("the page says what it costs");
        let mut said = 0;
        for line in costs.lines().filter(|line| line.contains("| `")) {
            let [_, _, row, count, _] = line.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
                panic!("\"{line}\" has not three columns");
            };
            let counted = format!("{:.0}", committed.rows[row.trim_matches('`')]);
            assert_eq!(count.replace(',', ""), counted, "docs/porting.md: {line}");
            said += 1;
        }
        assert!(said >= 5, "{said} rows of docs/porting.md that name one of the file");
    }

    /// Without asking for anything, a program has four fifths of what folios of 64 KiB would give it.
    #[test]
    fn folios_that_grow_gain_nearly_what_those_of_64_kib_gain() {
        let committed = Table::parse(include_str!("../../instructions.toml")).unwrap();
        for row in ["populate", "fork", "zap"] {
            let of = |with: &str| committed.rows[&format!("{row}{with}")];
            let (auto, most) = (of("") - of("-auto"), of("") - of("-64k"));
            assert!(most > 0.0 && auto >= 0.8 * most, "{row}: {auto} of {most} instructions a page");
        }
    }

    #[test]
    fn three_per_cent_more_is_too_much_and_so_is_a_row_that_nobody_recorded() {
        let before = table(&[("zap", 100.0), ("fork", 100.0)]);
        let now = table(&[("zap", 102.9), ("fork", 103.1), ("exit", 1.0)]);
        let too_much: Vec<_> =
            before.compare(&now).into_iter().filter(Change::is_too_much).map(|c| c.name).collect();
        assert!(too_much.contains(&"fork".into()) && too_much.contains(&"exit".into()));
        assert!(!too_much.contains(&"zap".into()));
    }
}
