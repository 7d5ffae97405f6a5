//! A Rust file as lines of code and lines of comment.
//!
//! Just enough lexing for line rules: comments (nested ones too), strings (raw ones too), character
//! literals told from lifetimes. In the code, what is inside strings and comments is blank.

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// The code, with strings emptied and comments removed; columns are kept.
    pub(crate) code: String,
    /// The text of the comments on this line.
    pub(crate) comment: String,
    /// Whether the line belongs to an item under `#[cfg(test)]`.
    pub(crate) in_test: bool,
}

/// A file, split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) lines: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    LineComment,
    BlockComment { depth: u32 },
    Str,
    RawStr { hashes: usize },
}

impl Source {
    /// Splits a file.
    pub(crate) fn parse(text: &str) -> Self {
        let mut lines = Vec::new();
        let mut state = State::Code;
        for line in text.lines() {
            let (split, next) = split_line(line, state);
            lines.push(split);
            state = if next == State::LineComment { State::Code } else { next };
        }
        let mut source = Self { lines };
        source.mark_tests();
        source
    }

    /// Joins the code with its line breaks; offsets map to lines by counting these.
    pub(crate) fn code(&self) -> String {
        let mut code = String::new();
        for line in &self.lines {
            code.push_str(&line.code);
            code.push('\n');
        }
        code
    }

    /// Marks the items that only tests see.
    fn mark_tests(&mut self) {
        let mut at = 0;
        while at < self.lines.len() {
            let code = self.lines[at].code.trim_start();
            if is_test_cfg(code) {
                let end = self.end_of_item(at);
                for line in &mut self.lines[at..=end] {
                    line.in_test = true;
                }
                at = end;
            }
            at += 1;
        }
    }

    /// Finds the last line of the item that an attribute on line `start` is for.
    fn end_of_item(&self, start: usize) -> usize {
        let mut depth = 0_i32;
        for (at, line) in self.lines.iter().enumerate().skip(start) {
            let code = if at == start { after_attributes(&line.code) } else { line.code.as_str() };
            for c in code.chars() {
                match c {
                    '{' | '(' | '[' => depth += 1,
                    '}' | ')' | ']' => depth -= 1,
                    ';' if depth == 0 => return at,
                    _ => continue,
                }
                if c == '}' && depth == 0 {
                    return at;
                }
            }
        }
        self.lines.len() - 1
    }
}

fn is_test_cfg(code: &str) -> bool {
    code.starts_with("#[cfg(test)]") || code.starts_with("#[cfg(all(test") || code.starts_with("#[test]")
}

/// Skips the attributes at the start of a line.
fn after_attributes(code: &str) -> &str {
    let mut rest = code.trim_start();
    while rest.starts_with("#[") {
        let mut depth = 0;
        let end = rest.char_indices().find(|(_, c)| {
            depth += i32::from(*c == '[') - i32::from(*c == ']');
            depth == 0 && *c == ']'
        });
        let Some((end, _)) = end else {
            return rest;
        };
        rest = rest[end + 1..].trim_start();
    }
    rest
}

fn split_line(line: &str, mut state: State) -> (Line, State) {
    let chars: Vec<char> = line.chars().collect();
    let mut out = Line::default();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let taken = match state {
            State::Code => step_code(rest, previous(&chars, at), &mut state),
            State::LineComment => rest.len(),
            State::BlockComment { depth } => step_block(rest, depth, &mut state),
            State::Str => match rest {
                ['\\', _, ..] => 2,
                ['"', ..] => {
                    state = State::Code;
                    1
                }
                _ => 1,
            },
            State::RawStr { hashes } => {
                let closes =
                    rest[0] == '"' && rest.len() > hashes && rest[1..=hashes].iter().all(|c| *c == '#');
                if closes {
                    state = State::Code;
                    1 + hashes
                } else {
                    1
                }
            }
        };
        let taken = taken.min(rest.len());
        emit(&mut out, &rest[..taken], state);
        at += taken;
    }
    (out, state)
}

fn previous(chars: &[char], at: usize) -> Option<char> {
    at.checked_sub(1).map(|at| chars[at])
}

/// Adds what was taken, to the code if it is code, to the comment if it is one.
fn emit(out: &mut Line, taken: &[char], state: State) {
    match state {
        State::Code => {
            let literal = taken.len() > 1 || taken[0] == '"';
            out.code.extend(taken.iter().map(|c| if literal { ' ' } else { *c }));
        }
        State::Str | State::RawStr { .. } => out.code.extend(taken.iter().map(|_| ' ')),
        State::LineComment | State::BlockComment { .. } => {
            out.code.extend(taken.iter().map(|_| ' '));
            out.comment.extend(taken);
        }
    }
}

/// Takes the next piece of code: one character, or the opening of something else, or a literal.
fn step_code(rest: &[char], before: Option<char>, state: &mut State) -> usize {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    match rest {
        ['/', '/', ..] => {
            *state = State::LineComment;
            2
        }
        ['/', '*', ..] => {
            *state = State::BlockComment { depth: 1 };
            2
        }
        ['"', ..] => {
            *state = State::Str;
            1
        }
        ['r', '#' | '"', ..] if !in_word || before == Some('b') || before == Some('c') => {
            let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
            if rest.get(1 + hashes) == Some(&'"') {
                *state = State::RawStr { hashes };
                return 2 + hashes;
            }
            1
        }
        ['\'', '\\', ..] => rest.iter().skip(3).position(|c| *c == '\'').map_or(2, |end| end + 4),
        ['\'', _, '\'', ..] => 3,
        _ => 1,
    }
}

fn step_block(rest: &[char], depth: u32, state: &mut State) -> usize {
    match rest {
        ['/', '*', ..] => {
            *state = State::BlockComment { depth: depth + 1 };
            2
        }
        ['*', '/', ..] => {
            *state = if depth == 1 { State::Code } else { State::BlockComment { depth: depth - 1 } };
            2
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Vec<String> {
        Source::parse(text).lines.into_iter().map(|l| l.code.trim_end().to_string()).collect()
    }

    fn squeezed(text: &str) -> String {
        code(text).join("\n").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn strings_and_comments_are_blank() {
        assert_eq!(squeezed("let a = \"unsafe // no\"; // unsafe"), "let a = ;");
        assert_eq!(squeezed("a /* b /* c */ d */ e"), "a e");
        assert_eq!(squeezed("let r = r#\"x \" unsafe\"# ; b"), "let r = ; b");
        assert_eq!(squeezed("let r = \"two\nlines unsafe\"; b"), "let r = ; b");
        assert_eq!(squeezed(r#"let q = "a\"b unsafe"; c"#), "let q = ; c");
    }

    #[test]
    fn characters_are_no_lifetimes() {
        assert_eq!(squeezed("fn f<'a>(x: &'a str) { '\"' }"), "fn f<'a>(x: &'a str) { }");
        assert_eq!(
            squeezed(r"match c { '\'' => 1, '\n' => 2, '\u{41}' => 3 }"),
            "match c { => 1, => 2, => 3 }"
        );
    }

    #[test]
    fn comments_keep_their_text() {
        let source = Source::parse("x(); // pairs with y\n//! doc");
        assert!(source.lines[0].comment.contains("pairs with y"));
        assert!(source.lines[1].comment.starts_with("//! doc"));
    }

    #[test]
    fn test_items_are_marked() {
        let text = "a();\n#[cfg(test)]\nmod tests {\n    b();\n}\nc();\n#[cfg(test)]\nmod t;\nd();\n#[cfg(test)] use x;\ne();";
        let source = Source::parse(text);
        let marked: Vec<bool> = source.lines.iter().map(|l| l.in_test).collect();
        assert_eq!(marked, [false, true, true, true, true, false, true, true, false, true, false]);
    }
}
