//! Crates of a few lines: which circle and which floor is found.

use super::*;

/// A crate as pairs of path and text.
fn reader<'a>(files: &'a [(&'a str, &'a str)]) -> impl Fn(&Path) -> Option<String> + 'a {
    |path| files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_string())
}

fn messages(files: &[(&str, &str)]) -> Vec<String> {
    let found = check_circles(Path::new("src/lib.rs"), &reader(files));
    found.iter().map(ToString::to_string).collect()
}

const ROOT: &str = "mod a; mod b; mod c; pub use a::A;";

#[test]
fn three_files_that_import_one_another_are_a_circle() {
    let files = [
        ("src/lib.rs", ROOT),
        ("src/a.rs", "use crate::b::B;\npub struct A(B);"),
        ("src/b.rs", "pub struct B(Option<Box<crate::c::C>>);"),
        ("src/c.rs", "use crate::A; pub struct C(Option<Box<A>>);"),
    ];
    let found = messages(&files);
    assert_eq!(found.len(), 1);
    let way = "src/a.rs:1 names crate::b::B, src/b.rs:1 names crate::c::C, src/c.rs:1 names crate::A";
    assert!(found[0].contains(way), "{}", found[0]);
}

#[test]
fn names_that_only_pass_through_are_no_imports() {
    let found = messages(&[
        ("src/lib.rs", "mod a; mod b; mod c; pub use a::A; pub use b::B; pub const PAGE: usize = 4096;"),
        ("src/a.rs", "use crate::{B, PAGE}; pub struct A(B, [u8; PAGE]);"),
        ("src/b.rs", "pub struct B([u8; crate::PAGE]);"),
        ("src/c/mod.rs", "mod d; pub use d::D; use crate::A; pub fn f(_: A) {}"),
        ("src/c/d.rs", "use crate::a; pub type D = a::A;"),
    ]);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_parent_that_calls_its_child_and_has_its_noun_is_a_circle() {
    let child = |text| {
        messages(&[
            ("src/lib.rs", "mod a; pub use a::f;"),
            ("src/a/mod.rs", "mod child; pub struct Noun; pub fn f() { child::work(Noun) }"),
            ("src/a/child.rs", text),
        ])
        .len()
    };
    assert_eq!(child("use super::Noun; pub fn work(_: Noun) {}"), 1);
    assert_eq!(child("use super::*; pub fn work(_: Noun) {}"), 1);
    assert_eq!(child("pub fn work(_: super::Noun) {}"), 1);
    assert_eq!(child("pub fn work<T>(t: T) { assert!(t == super::Noun) }"), 1, "in a macro call");
    assert_eq!(child("pub fn work<T>(t: T) { use super::Noun; g(t, Noun) }"), 1, "in a body");
    assert_eq!(child("pub fn work<T>(_: T) {}"), 0);
    assert_eq!(child("pub fn work<T>(_: T) {}\n#[cfg(test)] mod tests { use super::super::Noun; }"), 0);
}

#[test]
fn a_floor_names_no_floor_above() {
    let check = |drawing: &'static str, ground: &'static str| {
        let files = [
            ("README.md", drawing),
            ("src/lib.rs", "mod ground; mod attic;"),
            ("src/ground.rs", ground),
            ("src/attic/mod.rs", "mod floor; use crate::ground::G; pub struct A(G);"),
            ("src/attic/floor.rs", "use crate::ground::G; pub struct F(G);"),
        ];
        check_floors(Path::new("src/lib.rs"), Path::new("README.md"), &reader(&files))
    };
    let drawing =
        "The house:\n\n```floors\nunder the roof  attic/\nground          ground.rs attic/floor.rs\n```\n";
    assert!(check(drawing, "pub struct G;").is_empty());
    let found = check(drawing, "pub struct G;\nfn f(_: crate::attic::A) {}");
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].rule, found[0].line), ("floor", 2));
    assert!(
        found[0].message.contains("\"ground\" names crate::attic::A of \"under the roof\""),
        "{}",
        found[0]
    );
    assert!(check(drawing, "fn f(_: crate::attic::floor::F) {} pub struct G;").is_empty());
    assert_eq!(
        check("```floors\nground ground.rs\n```\n", "pub struct G;").len(),
        2,
        "two files on no floor"
    );
    assert!(check("# Nothing\n", "pub struct G;")[0].message.contains("draw the floors"));
}
