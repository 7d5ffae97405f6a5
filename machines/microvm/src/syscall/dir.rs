//! Names: directories, links, renames, the working directory.

use super::call::Call;
use super::file::{base, directory, find, not_empty};
use super::user;
use crate::fs::file::Target;
use crate::fs::pipe::{Meeting, Pipe};
use crate::fs::vfs;
use alloc::vec::Vec;
use anonmem_oslib::abi::dirent64;
use anonmem_oslib::errno::{EEXIST, EINVAL, ENOTDIR, EPERM, ERANGE};
use anonmem_oslib::vfs::names::Replace;
use anonmem_oslib::vfs::path::{Follow, Place};
use anonmem_oslib::vfs::{Body, FileType, LinkTarget};
use anonmem_oslib::{Errno, Result};
use linux_raw_sys::general as abi;
use spin::Mutex;

/// Entries that are read at once.
const BATCH: usize = 128;

/// Entries that did not reach the caller's memory are given out again the next time.
pub(super) fn getdents64(c: &mut Call<'_>) -> Result<usize> {
    let file = c.thread.files().get(c.u32(0))?;
    let Target::Directory(cursor) = &file.target else { return Err(ENOTDIR) };
    let mut to = Entries { at: c.args[1], left: c.len(2).min(i32::MAX as usize), done: 0, entry: Vec::new() };
    // Held over the copy, as a file's position is.
    let mut cursor = cursor.lock();
    let parent = file.inode.parent().map_or(file.inode.ino, |parent| parent.ino);
    for (count, name, ino) in [(0, &b"."[..], file.inode.ino), (1, b"..", parent)] {
        if cursor.count == count {
            match to.put(ino, count + 1, FileType::Directory, name) {
                Ok(()) => cursor.count += 1,
                Err(error) => return to.result(error),
            }
        }
    }
    loop {
        let batch = file.inode.list(cursor.last.as_deref(), BATCH)?;
        if batch.is_empty() {
            return Ok(to.done);
        }
        for (name, ino, kind) in batch {
            if let Err(error) = to.put(ino, cursor.count + 1, kind, &name) {
                return to.result(error);
            }
            cursor.count += 1;
            cursor.last = Some(name);
        }
    }
}

/// Where entries of a directory go to.
struct Entries {
    at: u64,
    left: usize,
    done: usize,
    entry: Vec<u8>,
}

impl Entries {
    /// Delivers one entry whole.
    ///
    /// # Errors
    /// `EINVAL` if there is no room for it, `EFAULT`.
    fn put(&mut self, ino: u64, next: u64, kind: FileType, name: &[u8]) -> Result<()> {
        self.entry.clear();
        if !dirent64(&mut self.entry, self.left, ino, next, kind, name) {
            return Err(EINVAL);
        }
        user::write(self.at, &self.entry)?;
        let n = self.entry.len();
        (self.at, self.left, self.done) = (self.at + n as u64, self.left - n, self.done + n);
        Ok(())
    }

    /// What came before counts, if anything did.
    fn result(&self, error: Errno) -> Result<usize> {
        if self.done > 0 { Ok(self.done) } else { Err(error) }
    }
}

fn place(c: &Call<'_>, dirfd: i32, path: u64) -> Result<Place> {
    let path = user::path(path)?;
    vfs().lookup_place(&base(c, dirfd, &path)?, &path)
}

fn do_mkdir(c: &Call<'_>, dirfd: i32, path: u64, mode: u32) -> Result<usize> {
    let path = user::path(path)?;
    not_empty(&path)?;
    // `.`, `..` and the root exist.
    let place = vfs()
        .lookup_place(&base(c, dirfd, &path)?, &path)
        .map_err(|e| if e == EINVAL { EEXIST } else { e })?;
    let mode = mode & 0o1777 & !c.thread.fs().umask();
    vfs().create(&place, mode, Body::Directory(Mutex::default()))?;
    Ok(0)
}

pub(super) fn mkdir(c: &mut Call<'_>) -> Result<usize> {
    do_mkdir(c, abi::AT_FDCWD, c.args[0], c.u32(1))
}

pub(super) fn mkdirat(c: &mut Call<'_>) -> Result<usize> {
    do_mkdir(c, c.i32(0), c.args[1], c.u32(2))
}

fn do_mknod(c: &Call<'_>, dirfd: i32, path: u64, mode: u32) -> Result<usize> {
    let place = place(c, dirfd, path)?;
    let body = match mode & abi::S_IFMT {
        0 | abi::S_IFREG => Body::File(Mutex::default()),
        abi::S_IFIFO => Body::Special { kind: FileType::Fifo, rdev: 0, object: Pipe::new(Meeting::Awaited)? },
        _ => return Err(EPERM),
    };
    vfs().create(&place, mode & 0o7777 & !c.thread.fs().umask(), body)?;
    Ok(0)
}

pub(super) fn mknod(c: &mut Call<'_>) -> Result<usize> {
    do_mknod(c, abi::AT_FDCWD, c.args[0], c.u32(1))
}

pub(super) fn mknodat(c: &mut Call<'_>) -> Result<usize> {
    do_mknod(c, c.i32(0), c.args[1], c.u32(2))
}

pub(super) fn rmdir(c: &mut Call<'_>) -> Result<usize> {
    vfs().rmdir(&place(c, abi::AT_FDCWD, c.args[0])?)?;
    Ok(0)
}

pub(super) fn unlink(c: &mut Call<'_>) -> Result<usize> {
    vfs().unlink(&place(c, abi::AT_FDCWD, c.args[0])?)?;
    Ok(0)
}

pub(super) fn unlinkat(c: &mut Call<'_>) -> Result<usize> {
    let place = place(c, c.i32(0), c.args[1])?;
    if c.u32(2) & abi::AT_REMOVEDIR != 0 {
        vfs().rmdir(&place)?
    } else {
        vfs().unlink(&place)?
    }
    Ok(0)
}

pub(super) fn rename(c: &mut Call<'_>) -> Result<usize> {
    let (from, to) = (place(c, abi::AT_FDCWD, c.args[0])?, place(c, abi::AT_FDCWD, c.args[1])?);
    vfs().rename(&from, &to, Replace::Yes)?;
    Ok(0)
}

/// `renameat` and `renameat2`: only the latter has flags.
pub(super) fn renameat(c: &mut Call<'_>) -> Result<usize> {
    let (from, to) = (place(c, c.i32(0), c.args[1])?, place(c, c.i32(2), c.args[3])?);
    let has_flags = c.frame.syscall_nr() == u64::from(abi::__NR_renameat2);
    let replace = match if has_flags { c.u32(4) } else { 0 } {
        0 => Replace::Yes,
        abi::RENAME_NOREPLACE => Replace::No,
        abi::RENAME_EXCHANGE => Replace::Exchange,
        _ => return Err(EINVAL),
    };
    vfs().rename(&from, &to, replace)?;
    Ok(0)
}

pub(super) fn link(c: &mut Call<'_>) -> Result<usize> {
    let inode = find(c, abi::AT_FDCWD, c.args[0], abi::AT_SYMLINK_NOFOLLOW)?;
    vfs().link(&inode, &place(c, abi::AT_FDCWD, c.args[1])?)?;
    Ok(0)
}

pub(super) fn linkat(c: &mut Call<'_>) -> Result<usize> {
    let flags = c.u32(4);
    let follow = if flags & abi::AT_SYMLINK_FOLLOW != 0 { 0 } else { abi::AT_SYMLINK_NOFOLLOW };
    let inode = find(c, c.i32(0), c.args[1], flags & abi::AT_EMPTY_PATH | follow)?;
    vfs().link(&inode, &place(c, c.i32(2), c.args[3])?)?;
    Ok(0)
}

fn do_symlink(c: &Call<'_>, target: u64, dirfd: i32, path: u64) -> Result<usize> {
    let target = user::path(target)?;
    not_empty(&target)?;
    vfs().create(&place(c, dirfd, path)?, 0o777, Body::Symlink(target.into()))?;
    Ok(0)
}

pub(super) fn symlink(c: &mut Call<'_>) -> Result<usize> {
    do_symlink(c, c.args[0], abi::AT_FDCWD, c.args[1])
}

pub(super) fn symlinkat(c: &mut Call<'_>) -> Result<usize> {
    do_symlink(c, c.args[0], c.i32(1), c.args[2])
}

fn do_readlink(c: &Call<'_>, dirfd: i32, path: u64, to: u64, size: usize) -> Result<usize> {
    let inode = find(c, dirfd, path, abi::AT_SYMLINK_NOFOLLOW | abi::AT_EMPTY_PATH)?;
    let (LinkTarget::Path(target) | LinkTarget::Inode(_, target)) = inode.target()?;
    if size == 0 {
        return Err(EINVAL);
    }
    let n = target.len().min(size);
    user::write(to, &target[..n])?;
    Ok(n)
}

pub(super) fn readlink(c: &mut Call<'_>) -> Result<usize> {
    do_readlink(c, abi::AT_FDCWD, c.args[0], c.args[1], c.len(2))
}

pub(super) fn readlinkat(c: &mut Call<'_>) -> Result<usize> {
    do_readlink(c, c.i32(0), c.args[1], c.args[2], c.len(3))
}

pub(super) fn chdir(c: &mut Call<'_>) -> Result<usize> {
    let path = user::path(c.args[0])?;
    let fs = c.thread.fs();
    let dir = vfs().lookup(&fs.cwd(), &path, Follow::Yes)?;
    if !dir.is_dir() {
        return Err(ENOTDIR);
    }
    fs.set_cwd(dir);
    Ok(0)
}

pub(super) fn fchdir(c: &mut Call<'_>) -> Result<usize> {
    c.thread.fs().set_cwd(directory(c, c.u32(0))?);
    Ok(0)
}

pub(super) fn getcwd(c: &mut Call<'_>) -> Result<usize> {
    let mut path = vfs().path_of(&c.thread.fs().cwd())?;
    path.push(0);
    if path.len() > c.len(1) {
        return Err(ERANGE);
    }
    user::write(c.args[0], &path)?;
    Ok(path.len())
}
