//! An owner is not made to be thrown away.
//!
//! The argument of `then_some`, `ok_or`, `unwrap_or` is made whatever the answer is. If what it makes has a
//! `Drop`, that gives away what was never taken.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

use super::finding::Finding;

/// Methods that drop their argument where it is not wanted, and which of the same kind does not.
const EAGER: [(&str, &str); 5] = [
    ("then_some", "then"),
    ("ok_or", "ok_or_else"),
    ("unwrap_or", "unwrap_or_else"),
    ("or", "or_else"),
    ("map_or", "map_or_else"),
];

/// Checks that no owner with a `Drop` is made in the argument of such a method.
pub(crate) fn check<'a>(files: impl Iterator<Item = (&'a Path, &'a str)>) -> Vec<Finding> {
    let files: Vec<(PathBuf, syn::File)> = files
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "rs"))
        .filter_map(|(path, text)| Some((path.to_path_buf(), syn::parse_file(text).ok()?)))
        .collect();
    let mut owners = Owners::default();
    files.iter().for_each(|(_, file)| owners.visit_file(file));
    let mut findings = Vec::new();
    for (path, file) in &files {
        let mut reader = Reader { path, owners: &owners.0, own: None, findings: &mut findings };
        reader.visit_file(file);
    }
    findings
}

/// The names of types that have a `Drop`.
#[derive(Default)]
struct Owners(BTreeSet<String>);

impl<'ast> Visit<'ast> for Owners {
    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let is_drop = item.trait_.as_ref().and_then(|(path, _)| path.segments.last());
        if is_drop.is_some_and(|last| last.ident == "Drop")
            && let Some(name) = name_of(&item.self_ty)
        {
            self.0.insert(name);
        }
        visit::visit_item_impl(self, item);
    }
}

/// A walk over one file.
struct Reader<'a> {
    path: &'a Path,
    owners: &'a BTreeSet<String>,
    /// What `Self` is.
    own: Option<String>,
    findings: &'a mut Vec<Finding>,
}

impl Reader<'_> {
    /// The type that an expression makes one of, as far as it says so.
    fn made(&self, made: &syn::Expr) -> Option<String> {
        let path = match made {
            syn::Expr::Struct(made) => &made.path,
            syn::Expr::Call(made) => match &*made.func {
                syn::Expr::Path(name) => &name.path,
                _ => return None,
            },
            syn::Expr::Tuple(made) => return made.elems.iter().find_map(|one| self.made(one)),
            _ => return None,
        };
        let mut names = path.segments.iter().map(|segment| segment.ident.to_string());
        let is_owner = |name: &String| self.owners.contains(name);
        names.find_map(|name| if name == "Self" { self.own.clone() } else { Some(name) }.filter(is_owner))
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let outer = std::mem::replace(&mut self.own, name_of(&item.self_ty));
        visit::visit_item_impl(self, item);
        self.own = outer;
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if let Some((eager, lazy)) = EAGER.iter().find(|(eager, _)| call.method == eager)
            && let Some(owner) = call.args.first().and_then(|argument| self.made(argument))
        {
            let message = format!(
                "{eager} makes a {owner} even if it is not wanted, and drops it: what it owns is given away \
                 that was not taken; use {lazy}"
            );
            let line = call.method.span().start().line;
            self.findings.push(Finding { path: self.path.to_path_buf(), line, rule: "eager", message });
        }
        visit::visit_expr_method_call(self, call);
    }
}

fn name_of(kind: &syn::Type) -> Option<String> {
    let syn::Type::Path(path) = kind else { return None };
    path.path.segments.last().map(|last| last.ident.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_made_only_where_it_is_wanted() {
        let path = Path::new("crates/anonmem/src/a.rs");
        let owner = "struct Use(u8);\nimpl Drop for Use { fn drop(&mut self) {} }\nstruct Plain(u8);\n";
        let found = |text: &str| {
            let text = format!("{owner}impl Use {{ fn f(took: bool) -> Option<Self> {{ {text} }} }}\n");
            check([(path, text.as_str())].into_iter()).len()
        };
        assert_eq!(found("took.then_some(Use(1))"), 1);
        assert_eq!(found("took.then_some(Self(1))"), 1);
        assert_eq!(found("g().unwrap_or(Use::new(1))"), 1);
        assert_eq!(found("took.then_some((1, Use { 0: 1 }))"), 1);
        assert_eq!(found("took.then(|| Use(1))"), 0);
        assert_eq!(found("took.then_some(Plain(1))"), 0);
    }
}
