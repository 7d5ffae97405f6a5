//! The rules of style that a program can check.
//!
//! [`source`] splits a Rust file into code and comments, so that a rule never stumbles over a string;
//! [`rules`] has one function for each rule over one file; [`manifests`] checks what depends on what;
//! [`patches`] that planted bugs still apply.
//! A finding names its file and line and says what to do.

mod eager;
mod enums;
mod error_types;
mod errors;
mod finding;
mod front;
mod functions;
mod imports;
mod manifests;
mod matches;
mod patches;
mod place;
mod prose;
mod rules;
mod sentences;
mod source;
mod targets;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use enums::Enums;
use finding::Finding;

/// Checks the repository and prints what it finds.
pub(crate) fn run(root: &Path) -> ExitCode {
    let files = match files_of(root) {
        Ok(files) => files,
        Err(error) => {
            eprintln!("tidy: cannot list the repository's files: {error}");
            return ExitCode::from(2);
        }
    };
    // What is not text is none of our business; what is listed and gone is being deleted.
    let texts: Vec<(&PathBuf, String)> = files
        .iter()
        .filter_map(|path| Some((path, std::fs::read_to_string(root.join(path)).ok()?)))
        .collect();
    let enums = enums::of(texts.iter().map(|(path, text)| (path.as_path(), text.as_str())));
    let mut findings = errors::check(texts.iter().map(|(path, text)| (path.as_path(), text.as_str())));
    findings.extend(error_types::check(texts.iter().map(|(path, text)| (path.as_path(), text.as_str()))));
    findings.extend(eager::check(texts.iter().map(|(path, text)| (path.as_path(), text.as_str()))));
    findings.extend(targets::check(texts.iter().map(|(path, text)| (path.as_path(), text.as_str()))));
    for (path, text) in &texts {
        findings.extend(check_file(path, text, &enums));
    }
    findings.extend(imports::check(root));
    findings.extend(patches::check(root, &files));
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: {} files, nothing to say", files.len());
        ExitCode::SUCCESS
    } else {
        println!("tidy: {} findings in {} files", findings.len(), files.len());
        ExitCode::FAILURE
    }
}

/// Applies every rule that a file's path calls for.
pub(crate) fn check_file(path: &Path, text: &str, enums: &Enums) -> Vec<Finding> {
    let mut findings = rules::check_text(path, text);
    findings.extend(sentences::check(path, text));
    if path.extension().is_some_and(|e| e == "rs") {
        findings.extend(rules::check_rust(path, text, enums));
        findings.extend(front::check(path, text));
    } else if path.extension().is_some_and(|e| e == "md") {
        findings.extend(prose::check_markdown(path, text));
    } else if path.file_name().is_some_and(|n| n == "Cargo.toml") {
        findings.extend(manifests::check(path, text));
    }
    findings
}

/// Lists the files that git tracks or would track; without git, all files but what is built.
fn files_of(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output();
    let mut files: Vec<PathBuf> = match output {
        Ok(output) if output.status.success() => {
            let names = String::from_utf8_lossy(&output.stdout);
            names.split('\0').filter(|n| !n.is_empty()).map(PathBuf::from).collect()
        }
        Ok(_) | Err(_) => walk(root)?,
    };
    files.sort();
    files.dedup();
    Ok(files)
}

fn walk(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() {
                if name != ".git" && !name.starts_with("target") {
                    dirs.push(entry.path());
                }
            } else if let Ok(path) = entry.path().strip_prefix(root) {
                files.push(path.to_path_buf());
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_file_is_found_with_git_and_without() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let here = PathBuf::from("xtask/src/tidy/mod.rs");
        assert!(files_of(root).unwrap().contains(&here));
        assert!(walk(root).unwrap().contains(&here));
    }
}
