//! Whoever runs a test program by its name has to name one that is there.
//!
//! What runs it may be a script, the Makefile, a page, or a tool that starts cargo. Where the program was
//! renamed, or became a part of another, that is found out when somebody runs it, which may be never.

use std::collections::BTreeSet;
use std::path::Path;

use super::finding::Finding;

const OPTION: &str = "--test";
/// What stands between it and a name: in a command, and in a list of arguments.
const BETWEEN: [&str; 3] = [" ", "=", "\", \""];

/// Checks every `--test NAME` in `files`.
pub(crate) fn check<'a>(files: impl Iterator<Item = (&'a Path, &'a str)> + Clone) -> Vec<Finding> {
    let targets: BTreeSet<&str> = files.clone().filter_map(|(path, _)| target(path)).collect();
    let mut findings = Vec::new();
    for (path, text) in files {
        for (line, text) in text.lines().enumerate() {
            for name in named(text).filter(|name| !targets.contains(name)) {
                let message =
                    format!("no package has a test program {name}; name the one that has its tests now");
                findings.push(Finding { path: path.into(), line: line + 1, rule: "test-target", message });
            }
        }
    }
    findings
}

/// The test program that a file is the root of: `tests/NAME.rs`, `tests/NAME/main.rs`.
fn target(path: &Path) -> Option<&str> {
    let folder = path.parent()?;
    let is_tests = |folder: &Path| folder.file_name().is_some_and(|name| name == "tests");
    let root = if path.file_name()? == "main.rs" && folder.parent().is_some_and(is_tests) {
        folder.file_name()
    } else {
        (is_tests(folder) && path.extension()? == "rs").then(|| path.file_stem())?
    };
    root?.to_str()
}

/// The names after each `--test` of a line. What is no name, a variable or a placeholder, is passed over.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split(OPTION).skip(1).filter_map(|rest| {
        let rest = BETWEEN.iter().find_map(|between| rest.strip_prefix(between))?;
        let end = rest.find(|c: char| c != '_' && !c.is_ascii_lowercase()).unwrap_or(rest.len());
        Some(&rest[..end]).filter(|name| !name.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_gone_is_found_in_a_command_and_in_a_list() {
        let in_command = format!("cargo test {OPTION} there {OPTION} gone -- {OPTION}-threads 2");
        let in_list = format!("[\"{OPTION}\", \"gone\", \"{OPTION}\", name]");
        let gone = [in_command, in_list].join("\n");
        let unnamed = format!("run {OPTION} \"$test\" {OPTION} NAME {OPTION}=folder");
        let files = [
            (Path::new("a/tests/there.rs"), ""),
            (Path::new("a/tests/folder/main.rs"), ""),
            (Path::new("a/tests/folder/part.rs"), ""),
            (Path::new("Makefile"), gone.as_str()),
            (Path::new("run"), unnamed.as_str()),
        ];
        let found = check(files.into_iter());
        assert_eq!(found.iter().map(|f| f.line).collect::<Vec<_>>(), [1, 2]);
        assert!(found.iter().all(|f| f.path == Path::new("Makefile") && f.message.contains(" gone;")));
    }
}
