//! Files by name and by descriptor: opening, metadata, size.

use super::call::Call;
use super::user;
use crate::arch::time;
use crate::fs::file::{self, OpenFile};
use crate::fs::sources;
use crate::fs::table::OnExec;
use crate::fs::{open as opening, seals, vfs};
use crate::proc::mm;
use alloc::sync::Arc;
use anonmem_oslib::abi::Fields;
use anonmem_oslib::errno::{
    EACCES, EFBIG, EINVAL, EISDIR, ENODEV, ENOENT, ENOTDIR, EOPNOTSUPP, EPERM, ESPIPE,
};
use anonmem_oslib::vfs::data::Seals;
use anonmem_oslib::vfs::path::Follow;
use anonmem_oslib::vfs::{Body, FileType, Inode, data, inode};
use anonmem_oslib::{Result, structure};
use linux_raw_sys::general as abi;

/// Gives the directory that `dirfd` means for `path`.
pub(super) fn base(c: &Call<'_>, dirfd: i32, path: &[u8]) -> Result<Arc<Inode>> {
    if dirfd == abi::AT_FDCWD || path.starts_with(b"/") {
        return Ok(c.thread.fs().cwd());
    }
    let file = c.thread.files().get(dirfd as u32)?;
    if file.inode.is_dir() { Ok(file.inode.clone()) } else { Err(ENOTDIR) }
}

/// Finds what `dirfd` and `path` name; an empty path means the descriptor itself if `AT_EMPTY_PATH` is set.
pub(super) fn find(c: &Call<'_>, dirfd: i32, path: u64, flags: u32) -> Result<Arc<Inode>> {
    // A null path is an empty one, as since Linux 6.11.
    let path =
        if path == 0 && flags & abi::AT_EMPTY_PATH != 0 { Default::default() } else { user::path(path)? };
    if path.is_empty() && flags & abi::AT_EMPTY_PATH != 0 {
        return match dirfd {
            abi::AT_FDCWD => Ok(c.thread.fs().cwd()),
            fd => Ok(c.thread.files().get(fd as u32)?.inode.clone()),
        };
    }
    let follow = if flags & abi::AT_SYMLINK_NOFOLLOW != 0 { Follow::No } else { Follow::Yes };
    vfs().lookup(&base(c, dirfd, &path)?, &path, follow)
}

fn do_open(c: &Call<'_>, dirfd: i32, path: u64, flags: u32, mode: u32) -> Result<usize> {
    let path = user::path(path)?;
    let mode = mode & 0o7777 & !c.thread.fs().umask();
    let file = opening::open(&base(c, dirfd, &path)?, &path, flags, mode)?;
    install(c, file, flags)
}

/// Gives the lowest free descriptor to `file`.
pub(super) fn install(c: &Call<'_>, file: Arc<OpenFile>, flags: u32) -> Result<usize> {
    let on_exec = if flags & abi::O_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
    Ok(c.thread.files().insert(file, on_exec, 0, c.nofile())? as usize)
}

pub(super) fn open(c: &mut Call<'_>) -> Result<usize> {
    do_open(c, abi::AT_FDCWD, c.args[0], c.u32(1), c.u32(2))
}

pub(super) fn openat(c: &mut Call<'_>) -> Result<usize> {
    do_open(c, c.i32(0), c.args[1], c.u32(2), c.u32(3))
}

pub(super) fn openat2(c: &mut Call<'_>) -> Result<usize> {
    let how: [u8; 24] = user::read_array(c.args[2])?;
    let how = Fields(&how);
    // Nothing here crosses mounts or leads out of the tree: only "no links at all" would matter.
    if how.u64(16) & u64::from(abi::RESOLVE_NO_SYMLINKS) != 0 {
        return Err(EINVAL);
    }
    do_open(c, c.i32(0), c.args[1], how.u64(0) as u32, how.u64(8) as u32)
}

pub(super) fn creat(c: &mut Call<'_>) -> Result<usize> {
    do_open(c, abi::AT_FDCWD, c.args[0], abi::O_CREAT | abi::O_WRONLY | abi::O_TRUNC, c.u32(1))
}

fn put_stat(inode: &Inode, to: u64) -> Result<usize> {
    user::write(to, &file::stat(inode).stat())?;
    Ok(0)
}

pub(super) fn stat(c: &mut Call<'_>) -> Result<usize> {
    put_stat(&*find(c, abi::AT_FDCWD, c.args[0], 0)?, c.args[1])
}

pub(super) fn lstat(c: &mut Call<'_>) -> Result<usize> {
    put_stat(&*find(c, abi::AT_FDCWD, c.args[0], abi::AT_SYMLINK_NOFOLLOW)?, c.args[1])
}

pub(super) fn fstat(c: &mut Call<'_>) -> Result<usize> {
    put_stat(&c.thread.files().get(c.u32(0))?.inode, c.args[1])
}

pub(super) fn newfstatat(c: &mut Call<'_>) -> Result<usize> {
    put_stat(&*find(c, c.i32(0), c.args[1], c.u32(3))?, c.args[2])
}

pub(super) fn statx(c: &mut Call<'_>) -> Result<usize> {
    let inode = find(c, c.i32(0), c.args[1], c.u32(2))?;
    user::write(c.args[4], &file::stat(&inode).statx())?;
    Ok(0)
}

/// Root may do everything but execute what nobody may execute.
fn check_access(inode: &Inode, mode: u32) -> Result<usize> {
    let runs = inode.is_dir() || inode.meta().mode & 0o111 != 0;
    match mode {
        m if m & !(abi::R_OK | abi::W_OK | abi::X_OK) != 0 => Err(EINVAL),
        m if m & abi::X_OK != 0 && !runs => Err(EACCES),
        _ => Ok(0),
    }
}

pub(super) fn access(c: &mut Call<'_>) -> Result<usize> {
    check_access(&*find(c, abi::AT_FDCWD, c.args[0], 0)?, c.u32(1))
}

pub(super) fn faccessat(c: &mut Call<'_>) -> Result<usize> {
    // `faccessat` has no flags argument: only `faccessat2` does.
    let flags = if c.frame.syscall_nr() == u64::from(abi::__NR_faccessat2) { c.u32(3) } else { 0 };
    check_access(&*find(c, c.i32(0), c.args[1], flags)?, c.u32(2))
}

fn set_mode(inode: &Inode, mode: u32) -> Result<usize> {
    let now = vfs().now_ns();
    let sealed = seals::of(inode).is_ok_and(|seals| seals.contains(Seals::EXEC));
    if sealed && (inode.meta().mode ^ mode) & 0o111 != 0 {
        return Err(EPERM);
    }
    inode.update(|meta| (meta.mode, meta.ctime_ns) = (mode & 0o7777, now));
    Ok(0)
}

pub(super) fn chmod(c: &mut Call<'_>) -> Result<usize> {
    set_mode(&*find(c, abi::AT_FDCWD, c.args[0], 0)?, c.u32(1))
}

pub(super) fn fchmod(c: &mut Call<'_>) -> Result<usize> {
    set_mode(&c.thread.files().get(c.u32(0))?.inode, c.u32(1))
}

pub(super) fn fchmodat(c: &mut Call<'_>) -> Result<usize> {
    set_mode(&*find(c, c.i32(0), c.args[1], 0)?, c.u32(2))
}

/// Minus one leaves an owner as it is.
fn set_owner(inode: &Inode, uid: u32, gid: u32) -> Result<usize> {
    let now = vfs().now_ns();
    inode.update(|meta| {
        meta.uid = if uid == u32::MAX { meta.uid } else { uid };
        meta.gid = if gid == u32::MAX { meta.gid } else { gid };
        meta.ctime_ns = now;
    });
    Ok(0)
}

pub(super) fn chown(c: &mut Call<'_>) -> Result<usize> {
    let nofollow = c.frame.syscall_nr() == u64::from(abi::__NR_lchown);
    let flags = if nofollow { abi::AT_SYMLINK_NOFOLLOW } else { 0 };
    set_owner(&*find(c, abi::AT_FDCWD, c.args[0], flags)?, c.u32(1), c.u32(2))
}

pub(super) fn fchown(c: &mut Call<'_>) -> Result<usize> {
    set_owner(&c.thread.files().get(c.u32(0))?.inode, c.u32(1), c.u32(2))
}

pub(super) fn fchownat(c: &mut Call<'_>) -> Result<usize> {
    set_owner(&*find(c, c.i32(0), c.args[1], c.u32(4))?, c.u32(2), c.u32(3))
}

/// `UTIME_NOW`.
const UTIME_NOW: u64 = 0x3fff_ffff;
/// `UTIME_OMIT`.
const UTIME_OMIT: u64 = 0x3fff_fffe;

pub(super) fn utimensat(c: &mut Call<'_>) -> Result<usize> {
    let inode = match c.args[1] {
        0 => c.thread.files().get(c.u32(0))?.inode.clone(),
        _ => find(c, c.i32(0), c.args[1], c.u32(3))?,
    };
    let now = time::wall_ns();
    let times = if c.args[2] == 0 { [Some(now); 2] } else { two_times(c.args[2], now)? };
    inode.update(|meta| {
        meta.atime_ns = times[0].unwrap_or(meta.atime_ns);
        meta.mtime_ns = times[1].unwrap_or(meta.mtime_ns);
        meta.ctime_ns = now;
    });
    Ok(0)
}

fn two_times(address: u64, now: u64) -> Result<[Option<u64>; 2]> {
    let bytes: [u8; 32] = user::read_array(address)?;
    let one = |at| match Fields(&bytes).u64(at + 8) {
        UTIME_NOW => Ok(Some(now)),
        UTIME_OMIT => Ok(None),
        _ => user::time_of(Fields(&bytes), at, 1_000_000_000, 1).map(Some),
    };
    Ok([one(0)?, one(16)?])
}

/// `utime` and `utimes`: the former has whole seconds.
pub(super) fn utimes(c: &mut Call<'_>) -> Result<usize> {
    let inode = find(c, abi::AT_FDCWD, c.args[0], 0)?;
    let now = time::wall_ns();
    let (atime, mtime) = match c.args[1] {
        0 => (now, now),
        at if c.frame.syscall_nr() == u64::from(abi::__NR_utime) => (
            user::read_u64(at)?.saturating_mul(1_000_000_000),
            user::read_u64(at + 8)?.saturating_mul(1_000_000_000),
        ),
        at => (user::timeval(at)?, user::timeval(at + 16)?),
    };
    inode.update(|meta| (meta.atime_ns, meta.mtime_ns, meta.ctime_ns) = (atime, mtime, now));
    Ok(0)
}

fn set_size(inode: &Inode, size: u64) -> Result<usize> {
    if size as i64 <= -1 {
        return Err(EINVAL);
    }
    match &inode.body {
        Body::File(_) => sources::truncate(inode, size)?,
        Body::Directory(_) => return Err(EISDIR),
        _ => return Err(EINVAL),
    }
    Ok(0)
}

pub(super) fn truncate(c: &mut Call<'_>) -> Result<usize> {
    set_size(&*find(c, abi::AT_FDCWD, c.args[0], 0)?, c.args[1])
}

pub(super) fn ftruncate(c: &mut Call<'_>) -> Result<usize> {
    let file = c.thread.files().get(c.u32(0))?;
    file.check_writable().or(Err(EINVAL))?;
    set_size(&file.inode, c.args[1])
}

/// Memory is found when it is written: allocating only sets the size. Holes are punched, as tmpfs does.
pub(super) fn fallocate(c: &mut Call<'_>) -> Result<usize> {
    let (mode, offset, len) = (c.u32(1), c.args[2], c.args[3]);
    let file = c.thread.files().get(c.u32(0))?;
    if (offset as i64) < 0 || (len as i64) <= 0 {
        return Err(EINVAL);
    }
    let punches = mode & abi::FALLOC_FL_PUNCH_HOLE != 0;
    if punches && mode & abi::FALLOC_FL_KEEP_SIZE == 0 {
        return Err(EOPNOTSUPP);
    }
    file.check_writable()?;
    match file.inode.kind() {
        FileType::Regular => {}
        FileType::Fifo => return Err(ESPIPE),
        FileType::Directory => return Err(EISDIR),
        _ => return Err(ENODEV),
    }
    let end = offset.checked_add(len).filter(|&end| end as i64 > 0).ok_or(EFBIG)?;
    if mode & !(abi::FALLOC_FL_KEEP_SIZE | abi::FALLOC_FL_PUNCH_HOLE) != 0 {
        return Err(EOPNOTSUPP);
    }
    if punches {
        file::punch(&file.inode, offset..end)?;
        return Ok(0);
    }
    let grows = end > file.inode.size();
    if grows && seals::of(&file.inode)?.contains(Seals::GROW) {
        return Err(EPERM);
    }
    if mode == 0 && grows { set_size(&file.inode, end) } else { Ok(0) }
}

fn put_statfs(to: u64) -> Result<usize> {
    /// The flags are filled in.
    const ST_VALID: u64 = 0x20;
    let (used, total) = data::page_usage();
    let (inodes, files) = inode::inode_usage();
    let free = total.saturating_sub(used).min(mm::memory().free_bytes / 4096);
    let told = structure!(abi::statfs {
        f_type: abi::TMPFS_MAGIC,
        f_bsize: data::PAGE,
        f_frsize: data::PAGE,
        f_blocks: total,
        f_bfree: free,
        f_bavail: free,
        f_files: files,
        f_ffree: files.saturating_sub(inodes),
        f_namelen: abi::NAME_MAX,
        f_flags: ST_VALID,
    });
    user::write(to, &told)?;
    Ok(0)
}

pub(super) fn statfs(c: &mut Call<'_>) -> Result<usize> {
    find(c, abi::AT_FDCWD, c.args[0], 0)?;
    put_statfs(c.args[1])
}

pub(super) fn fstatfs(c: &mut Call<'_>) -> Result<usize> {
    c.thread.files().get(c.u32(0))?;
    put_statfs(c.args[1])
}

pub(super) fn umask(c: &mut Call<'_>) -> Result<usize> {
    Ok(c.thread.fs().set_umask(c.u32(0)) as usize)
}

/// Gives the inode of a descriptor that must be a directory.
pub(super) fn directory(c: &Call<'_>, fd: u32) -> Result<Arc<Inode>> {
    let file = c.thread.files().get(fd)?;
    match file.inode.kind() {
        FileType::Directory => Ok(file.inode.clone()),
        _ => Err(ENOTDIR),
    }
}

/// What a path that must not be empty gives for an empty one.
pub(super) fn not_empty(path: &[u8]) -> Result<()> {
    if path.is_empty() { Err(ENOENT) } else { Ok(()) }
}
