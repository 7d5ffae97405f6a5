//! The copy of the tree that the mutants are planted in.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mutant::Mutant;
use crate::plant;

const GATE: &str = include_str!("template/mutant.rs");
const DRIVER: &str = include_str!("template/drive.rs");
/// The example of the lab that runs cases for us.
pub(crate) const DRIVER_NAME: &str = "mutant-drive";

/// Makes `copy` the tree of `root` with `mutants` planted. Files that are as they should be are not touched,
/// so that the next build is short.
///
/// # Errors
/// Of files, or of git.
pub(crate) fn write(root: &Path, copy: &Path, mutants: &[Mutant]) -> io::Result<()> {
    let mut wanted: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    for file in files_of(root)? {
        // A file that was deleted but not yet committed is listed all the same.
        if let Ok(bytes) = fs::read(root.join(&file)) {
            wanted.insert(file, bytes);
        }
    }
    let mut by_file: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants {
        by_file.entry(&mutant.file).or_default().push(mutant);
    }
    for (file, mutants) in by_file {
        let text = fs::read_to_string(root.join(file))?;
        wanted.insert(file.into(), plant::render(&text, &mutants).into_bytes());
    }
    for crate_dir in mutants.iter().map(|m| crate_of(&m.file)).collect::<HashSet<_>>() {
        let lib = wanted.get_mut(&Path::new(crate_dir).join("src/lib.rs"));
        lib.ok_or_else(|| io::Error::other(format!("{crate_dir} has no src/lib.rs")))?
            .extend_from_slice(b"\nmod mutant;\n");
        wanted.insert(format!("{crate_dir}/src/mutant.rs").into(), GATE.into());
    }
    wanted.insert(format!("crates/anonmem-lab/examples/{DRIVER_NAME}.rs").into(), DRIVER.into());
    remove_others(copy, &wanted)?;
    for (file, bytes) in &wanted {
        let to = copy.join(file);
        if fs::read(&to).is_ok_and(|old| old == *bytes) {
            continue;
        }
        fs::create_dir_all(to.parent().unwrap_or(copy))?;
        fs::write(&to, bytes)?;
    }
    Ok(())
}

/// The folder of the crate that a file belongs to.
pub(crate) fn crate_of(file: &str) -> &str {
    file.split_once("/src/").map_or("", |(dir, _)| dir)
}

/// The package in that folder.
pub(crate) fn package_of(file: &str) -> &str {
    crate_of(file).rsplit('/').next().unwrap_or_default()
}

/// Expands folders to the Rust files in them, without their tests.
///
/// # Errors
/// A path that is not there.
pub(crate) fn sources(root: &Path, paths: &[String]) -> Result<Vec<String>, String> {
    let mut files = Vec::new();
    for path in paths {
        let full = root.join(path);
        if full.is_file() {
            files.push(path.clone());
        } else if full.is_dir() {
            let mut names = walk(&full).map_err(|e| format!("{path}: {e}"))?;
            names.sort();
            let source = |f: &PathBuf| {
                let tests = f.iter().any(|part| part == "tests" || part == "tests.rs");
                f.extension().is_some_and(|e| e == "rs") && !tests
            };
            for name in names.into_iter().filter(source) {
                let relative = name.strip_prefix(root).unwrap_or(&name);
                files.push(relative.to_string_lossy().into_owned());
            }
        } else {
            return Err(format!("{path}: no such file or folder below {}", root.display()));
        }
    }
    files.dedup();
    Ok(files)
}

/// The last commit that changed a crate, and its date.
///
/// # Errors
/// Of git.
pub(crate) fn code(root: &Path) -> Result<String, String> {
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%cs (%h)", "--", "crates", "machines"]).current_dir(root);
    let output = git.output().map_err(|e| format!("cannot start git: {e}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn files_of(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let listed = git.output()?;
    if !listed.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&listed.stderr).trim().to_owned()));
    }
    let names = String::from_utf8_lossy(&listed.stdout);
    Ok(names.split_terminator('\0').map(PathBuf::from).collect())
}

fn remove_others(copy: &Path, wanted: &BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
    if !copy.is_dir() {
        return Ok(());
    }
    for file in walk(copy)? {
        if file.strip_prefix(copy).is_ok_and(|f| !wanted.contains_key(f)) {
            fs::remove_file(file)?;
        }
    }
    Ok(())
}

fn walk(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}
