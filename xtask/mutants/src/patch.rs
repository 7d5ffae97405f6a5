//! A bug planted by hand: a patch of `mutants/` or `mutants/holes/`, as mutants of the copy.
//!
//! A patch changes the bodies of functions. Each becomes a question: `if active(7)`, the changed body, else
//! the old one. So one copy has all patches in it. A patch that changes more (a signature, a constant) is
//! refused.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::TokenStream;
use syn::visit::{self, Visit};

use crate::mutant::{Form, Kind, Mutant};

/// A patch and what its first lines say.
#[derive(Clone, Debug)]
pub(crate) struct Patch {
    /// The name of its file, without the ending.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// What it breaks: its first line.
    pub(crate) breaks: String,
    /// Of what kind the bug is, where any case or test may find it.
    pub(crate) kind: Option<String>,
    /// The cases that must each fail with it.
    pub(crate) cases: Vec<String>,
    /// Of these tests one must fail with it: by a part of their names.
    pub(crate) tests: Vec<String>,
    /// The files that it changes.
    files: Vec<String>,
}

impl Patch {
    /// Reads a patch.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self::parse(name, path.into(), &text)
    }

    fn parse(name: String, path: PathBuf, text: &str) -> Result<Self, String> {
        let said = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().trim();
        let words = |key: &str| said(key).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let patch = Self {
            name,
            path,
            breaks: text.lines().next().unwrap_or_default().to_owned(),
            kind: words("kind: ").first().cloned(),
            cases: words("cases: "),
            // The first word is the crate.
            tests: words("tests: ").into_iter().skip(1).collect(),
            files: text.lines().filter_map(|l| l.strip_prefix("+++ b/")).map(str::to_owned).collect(),
        };
        // It would be shown to nothing, and count as a bug that nobody finds.
        if patch.kind.is_none() && patch.cases.is_empty() && patch.tests.is_empty() {
            return Err(format!("{}: a line \"cases:\", \"tests:\" or \"kind:\" is missing", patch.name));
        }
        Ok(patch)
    }

    /// The patch as mutants that all have the number `id`: one for each function that it changes.
    ///
    /// # Errors
    /// What it changes outside of functions; that it does not apply.
    pub(crate) fn mutants(&self, root: &Path, scratch: &Path, id: u32) -> Result<Vec<Mutant>, String> {
        let io = |e: std::io::Error| format!("{}: {e}", scratch.display());
        let _ = fs::remove_dir_all(scratch);
        for file in &self.files {
            let to = scratch.join(file);
            fs::create_dir_all(to.parent().unwrap_or(scratch)).map_err(io)?;
            fs::copy(root.join(file), &to).map_err(|e| format!("{file}: {e}"))?;
        }
        self.apply(scratch)?;
        let mut mutants = Vec::new();
        for file in &self.files {
            let read = |root: &Path| fs::read_to_string(root.join(file)).map_err(|e| format!("{file}: {e}"));
            let changes = changes(&read(root)?, &read(scratch)?).map_err(|why| format!("{file}: {why}"))?;
            mutants.extend(changes.into_iter().map(|(function, span, body)| Mutant {
                id,
                file: file.clone(),
                function,
                line: 0,
                kind: Kind::Statement,
                original: self.name.clone(),
                mutated: String::new(),
                nth: 1,
                span,
                form: Form::Stmt(body),
            }));
        }
        if mutants.is_empty() { Err("changes nothing".into()) } else { Ok(mutants) }
    }

    /// Applies the patch to the tree at `to`.
    pub(crate) fn apply(&self, to: &Path) -> Result<(), String> {
        let mut patch = Command::new("patch");
        patch.args(["--quiet", "--strip=1", "--no-backup-if-mismatch", "--directory"]).arg(to);
        let file = fs::File::open(&self.path).map_err(|e| format!("{}: {e}", self.path.display()))?;
        let status = patch.stdin(file).status().map_err(|e| format!("cannot start patch: {e}"))?;
        if status.success() { Ok(()) } else { Err("does not apply any more".into()) }
    }
}

/// The functions whose bodies differ, each with what is to be replaced, and by what.
fn changes(old: &str, new: &str) -> Result<Vec<(String, Range<usize>, String)>, String> {
    let (before, after) = (bodies(old)?, bodies(new)?);
    if around(old, &before)? != around(new, &after)? {
        return Err("changes more than the bodies of functions".into());
    }
    let mut changes = Vec::new();
    for ((name, span), (_, with)) in before.into_iter().zip(after) {
        let with = &new[with];
        if tokens(&old[span.clone()])? != tokens(with)? {
            changes.push((name, span, with.to_owned()));
        }
    }
    Ok(changes)
}

/// What is outside of the bodies.
fn around(text: &str, bodies: &[(String, Range<usize>)]) -> Result<String, String> {
    let mut out = String::new();
    let mut at = 0;
    for (_, body) in bodies {
        out.push_str(&text[at..body.start]);
        at = body.end;
    }
    out.push_str(&text[at..]);
    tokens(&out)
}

fn tokens(text: &str) -> Result<String, String> {
    text.parse().map(|t: TokenStream| t.to_string()).map_err(|e| e.to_string())
}

/// All functions with what is between their braces, in their order. One inside of another is part of it.
fn bodies(text: &str) -> Result<Vec<(String, Range<usize>)>, String> {
    let file = syn::parse_file(text).map_err(|e| e.to_string())?;
    let mut bodies = Bodies(Vec::new());
    bodies.visit_file(&file);
    Ok(bodies.0)
}

struct Bodies(Vec<(String, Range<usize>)>);

impl Bodies {
    fn add(&mut self, sig: &syn::Signature, block: &syn::Block) {
        let braces = &block.brace_token.span;
        let inside = braces.open().byte_range().end..braces.close().byte_range().start;
        self.0.push((sig.ident.to_string(), inside));
    }
}

impl<'ast> Visit<'ast> for Bodies {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig, &item.block);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        match &item.default {
            Some(block) => self.add(&item.sig, block),
            None => visit::visit_trait_item_fn(self, item),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plant;

    const OLD: &str =
        "use a::b;\nimpl A {\n    fn f(&self) -> u8 { self.g(); 1 }\n    fn g(&self) { drop(b) }\n}\n";

    #[test]
    fn a_patch_says_what_must_find_it() {
        let parse = |head: &str| {
            Patch::parse("a".into(), "a.patch".into(), &format!("{head}\n--- a/b.rs\n+++ b/b.rs\n"))
        };
        let patch = parse("It breaks.\nkind: window\n").unwrap();
        assert_eq!((patch.breaks.as_str(), patch.kind.as_deref()), ("It breaks.", Some("window")));
        assert!(parse("It breaks.\n").is_err_and(|why| why.contains("kind:")));
        let mutants = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../mutants");
        let folders = [mutants.clone(), mutants.join("holes")].map(|f| fs::read_dir(f).unwrap());
        let paths = folders.into_iter().flatten().map(|e| e.unwrap().path());
        let read = paths.filter(|p| p.extension().is_some_and(|e| e == "patch")).map(|p| Patch::read(&p));
        assert!(read.map(|patch| patch.unwrap()).filter(|p| !p.breaks.ends_with('.')).count() == 0);
    }

    #[test]
    fn the_bodies_that_differ_are_planted() {
        let new = OLD.replace("self.g(); ", "").replace("fn g", "// A comment.\n    fn g");
        let changes = changes(OLD, &new).unwrap();
        let [(name, span, body)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!((name.as_str(), OLD[span.clone()].trim(), body.trim()), ("f", "self.g(); 1", "1"));
        let mutant = Mutant {
            id: 7,
            file: "a.rs".into(),
            function: name.clone(),
            line: 0,
            kind: Kind::Statement,
            original: "a".into(),
            mutated: String::new(),
            nth: 1,
            span: span.clone(),
            form: Form::Stmt(body.clone()),
        };
        let planted = plant::render(OLD, &[&mutant]);
        syn::parse_file(&planted).unwrap();
        assert!(planted.contains("crate::mutant::active(7)"), "{planted}");
    }

    #[test]
    fn what_changes_outside_of_bodies_is_refused() {
        assert!(changes(OLD, &OLD.replace("-> u8", "-> u16")).is_err());
        assert!(changes(OLD, &OLD.replace("use a::b;", "")).is_err());
        assert_eq!(changes(OLD, OLD), Ok(Vec::new()));
    }

    #[test]
    fn the_first_lines_of_a_patch_say_what_must_find_it() {
        let text = "It breaks.\ncases: one two\ntests: anonmem a_test\n\n--- a/x.rs\n+++ b/x.rs\n";
        let patch = Patch::parse("p".into(), "p.patch".into(), text).unwrap();
        assert_eq!(
            (patch.cases.len(), &patch.tests[..], &patch.files[..]),
            (2, &["a_test".to_owned()][..], &["x.rs".to_owned()][..])
        );
        assert!(patch.kind.is_none() && patch.breaks == "It breaks.");
    }
}
