//! Errors of the library can be handed on: each is a `core::error::Error`, and so has a text.
//!
//! An error is what a public function of the library says in place of its result. A type with parameters is
//! none: it is an owner that the function gives back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

use super::finding::Finding;
use super::place::{Place, is_below_the_heap};

/// What an entry is now, for who found it changed.
const NO_ERRORS: [&str; 1] = ["Pte"];

/// Checks the public types of the library that its public functions fail with.
pub(crate) fn check<'a>(files: impl Iterator<Item = (&'a Path, &'a str)>) -> Vec<Finding> {
    let mut read = Reader::default();
    for (path, text) in files {
        if is_below_the_heap(path)
            && !Place::of(path).is_test
            && let Ok(file) = syn::parse_file(text)
        {
            read.path = path.to_path_buf();
            read.visit_file(&file);
        }
    }
    let Reader { declared, fails, errors, .. } = read;
    let lacking = fails.iter().filter(|name| !errors.contains(*name) && !NO_ERRORS.contains(&name.as_str()));
    let findings = lacking.filter_map(|name| {
        let (path, line) = declared.get(name)?;
        let message = format!("{name} is no core::error::Error: implement Display and Error beside it");
        Some(Finding { path: path.clone(), line: *line, rule: "errors", message })
    });
    findings.collect()
}

#[derive(Default)]
struct Reader {
    path: PathBuf,
    /// Where public types without parameters are declared.
    declared: BTreeMap<String, (PathBuf, usize)>,
    /// Types that public functions fail with.
    fails: BTreeSet<String>,
    /// Types that are errors.
    errors: BTreeSet<String>,
}

impl Reader {
    fn item(&mut self, vis: &syn::Visibility, name: &syn::Ident, generics: &syn::Generics) {
        if matches!(vis, syn::Visibility::Public(_)) && generics.params.is_empty() {
            let line = name.span().start().line;
            self.declared.insert(name.to_string(), (self.path.clone(), line));
        }
    }

    fn function(&mut self, vis: &syn::Visibility, sig: &syn::Signature) {
        if matches!(vis, syn::Visibility::Public(_))
            && let syn::ReturnType::Type(_, kind) = &sig.output
            && let Some(error) = error_of(kind)
        {
            self.fails.insert(error);
        }
    }
}

/// The name of what a `Result` has for an error.
fn error_of(kind: &syn::Type) -> Option<String> {
    let result = last_of(kind)?;
    let syn::PathArguments::AngleBracketed(arguments) = &result.arguments else { return None };
    let syn::GenericArgument::Type(error) = arguments.args.last()? else { return None };
    (result.ident == "Result").then(|| last_of(error).map(|error| error.ident.to_string()))?
}

fn last_of(kind: &syn::Type) -> Option<&syn::PathSegment> {
    let syn::Type::Path(path) = kind else { return None };
    path.path.segments.last()
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.item(&item.vis, &item.ident, &item.generics);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.item(&item.vis, &item.ident, &item.generics);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let of_error = |path: &syn::Path| path.segments.last().is_some_and(|last| last.ident == "Error");
        if item.trait_.as_ref().is_some_and(|(path, _)| of_error(path))
            && let Some(name) = last_of(&item.self_ty)
        {
            self.errors.insert(name.ident.to_string());
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.vis, &item.sig);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.vis, &item.sig);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_an_error() {
        let path = Path::new("crates/anonmem-hal/src/a.rs");
        let text = "pub struct Lost;\nimpl A {\n    pub fn f() -> Result<u8, Lost> { Err(Lost) }\n}\n";
        let found = check([(path, text)].into_iter());
        assert_eq!((found.len(), found[0].line), (1, 1), "{found:?}");
        let fixed = format!("{text}impl core::error::Error for Lost {{}}\n");
        assert_eq!(check([(path, fixed.as_str())].into_iter()), []);
        assert_eq!(check([(Path::new("cli/src/a.rs"), text)].into_iter()), []);
        let owner = "pub struct Guard<'a>(&'a u8);\npub fn f<'a>() -> Result<u8, Guard<'a>> { todo!() }\n";
        assert_eq!(check([(path, owner)].into_iter()), [], "what is given back");
    }
}
