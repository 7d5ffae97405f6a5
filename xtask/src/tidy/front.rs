//! The front page of a library crate is two screens of names; the rest is hidden, or a type's own.

use std::path::Path;

use syn::{Attribute, Item, UseTree, Visibility};

/// Two screens of rustdoc's front page, a name a line.
const MOST: usize = 110;
const CRATES: [&str; 5] = [
    "crates/anonmem/src/lib.rs",
    "crates/anonmem-frame/src/lib.rs",
    "crates/anonmem-hal/src/lib.rs",
    "crates/anonmem-pgtable/src/lib.rs",
    "crates/anonmem-sync/src/lib.rs",
];

/// Checks the root of a library crate.
pub(crate) fn check(path: &Path, text: &str) -> Vec<super::finding::Finding> {
    if !CRATES.iter().any(|root| path == Path::new(root)) {
        return Vec::new();
    }
    let names = names(text);
    if names <= MOST {
        return Vec::new();
    }
    let message = format!("{names} names on the front page; hide what users need not, until {MOST} are left");
    vec![super::finding::Finding { path: path.into(), line: 1, rule: "front", message }]
}

/// The names that rustdoc lists for the root of a crate.
fn names(text: &str) -> usize {
    let Ok(file) = syn::parse_file(text) else { return 0 };
    file.items.iter().map(of_item).sum()
}

fn of_item(item: &Item) -> usize {
    let (attrs, vis) = match item {
        Item::Use(item) => (&item.attrs, &item.vis),
        Item::Mod(item) => (&item.attrs, &item.vis),
        Item::Struct(item) => (&item.attrs, &item.vis),
        Item::Enum(item) => (&item.attrs, &item.vis),
        Item::Trait(item) => (&item.attrs, &item.vis),
        Item::Type(item) => (&item.attrs, &item.vis),
        Item::Const(item) => (&item.attrs, &item.vis),
        Item::Fn(item) => (&item.attrs, &item.vis),
        _ => return 0,
    };
    match (vis, item) {
        (Visibility::Public(_), _) if attrs.iter().any(is_hidden) => 0,
        (Visibility::Public(_), Item::Use(item)) => of_tree(&item.tree),
        (Visibility::Public(_), _) => 1,
        (Visibility::Restricted(_) | Visibility::Inherited, _) => 0,
    }
}

fn of_tree(tree: &UseTree) -> usize {
    match tree {
        UseTree::Path(path) => of_tree(&path.tree),
        UseTree::Group(group) => group.items.iter().map(of_tree).sum(),
        UseTree::Name(_) | UseTree::Rename(_) | UseTree::Glob(_) => 1,
    }
}

fn is_hidden(attribute: &Attribute) -> bool {
    let is_doc = attribute.path().is_ident("doc");
    is_doc && attribute.parse_args::<syn::Ident>().is_ok_and(|argument| argument == "hidden")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_public_and_not_hidden_is_a_name() {
        let text = "mod a;\npub mod b;\n#[doc(hidden)]\npub mod c;\npub use a::{D, e::{F, G}};\npub(crate) use a::H;\n\
                    /// A struct.\npub struct I;\npub fn j() {}\npub use k as l;";
        assert_eq!(names(text), 7);
    }

    #[test]
    fn a_long_page_is_found() {
        let text: String = (0..=MOST).map(|i| format!("pub struct S{i};")).collect();
        assert_eq!(check(Path::new("crates/anonmem/src/lib.rs"), &text).len(), 1);
        assert!(check(Path::new("crates/anonmem/src/vm.rs"), &text).is_empty());
    }
}
