//! The usual commands for the guest: a static busybox, or the host's own.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::elf::{FileKind, file_kind};
use super::libs::{Libraries, Missing};
use super::program::find_on_path;
use super::tree::{Node, Tree};

/// What a shell's scripts use most; packed from the host if it has no static busybox.
const COMMANDS: [&str; 46] = [
    "awk",
    "basename",
    "cat",
    "chmod",
    "comm",
    "cp",
    "cut",
    "date",
    "dd",
    "dirname",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "fold",
    "grep",
    "head",
    "id",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mktemp",
    "mv",
    "nproc",
    "od",
    "paste",
    "printf",
    "pwd",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "tail",
    "tee",
    "test",
    "touch",
    "tr",
    "true",
    "uniq",
    "wc",
];

/// Programs that are packed with the host's own commands if there is no busybox.
const SHELLS: [&str; 7] = ["sh", "bash", "dash", "ash", "ksh", "zsh", "busybox"];

/// Tells whether a program is a shell by its name.
#[must_use]
pub fn is_shell(exe: &Path) -> bool {
    exe.file_name().is_some_and(|name| SHELLS.iter().any(|shell| name == *shell))
}

/// Finds a busybox that needs no library.
#[must_use]
pub fn find_static(search_path: &OsStr) -> Option<PathBuf> {
    let standard = OsStr::new("/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    let found = find_on_path(OsStr::new("busybox"), search_path)
        .or_else(|| find_on_path(OsStr::new("busybox"), standard))?;
    match file_kind(&found) {
        Ok(FileKind::Elf(info)) if info.interpreter.is_none() && info.needed.is_empty() => Some(found),
        _ => None,
    }
}

/// Packs a busybox and a link in /bin for each of its applets, where the name is free.
///
/// # Errors
///
/// The file cannot be read.
pub fn pack_applets(tree: &mut Tree, busybox: &Path) -> io::Result<()> {
    let target = tree.mirror(busybox)?;
    let output = Command::new(busybox).arg("--list").stdin(Stdio::null()).output()?;
    for applet in String::from_utf8_lossy(&output.stdout).lines() {
        if applet.is_empty() || applet.contains('/') || applet == "busybox" {
            continue;
        }
        let link = Path::new("/bin").join(applet);
        if tree.place(&link)? != target {
            tree.add_new(&link, Node::Link { target: target.clone() })?;
        }
    }
    Ok(())
}

/// Packs the host's own commands with their libraries; a command that the host lacks is left out.
///
/// # Errors
///
/// A file cannot be read.
pub fn pack_host_commands(tree: &mut Tree, libraries: &mut Libraries, search_path: &OsStr) -> io::Result<()> {
    for command in COMMANDS {
        if let Some(path) = find_on_path(OsStr::new(command), search_path) {
            libraries.pack(tree, &path, Missing::Skip)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn applets_are_links_and_packed_programs_win() {
        let dir = tempfile::tempdir().unwrap();
        let busybox = dir.path().canonicalize().unwrap().join("busybox");
        fs::write(&busybox, "#!/bin/sh\nprintf 'busybox\\nsort\\nsh\\n'\n").unwrap();
        fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755)).unwrap();
        let mut tree = Tree::new();
        tree.add_new(Path::new("/bin/sh"), Node::Link { target: "dash".into() }).unwrap();
        pack_applets(&mut tree, &busybox).unwrap();
        assert_eq!(tree.get(Path::new("/bin/sh")), Some(&Node::Link { target: "dash".into() }));
        assert_eq!(tree.get(Path::new("/bin/sort")), Some(&Node::Link { target: busybox.clone() }));
        assert!(tree.get(&busybox).is_some());
    }

    #[test]
    fn host_commands_come_with_their_libraries() {
        let mut tree = Tree::new();
        let mut libraries = Libraries::new(Vec::new());
        pack_host_commands(&mut tree, &mut libraries, OsStr::new("/usr/bin:/bin")).unwrap();
        assert!(tree.iter().any(|(p, _)| p.ends_with("sort")));
        assert!(tree.iter().any(|(p, _)| p.ends_with("libc.so.6")));
    }

    #[test]
    fn a_script_named_busybox_is_not_static() {
        let dir = tempfile::tempdir().unwrap();
        let busybox = dir.path().join("busybox");
        fs::write(&busybox, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find_static(dir.path().as_os_str()), None);
        assert!(is_shell(Path::new("/bin/dash")) && !is_shell(Path::new("/bin/sort")));
    }
}
