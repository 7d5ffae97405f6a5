//! The rules over one file.

use std::path::Path;

use super::enums::Enums;
use super::finding::Finding;
use super::functions;
use super::matches::{all_matches, is_word};
use super::place::Place;
use super::prose;
use super::source::{Line, Source};

/// A file longer than this asks to be cut.
const MAX_LINES: usize = 700;
/// How far above (and below) a strong ordering its comment may stand.
const PAIRING_ABOVE: usize = 10;
const PAIRING_BELOW: usize = 2;
/// How far above an `unsafe` block its reason may stand, past the statement that it is part of.
const SAFETY_ABOVE: usize = 8;

/// Paths of somebody's machine; in pieces, so that this file does not hold them.
const MACHINE_PATHS: [&str; 5] = [
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
    concat!("/root/", "."),
    concat!("/tmp", "/wt"),
];

/// Checks what holds for every text file.
pub(crate) fn check_text(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for machine_path in MACHINE_PATHS {
            if line.contains(machine_path) {
                let message =
                    format!("\"{machine_path}\" is a path of one machine; make it relative or general");
                findings.push(finding(path, number, "machine-path", message));
            }
        }
    }
    findings
}

/// Checks a Rust file.
pub(crate) fn check_rust(path: &Path, text: &str, enums: &Enums) -> Vec<Finding> {
    let source = Source::parse(text);
    let place = Place::of(path);
    let mut findings = Vec::new();
    let mut rule = |found: Vec<(usize, String)>, name: &'static str| {
        findings.extend(found.into_iter().map(|(line, message)| finding(path, line, name, message)));
    };
    if !place.is_fixture {
        rule(module_doc(text), "module-doc");
    }
    rule(length(text), "length");
    rule(leftovers(&source), "leftover");
    if !place.is_test
        && let Ok(file) = syn::parse_file(text)
    {
        rule(functions::check(&source, &file), "function-length");
    }
    if !place.is_fixture {
        rule(prose::check_comments(text, &source), "columns");
    }
    if !place.is_test && !place.is_fixture {
        rule(safety_comments(&source), "safety-comment");
        if place.is_core {
            rule(core_unsafe(&source, place.is_promises), "unsafe");
        }
        if place.is_below_heap {
            rule(heap(&source), "below-the-heap");
            rule(statics(&source), "static");
            rule(pairings(&source), "ordering");
            rule(bool_parameters(&source), "bool-parameter");
            if place.has_machine {
                rule(debug_assertions(&source), "debug-assertion");
            }
        }
        if place.is_crate {
            rule(wildcards(&source, enums, &place), "wildcard");
        }
        if !place.may_know_architecture {
            rule(architecture(&source), "architecture");
        }
    }
    findings
}

fn finding(path: &Path, line: usize, rule: &'static str, message: String) -> Finding {
    Finding { path: path.into(), line: line + 1, rule, message }
}

type Found = Vec<(usize, String)>;

fn module_doc(text: &str) -> Found {
    let first = text.lines().next().unwrap_or_default();
    if first.starts_with("//!") {
        return Vec::new();
    }
    vec![(0, "start the file with //! and what it is for".to_string())]
}

fn length(text: &str) -> Found {
    let lines = text.lines().count();
    if lines <= MAX_LINES {
        return Vec::new();
    }
    vec![(MAX_LINES, format!("{lines} lines; over {MAX_LINES} a file does more than one thing: cut it"))]
}

fn leftovers(source: &Source) -> Found {
    let mut found = Vec::new();
    for (number, line) in source.lines.iter().enumerate() {
        for name in ["todo!", "unimplemented!", "dbg!"] {
            if find_word(&line.code, name.trim_end_matches('!')).any(|at| line.code[at..].starts_with(name)) {
                found.push((number, format!("{name} is unfinished work; finish or remove it")));
            }
        }
        for name in [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")] {
            if find_word(&line.comment, name).next().is_some() {
                found.push((number, format!("{name} is unfinished work; do it, or say what holds instead")));
            }
        }
    }
    found
}

/// Every line of code outside tests that has a word.
/// `anonmem` is safe Rust, but for two files. In `promises.rs` impls say what guards promise, pages are
/// pinned without locks, and tests forge. In `freeing.rs` arrays end.
fn core_unsafe(source: &Source, is_promises: bool) -> Found {
    let message = "anonmem is safe Rust; move this into a crate below it";
    let found = word_found(source, "unsafe", message);
    let allowed = word_found(source, "unsafe_code", "only promises.rs and freeing.rs may allow unsafe code");
    if !is_promises {
        let denied = |line: &str| line.contains("deny(unsafe_code)") || line.contains("forbid(unsafe_code)");
        let lines: Vec<_> =
            code_lines(source).filter(|(_, line)| denied(&line.code)).map(|(n, _)| n).collect();
        return found.into_iter().chain(allowed.into_iter().filter(|(n, _)| !lines.contains(n))).collect();
    }
    let is_promise = |number: &usize| {
        code_lines(source).any(|(n, line)| {
            let code = line.code.trim_start();
            n == *number
                && (code.starts_with("unsafe impl")
                    || [".forge(", ".unforge(", "forge_", ".free(", ".pin_fast("]
                        .iter()
                        .any(|call| code.contains(call)))
        })
    };
    found.into_iter().filter(|(number, _)| !is_promise(number)).collect()
}

fn word_found(source: &Source, word: &str, message: &str) -> Found {
    code_lines(source)
        .filter(|(_, line)| find_word(&line.code, word).next().is_some())
        .map(|(number, _)| (number, message.to_string()))
        .collect()
}

fn heap(source: &Source) -> Found {
    let mut found = Vec::new();
    for (number, line) in code_lines(source) {
        for crate_name in ["alloc", "std"] {
            let uses = find_word(&line.code, crate_name).any(|at| {
                let after = &line.code[at + crate_name.len()..];
                let before = line.code[..at].trim_end();
                let is_path = after.starts_with("::") && !before.ends_with("::") && !before.ends_with('.');
                is_path || before.ends_with("extern crate")
            });
            if uses {
                found.push((
                    number,
                    format!("{crate_name} stands on a heap; this crate is below it: use core and slabs"),
                ));
            }
        }
    }
    found
}

fn statics(source: &Source) -> Found {
    let mut found = Vec::new();
    for (number, line) in code_lines(source) {
        let code = line.code.trim_start();
        let item =
            code.strip_prefix("pub").map_or(code, |rest| rest.trim_start_matches("(crate)").trim_start());
        if item.starts_with("static ") || code.starts_with("thread_local!") {
            found.push((number, "the world is a value: put this into the Vm or the machine".to_string()));
        }
    }
    found
}

/// What `debug_assert!` says is lost where the lab's instance of the code is compiled with a release build.
fn debug_assertions(source: &Source) -> Found {
    let message =
        "ask the machine, too: anonmem_hal::debug_check!(M, ..) is checked in the lab's release build";
    let words = ["debug_assert", "debug_assert_eq", "debug_assert_ne"];
    words.iter().flat_map(|word| word_found(source, word, message)).collect()
}

fn architecture(source: &Source) -> Found {
    word_found(source, "target_arch", "only hal and the machines know the architecture; ask Arch")
}

/// `unsafe` blocks and impls need a `// SAFETY:` just above them or beside them.
fn safety_comments(source: &Source) -> Found {
    let mut found = Vec::new();
    for (number, line) in code_lines(source) {
        let needs = find_word(&line.code, "unsafe").any(|at| {
            let after = line.code[at + "unsafe".len()..].trim_start();
            after.starts_with('{') || after.starts_with("impl") || after.is_empty()
        });
        let from = number.saturating_sub(SAFETY_ABOVE);
        if needs && !source.lines[from..=number].iter().any(|l| l.comment.contains("SAFETY:")) {
            found
                .push((number, "write // SAFETY: above it, with the invariant that it leans on".to_string()));
        }
    }
    found
}

/// Orderings stronger than Relaxed say what they pair with, or what they order: `// AcqRel: ...`.
fn pairings(source: &Source) -> Found {
    let mut found = Vec::new();
    for (number, line) in code_lines(source) {
        let code = &line.code;
        if code.trim_start().starts_with("use ") || code.trim_start().starts_with("pub use ") {
            continue;
        }
        let strong = ["Acquire", "Release", "AcqRel", "SeqCst"]
            .into_iter()
            .find(|name| find_word(code, name).any(|at| is_argument(code, at, at + name.len())));
        let Some(strong) = strong else {
            continue;
        };
        let from = number.saturating_sub(PAIRING_ABOVE);
        let to = (number + PAIRING_BELOW).min(source.lines.len() - 1);
        let comment: String =
            source.lines[from..=to].iter().map(|l| l.comment.to_lowercase() + " ").collect();
        let named = format!("{}:", strong.to_lowercase());
        let words = ["pairs with", "pair with", "as above", "as in", named.as_str()];
        let says_so = words.iter().any(|words| comment.contains(words));
        if !says_so {
            found.push((number, format!("{strong}: say what it pairs with, in a comment beside it")));
        }
    }
    found
}

/// Tells whether an ordering's name is passed to something, not matched on, compared or declared.
fn is_argument(code: &str, start: usize, end: usize) -> bool {
    let before = code[..start].trim_end_matches("Ordering::");
    let after = code[end..].trim_start();
    let in_a_path = before.ends_with("::");
    let declared_or_compared = before.trim_end().ends_with([':', '=', '!']) || code.contains("matches!");
    let alone_on_its_line = before.trim().is_empty() && after == ",";
    let in_a_call =
        before.matches('(').count() > before.matches(')').count() && after.starts_with([')', ',']);
    !in_a_path && !declared_or_compared && !code.contains("=>") && (in_a_call || alone_on_its_line)
}

/// `_ =>` hides the variant that somebody adds tomorrow.
fn wildcards(source: &Source, enums: &Enums, place: &Place) -> Found {
    let code = source.code();
    let mut found = Vec::new();
    for arms in all_matches(&code) {
        let Some(name) = arms.iter().find_map(|arm| enums.named_in(without_guard(&arm.pattern), place))
        else {
            continue;
        };
        for arm in arms.iter().filter(|arm| catches_all(&arm.pattern, place)) {
            let line = code[..arm.offset].matches('\n').count();
            if !source.lines[line].in_test {
                found.push((line, format!("a match on {name} is total: name the variants instead of _")));
            }
        }
    }
    found
}

fn without_guard(pattern: &str) -> &str {
    pattern.split_once(" if ").map_or(pattern, |(pattern, _)| pattern)
}

/// Whether a pattern takes whatever comes: `_`, `_ if ...`, `(_, _)`, and in the library a name for all of
/// it.
fn catches_all(pattern: &str, place: &Place) -> bool {
    let pattern = without_guard(pattern);
    let is_name = |part: &str| part.chars().all(|c| c.is_lowercase() || c == '_' || c.is_ascii_digit());
    let is_any = |part: &str| match part.trim() {
        "_" => true,
        "true" | "false" => false,
        name => place.is_below_heap && is_name(name) && !name.starts_with(|c: char| c.is_ascii_digit()),
    };
    let parts = pattern.trim_start_matches('(').trim_end_matches(')');
    !pattern.is_empty() && parts.split(',').all(is_any)
}

/// A `bool` parameter says nothing where it is passed; a private helper is read beside its calls.
fn bool_parameters(source: &Source) -> Found {
    let code = source.code();
    let mut found = Vec::new();
    for at in find_word(&code, "fn").collect::<Vec<_>>() {
        let line_start = code[..at].rfind('\n').map_or(0, |newline| newline + 1);
        if !code[line_start..at].trim_start().starts_with("pub ") {
            continue;
        }
        let rest = &code[at..];
        let end = rest.find(['{', ';']).unwrap_or(rest.len());
        let signature = &rest[..end];
        let parameters = signature.split("->").next().unwrap_or(signature);
        if !parameters.contains('(') || parameters.contains("fn(") && parameters.starts_with("fn(") {
            continue;
        }
        for bool_at in find_word(parameters, "bool") {
            let before = parameters[..bool_at].trim_end();
            let line = code[..at + bool_at].matches('\n').count();
            if before.ends_with(':') && !source.lines[line].in_test {
                found.push((
                    line,
                    "a bool says nothing where it is passed: make it an enum of two".to_string(),
                ));
            }
        }
    }
    found
}

fn code_lines(source: &Source) -> impl Iterator<Item = (usize, &Line)> {
    source.lines.iter().enumerate().filter(|(_, line)| !line.in_test)
}

/// Finds where a word stands by itself.
fn find_word<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |at| is_word(text, *at, at + word.len()))
}

#[cfg(test)]
mod tests;
