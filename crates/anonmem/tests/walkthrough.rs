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
