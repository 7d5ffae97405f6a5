//! Python's standard library, so that `python3 -c ...` works without naming a file.
//!
//! The interpreter itself says where its library is. Left out: test suites, idlelib, tkinter and
//! turtle, pip's bundle, site-packages, static libraries, and byte code that is stale or for other
//! optimisation levels. Extension modules come with the libraries that they need.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::libs::{Libraries, Missing};
use super::tree::{Node, Tree, host_file};
use crate::error::{Error, Result};

const QUESTION: &str = "\
import json, sys, sysconfig
print(json.dumps({
    'executable': sys.executable,
    'prefix': sys.prefix,
    'base_prefix': sys.base_prefix,
    'cache_tag': sys.implementation.cache_tag or '',
    'stdlib': [sysconfig.get_path('stdlib'), sysconfig.get_path('platstdlib')],
    'path': [p for p in sys.path if p],
}))";

const SKIPPED_DIRS: [&str; 11] = [
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "site-packages",
    "dist-packages",
    "ensurepip",
    "lib2to3",
    "pydoc_data",
    "idle_test",
];

/// What an interpreter says of itself.
#[derive(Debug, Deserialize)]
struct Answer {
    executable: PathBuf,
    prefix: PathBuf,
    base_prefix: PathBuf,
    cache_tag: String,
    stdlib: Vec<PathBuf>,
    path: Vec<PathBuf>,
}

/// Packs the standard library of a python executable.
///
/// # Errors
///
/// The interpreter does not answer, or a file of its library cannot be read.
pub fn pack_stdlib(
    tree: &mut Tree,
    libraries: &mut Libraries,
    exe: &Path,
    mut tick: impl FnMut(),
) -> Result<()> {
    let answer = ask(exe)?;
    let stdlib = answer.roots();
    if stdlib.is_empty() {
        return Err(Error::usage(format_args!("{} has no standard library on this host", exe.display())));
    }
    let fail = |e: io::Error| Error::usage(format_args!("cannot pack the library of {}: {e}", exe.display()));
    for root in &stdlib {
        let real = tree.mirror(root).map_err(fail)?;
        pack_dir(tree, libraries, &real, &answer.cache_tag, &mut tick).map_err(fail)?;
    }
    if answer.prefix != answer.base_prefix {
        let config = answer.prefix.join("pyvenv.cfg");
        if config.is_file() {
            tree.mirror(&config).map_err(fail)?;
        }
    }
    if answer.executable.is_file() {
        tree.mirror(&answer.executable).map_err(fail)?;
    }
    Ok(())
}

fn ask(exe: &Path) -> Result<Answer> {
    let output = Command::new(exe)
        .args(["-I", "-S", "-c", QUESTION])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::usage(format_args!("cannot ask {} for its library: {e}", exe.display())))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let last = words.lines().last().unwrap_or("it said nothing");
        return Err(Error::usage(format_args!(
            "{} does not say where its library is: {last}",
            exe.display()
        )));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|e| Error::usage(format_args!("{} does not say where its library is: {e}", exe.display())))
}

impl Answer {
    /// The directories of the standard library, without those inside another.
    fn roots(&self) -> Vec<PathBuf> {
        let in_prefix = |p: &&PathBuf| p.starts_with(&self.base_prefix) && !is_site_dir(p);
        let mut roots: Vec<PathBuf> = Vec::new();
        for dir in self.stdlib.iter().chain(self.path.iter().filter(in_prefix)) {
            if dir.is_dir() && !roots.iter().any(|root| dir.starts_with(root)) {
                roots.push(dir.clone());
            }
        }
        roots
    }
}

fn is_site_dir(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "site-packages" || name == "dist-packages")
}

fn pack_dir(
    tree: &mut Tree,
    libraries: &mut Libraries,
    dir: &Path,
    cache_tag: &str,
    tick: &mut impl FnMut(),
) -> io::Result<()> {
    tick();
    tree.add_dir(dir, 0o755)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if !SKIPPED_DIRS.contains(&name.as_str()) && !name.starts_with("config-") {
                pack_dir(tree, libraries, &path, cache_tag, tick)?;
            }
        } else if kind.is_symlink() {
            // A dangling link, or one out of the library, may be there; the program decides.
            let _ = tree.mirror(&path);
        } else if kind.is_file() && wanted(&path, &name, cache_tag) {
            tree.add_new(&path, host_file(&path, &entry.metadata()?)?)?;
            if name.ends_with(".so") {
                libraries.pack_needs(tree, &path, Missing::Skip)?;
            }
        }
    }
    Ok(())
}

fn wanted(path: &Path, name: &str, cache_tag: &str) -> bool {
    if name.starts_with("_tkinter") || name.starts_with("_test") || name.starts_with("_ctypes_test") {
        return false;
    }
    match name.rsplit_once('.') {
        Some((_, "a" | "exe")) => false,
        Some((stem, "pyc")) => path
            .parent()
            .filter(|dir| dir.file_name().is_some_and(|n| n == "__pycache__"))
            .is_none_or(|dir| byte_code_is_valid(path, dir, stem, cache_tag)),
        Some(_) | None => true,
    }
}

/// Tells whether python would take this byte code: right version, and made from the source as it is.
/// Python: Lib/importlib/_bootstrap_external.py, `_validate_timestamp_pyc`.
fn byte_code_is_valid(pyc: &Path, cache_dir: &Path, stem: &str, cache_tag: &str) -> bool {
    let Some(module) = stem.strip_suffix(cache_tag).and_then(|m| m.strip_suffix('.')) else {
        return false;
    };
    let Some(source) = cache_dir.parent().map(|dir| dir.join(format!("{module}.py"))) else {
        return false;
    };
    let (Ok(source), Ok(head)) = (fs::metadata(source), read_head(pyc)) else {
        return false;
    };
    let word =
        |n: usize| u32::from_le_bytes([head[4 * n], head[4 * n + 1], head[4 * n + 2], head[4 * n + 3]]);
    let by_hash = word(1) & 1 != 0;
    by_hash || (word(2) == source.mtime() as u32 && word(3) == source.size() as u32)
}

fn read_head(path: &Path) -> io::Result<[u8; 16]> {
    let mut head = [0; 16];
    io::Read::read_exact(&mut fs::File::open(path)?, &mut head)?;
    Ok(head)
}

/// Tells how many files of the standard library a tree holds (for tests and for the curious).
#[must_use]
pub fn count_modules(tree: &Tree) -> usize {
    tree.iter()
        .filter(|(path, node)| {
            matches!(node, Node::File { .. }) && path.extension().is_some_and(|e| e == "py")
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::program;
    use std::ffi::{OsStr, OsString};

    #[test]
    fn byte_code_of_another_source_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("__pycache__");
        fs::create_dir(&cache).unwrap();
        let source = dir.path().join("m.py");
        fs::write(&source, "x = 1\n").unwrap();
        let mtime = fs::metadata(&source).unwrap().mtime() as u32;
        let pyc = cache.join("m.cpython-311.pyc");
        let write = |flags: u32, mtime: u32, size: u32| {
            let words = [0x0a0d_0da7, flags, mtime, size];
            fs::write(&pyc, words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
        };
        let valid = |name: &str| wanted(&cache.join(name), name, "cpython-311");
        write(0, mtime, 6);
        assert!(valid("m.cpython-311.pyc"));
        assert!(!valid("m.cpython-311.opt-1.pyc"));
        assert!(!valid("m.cpython-312.pyc"));
        write(0, mtime + 1, 6);
        assert!(!valid("m.cpython-311.pyc"));
        write(0, mtime, 7);
        assert!(!valid("m.cpython-311.pyc"));
        write(1, 0, 0);
        assert!(valid("m.cpython-311.pyc"));
    }

    #[test]
    fn the_hosts_python_comes_with_json_and_without_its_tests() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let command = [OsString::from("python3")];
        if program::find_on_path(OsStr::new("python3"), &path).is_none() {
            eprintln!("skipped: no python3 on this host");
            return;
        }
        let python = program::resolve(&command, &path).unwrap();
        let mut tree = Tree::new();
        let mut libraries = Libraries::new(Vec::new());
        pack_stdlib(&mut tree, &mut libraries, &python.exe, || {}).unwrap();
        let has = |end: &str| tree.iter().any(|(p, _)| p.ends_with(end));
        assert!(has("json/__init__.py") && has("multiprocessing/pool.py") && has("os.py"));
        assert!(!has("site-packages") && !has("idlelib") && !has("test"));
        assert!(count_modules(&tree) > 200);
    }
}
