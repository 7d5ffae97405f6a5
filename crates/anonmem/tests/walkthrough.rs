//! docs/walkthrough.md draws what the example prints.

#[path = "../examples/one_page.rs"]
#[allow(dead_code, reason = "the example's `main` is not for the test")]
mod one_page;

/// The blocks of the document that draw a step.
fn drawn(document: &str) -> String {
    document.split("```text\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn the_walkthrough_draws_what_the_example_prints() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/walkthrough.md");
    let document = std::fs::read_to_string(path).expect("docs/walkthrough.md");
    assert_eq!(drawn(&document), one_page::tour().expect("every step is possible"));
}

#[test]
fn the_readme_has_the_lines_of_the_front_page() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let read = |file| std::fs::read_to_string(format!("{root}/{file}")).expect(file);
    let (readme, front) = (read("README.md"), read("crates/anonmem/src/lib.rs"));
    let block = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    let shown: String = front
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(|line| format!("{}\n", line.trim_start()))
        .collect();
    assert!(shown.contains(block), "README.md and the crate's front page begin differently");
}
