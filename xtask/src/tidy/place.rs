//! Where a file stands decides which rules it meets.

use std::path::Path;

/// Crates that live below the heap.
const BELOW_THE_HEAP: [&str; 5] = [
    "crates/anonmem/src/",
    "crates/anonmem-hal/src/",
    "crates/anonmem-sync/src/",
    "crates/anonmem-frame/src/",
    "crates/anonmem-pgtable/src/",
];

/// The files of the core that promise what no type can say.
const PROMISES: [&str; 2] = ["crates/anonmem/src/promises.rs", "crates/anonmem/src/freeing.rs"];

/// Whether a file is of a crate that lives below the heap.
pub(super) fn is_below_the_heap(path: &Path) -> bool {
    BELOW_THE_HEAP.iter().any(|dir| path.starts_with(dir))
}

/// What a file is part of.
pub(super) struct Place {
    pub(super) is_crate: bool,
    pub(super) is_core: bool,
    /// One of the files of the core that may have `unsafe`.
    pub(super) is_promises: bool,
    pub(super) is_below_heap: bool,
    /// Code of tests: by directory or by name.
    pub(super) is_test: bool,
    /// A file that is data of a test: compile-fail cases and the like.
    pub(super) is_fixture: bool,
    pub(super) may_know_architecture: bool,
    /// Code that is generic over its machine: neither the seams themselves nor the packing of a word.
    pub(super) has_machine: bool,
}

impl Place {
    pub(super) fn of(path: &Path) -> Self {
        let text = path.to_string_lossy().replace('\\', "/");
        let below_tests = text.split_once("/tests/").map(|(_, rest)| rest);
        let name = path.file_name().unwrap_or_default();
        Self {
            is_crate: text.starts_with("crates/"),
            is_core: text.starts_with("crates/anonmem/src/"),
            is_promises: PROMISES.contains(&&*text),
            is_below_heap: is_below_the_heap(path),
            is_test: below_tests.is_some()
                || is_tests_file(&name.to_string_lossy())
                || text.contains("/benches/"),
            is_fixture: below_tests.is_some_and(|rest| rest.contains('/') && name != "mod.rs"),
            may_know_architecture: text.starts_with("crates/anonmem-hal/") || text.starts_with("machines/"),
            has_machine: !text.starts_with("crates/anonmem-hal/")
                && text != "crates/anonmem-frame/src/meta.rs",
        }
    }
}

fn is_tests_file(name: &str) -> bool {
    name == "tests.rs" || name == "testing.rs" || name.ends_with("_tests.rs")
}
