//! Each rule: what it finds, where, and what it lets pass.

use super::*;

/// Two enums of the library.
fn enums() -> Enums {
    let text = "//! x\nenum Pte { A }\nenum Cleared { A }\n";
    crate::tidy::enums::of([(Path::new(SYNC), text)].into_iter())
}

/// The rules and lines that a file at a path breaks.
fn findings(path: &str, text: &str) -> Vec<(&'static str, usize)> {
    let mut all = check_text(Path::new(path), text);
    all.extend(check_rust(Path::new(path), text, &enums()));
    all.into_iter().map(|f| (f.rule, f.line)).collect()
}

const CORE: &str = "crates/anonmem/src/x.rs";
const SYNC: &str = "crates/anonmem-sync/src/x.rs";

#[test]
fn a_file_starts_with_what_it_is_for() {
    assert_eq!(findings(CORE, "use x;\n"), [("module-doc", 1)]);
    assert_eq!(findings(CORE, "//! For x.\nuse x;\n"), []);
    assert_eq!(findings("crates/anonmem/tests/fail/case.rs", "fn main() {}\n"), []);
}

#[test]
fn a_file_has_at_most_700_lines() {
    let text = "//! x\n".repeat(701);
    assert_eq!(findings(CORE, &text), [("length", 701)]);
    assert_eq!(findings(CORE, &"//! x\n".repeat(700)), []);
}

#[test]
fn anonmem_has_no_unsafe() {
    let text = "//! x\n// SAFETY: fine\nfn f() { unsafe { g() } }\n";
    assert_eq!(findings(CORE, text), [("unsafe", 3)]);
    assert_eq!(findings(SYNC, text), []);
    assert_eq!(findings(CORE, "//! x\n#![forbid(unsafe_code)]\n// unsafe is out\n"), []);
    assert_eq!(findings(CORE, "//! x\n#![allow(unsafe_code)]\n"), [("unsafe", 2)]);
}

#[test]
fn the_promises_of_anonmem_are_impls() {
    const PROMISES: &str = "crates/anonmem/src/promises.rs";
    assert_eq!(
        findings(PROMISES, "//! x\n#![allow(unsafe_code)]\n// SAFETY: held\nunsafe impl A for B {}\n"),
        []
    );
    let text = "//! x\n// SAFETY: fine\nfn f() { unsafe { g() } }\n";
    assert_eq!(findings(PROMISES, text), [("unsafe", 3)]);
    let freed =
        "//! x\n#![allow(unsafe_code)]\n// SAFETY: no user is left\nfn f() { unsafe { a.free(b) } }\n";
    assert_eq!(findings("crates/anonmem/src/freeing.rs", freed), []);
    assert_eq!(findings(CORE, freed), [("unsafe", 4), ("unsafe", 2)]);
}

#[test]
fn an_unsafe_block_has_its_reason() {
    assert_eq!(findings(SYNC, "//! x\nlet a = unsafe { g() };\n"), [("safety-comment", 2)]);
    assert_eq!(findings(SYNC, "//! x\nunsafe impl Send for X {}\n"), [("safety-comment", 2)]);
    assert_eq!(findings(SYNC, "//! x\n// SAFETY: g is fine here.\nlet a = unsafe { g() };\n"), []);
    assert_eq!(findings(SYNC, "//! x\npub unsafe fn g() {}\n"), []);
    assert_eq!(findings(SYNC, "//! x\n#[cfg(test)]\nmod tests {\n    fn f() { unsafe { g() } }\n}\n"), []);
}

#[test]
fn there_is_no_heap_below_the_heap() {
    assert_eq!(findings(SYNC, "//! x\nuse alloc::vec::Vec;\n"), [("below-the-heap", 2)]);
    assert_eq!(findings(SYNC, "//! x\nextern crate std;\n"), [("below-the-heap", 2)]);
    assert_eq!(findings(SYNC, "//! x\nfn f() { std::mem::drop(1) }\n"), [("below-the-heap", 2)]);
    assert_eq!(findings(SYNC, "//! x\nself.alloc(3); crate::alloc::page(); mod alloc;\n"), []);
    assert_eq!(findings(SYNC, "//! x\n#[cfg(test)]\nextern crate std;\n"), []);
    assert_eq!(findings("machines/hosted/src/x.rs", "//! x\nuse std::vec::Vec;\n"), []);
}

#[test]
fn the_world_is_a_value() {
    assert_eq!(findings(SYNC, "//! x\nstatic X: u32 = 1;\n"), [("static", 2)]);
    assert_eq!(findings(SYNC, "//! x\npub(crate) static X: u32 = 1;\n"), [("static", 2)]);
    assert_eq!(findings(SYNC, "//! x\nfn f(x: &'static str) {}\n"), []);
}

#[test]
fn only_hal_and_machines_know_the_architecture() {
    let text = "//! x\n#[cfg(target_arch = \"x86_64\")]\nfn f() {}\n";
    assert_eq!(findings(SYNC, text), [("architecture", 2)]);
    assert_eq!(findings("crates/anonmem-hal/src/x.rs", text), []);
    assert_eq!(findings("machines/hosted/src/x.rs", text), []);
}

#[test]
fn a_match_on_an_entry_is_total() {
    let text = "//! x\nmatch pte {\n    Pte::None => 1,\n    _ => 2,\n}\n";
    assert_eq!(findings(CORE, text), [("wildcard", 4)]);
    let text =
        "//! x\nmatch (entry, old) {\n    (Cleared::Shared(a, _), Some(b)) => 1,\n    (_, _) => 2,\n}\n";
    assert_eq!(findings(CORE, text), [("wildcard", 4)]);
    let text =
        "//! x\nmatch pte {\n    Pte::None if n > 1 => 1,\n    other if f(other) => 2,\n    other => 3,\n}\n";
    assert_eq!(findings(CORE, text), [("wildcard", 4), ("wildcard", 5)]);
    assert_eq!(findings(CORE, "//! x\nmatch n {\n    1 => Pte::None,\n    _ => Pte::Bad,\n}\n"), []);
    assert_eq!(findings(CORE, "//! x\nmatch o {\n    MyPte::None => 1,\n    _ => 2,\n}\n"), []);
    assert_eq!(findings(CORE, "//! x\nmatch pte {\n    Pte::None => 1,\n    Pte::Present(_) => 2,\n}\n"), []);
}

#[test]
fn a_strong_ordering_names_its_partner() {
    assert_eq!(findings(SYNC, "//! x\na.store(1, Ordering::Release);\n"), [("ordering", 2)]);
    assert_eq!(findings(SYNC, "//! x\na.store(1, Release);\n"), [("ordering", 2)]);
    assert_eq!(findings(SYNC, "//! x\n// Pairs with the load in g.\na.store(1, Ordering::Release);\n"), []);
    assert_eq!(findings(SYNC, "//! x\na.swap(\n    1,\n    Ordering::AcqRel,\n);\n"), [("ordering", 4)]);
    assert_eq!(findings(SYNC, "//! x\nfn f(how: Acquire) {\n    g(h == Ordering::SeqCst)\n}\n"), []);
    assert_eq!(findings(SYNC, "//! x\na.store(1, Ordering::Relaxed);\nuse Ordering::Release;\n"), []);
    assert_eq!(
        findings(
            SYNC,
            "//! x\nmatch o {\n    Ordering::Release => 1,\n    Ordering::SeqCst | Ordering::AcqRel => 2,\n}\n"
        ),
        []
    );
}

#[test]
fn nothing_unfinished_is_left() {
    assert_eq!(findings(CORE, "//! x\nfn f() { todo!() }\n"), [("leftover", 2)]);
    assert_eq!(findings(CORE, concat!("//! x\n// FIX", "ME: later\n")), [("leftover", 2)]);
    assert_eq!(findings("cli/src/x.rs", "//! x\nfn f() { dbg!(1); }\n"), [("leftover", 2)]);
    assert_eq!(findings(CORE, "//! x\nlet todo = \"todo!()\";\n"), []);
}

#[test]
fn a_bool_parameter_is_an_enum() {
    assert_eq!(
        findings(CORE, "//! x\npub fn f(a: u32, write: bool) -> bool { a == 1 }\n"),
        [("bool-parameter", 2)]
    );
    assert_eq!(
        findings(CORE, "//! x\npub const fn f(\n    a: u32,\n    write: bool,\n) {}\n"),
        [("bool-parameter", 4)]
    );
    assert_eq!(
        findings(
            CORE,
            "//! x\nfn h(on: bool) {}\npub fn f(g: &mut dyn FnMut(bool)) -> bool { true }\nstruct S { b: bool }\n"
        ),
        []
    );
}

#[test]
fn a_machines_paths_stay_on_it() {
    let path = concat!("/ho", "me/me/src");
    assert_eq!(findings("README.md", &format!("see {path}\n")).first(), Some(&("machine-path", 1)));
    assert_eq!(check_text(Path::new("README.md"), "the guest starts in /root and /tmp\n"), []);
}

#[test]
fn an_assertion_of_debug_builds_asks_the_machine() {
    let text = "//! x\nfn f() { debug_assert!(true); debug_assert_eq!(1, 1) }\n";
    assert_eq!(findings(CORE, text), [("debug-assertion", 2), ("debug-assertion", 2)]);
    assert_eq!(findings(CORE, "//! x\nfn f() { anonmem_hal::debug_check!(M, true); }\n"), []);
    assert_eq!(findings("crates/anonmem-hal/src/x.rs", text), []);
}
