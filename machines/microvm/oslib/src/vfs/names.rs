//! Operations that change names: create, link, rename, remove.
//!
//! All hold `Vfs::tree`, so that what was checked stays true until the change is done. Linux: fs/namei.c.

use super::Vfs;
use super::inode::{Body, Directory, Inode, inode_usage};
use super::path::Place;
use crate::errno::{EBUSY, EEXIST, EINVAL, EISDIR, ENOENT, ENOSPC, ENOTDIR, ENOTEMPTY, EPERM, Result};
use alloc::sync::Arc;
use spin::{Mutex, MutexGuard};

/// What rename does when the new name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Take its place.
    Yes,
    /// Fail with `EEXIST` (`RENAME_NOREPLACE`).
    No,
    /// Swap the two (`RENAME_EXCHANGE`).
    Exchange,
}

impl Vfs {
    /// Gives a new name to a new inode.
    ///
    /// # Errors
    /// `EEXIST` if the name exists, `EPERM` in a generated directory, `ENOENT` in a removed one.
    pub fn create(&self, place: &Place, mode: u32, body: Body) -> Result<Arc<Inode>> {
        let (inodes, most) = inode_usage();
        if inodes >= most {
            return Err(ENOSPC);
        }
        let _tree = self.tree.lock();
        let is_dir = matches!(body, Body::Directory(_));
        let inode = if is_dir {
            Inode::directory(self.next_ino(), mode, self.now_ns())
        } else {
            self.inode(mode, body)
        };
        {
            let mut dir = entries(&place.dir)?;
            if dir.entries.contains_key(&place.name[..]) {
                return Err(EEXIST);
            }
            dir.entries.insert(place.name.clone().into(), inode.clone());
        }
        inode.set_parent(&place.dir);
        self.changed(&place.dir, i32::from(is_dir));
        Ok(inode)
    }

    /// Gives another name to `inode`.
    ///
    /// # Errors
    /// `EPERM` for a directory, `EEXIST` if the name exists.
    pub fn link(&self, inode: &Arc<Inode>, place: &Place) -> Result<()> {
        let _tree = self.tree.lock();
        if inode.is_dir() || matches!(inode.body, Body::Synthetic(_)) {
            return Err(EPERM);
        }
        {
            let mut dir = entries(&place.dir)?;
            if dir.entries.contains_key(&place.name[..]) {
                return Err(EEXIST);
            }
            dir.entries.insert(place.name.clone().into(), inode.clone());
        }
        inode.update(|meta| meta.nlink += 1);
        self.changed(&place.dir, 0);
        Ok(())
    }

    /// Removes a name that is not a directory's.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`.
    pub fn unlink(&self, place: &Place) -> Result<()> {
        let tree = self.tree.lock();
        let inode = place.dir.child(&place.name)?;
        if inode.is_dir() {
            return Err(EISDIR);
        }
        if place.wants_dir {
            return Err(ENOTDIR);
        }
        let gone = entries(&place.dir)?.entries.remove(&place.name[..]);
        inode.update(|meta| meta.nlink -= 1);
        self.changed(&place.dir, 0);
        // The last user of a file frees its memory: not under the lock.
        drop(tree);
        drop(gone);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, `EBUSY` for a generated one.
    pub fn rmdir(&self, place: &Place) -> Result<()> {
        let _tree = self.tree.lock();
        let inode = place.dir.child(&place.name)?;
        remove_dir(&inode)?;
        let gone = entries(&place.dir)?.entries.remove(&place.name[..]);
        self.changed(&place.dir, -1);
        drop(gone);
        Ok(())
    }

    /// Moves a name.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, `ENOTEMPTY`, `EISDIR`, `ENOTDIR`, `EINVAL` if a directory would go into itself.
    pub fn rename(&self, from: &Place, to: &Place, replace: Replace) -> Result<()> {
        let tree = self.tree.lock();
        let inode = from.dir.child(&from.name)?;
        let is_dir = inode.is_dir();
        if (from.wants_dir || to.wants_dir) && !is_dir {
            return Err(ENOTDIR);
        }
        self.refuse_loop(&inode, &to.dir)?;
        let old = to.dir.child(&to.name).ok();
        match (replace, &old) {
            (Replace::No, Some(_)) => return Err(EEXIST),
            (Replace::Exchange, None) => return Err(ENOENT),
            (Replace::Exchange, Some(other)) => {
                self.refuse_loop(other, &from.dir)?;
                put(&from.dir, &from.name, other)?;
                put(&to.dir, &to.name, &inode)?;
                return Ok(());
            }
            (Replace::Yes, Some(other)) if Arc::ptr_eq(other, &inode) => return Ok(()),
            (Replace::Yes, Some(other)) => match (is_dir, other.is_dir()) {
                (true, false) => return Err(ENOTDIR),
                (false, true) => return Err(EISDIR),
                (true, true) => {
                    remove_dir(other)?;
                    self.changed(&to.dir, -1);
                }
                (false, false) => other.update(|meta| meta.nlink -= 1),
            },
            (_, None) => {}
        }
        // The new name first: a walk without the tree lock then always finds one of the two.
        put(&to.dir, &to.name, &inode)?;
        let gone = entries(&from.dir)?.entries.remove(&from.name[..]);
        self.changed(&from.dir, -i32::from(is_dir));
        self.changed(&to.dir, i32::from(is_dir));
        drop(tree);
        drop((gone, old));
        Ok(())
    }

    /// Fails if `dir` is `inode` or below it.
    fn refuse_loop(&self, inode: &Arc<Inode>, dir: &Arc<Inode>) -> Result<()> {
        let mut here = dir.clone();
        loop {
            if Arc::ptr_eq(&here, inode) {
                return Err(EINVAL);
            }
            match here.parent() {
                Some(parent) if !Arc::ptr_eq(&parent, &here) => here = parent,
                _ => return Ok(()),
            }
        }
    }

    fn changed(&self, dir: &Inode, subdirectories: i32) {
        dir.touch(self.now_ns());
        dir.update(|meta| meta.nlink = meta.nlink.saturating_add_signed(subdirectories));
    }
}

/// Locks the entries of a directory that can change.
fn entries(dir: &Inode) -> Result<MutexGuard<'_, Directory>> {
    match &dir.body {
        Body::Directory(entries) => {
            let entries = entries.lock();
            if entries.removed { Err(ENOENT) } else { Ok(entries) }
        }
        Body::Synthetic(_) => Err(EPERM),
        _ => Err(ENOTDIR),
    }
}

fn put(dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
    let replaced = entries(dir)?.entries.insert(name.into(), inode.clone());
    inode.set_parent(dir);
    drop(replaced);
    Ok(())
}

/// Marks an empty directory as removed.
fn remove_dir(inode: &Inode) -> Result<()> {
    let dir: &Mutex<Directory> = match &inode.body {
        Body::Directory(dir) => dir,
        Body::Synthetic(_) => return Err(EBUSY),
        _ => return Err(ENOTDIR),
    };
    let mut dir = dir.lock();
    if !dir.entries.is_empty() {
        return Err(ENOTEMPTY);
    }
    dir.removed = true;
    inode.update(|meta| meta.nlink = 0);
    Ok(())
}
