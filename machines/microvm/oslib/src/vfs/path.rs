//! From a path to an inode.

use super::{Inode, LinkTarget, Vfs};
use crate::errno::{EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What to do with a symbolic link at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Go where it leads.
    Yes,
    /// Take the link itself.
    No,
}

/// Where a path's last component is, or would be created.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory.
    pub dir: Arc<Inode>,
    /// The name in it; never empty, `.` or `..`.
    pub name: Vec<u8>,
    /// Whether the path ended in a slash, so that only a directory will do.
    pub wants_dir: bool,
}

const LINKS: usize = 40;
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4096;

impl Vfs {
    /// Finds the inode at `path`, relative to `at`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP`, `ENAMETOOLONG`.
    pub fn lookup(&self, at: &Arc<Inode>, path: &[u8], follow: Follow) -> Result<Arc<Inode>> {
        self.walk(at, path, follow, &mut 0)
    }

    /// Finds the directory of `path` and its last name, which need not exist.
    ///
    /// # Errors
    /// As [`Vfs::lookup`]; `EINVAL` if the last component is `.`, `..` or the root.
    pub fn lookup_place(&self, at: &Arc<Inode>, path: &[u8]) -> Result<Place> {
        if path.is_empty() {
            return Err(ENOENT);
        }
        let end = path.iter().rposition(|&b| b != b'/').ok_or(EINVAL)? + 1;
        let start = path[..end].iter().rposition(|&b| b == b'/').map_or(0, |i| i + 1);
        let name = &path[start..end];
        if name == b"." || name == b".." {
            return Err(EINVAL);
        }
        if name.len() > NAME_MAX {
            return Err(ENAMETOOLONG);
        }
        let dir = if start == 0 { at.clone() } else { self.lookup(at, &path[..start], Follow::Yes)? };
        if !dir.is_dir() {
            return Err(ENOTDIR);
        }
        Ok(Place { dir, name: name.to_vec(), wants_dir: end < path.len() })
    }

    fn walk(&self, at: &Arc<Inode>, path: &[u8], follow: Follow, links: &mut usize) -> Result<Arc<Inode>> {
        if path.is_empty() {
            return Err(ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(ENAMETOOLONG);
        }
        let mut here = if path[0] == b'/' { self.root().clone() } else { at.clone() };
        let wants_dir = path.ends_with(b"/");
        let mut names = path.split(|&b| b == b'/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            if !here.is_dir() {
                return Err(ENOTDIR);
            }
            let last = names.peek().is_none();
            let next = match name {
                b"." => here.clone(),
                b".." => here.parent().unwrap_or_else(|| self.root().clone()),
                _ if name.len() > NAME_MAX => return Err(ENAMETOOLONG),
                _ => here.child(name)?,
            };
            here = if last && follow == Follow::No && !wants_dir {
                next
            } else {
                self.follow(&here, next, links)?
            };
        }
        if wants_dir && !here.is_dir() {
            return Err(ENOTDIR);
        }
        Ok(here)
    }

    /// Goes where `inode` leads if it is a symbolic link in `dir`.
    fn follow(&self, dir: &Arc<Inode>, inode: Arc<Inode>, links: &mut usize) -> Result<Arc<Inode>> {
        if inode.kind() != super::FileType::Symlink {
            return Ok(inode);
        }
        *links += 1;
        if *links > LINKS {
            return Err(ELOOP);
        }
        match inode.target()? {
            LinkTarget::Path(path) => self.walk(dir, &path, Follow::Yes, links),
            LinkTarget::Inode(inode, _) => Ok(inode),
        }
    }

    /// Gives the path from the root that leads to what `path` leads to, without links on the way. Names that
    /// do not exist stay as they are.
    ///
    /// # Errors
    /// `ELOOP`; `ENOENT` if `at` was removed.
    #[doc(alias = "d_path")]
    pub fn real_path(&self, at: &Arc<Inode>, path: &[u8], follow: Follow) -> Result<Vec<u8>> {
        let from_root = path.starts_with(b"/");
        let mut here = Some(if from_root { self.root().clone() } else { at.clone() });
        let mut real = if from_root { b"/".to_vec() } else { self.path_of(at)? };
        let mut pending: Vec<Vec<u8>> = Vec::new();
        push_names(&mut pending, path);
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                real.truncate(real.iter().rposition(|&b| b == b'/').unwrap_or(0).max(1));
                here = here.map(|dir| dir.parent().unwrap_or_else(|| self.root().clone()));
                continue;
            }
            let next = here.as_ref().and_then(|dir| dir.child(&name).ok());
            let is_followed = follow == Follow::Yes || !pending.is_empty();
            if let Some(link) = next.as_ref().filter(|i| is_followed && i.kind() == super::FileType::Symlink)
            {
                links += 1;
                if links > LINKS {
                    return Err(ELOOP);
                }
                match link.target()? {
                    LinkTarget::Path(target) => {
                        if target.starts_with(b"/") {
                            (here, real) = (Some(self.root().clone()), b"/".to_vec());
                        }
                        push_names(&mut pending, &target);
                    }
                    LinkTarget::Inode(inode, path) => (here, real) = (Some(inode), path),
                }
                continue;
            }
            if !real.ends_with(b"/") {
                real.push(b'/');
            }
            real.extend_from_slice(&name);
            here = next;
        }
        Ok(real)
    }

    /// Gives the path of a directory from the root.
    ///
    /// # Errors
    /// `ENOENT` if it was removed.
    pub fn path_of(&self, dir: &Arc<Inode>) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        let mut here = dir.clone();
        let mut len = 0;
        while !Arc::ptr_eq(&here, self.root()) {
            let parent = here.parent().ok_or(ENOENT)?;
            let name = name_in(&parent, &here)?;
            len += 1 + name.len();
            if len >= PATH_MAX {
                return Err(ENAMETOOLONG);
            }
            names.push(name);
            here = parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(path)
    }
}

/// Puts the names of a path onto those that are still to be walked, the last of which comes first.
fn push_names(pending: &mut Vec<Vec<u8>>, path: &[u8]) {
    let names = path.split(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b"."));
    pending.extend(names.rev().map(<[u8]>::to_vec));
}

/// Finds the name that `inode` has in `dir`. A generated directory makes a new inode at each look,
/// so the name is what leads to the same number.
fn name_in(dir: &Arc<Inode>, inode: &Arc<Inode>) -> Result<Vec<u8>> {
    const BATCH: usize = 64;
    let same = |name: &[u8]| dir.child(name).is_ok_and(|child| child.ino == inode.ino);
    let mut last = None;
    loop {
        let some = dir.list(last.as_deref(), BATCH)?;
        if let Some((name, ..)) = some.iter().find(|(name, ..)| same(name)) {
            return Ok(name.clone());
        }
        last = Some(some.into_iter().next_back().ok_or(ENOENT)?.0);
    }
}
