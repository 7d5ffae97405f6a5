//! The length of functions.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::source::Source;

/// A function longer than this says why.
const MAX_LINES: usize = 70;
/// What the reason starts with, in a comment within the function or above it.
const REASON: &str = "Long:";
/// How far above the function its reason may stand.
const ABOVE: usize = 12;

/// Every function that is too long and does not say why.
pub(crate) fn check(source: &Source, file: &syn::File) -> Vec<(usize, String)> {
    let mut found = Functions(Vec::new());
    found.visit_file(file);
    let mut long = Vec::new();
    for Function { name, first, last } in found.0 {
        let lines = last - first + 1;
        let has_reason =
            source.lines[first.saturating_sub(ABOVE)..=last].iter().any(|line| line.comment.contains(REASON));
        if lines > MAX_LINES && !has_reason && !source.lines[first].in_test {
            long.push((
                first,
                format!("{name} has {lines} lines: give its phases names, or say why (// {REASON} ...)"),
            ));
        }
    }
    long
}

struct Function {
    name: String,
    /// Lines from 0.
    first: usize,
    last: usize,
}

struct Functions(Vec<Function>);

impl Functions {
    fn add(&mut self, name: &syn::Ident, body: &syn::Block) {
        let (first, last) = (name.span().start().line - 1, body.span().end().line - 1);
        self.0.push(Function { name: name.to_string(), first, last });
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig.ident, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.add(&item.sig.ident, body);
        }
        visit::visit_trait_item_fn(self, item);
    }
}
