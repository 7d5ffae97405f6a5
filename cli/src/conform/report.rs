//! What the checks' program says, line by line, and how it is told.

use std::fmt::Write as _;

use crate::out::escape;
use serde::Serialize;

/// What became of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As on Linux.
    Ok,
    /// Otherwise.
    Failed,
    /// The kernel does not have what it is about, which Linux may be built without, too.
    Absent,
    /// Only its name was asked for.
    Listed,
}

impl Outcome {
    fn read(word: &str) -> Option<Self> {
        Some(match word {
            "ok" => Self::Ok,
            "FAILED" => Self::Failed,
            "absent" => Self::Absent,
            "check" => Self::Listed,
            _ => return None,
        })
    }

    /// Whether the kernel differs from Linux.
    #[must_use]
    pub fn is_failure(self) -> bool {
        self == Self::Failed
    }
}

/// A check and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name: the group, then what holds.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What Linux does, or why.
    pub why: String,
    /// What was found instead.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub found: String,
}

impl Check {
    /// The check as a line for people.
    #[must_use]
    pub fn as_text(&self) -> String {
        let word = match self.outcome {
            Outcome::Ok => "ok     ",
            Outcome::Failed => "FAILED ",
            Outcome::Absent => "absent ",
            Outcome::Listed => "",
        };
        match self.found.as_str() {
            "" => format!("{word}{}\n       Linux: {}\n", self.name, self.why),
            found => format!("{word}{}\n       Linux: {}\n       found: {found}\n", self.name, self.why),
        }
    }
}

/// All checks that the program told of.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// In the program's order.
    pub checks: Vec<Check>,
    /// How many it says there were: none if it did not come to its end.
    pub told: Option<usize>,
}

impl Report {
    /// Reads a line; gives the check that it was about.
    pub fn take(&mut self, line: &str) -> Option<&Check> {
        let mut fields = line.trim_end_matches('\r').split('\t');
        let first = fields.next()?;
        if first == "end" {
            self.told = fields.next()?.parse().ok();
            return None;
        }
        // Anything else that a kernel prints on its way.
        let outcome = Outcome::read(first)?;
        let mut next = || fields.next().map(str::to_string);
        self.checks.push(Check { outcome, name: next()?, why: next()?, found: next()? });
        self.checks.last()
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.checks.iter().filter(|check| check.outcome == outcome).count()
    }

    /// How many failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.count(Outcome::Failed)
    }

    /// Whether the program came to its end and no line was lost.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.told == Some(self.checks.len())
    }

    /// The last line for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let (ok, failed, absent) = (self.count(Outcome::Ok), self.failed(), self.count(Outcome::Absent));
        let end = match self.checks.len() {
            _ if self.is_whole() => "",
            0 => "; what was to run them ended before the first check",
            _ => "; it ended before the last check",
        };
        format!("{} checks: {ok} as on Linux, {failed} not, {absent} absent{end}\n", self.checks.len())
    }

    /// All of it as JSON.
    ///
    /// # Panics
    ///
    /// Never: it has strings and numbers only.
    #[must_use]
    pub fn as_json(&self) -> String {
        let value = serde_json::json!({
            "version": 1,
            "ok": self.count(Outcome::Ok),
            "failed": self.failed(),
            "absent": self.count(Outcome::Absent),
            "complete": self.is_whole(),
            "checks": self.checks,
        });
        format!("{value:#}\n")
    }

    /// All of it as JUnit's XML: a test case each, its group as the class.
    #[must_use]
    pub fn as_junit(&self) -> String {
        let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "<testsuite name=\"anonmem conform\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">",
            self.checks.len(),
            self.failed(),
            self.count(Outcome::Absent)
        );
        for check in &self.checks {
            let (group, name) = check.name.split_once('/').unwrap_or(("", &check.name));
            let _ = write!(text, "  <testcase classname=\"{}\" name=\"{}\"", escape(group), escape(name));
            let _ = match check.outcome {
                Outcome::Ok | Outcome::Listed => writeln!(text, "/>"),
                Outcome::Failed => writeln!(
                    text,
                    "><failure message=\"{}\">Linux: {}</failure></testcase>",
                    escape(&check.found),
                    escape(&check.why)
                ),
                Outcome::Absent => {
                    writeln!(text, "><skipped message=\"{}\"/></testcase>", escape(&check.found))
                }
            };
        }
        text + "</testsuite>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        for line in [
            "boot: noise",
            "ok\tmmap/zeroes\tnew memory is zeroes\t",
            "FAILED\tbrk/grows\tthe end moves\tx is 1 & not \"2\"",
            "absent\tmmap/droppable\tsince 6.11\tMAP_DROPPABLE",
            "end\t3",
        ] {
            report.take(line);
        }
        report
    }

    #[test]
    fn lines_become_checks_and_noise_does_not() {
        let report = report();
        assert_eq!((report.checks.len(), report.failed(), report.is_whole()), (3, 1, true));
        assert_eq!(report.summary(), "3 checks: 1 as on Linux, 1 not, 1 absent\n");
        assert!(report.checks[1].as_text().contains("found: x is 1"));
    }

    #[test]
    fn an_end_that_never_came_is_told() {
        let mut report = report();
        report.told = None;
        assert!(report.summary().contains("ended before"));
        assert!(report.as_json().contains("\"complete\": false"));
    }

    #[test]
    fn xml_is_escaped() {
        let text = report().as_junit();
        assert!(text.contains("message=\"x is 1 &amp; not &quot;2&quot;\""), "{text}");
        assert!(text.contains("classname=\"mmap\" name=\"droppable\"><skipped"), "{text}");
        assert!(text.contains("tests=\"3\" failures=\"1\" skipped=\"1\""), "{text}");
    }
}
