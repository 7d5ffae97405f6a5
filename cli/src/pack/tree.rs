//! The guest's files before they are an archive: a tree of directories, links and files.
//!
//! Paths are absolute guest paths whose directories are no links: every insertion first follows the
//! links that the tree already holds, so that `/bin/sh` lands in `/usr/bin` where the host has it so.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Links followed before a path counts as a loop, as in Linux's `path_resolution(7)`.
const MAX_LINKS: usize = 40;

/// Where a file's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file of the host, read when the archive is written.
    Host(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// One entry of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory with its permission bits.
    Dir {
        /// Permission bits, including the sticky bit.
        mode: u32,
    },
    /// A symbolic link and what it says.
    Link {
        /// The target as it is written.
        target: PathBuf,
    },
    /// A regular file.
    File {
        /// Its bytes.
        content: Content,
        /// Permission bits.
        mode: u32,
        /// Modification time in seconds since the epoch; Python's caches depend on it.
        mtime: i64,
    },
}

/// The guest's files, ordered so that a directory comes before what is in it.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
}

impl Tree {
    /// Makes an empty tree; the root directory is implied.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Visits the entries, each directory before its contents.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_path(), node))
    }

    /// Tells how many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Tells whether nothing was added yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Finds the entry at a path, following links in its directories but not the last component.
    #[must_use]
    pub fn get(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(&self.place(path).ok()?)
    }

    /// Tells where a path leads when the links of its directories are followed.
    ///
    /// # Errors
    ///
    /// A loop of links.
    pub fn place(&self, path: &Path) -> io::Result<PathBuf> {
        self.follow(path, Last::Keep)
    }

    /// Tells where a path leads when all its links are followed; what is not there is taken as it is.
    ///
    /// # Errors
    ///
    /// A loop of links.
    pub fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.follow(path, Last::Follow)
    }

    fn follow(&self, path: &Path, last: Last) -> io::Result<PathBuf> {
        let mut pending = components(path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            at.push(&name);
            if pending.is_empty() && last == Last::Keep {
                break;
            }
            if let Some(Node::Link { target }) = self.nodes.get(&at) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(too_many_links(path));
                }
                at.pop();
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for name in components(target).into_iter().rev() {
                    pending.push_front(name);
                }
            }
        }
        Ok(at)
    }

    fn add_parents(&mut self, path: &Path) -> io::Result<()> {
        let Some(parent) = path.parent().filter(|p| *p != Path::new("/")) else {
            return Ok(());
        };
        self.add_dir(parent, 0o755)
    }

    /// Adds a directory and the ones above it. One that is there stays as it is.
    ///
    /// # Errors
    ///
    /// A file is in the way, or links loop.
    pub fn add_dir(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        let place = self.resolve(path)?;
        if place == Path::new("/") {
            return Ok(());
        }
        match self.nodes.get(&place) {
            Some(Node::Dir { .. }) => Ok(()),
            Some(Node::Link { .. } | Node::File { .. }) => Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("{} is a file and a directory at once", path.display()),
            )),
            None => {
                self.add_parents(&place)?;
                self.nodes.insert(place, Node::Dir { mode });
                Ok(())
            }
        }
    }

    /// Adds a file or link unless the path is taken; tells whether it was added.
    ///
    /// # Errors
    ///
    /// A file is where a directory must be, or links loop.
    pub fn add_new(&mut self, path: &Path, node: Node) -> io::Result<Added> {
        let place = self.place(path)?;
        if self.nodes.contains_key(&place) {
            return Ok(Added::AlreadyThere);
        }
        self.add_parents(&place)?;
        self.nodes.insert(place, node);
        Ok(Added::New)
    }

    /// Adds a file or link in place of what is there; only a directory may not be replaced.
    ///
    /// # Errors
    ///
    /// A directory is in the way, a file is where a directory must be, or links loop.
    pub fn replace(&mut self, path: &Path, node: Node) -> io::Result<()> {
        let place = self.place(path)?;
        if let Some(Node::Dir { .. }) = self.nodes.get(&place) {
            return Err(io::Error::new(
                io::ErrorKind::IsADirectory,
                format!("{} is a directory in the guest", path.display()),
            ));
        }
        self.add_parents(&place)?;
        self.nodes.insert(place, node);
        Ok(())
    }

    /// Adds generated text as a file, unless the path is taken.
    ///
    /// # Errors
    ///
    /// As [`Tree::add_new`].
    pub fn add_text(&mut self, path: &str, text: &str) -> io::Result<()> {
        let content = Content::Bytes(text.as_bytes().to_vec());
        self.add_new(Path::new(path), Node::File { content, mode: 0o644, mtime: 0 })?;
        Ok(())
    }

    /// Adds a path of the host at the same path in the guest: the links on the way as links, then the
    /// file or (empty) directory that they lead to. Returns where they lead.
    ///
    /// # Errors
    ///
    /// The path does not exist or cannot be read, or is neither file nor directory.
    pub fn mirror(&mut self, host: &Path) -> io::Result<PathBuf> {
        let absolute = std::path::absolute(host)?;
        let mut pending = components(&absolute);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            let metadata = fs::symlink_metadata(&next)?;
            if metadata.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err(too_many_links(host));
                }
                let target = fs::read_link(&next)?;
                for name in components(&target).into_iter().rev() {
                    pending.push_front(name);
                }
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                self.add_new(&next, Node::Link { target })?;
                continue;
            }
            if metadata.is_dir() {
                self.add_dir(&next, metadata.mode() & 0o7777)?;
            } else {
                self.add_new(&next, host_file(&next, &metadata)?)?;
            }
            at = next;
        }
        Ok(at)
    }
}

/// Whether [`Tree::add_new`] found the path free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was free; the entry is in.
    New,
    /// It was taken; nothing changed.
    AlreadyThere,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Follow,
    Keep,
}

/// Makes the entry for a regular file of the host.
///
/// # Errors
///
/// The path is a device, a pipe or a socket.
pub fn host_file(path: &Path, metadata: &fs::Metadata) -> io::Result<Node> {
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is neither a file nor a directory", path.display()),
        ));
    }
    Ok(Node::File {
        content: Content::Host(path.to_path_buf()),
        mode: metadata.mode() & 0o7777,
        mtime: metadata.mtime(),
    })
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn too_many_links(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{}: too many levels of symbolic links", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn link(target: &str) -> Node {
        Node::Link { target: target.into() }
    }

    fn file(text: &str) -> Node {
        Node::File { content: Content::Bytes(text.into()), mode: 0o644, mtime: 0 }
    }

    #[test]
    fn parents_come_first_and_insertions_follow_links() {
        let mut tree = Tree::new();
        tree.add_dir(Path::new("/usr/bin"), 0o755).unwrap();
        tree.add_new(Path::new("/bin"), link("usr/bin")).unwrap();
        tree.add_new(Path::new("/bin/sh"), file("sh")).unwrap();
        let paths: Vec<_> = tree.iter().map(|(p, _)| p.display().to_string()).collect();
        assert_eq!(paths, ["/bin", "/usr", "/usr/bin", "/usr/bin/sh"]);
        assert_eq!(tree.get(Path::new("/bin/sh")), Some(&file("sh")));
        assert_eq!(tree.resolve(Path::new("/bin/../bin/sh")).unwrap(), Path::new("/usr/bin/sh"));
    }

    #[test]
    fn the_first_one_stays_unless_it_is_replaced() {
        let mut tree = Tree::new();
        assert_eq!(tree.add_new(Path::new("/a"), file("1")).unwrap(), Added::New);
        assert_eq!(tree.add_new(Path::new("/a"), file("2")).unwrap(), Added::AlreadyThere);
        assert_eq!(tree.get(Path::new("/a")), Some(&file("1")));
        tree.replace(Path::new("/a"), file("3")).unwrap();
        assert_eq!(tree.get(Path::new("/a")), Some(&file("3")));
        tree.add_dir(Path::new("/d"), 0o755).unwrap();
        assert!(tree.replace(Path::new("/d"), file("4")).is_err());
        assert!(tree.add_dir(Path::new("/a/b"), 0o755).is_err());
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let mut tree = Tree::new();
        tree.add_new(Path::new("/a"), link("b")).unwrap();
        tree.add_new(Path::new("/b"), link("a")).unwrap();
        assert!(tree.resolve(Path::new("/a/x")).is_err());
    }

    #[test]
    fn a_host_path_is_mirrored_with_its_links_and_their_targets() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("real/lib")).unwrap();
        fs::write(root.join("real/lib/x.so.1.2"), "x").unwrap();
        symlink("x.so.1.2", root.join("real/lib/x.so.1")).unwrap();
        symlink("real", root.join("alias")).unwrap();

        let mut tree = Tree::new();
        let end = tree.mirror(&root.join("alias/lib/x.so.1")).unwrap();
        assert_eq!(end, root.join("real/lib/x.so.1.2"));
        assert_eq!(tree.get(&root.join("alias")), Some(&link("real")));
        assert_eq!(tree.get(&root.join("alias/lib/x.so.1")), Some(&link("x.so.1.2")));
        assert!(matches!(tree.get(&end), Some(Node::File { .. })));
        assert!(tree.mirror(&root.join("nothing")).is_err());
    }
}
