//! What must not compile: the rules that are types.

#[test]
fn the_type_rules_hold() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/allowed.rs");
    cases.compile_fail("tests/ui/fail_*.rs");
}
