//! What Ruby and Java read when they start: the libraries of their languages.
//!
//! Ruby says itself where it looks. A Java is a directory, found from its program: what is in `lib` and
//! `conf`, but for sources and what only a compiler reads.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::libs::{Libraries, Missing};
use super::tree::Tree;
use crate::error::{Error, Result};

/// What no program of Java needs to run.
const SKIPPED: [&str; 2] = ["src.zip", "ct.sym"];

/// Packs what a program of one of these languages needs; does nothing for others.
///
/// # Errors
///
/// A file cannot be read, or an interpreter does not say where its library is.
pub fn pack(tree: &mut Tree, libraries: &mut Libraries, exe: &Path, mut tick: impl FnMut()) -> Result<()> {
    let mut roots = java_roots(exe);
    if is_ruby(exe) {
        roots.extend(ruby_roots(exe)?);
    }
    for root in roots {
        pack_dir(tree, libraries, &root, &mut tick)
            .map_err(|e| Error::usage(format_args!("cannot pack the library of {}: {e}", exe.display())))?;
    }
    Ok(())
}

/// Tells whether a file is ruby by its name.
fn is_ruby(exe: &Path) -> bool {
    let name = exe.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix("ruby").is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// The directories that ruby looks into, without those inside another.
fn ruby_roots(exe: &Path) -> Result<Vec<PathBuf>> {
    let fail =
        |why: &str| Error::usage(format_args!("{} does not say where its library is: {why}", exe.display()));
    let answer = Command::new(exe)
        .args(["--disable-gems", "-e", "print $:.join(\"\\0\")"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|e| fail(&e.to_string()))?;
    if !answer.status.success() {
        return Err(fail("it failed"));
    }
    let mut dirs: Vec<PathBuf> =
        answer.stdout.split(|b| *b == 0).map(|dir| PathBuf::from(OsStr::from_bytes(dir))).collect();
    dirs.retain(|dir| dir.is_absolute() && dir.is_dir());
    dirs.sort();
    dirs.dedup_by(|later, earlier| later.starts_with(earlier));
    Ok(dirs)
}

/// The directories of the Java that a program is of; none if it is of none.
fn java_roots(exe: &Path) -> Vec<PathBuf> {
    let real = exe.canonicalize().unwrap_or_default();
    let home = real.parent().filter(|dir| dir.ends_with("bin")).and_then(Path::parent);
    let is_java = |home: &&Path| home.join("lib/modules").is_file() && home.join("lib/libjli.so").is_file();
    let home = home.filter(is_java);
    home.map(|home| ["lib", "conf"].map(|dir| home.join(dir)).to_vec()).unwrap_or_default()
}

/// Packs a directory. Links are followed to what they lead to, wherever that is; what leads nowhere is left
/// out.
fn pack_dir(
    tree: &mut Tree,
    libraries: &mut Libraries,
    dir: &Path,
    tick: &mut impl FnMut(),
) -> io::Result<()> {
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        tick();
        tree.mirror(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                pending.push(path);
            } else if path.is_file() && !SKIPPED.iter().any(|name| entry.file_name() == *name) {
                libraries.pack(tree, &path, Missing::Skip)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::program;

    fn packed(name: &str) -> Option<Tree> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let Some(exe) = program::find_on_path(OsStr::new(name), &path) else {
            eprintln!("skipped: no {name} on this host");
            return None;
        };
        let mut tree = Tree::new();
        pack(&mut tree, &mut Libraries::new(Vec::new()), &exe, || {}).unwrap();
        Some(tree)
    }

    fn has(tree: &Tree, end: &str) -> bool {
        tree.iter().any(|(path, _)| path.ends_with(end))
    }

    #[test]
    fn java_comes_with_its_machine_and_its_modules_and_without_sources() {
        let Some(tree) = packed("java") else { return };
        assert!(has(&tree, "libjli.so") && has(&tree, "libjvm.so") && has(&tree, "lib/modules"));
        assert!(has(&tree, "jvm.cfg") && !has(&tree, "ct.sym"));
    }

    #[test]
    fn ruby_comes_with_its_library() {
        let Some(tree) = packed("ruby") else { return };
        assert!(has(&tree, "rubygems.rb") && has(&tree, "set.rb") && has(&tree, "rbconfig.rb"));
    }

    #[test]
    fn other_programs_come_with_nothing() {
        let mut tree = Tree::new();
        pack(&mut tree, &mut Libraries::new(Vec::new()), Path::new("/bin/sh"), || {}).unwrap();
        assert_eq!(tree.iter().count(), Tree::new().iter().count());
        assert!(is_ruby(Path::new("/usr/bin/ruby3.1")) && !is_ruby(Path::new("/usr/bin/rubygems")));
    }
}
