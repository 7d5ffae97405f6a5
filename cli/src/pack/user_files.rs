//! `--file`: files and directories that the user adds.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::libs::{Libraries, Missing};
use super::tree::{Node, Tree, host_file};
use crate::error::{Error, Result};
use crate::values::FileMapping;

/// Adds one `--file`; ELF files come with the libraries that they need, as far as the host has them.
///
/// # Errors
///
/// One line that names what is not there or cannot be packed.
pub fn add(
    tree: &mut Tree,
    libraries: &mut Libraries,
    mapping: &FileMapping,
    cwd: &Path,
    mut tick: impl FnMut(),
) -> Result<()> {
    let fail = |e: io::Error| Error::usage(format_args!("--file {}: {e}", mapping.host.display()));
    let host = std::path::absolute(&mapping.host).map_err(fail)?;
    let metadata = fs::metadata(&host).map_err(fail)?;
    let guest = &mapping.guest.clone().unwrap_or_else(|| place_of(&mapping.host, &host, cwd));
    let mut with_libraries = |tree: &mut Tree, file: &Path| {
        tick();
        libraries.pack_needs(tree, file, Missing::Skip)
    };
    if metadata.is_dir() {
        return add_dir(tree, &host, guest, &mut with_libraries).map_err(fail);
    }
    let node = host_file(&host, &metadata).map_err(fail)?;
    tree.replace(guest, node).map_err(fail)?;
    with_libraries(tree, &host).map_err(fail)
}

/// Where a file goes that has no place of its own: what is named below the current directory, to the same
/// place below the guest's; others to their path on the host.
fn place_of(named: &Path, host: &Path, cwd: &Path) -> PathBuf {
    let is_below = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if named.components().all(is_below) { cwd.join(named) } else { host.to_path_buf() }
}

/// Adds a directory of the host with all that is in it; links stay links.
///
/// # Errors
///
/// Something in it cannot be read.
pub fn add_dir(
    tree: &mut Tree,
    host: &Path,
    guest: &Path,
    on_file: &mut dyn FnMut(&mut Tree, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let mut pending: Vec<(PathBuf, PathBuf)> = vec![(host.to_path_buf(), guest.to_path_buf())];
    while let Some((host, guest)) = pending.pop() {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", host.display()));
        tree.add_dir(&guest, fs::metadata(&host).map_err(named)?.mode() & 0o7777)?;
        for entry in fs::read_dir(&host).map_err(named)? {
            let entry = entry?;
            let (from, to) = (entry.path(), guest.join(entry.file_name()));
            let kind = entry.file_type()?;
            if kind.is_dir() {
                pending.push((from, to));
            } else if kind.is_symlink() {
                tree.replace(&to, Node::Link { target: fs::read_link(&from)? })?;
            } else {
                tree.replace(&to, host_file(&from, &entry.metadata()?)?)?;
                on_file(tree, &from)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_added_with_its_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("d/sub")).unwrap();
        fs::write(dir.path().join("d/sub/f"), "x").unwrap();
        std::os::unix::fs::symlink("sub/f", dir.path().join("d/link")).unwrap();
        let mapping = FileMapping { host: dir.path().join("d"), guest: Some("/data".into()) };
        let mut tree = Tree::new();
        add(&mut tree, &mut Libraries::new(Vec::new()), &mapping, Path::new("/root"), || {}).unwrap();
        assert!(matches!(tree.get(Path::new("/data/sub/f")), Some(Node::File { .. })));
        assert_eq!(tree.get(Path::new("/data/link")), Some(&Node::Link { target: "sub/f".into() }));
    }

    #[test]
    fn what_is_named_below_the_current_directory_goes_below_the_guests() {
        let place = |named: &str| place_of(Path::new(named), Path::new("/host/x"), Path::new("/root"));
        assert_eq!(place("hello.py"), Path::new("/root/hello.py"));
        assert_eq!(place("./lib/a"), Path::new("/root/lib/a"));
        assert_eq!(place("."), Path::new("/root"), "the directory itself, with all that is in it");
        assert_eq!(place("../x"), Path::new("/host/x"));
        assert_eq!(place("/host/x"), Path::new("/host/x"));
    }

    #[test]
    fn a_pipe_cannot_be_packed() {
        let mapping = FileMapping { host: "/dev/null".into(), guest: None };
        let error =
            add(&mut Tree::new(), &mut Libraries::new(Vec::new()), &mapping, Path::new("/root"), || {})
                .unwrap_err();
        assert!(error.to_string().contains("neither a file"), "{error}");
    }
}
