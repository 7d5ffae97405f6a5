//! A source file with all its mutants in it, each behind a question.
//!
//! `x < y` becomes `(if crate::mutant::active(7) { true } else { x < y })`. So the tree is built once, and a
//! variable of the environment says which mutant a process has. Comments mark every mutant's text, so that
//! what the compiler says can be brought home to it.

use std::fmt::Write as _;
use std::ops::Range;

use crate::mutant::{Form, Mutant};

/// Writes the file anew. Mutants of one file; their spans nest or do not touch.
pub(crate) fn render(text: &str, mutants: &[&Mutant]) -> String {
    let mut ordered: Vec<&Mutant> = mutants.to_vec();
    // Outer before inner, and those of one place next to each other.
    ordered.sort_by_key(|m| (m.span.start, usize::MAX - m.span.end, matches!(m.form, Form::Expr(_)), m.id));
    render_range(text, 0..text.len(), &ordered)
}

fn render_range(text: &str, range: Range<usize>, mutants: &[&Mutant]) -> String {
    let mut out = String::new();
    let mut at = range.start;
    let mut rest = mutants;
    while let Some(first) = rest.first() {
        let span = first.span.clone();
        let here = rest.iter().take_while(|m| m.span == span).count();
        // Of one place, statements go around expressions.
        let like = |m: &&&Mutant| matches!(m.form, Form::Expr(_)) == matches!(first.form, Form::Expr(_));
        let group = rest[..here].iter().take_while(like).count();
        let inside = rest.iter().take_while(|m| m.span.start < span.end).count();
        out.push_str(&text[at..span.start]);
        let original = render_range(text, span.clone(), &rest[group..inside]);
        render_group(&mut out, &original, &rest[..group]);
        at = span.end;
        rest = &rest[inside..];
    }
    out.push_str(&text[at..range.end]);
    out
}

/// One place with its mutants.
fn render_group(out: &mut String, original: &str, group: &[&Mutant]) {
    let ids: Vec<String> = group.iter().map(|m| m.id.to_string()).collect();
    let ids = ids.join(",");
    let _ = write!(out, "/*<{ids}*/");
    let is_expr = matches!(group[0].form, Form::Expr(_));
    if is_expr {
        out.push('(');
    }
    let mut behind = String::new();
    let mut branches = String::new();
    for mutant in group {
        let id = mutant.id;
        match &mutant.form {
            Form::Expr(text) | Form::Stmt(text) => {
                let _ = write!(branches, "if crate::mutant::active({id}) {{/*<{id}*/ {text} /*>*/}} else ");
            }
            Form::Behind(text) => {
                let or = if behind.is_empty() { "" } else { "else" };
                let _ = write!(behind, " {or} if crate::mutant::active({id}) {{/*<{id}*/ {text} /*>*/}}");
            }
        }
    }
    if branches.is_empty() {
        out.push_str(original);
    } else {
        let _ = write!(out, "{branches}{{ {original} }}");
    }
    out.push_str(&behind);
    if is_expr {
        out.push(')');
    }
    out.push_str("/*>*/");
}

/// Whose text the byte at `offset` of a rendered file belongs to: the innermost place, or the one mutant.
pub(crate) fn owners(rendered: &str, offset: usize) -> Vec<u32> {
    let mut stack: Vec<Vec<u32>> = Vec::new();
    let mut at = 0;
    let before = &rendered[..offset.min(rendered.len())];
    while let Some(found) = before.get(at..).and_then(|rest| rest.find("/*")).map(|i| at + i) {
        let tail = &rendered[found + 2..];
        let end = tail.find("*/").unwrap_or(tail.len());
        match tail[..end].strip_prefix('<') {
            Some(ids) if ids.bytes().all(|b| b.is_ascii_digit() || b == b',') => {
                stack.push(ids.split(',').filter_map(|id| id.parse().ok()).collect());
            }
            Some(_) => {}
            None if &tail[..end] == ">" => {
                stack.pop();
            }
            None => {}
        }
        at = found + 2;
    }
    stack.pop().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutant::Kind;
    use crate::sites;

    const CODE: &str = "\
fn unmap(page: &Page, n: u64) -> bool {
    let _lock = page.lock();
    if page.is_mapped() && n < 3 {
        page.put();
    }
    drop(guard);
    self.flush(page, n + 1);
    word.load(Ordering::Acquire) == 0
}
#[cfg(test)]
mod tests {
    fn untouched() -> bool { a < b }
}
";

    fn mutants() -> Vec<Mutant> {
        sites::find("code.rs", CODE, 1).unwrap()
    }

    #[test]
    fn the_bugs_are_those_that_one_would_plant_by_hand() {
        let found: Vec<String> =
            mutants().iter().map(|m| format!("{:?} {} -> {}", m.kind, m.original, m.mutated)).collect();
        for expected in [
            "Lock let _lock = page.lock(); -> (let go at once)",
            "Check page.is_mapped() -> true",
            "Check page.is_mapped() && n < 3 -> false",
            "OffByOne n < 3 -> n <= 3",
            "OffByOne 3 -> 2",
            "Put page.put(); -> (dropped)",
            "Put drop(guard); -> (forgotten)",
            "Lock drop(guard); -> (at the end of the scope)",
            "Flush self.flush(page, n + 1); -> (dropped)",
            "OffByOne n + 1 -> n - 1",
            "Ordering Ordering::Acquire -> Ordering::Relaxed",
            "Check word.load(Ordering::Acquire) == 0 -> true",
        ] {
            assert!(found.iter().any(|f| f == expected), "no {expected} in {found:#?}");
        }
        assert!(mutants().iter().all(|m| m.function == "unmap"));
    }

    #[test]
    fn what_is_written_is_rust_and_knows_its_owner() {
        let mutants = mutants();
        let all: Vec<&Mutant> = mutants.iter().collect();
        let rendered = render(CODE, &all);
        syn::parse_file(&rendered).unwrap_or_else(|e| panic!("{e}\n{rendered}"));
        for mutant in &mutants {
            let start = rendered.find(&format!("{{/*<{}*/", mutant.id)).expect("its text");
            let text = rendered[start..].find("*/").unwrap() + start + 3;
            assert_eq!(owners(&rendered, text), [mutant.id]);
        }
        assert_eq!(owners(&rendered, 3), [] as [u32; 0]);
        assert!(rendered.contains("fn untouched() -> bool { a < b }"));
    }

    #[test]
    fn without_mutants_the_text_is_what_it_was() {
        assert_eq!(render(CODE, &[]), CODE);
    }

    #[test]
    fn a_constant_is_not_replaced_by_itself() {
        let mutants = sites::find("code.rs", "fn f() -> bool { true }", 1).unwrap();
        let mutated: Vec<&str> = mutants.iter().map(|m| m.mutated.as_str()).collect();
        assert_eq!(mutated, ["false"]);
    }

    #[test]
    fn a_drop_that_only_counting_follows_is_not_moved_to_the_end() {
        for (rest, moved) in [
            ("vm.count(Event::A); vm.events.add(Event::B, n); Ok(Result::Done)", 0),
            ("", 0),
            ("return Err(Reload);", 0),
            ("vm.put(page); Ok(())", 1),
            ("Ok(page.get())", 1),
            ("drop(other); Err(Reload)", 1),
        ] {
            let code = format!("fn f() -> R {{ if x {{ drop(guard); {rest} }} y }}");
            let mutants = sites::find("code.rs", &code, 1).unwrap();
            let found = mutants
                .iter()
                .filter(|m| m.mutated == "(at the end of the scope)" && m.original == "drop(guard);");
            assert_eq!(found.count(), moved, "{rest}");
        }
    }

    #[test]
    fn names_hold_when_lines_move() {
        let moved = format!("// One more line.\n{CODE}");
        let moved = sites::find("code.rs", &moved, 1).unwrap();
        for (a, b) in mutants().iter().zip(&moved) {
            assert_eq!((a.key(), a.line + 1), (b.key(), b.line));
        }
        assert!(moved.iter().any(|m| m.kind == Kind::Flush));
    }
}
