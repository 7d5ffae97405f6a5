//! Packing: everything that the program needs, as the guest's first files.
//!
//! [`program`] finds what to start; [`elf`], [`ldcache`] and [`libs`] find its loader and libraries;
//! [`python`], [`runtimes`] and [`busybox`] add what their programs expect; [`tree`] holds the guest's files
//! and [`cpio`] writes them down. Nothing of the host gets in that is not asked for.

pub mod busybox;
pub mod cpio;
pub mod elf;
pub mod ldcache;
pub mod libs;
pub mod program;
pub mod python;
pub mod record;
pub mod runtimes;
pub mod tree;
pub mod user_files;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::args::RunOptions;
use crate::error::{Error, Result};
use crate::progress::Progress;

use libs::{Libraries, Missing};
use program::Program;
use tree::Tree;

/// Where programs are found in the guest.
pub const GUEST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Directories that the host may have merged, as links to /usr.
const MERGED_DIRS: [&str; 4] = ["/bin", "/sbin", "/lib", "/lib64"];

/// The locale that LANG names; glibc keeps it as files.
const LOCALE_DIR: &str = "/usr/lib/locale/C.utf8";

/// What is packed for a run.
#[derive(Debug)]
pub struct Package {
    /// The guest's files.
    pub tree: Tree,
    /// What to start in it.
    pub program: Program,
    /// Its environment, `K=V` each.
    pub env: Vec<OsString>,
}

/// Packs a program and what it needs, by the options of a run.
///
/// # Errors
///
/// One line that names what is missing or cannot be read.
pub fn pack(options: &RunOptions, search_path: &OsStr, progress: &mut Progress) -> Result<Package> {
    let program = program::resolve(&options.program, search_path)?;
    progress.step(format!("packing {}", program.exe.display()));
    let fail = |e: io::Error| Error::usage(format_args!("cannot pack {}: {e}", program.exe.display()));

    let mut tree = Tree::new();
    let mut libraries = Libraries::new(library_path(&options.envs));
    add_merged_dirs(&mut tree).map_err(fail)?;
    libraries.pack(&mut tree, &program.exe, Missing::Refuse).map_err(Error::usage)?;
    for script in &program.scripts {
        tree.mirror(script).map_err(fail)?;
    }
    if program::is_python(&program.exe) {
        python::pack_stdlib(&mut tree, &mut libraries, &program.exe, || progress.tick())?;
    }
    runtimes::pack(&mut tree, &mut libraries, &program.exe, || progress.tick())?;
    for mapping in &options.files {
        user_files::add(&mut tree, &mut libraries, mapping, &options.cwd, || progress.tick())?;
    }
    add_base(&mut tree, &options.cwd).map_err(fail)?;
    if let Some(busybox) = busybox::find_static(search_path) {
        busybox::pack_applets(&mut tree, &busybox).map_err(fail)?;
    } else if busybox::is_shell(&program.exe) {
        busybox::pack_host_commands(&mut tree, &mut libraries, search_path).map_err(fail)?;
    }
    let env = environment(&program, &libraries, &options.envs);
    Ok(Package { tree, program, env })
}

fn add_merged_dirs(tree: &mut Tree) -> io::Result<()> {
    for dir in MERGED_DIRS.map(Path::new) {
        if dir.exists() {
            tree.mirror(dir)?;
        }
    }
    Ok(())
}

/// Adds what every Linux program may expect. The user's own files have gone in before and stay.
fn add_base(tree: &mut Tree, cwd: &Path) -> io::Result<()> {
    for (dir, mode) in [("/tmp", 0o1777), ("/dev/shm", 0o1777), ("/var/tmp", 0o1777), ("/root", 0o700)] {
        tree.add_dir(Path::new(dir), mode)?;
    }
    for dir in ["/bin", "/usr/bin", "/etc", "/dev", "/proc", "/run"] {
        tree.add_dir(Path::new(dir), 0o755)?;
    }
    tree.add_dir(cwd, 0o755)?;
    tree.add_text(
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    tree.add_text("/etc/group", "root:x:0:\nnogroup:x:65534:\n")?;
    tree.add_text("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")?;
    tree.add_text("/etc/hostname", "anonmem\n")?;
    tree.add_text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")?;
    add_locale(tree, Path::new(LOCALE_DIR))
}

fn add_locale(tree: &mut Tree, dir: &Path) -> io::Result<()> {
    let uses_libc = tree.iter().any(|(path, _)| path.ends_with("libc.so.6"));
    if uses_libc && dir.is_dir() {
        user_files::add_dir(tree, dir, dir, &mut |_, _| Ok(()))?;
    }
    Ok(())
}

/// LD_LIBRARY_PATH as the user sets it for the guest.
fn library_path(envs: &[OsString]) -> Vec<PathBuf> {
    let value = envs.iter().rev().find_map(|env| env.as_bytes().strip_prefix(b"LD_LIBRARY_PATH="));
    value.map(|v| std::env::split_paths(OsStr::from_bytes(v)).collect()).unwrap_or_default()
}

/// Makes the guest's environment: four variables of our own, and the user's over them.
fn environment(program: &Program, libraries: &Libraries, envs: &[OsString]) -> Vec<OsString> {
    let mut path = OsString::from(GUEST_PATH);
    if let Some(dir) = program.exe.parent()
        && !std::env::split_paths(GUEST_PATH).any(|known| known == dir)
    {
        path.push(":");
        path.push(dir);
    }
    let mut env: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), path),
        ("HOME".into(), "/root".into()),
        ("TERM".into(), "linux".into()),
        ("LANG".into(), "C.UTF-8".into()),
    ];
    let extra: Vec<&Path> = libraries.extra_dirs().collect();
    if !extra.is_empty() {
        let dirs = std::env::join_paths(extra).unwrap_or_default();
        env.push(("LD_LIBRARY_PATH".into(), dirs));
    }
    for assignment in envs {
        let bytes = assignment.as_bytes();
        let at = bytes.iter().position(|b| *b == b'=').unwrap_or(bytes.len());
        let name = OsString::from_vec(bytes[..at].to_vec());
        let value = OsString::from_vec(bytes.get(at + 1..).unwrap_or_default().to_vec());
        env.retain(|(known, _)| *known != name);
        env.push((name, value));
    }
    env.into_iter()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            name
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn pack_line(line: &[&str]) -> Result<Package> {
        let line = ["anonmem", "run"].iter().chain(line);
        let Command::Run(options) = Cli::try_parse_from(line).unwrap().command else {
            panic!("not a run");
        };
        pack(&options, &std::env::var_os("PATH").unwrap_or_default(), &mut Progress::new())
    }

    #[test]
    fn sort_comes_with_libc_and_a_minimal_system() {
        let package = pack_line(&["--cwd", "/job/here", "--", "sort"]).unwrap();
        let has = |path: &str| package.tree.get(Path::new(path)).is_some();
        assert!(package.tree.iter().any(|(p, _)| p.ends_with("libc.so.6")));
        for path in ["/etc/passwd", "/tmp", "/dev/shm", "/job/here", "/lib64/ld-linux-x86-64.so.2"] {
            assert!(has(path), "{path}");
        }
        assert!(has(package.program.exe.to_str().unwrap()));
    }

    #[test]
    fn the_environment_is_ours_and_the_users_only() {
        let package = pack_line(&["--env", "HOME=/x", "--env", "A=b=c", "--", "sort"]).unwrap();
        let path = format!("PATH={GUEST_PATH}");
        let env: Vec<_> = package.env.iter().map(|e| e.to_str().unwrap()).collect();
        assert_eq!(env, [&path, "TERM=linux", "LANG=C.UTF-8", "HOME=/x", "A=b=c"]);
    }

    #[test]
    fn a_users_file_wins_over_the_base() {
        let dir = tempfile::tempdir().unwrap();
        let passwd = dir.path().join("passwd");
        std::fs::write(&passwd, "me").unwrap();
        let mapping = format!("{}:/etc/passwd", passwd.display());
        let package = pack_line(&["--file", &mapping, "--", "sort"]).unwrap();
        let node = package.tree.get(Path::new("/etc/passwd"));
        assert!(
            matches!(node, Some(tree::Node::File { content: tree::Content::Host(p), .. }) if *p == passwd)
        );
        let error = pack_line(&["--file", "/no/such/file", "--", "sort"]).unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
