//! The table for a document: what `docs/performance.md` shows of the last run.
//!
//! A document that has the two marks gets what is between them replaced and keeps the rest, so that one
//! command refreshes it. Any other file becomes the section alone.

use super::{fill::fill, line::lines, table};
use crate::outcome::Outcome;

const BEGIN: &str = "<!-- anonmem bench: begin -->\n";
const END: &str = "<!-- anonmem bench: end -->\n";

/// The section: the machine, the tables, what was not measured, how busy the machine was.
pub fn text(outcome: &Outcome) -> String {
    let lines = lines(outcome);
    let mut text = format!("{}\n\n{}", table::about(outcome), fenced(&table::main_grid(&lines)));
    text += &format!("\n{}\n", fill(&table::legend()));
    for (title, grid) in table::further_grids(&lines) {
        text += &format!("\n{}\n\n{}", fill(&format!("{title}:")), fenced(&grid));
    }
    let cannot: Vec<_> = table::cannot(&lines).map(|line| fill(&format!("* {line}")) + "\n").collect();
    if !cannot.is_empty() {
        text += &format!("\n{}", cannot.concat());
    }
    text + &format!("\n{}\n", fill(&table::busy(outcome)))
}

fn fenced(grid: &str) -> String {
    format!("```\n{grid}```\n")
}

/// `document` with `section` between its marks; the section alone if it has none.
pub fn refreshed(document: Option<&str>, section: &str) -> String {
    refreshed_between([BEGIN, END], document, section)
}

/// As [`refreshed`], with other marks: the line before the section and the line after it.
pub fn refreshed_between([begin, end]: [&str; 2], document: Option<&str>, section: &str) -> String {
    let between = || {
        let (before, rest) = document?.split_once(begin)?;
        let (_, after) = rest.split_once(end)?;
        Some((before, after))
    };
    match between() {
        Some((before, after)) => format!("{before}{begin}{section}{end}{after}"),
        None => section.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_keeps_what_is_outside_its_marks() {
        let document = format!("# Title\n\n{BEGIN}old\n{END}\nThe end.\n");
        let fresh = format!("# Title\n\n{BEGIN}new\n{END}\nThe end.\n");
        assert_eq!(refreshed(Some(&document), "new\n"), fresh);
        assert_eq!(refreshed(Some(&fresh), "new\n"), fresh);
        assert_eq!(refreshed(Some("no marks"), "new\n"), "new\n");
        assert_eq!(refreshed(None, "new\n"), "new\n");
    }
}
