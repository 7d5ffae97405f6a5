//! Sentences have at most 25 words: in the documents, and in the heads of the library's modules.
//!
//! Left out are tables, headings, blocks of code, the log of changes, and what a program writes between two
//! markers. A name in backquotes is one word, a link is its text.

use std::path::Path;

use super::finding::Finding;
use super::place::is_below_the_heap;

/// The most words of a sentence.
const MOST: usize = 25;

/// Ends of the markers between which a program writes into a document; any other marker ends it.
const BEGIN: [&str; 2] = [": begin -->", "<!-- result -->"];

/// Checks a document, or the head of a module of the library.
pub(crate) fn check(path: &Path, text: &str) -> Vec<Finding> {
    let is_document = path.extension().is_some_and(|e| e == "md") && !path.ends_with("CHANGELOG.md");
    let prose: Vec<&str> = if is_document {
        text.lines().collect()
    } else if is_below_the_heap(path) {
        text.lines().map(|line| line.trim_start().strip_prefix("//!").unwrap_or_default()).collect()
    } else {
        return Vec::new();
    };
    let found = paragraphs(&prose).into_iter().flat_map(|paragraph| too_long(&paragraph));
    found
        .map(|(line, words, start)| Finding {
            path: path.into(),
            line,
            rule: "sentences",
            message: format!("{words} words after \"{start}\"; at most {MOST}: say it in two sentences"),
        })
        .collect()
}

/// The words of one paragraph, each with its line.
type Paragraph = Vec<(usize, String)>;

fn paragraphs(lines: &[&str]) -> Vec<Paragraph> {
    let (mut all, mut current) = (Vec::new(), Paragraph::new());
    let (mut is_code, mut is_generated) = (false, false);
    for (number, line) in lines.iter().enumerate() {
        let line = line.trim();
        let is_fence = line.starts_with("```");
        let is_apart = line.is_empty() || line.starts_with(['|', '#', '<']);
        if line.starts_with("<!--") {
            is_generated = BEGIN.iter().any(|mark| line.ends_with(mark));
        }
        if is_fence || is_apart || is_code || is_generated {
            is_code ^= is_fence;
            all.push(std::mem::take(&mut current));
            continue;
        }
        let item = item_of(line);
        if item.is_some() {
            all.push(std::mem::take(&mut current));
        }
        current.push((number + 1, item.unwrap_or(line).to_owned()));
    }
    all.push(current);
    all.into_iter().map(|lines| words(&lines)).collect()
}

/// The text of a list's item, if the line begins one.
fn item_of(line: &str) -> Option<&str> {
    let (mark, text) = line.split_once(' ')?;
    let is_number = mark.strip_suffix('.').is_some_and(|n| n.parse::<u32>().is_ok());
    (is_number || matches!(mark, "-" | "*")).then_some(text)
}

/// The words of some lines. What is in backquotes, and the target of a link, has no spaces afterwards.
fn words(lines: &[(usize, String)]) -> Paragraph {
    let (mut words, mut word) = (Paragraph::new(), String::new());
    let (mut is_name, mut is_target, mut before) = (false, false, ' ');
    for (number, line) in lines {
        for c in line.chars().chain([' ']) {
            match c {
                '`' => is_name = !is_name,
                '(' if before == ']' && !is_name => is_target = true,
                ')' if is_target => is_target = false,
                _ if is_target => {}
                c if c.is_whitespace() && !is_name => {
                    if !word.is_empty() {
                        words.push((*number, std::mem::take(&mut word)));
                    }
                }
                '.' | '!' | '?' if is_name => word.push('x'),
                c => word.push(c),
            }
            before = c;
        }
    }
    words
}

/// The sentences that are too long: line, number of words, first words.
fn too_long(paragraph: &Paragraph) -> Vec<(usize, usize, String)> {
    let ends = |(_, word): &(usize, String)| {
        word.trim_end_matches(['"', '\'', ')', '*', '_']).ends_with(['.', '!', '?'])
    };
    let sentences = paragraph.split_inclusive(ends);
    sentences
        .filter_map(|sentence| {
            let words = sentence.iter().filter(|(_, word)| word.contains(char::is_alphanumeric));
            let start: Vec<&str> = words.clone().take(4).map(|(_, word)| word.as_str()).collect();
            let count = words.count();
            (count > MOST).then(|| (sentence[0].0, count, start.join(" ")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<(usize, String)> {
        check(Path::new(path), text).into_iter().map(|f| (f.line, f.message)).collect()
    }

    #[test]
    fn a_long_sentence_is_found_where_it_begins() {
        let long = "Short one.\nThen ".to_owned() + &"word ".repeat(25) + "ends.\n";
        let expected = "27 words after \"Then word word word\"; at most 25: say it in two sentences";
        assert_eq!(found("docs/a.md", &long), [(2, expected.to_owned())]);
        let head = long.lines().map(|line| format!("//! {line}\n")).collect::<String>();
        assert_eq!(found("crates/anonmem/src/a.rs", &head).len(), 1);
        assert_eq!(found("cli/src/a.rs", &head), []);
        assert_eq!(found("crates/anonmem/src/a.rs", &head.replace("//!", "///")), []);
    }

    #[test]
    fn what_is_no_sentence_is_left_out() {
        let words = "word ".repeat(20);
        assert_eq!(found("a.md", &format!("{words}\n\n{words}\n- {words}\n2. {words}\n# {words}\n")), []);
        assert_eq!(found("a.md", &format!("| {words}{words} |\n```\n{words}{words}\n```\n")), []);
        assert_eq!(found("a.md", &format!("{words}`a b c d e f. g h`\n[a](b c d e f g)\n")), []);
        let marked = format!("<!-- a: begin -->\n{words}{words}\n<!-- a: end -->\n{words}\n");
        assert_eq!(found("a.md", &marked), []);
        assert_eq!(found("a.md", &marked.replace(": end", ": begin").replace("a: begin", "b")).len(), 1);
        assert_eq!(found("CHANGELOG.md", &format!("{words}{words}\n")), []);
        assert_eq!(found("a.md", &format!("{words}end (so).\n{words}\n")), []);
    }
}
