//! Finding `match` expressions and their arms' patterns in code whose strings and comments are blank.

/// One arm: where its pattern starts in the code, and the pattern with its guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arm {
    pub(crate) offset: usize,
    pub(crate) pattern: String,
}

/// Finds every `match` and returns the arms of each.
pub(crate) fn all_matches(code: &str) -> Vec<Vec<Arm>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = code[from..].find("match").map(|at| at + from) {
        from = at + "match".len();
        if is_word(code, at, from)
            && let Some(open) = body_of(code, from)
        {
            found.push(arms(code, open));
        }
    }
    found
}

/// Tells whether `code[start..end]` is a word of its own.
pub(crate) fn is_word(code: &str, start: usize, end: usize) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    !code[..start].ends_with(part) && !code[end..].starts_with(part)
}

/// Finds the brace that opens the body: the first one outside parentheses.
fn body_of(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in code[from..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(from + at),
            ';' if depth == 0 => return None,
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    None
}

fn arms(code: &str, open: usize) -> Vec<Arm> {
    let bytes = code.as_bytes();
    let mut arms = Vec::new();
    let mut depth = 0_i32;
    let mut pattern_start = Some(open + 1);
    let mut at = open;
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
                // A block arm needs no comma.
                if bytes[at] == b'}' && depth == 1 && pattern_start.is_none() {
                    pattern_start = Some(at + 1);
                }
            }
            b',' if depth == 1 && pattern_start.is_none() => pattern_start = Some(at + 1),
            b'=' if depth == 1 && bytes.get(at + 1) == Some(&b'>') => {
                if let Some(start) = pattern_start.take() {
                    let text = code[start..at].trim_start_matches([',', ' ', '\n', '\t']);
                    let offset = at - text.len();
                    arms.push(Arm { offset, pattern: text.split_whitespace().collect::<Vec<_>>().join(" ") });
                }
                at += 1;
            }
            _ => {}
        }
        at += 1;
    }
    arms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(code: &str) -> Vec<Vec<String>> {
        all_matches(code).into_iter().map(|arms| arms.into_iter().map(|arm| arm.pattern).collect()).collect()
    }

    #[test]
    fn arms_have_their_patterns() {
        let code = "match f(x) { A::B { c, .. } | A::C(_) => { g(1, 2) } A::D if y > 1 => z, _ => match q { _ => 3 } }";
        assert_eq!(patterns(code), [vec!["A::B { c, .. } | A::C(_)", "A::D if y > 1", "_"], vec!["_"]]);
    }

    #[test]
    fn what_only_looks_like_a_match_is_none() {
        assert!(patterns("let rematch = 1; x.matches(2); match_it();").is_empty());
        assert!(patterns("match").is_empty());
    }
}
