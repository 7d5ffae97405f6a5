//! Prose and comments keep the code's columns.

use std::path::Path;

use super::finding::Finding;
use super::source::Source;

/// The widest line, as in `rustfmt.toml`.
const MAX_COLUMNS: usize = 110;

/// Checks a Markdown document. Rows of tables and code cannot be broken, nor can a word.
pub(crate) fn check_markdown(path: &Path, text: &str) -> Vec<Finding> {
    let mut is_code = false;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("```") {
            is_code = !is_code;
        }
        if !is_code && !trimmed.starts_with('|') && is_too_wide(line) {
            let message = message(line);
            found.push(Finding { path: path.into(), line: number + 1, rule: "columns", message });
        }
    }
    found
}

/// Checks the comments of a Rust file; rustfmt has the code.
pub(crate) fn check_comments(text: &str, source: &Source) -> Vec<(usize, String)> {
    let lines = text.lines().zip(&source.lines).enumerate();
    lines
        .filter(|(_, (text, line))| is_too_wide(text) && is_comment(text, line.comment.trim()))
        .map(|(number, (text, _))| (number, message(text)))
        .collect()
}

fn is_comment(text: &str, comment: &str) -> bool {
    !comment.is_empty()
        && text.trim() == comment
        && !comment.trim_start_matches(['/', '!', ' ']).starts_with('|')
}

fn is_too_wide(line: &str) -> bool {
    let columns = line.chars().count();
    if columns <= MAX_COLUMNS {
        return false;
    }
    // One word that fills the line, a link most likely, cannot be broken.
    let longest = line.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0);
    longest + 12 < MAX_COLUMNS
}

fn message(line: &str) -> String {
    format!("{} columns; break prose at {MAX_COLUMNS}", line.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        if path.ends_with(".md") {
            return check_markdown(Path::new(path), text).into_iter().map(|finding| finding.line).collect();
        }
        check_comments(text, &Source::parse(text)).into_iter().map(|(number, _)| number + 1).collect()
    }

    #[test]
    fn prose_is_broken_and_what_cannot_be_is_not() {
        let wide = "word ".repeat(23);
        assert_eq!(lines("a.md", &format!("short\n{wide}\n")), [2]);
        assert_eq!(
            lines("a.md", &format!("| {wide} |\n```\n{wide}\n```\nhttps://{}\n", "x".repeat(120))),
            []
        );
        let letters = "ä".repeat(54) + " " + &"ö".repeat(55);
        assert_eq!(lines("a.md", &letters), [], "columns, not bytes");
    }

    #[test]
    fn comments_are_prose() {
        let wide = "word ".repeat(23);
        assert_eq!(lines("a.rs", &format!("//! {wide}\nfn f() {{}} // {wide}\n    /// {wide}\n")), [1, 3]);
        assert_eq!(lines("a.rs", &format!("//! | {wide} |\nlet a = \"{wide}\";\n")), []);
    }
}
