//! What came of it: tables, the survivors with their explanations, and the same as JSON.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::mutant::{Kind, Mutant};
use crate::suites::{Outcome, Suite};
use crate::survivors::Explanation;

/// A mutant and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) mutant: Mutant,
    pub(crate) outcome: Outcome,
}

/// A run.
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    /// Mutants that do not compile, with what the compiler said.
    pub(crate) refused: Vec<String>,
    pub(crate) explanations: Vec<Explanation>,
    pub(crate) seconds: u64,
    pub(crate) cases: usize,
    /// The commit that it is about, and its date.
    pub(crate) code: String,
}

/// How many of some mutants ended how.
#[derive(Clone, Copy, Default)]
struct Tally {
    all: usize,
    by: [usize; 4],
    timed_out: usize,
    survived: usize,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        self.all += 1;
        match outcome {
            Outcome::Caught { suite, .. } => self.by[*suite as usize] += 1,
            Outcome::TimedOut { .. } => self.timed_out += 1,
            Outcome::Survived { .. } => self.survived += 1,
        }
    }

    fn of<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Self {
        let mut tally = Self::default();
        outcomes.for_each(|o| tally.add(o));
        tally
    }

    /// In tenths of a percent, rounded down.
    fn rate(&self) -> usize {
        ((self.all - self.survived) * 1000).checked_div(self.all).unwrap_or(1000)
    }

    fn row(&self, name: &str) -> String {
        let by: Vec<String> = self.by.iter().map(ToString::to_string).collect();
        format!(
            "| {name} | {} | {} | {} | {} | {}.{} % |\n",
            self.all,
            by.join(" | "),
            self.timed_out,
            self.survived,
            self.rate() / 10,
            self.rate() % 10
        )
    }
}

impl Report {
    fn tally(&self, which: impl Fn(&Mutant) -> bool) -> Tally {
        Tally::of(self.rows.iter().filter(|r| which(&r.mutant)).map(|r| &r.outcome))
    }

    /// Caught of a thousand.
    pub(crate) fn rate(&self) -> usize {
        self.tally(|_| true).rate()
    }

    fn survivors(&self) -> impl Iterator<Item = (&Row, Option<&Explanation>, bool)> {
        self.rows.iter().filter_map(|row| match row.outcome {
            Outcome::Survived { reached } => {
                Some((row, self.explanations.iter().find(|e| e.names(&row.mutant)), reached))
            }
            Outcome::Caught { .. } | Outcome::TimedOut { .. } => None,
        })
    }

    /// Survivors that nobody explained.
    pub(crate) fn unexplained(&self) -> usize {
        self.survivors().filter(|(_, why, _)| why.is_none()).count()
    }

    /// Explanations of mutants that are caught by now, all of them.
    pub(crate) fn superfluous(&self) -> Vec<&Explanation> {
        let survivors: Vec<&Mutant> = self.survivors().map(|(row, ..)| &row.mutant).collect();
        let here = |e: &&Explanation| self.rows.iter().any(|r| e.names(&r.mutant));
        let caught = |e: &&Explanation| !survivors.iter().any(|m| e.names(m));
        self.explanations.iter().filter(here).filter(caught).collect()
    }

    /// The tables and the survivors, as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::new();
        let total = self.tally(|_| true);
        let _ = writeln!(
            out,
            "{} mutants, {} of them caught or stopped: **{}.{} %**. Code of {}, {} cases of the lab, {} minutes, \
             `make mutants-generated`.\n",
            total.all,
            total.all - total.survived,
            total.rate() / 10,
            total.rate() % 10,
            self.code,
            self.cases,
            self.seconds.div_ceil(60)
        );
        let mut files: Vec<&str> = self.rows.iter().map(|r| r.mutant.file.as_str()).collect();
        files.dedup();
        self.table(&mut out, "file", files.iter().map(|f| (short(f), self.tally(|m| m.file == *f))));
        self.table(&mut out, "kind", Kind::ALL.iter().map(|k| (k.title(), self.tally(|m| m.kind == *k))));
        self.by_case(&mut out);
        self.survivors_list(&mut out);
        let _ = writeln!(out, "{} more mutants do not compile and are not counted.", self.refused.len());
        out
    }

    fn table<'a>(&self, out: &mut String, what: &str, rows: impl Iterator<Item = (&'a str, Tally)>) {
        let suites: Vec<&str> = Suite::ALL.iter().map(|s| s.title()).collect();
        let _ = writeln!(out, "| {what} | mutants | {} | stopped | survived | rate |", suites.join(" | "));
        out.push_str("|---|---|---|---|---|---|---|---|---|\n");
        for (name, tally) in rows.filter(|(_, t)| t.all > 0) {
            out.push_str(&tally.row(name));
        }
        out.push_str(&self.tally(|_| true).row("all"));
        out.push('\n');
    }

    /// Which cases earn their keep.
    fn by_case(&self, out: &mut String) {
        let mut cases: BTreeMap<&str, usize> = BTreeMap::new();
        for row in &self.rows {
            if let Outcome::Caught { suite: Suite::Lab, by, .. } = &row.outcome {
                *cases.entry(by).or_default() += 1;
            }
        }
        let mut cases: Vec<_> = cases.into_iter().collect();
        cases.sort_by_key(|(name, n)| (usize::MAX - n, *name));
        let list: Vec<String> = cases.iter().map(|(name, n)| format!("{name} {n}")).collect();
        let _ = writeln!(out, "First of the lab to catch, the fastest asked first: {}.\n", list.join(", "));
    }

    fn survivors_list(&self, out: &mut String) {
        let mut last = "";
        for (row, why, reached) in self.survivors() {
            if row.mutant.file != last {
                last = &row.mutant.file;
                let _ = writeln!(out, "### {}\n", short(last));
                out.push_str("| function | source | becomes | why it survives |\n|---|---|---|---|\n");
            }
            let m = &row.mutant;
            let why =
                why.map_or("**not explained**".to_owned(), |e| format!("{}: {}", e.verdict.title(), e.why));
            let never = if reached { "" } else { " (nothing runs it)" };
            let cell = |text: &str| text.replace('|', "\\|");
            let _ = writeln!(
                out,
                "| `{}` | `{}` | {} | {}{never} |",
                m.function,
                cell(&m.original),
                code(&cell(&m.mutated)),
                cell(&why)
            );
            if self.last_of_file(m) {
                out.push('\n');
            }
        }
    }

    fn last_of_file(&self, mutant: &Mutant) -> bool {
        let mut of_file = self.survivors().filter(|(r, ..)| r.mutant.file == mutant.file);
        of_file.by_ref().last().is_some_and(|(r, ..)| r.mutant.id == mutant.id)
    }

    pub(crate) fn json(&self) -> Json {
        let entry = |row: &Row| Entry::new(&row.mutant, row.outcome.clone(), &self.explanations);
        Json {
            rate_permille: self.rate(),
            unexplained: self.unexplained(),
            seconds: self.seconds,
            mutants: self.rows.iter().map(entry).collect(),
            cases: self.cases,
            code: self.code.clone(),
            do_not_compile: self.refused.clone(),
        }
    }
}

/// In a table, code; what happens to a statement is in parentheses already.
fn code(text: &str) -> String {
    if text.starts_with('(') && !text.contains(' ') || text.starts_with("(at ") || text.starts_with("(let ") {
        text.to_owned()
    } else {
        format!("`{text}`")
    }
}

/// Without what all files share.
fn short(file: &str) -> &str {
    file.strip_prefix("crates/").unwrap_or(file)
}

/// A run, in a file.
#[derive(Serialize, Deserialize)]
pub(crate) struct Json {
    rate_permille: usize,
    unexplained: usize,
    pub(crate) seconds: u64,
    #[serde(default)]
    cases: usize,
    #[serde(default)]
    code: String,
    mutants: Vec<Entry>,
    do_not_compile: Vec<String>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    id: u32,
    file: String,
    line: usize,
    function: String,
    kind: Kind,
    original: String,
    mutated: String,
    nth: usize,
    #[serde(flatten)]
    outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    explanation: Option<String>,
}

impl Entry {
    fn new(m: &Mutant, outcome: Outcome, explanations: &[Explanation]) -> Self {
        let survived = matches!(outcome, Outcome::Survived { .. });
        let explanation = explanations.iter().find(|e| survived && e.names(m)).map(|e| e.why.clone());
        Self {
            id: m.id,
            file: m.file.clone(),
            line: m.line,
            function: m.function.clone(),
            kind: m.kind,
            original: m.original.clone(),
            mutated: m.mutated.clone(),
            nth: m.nth,
            outcome,
            explanation,
        }
    }
}

/// Reads what a run has written to `file`.
pub(crate) fn read(file: &Path) -> Result<Json, String> {
    let text = fs::read_to_string(file)
        .map_err(|e| format!("{}: {e}; run without options first", file.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))
}

/// The last run's outcomes.
pub(crate) struct Before {
    outcomes: HashMap<(String, String, String, String, usize), Outcome>,
}

impl Before {
    pub(crate) fn all(json: &Json) -> Self {
        let key = |e: Entry| ((e.file, e.function, e.original, e.mutated, e.nth), e.outcome);
        Self { outcomes: json.mutants.iter().cloned().map(key).collect() }
    }

    pub(crate) fn outcome(&self, m: &Mutant) -> Option<&Outcome> {
        let (file, function, original, mutated, nth) = m.key();
        self.outcomes.get(&(file.into(), function.into(), original.into(), mutated.into(), nth))
    }
}

impl Report {
    /// The last run once more, with today's explanations; without mutants that it did not come to.
    pub(crate) fn again(json: Json, mutants: Vec<Mutant>, explanations: Vec<Explanation>) -> Self {
        let before = Before::all(&json);
        let row = |mutant: Mutant| Some(Row { outcome: before.outcome(&mutant)?.clone(), mutant });
        Self {
            rows: mutants.into_iter().filter_map(row).collect(),
            refused: json.do_not_compile,
            explanations,
            seconds: json.seconds,
            cases: json.cases,
            code: json.code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sites, survivors};

    #[test]
    fn a_survivor_without_a_reason_stands_out() {
        let mutants = sites::find("crates/x/src/a.rs", "fn f(a: u8) { if a == 1 { g(); } }", 1).unwrap();
        let caught = Outcome::Caught { suite: Suite::Lab, by: "case".into(), why: "race".into() };
        let outcome = |m: &Mutant| {
            if m.kind == Kind::Check { Outcome::Survived { reached: true } } else { caught.clone() }
        };
        let rows: Vec<Row> = mutants.iter().map(|m| Row { mutant: m.clone(), outcome: outcome(m) }).collect();
        let toml = "[[survivor]]\nfile = \"crates/x/src/a.rs\"\nfunction = \"f\"\noriginal = \"a == 1\"\n\
                    mutated = \"true\"\nverdict = \"missing\"\nwhy = \"a case with a = 2\"\n";
        let explanations = survivors::parse(toml).unwrap();
        let report =
            Report { rows, refused: Vec::new(), explanations, seconds: 61, cases: 1, code: "a1b2c3".into() };
        assert_eq!((report.rate(), report.unexplained()), (500, 1));
        let text = report.markdown();
        assert!(text.contains("missing: a case with a = 2") && text.contains("**not explained**"), "{text}");
        assert!(text.contains("| x/src/a.rs | 4 | 2 | 0 | 0 | 0 | 0 | 2 | 50.0 % |"), "{text}");
        assert!(report.superfluous().is_empty());
        let json = serde_json::to_string(&report.json()).unwrap();
        let last: Json = serde_json::from_str(&json).unwrap();
        let before = Before::all(&last);
        assert!(mutants.iter().all(|m| before.outcome(m) == Some(&outcome(m))));
        let again = Report::again(last, mutants, survivors::parse(&toml.replace("a = 2", "a = 3")).unwrap());
        assert_eq!(again.markdown(), text.replace("a = 2", "a = 3"));
    }
}
