//! Descriptors: closing, duplicating, controlling; and files without names.

use super::call::{Call, only};
use super::file::install;
use super::user;
use crate::fs::counter::{Counter, Take};
use crate::fs::file::{OpenFile, Target};
use crate::fs::pipe::{Pipe, PipeEnd};
use crate::fs::table::{NR_OPEN, OnExec};
use crate::fs::{pipe as pipes, seals, vfs};
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::abi::{Fields, Packer};
use anonmem_oslib::errno::{EBADF, EINVAL, ENAMETOOLONG, ENOMEM, EPERM};
use anonmem_oslib::vfs::data::{FileData, Seals};
use anonmem_oslib::vfs::{Body, FileType};
use core::mem::offset_of;
use linux_raw_sys::general as abi;
use spin::Mutex;

pub(super) fn close(c: &mut Call<'_>) -> Result<usize> {
    c.thread.files().close(c.u32(0))?;
    Ok(0)
}

const CLOSE_RANGE_UNSHARE: u32 = 2;
const CLOSE_RANGE_CLOEXEC: u32 = 4;

pub(super) fn close_range(c: &mut Call<'_>) -> Result<usize> {
    let (first, last) = (c.u32(0), c.u32(1).min(NR_OPEN));
    if c.u32(0) > c.u32(1) {
        return Err(EINVAL);
    }
    let flags = only(c.u32(2), CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC)?;
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        c.thread.set_files(alloc::sync::Arc::new(c.thread.files().fork()?));
    }
    let files = c.thread.files();
    if flags & CLOSE_RANGE_CLOEXEC == 0 {
        files.close_range(first..=last);
    } else {
        for fd in files.numbers_from(first).take_while(|fd| *fd <= last) {
            files.set_on_exec(fd, OnExec::Close)?;
        }
    }
    Ok(0)
}

pub(super) fn dup(c: &mut Call<'_>) -> Result<usize> {
    let file = c.thread.files().get(c.u32(0))?;
    install(c, file, 0)
}

pub(super) fn dup2(c: &mut Call<'_>) -> Result<usize> {
    let file = c.thread.files().get(c.u32(0))?;
    if c.u32(0) != c.u32(1) {
        c.thread.files().replace(c.u32(1), file, OnExec::Keep, c.nofile())?;
    }
    Ok(c.u32(1) as usize)
}

pub(super) fn dup3(c: &mut Call<'_>) -> Result<usize> {
    let flags = only(c.u32(2), abi::O_CLOEXEC)?;
    let file = c.thread.files().get(c.u32(0))?;
    if c.u32(0) == c.u32(1) {
        return Err(EINVAL);
    }
    let on_exec = if flags != 0 { OnExec::Close } else { OnExec::Keep };
    c.thread.files().replace(c.u32(1), file, on_exec, c.nofile())?;
    Ok(c.u32(1) as usize)
}

pub(super) fn fcntl(c: &mut Call<'_>) -> Result<usize> {
    let files = c.thread.files();
    let (fd, argument) = (c.u32(0), c.u32(2));
    let file = files.get(fd)?;
    match c.u32(1) {
        abi::F_DUPFD => Ok(files.insert(file, OnExec::Keep, argument, c.nofile())? as usize),
        abi::F_DUPFD_CLOEXEC => Ok(files.insert(file, OnExec::Close, argument, c.nofile())? as usize),
        abi::F_GETFD => Ok(usize::from(files.on_exec(fd)? == OnExec::Close)),
        abi::F_SETFD => {
            let close = argument & abi::FD_CLOEXEC != 0;
            files.set_on_exec(fd, if close { OnExec::Close } else { OnExec::Keep })?;
            Ok(0)
        }
        abi::F_GETFL => Ok(file.flags() as usize),
        abi::F_SETFL => {
            file.set_status(argument)?;
            Ok(0)
        }
        F_GETPIPE_SZ => Ok(pipe_of(&file)?.capacity()),
        F_SETPIPE_SZ => pipe_of(&file)?.resize(argument as usize),
        abi::F_GETLK | F_OFD_GETLK => unlocked(c),
        abi::F_SETLK | abi::F_SETLKW | F_OFD_SETLK | F_OFD_SETLKW => Ok(0),
        F_ADD_SEALS => {
            file.check_writable().or(Err(EPERM))?;
            seals::add(&file.inode, &file.path, Seals::from_bits(argument).ok_or(EINVAL)?)?;
            Ok(0)
        }
        F_GET_SEALS => Ok(seals::of(&file.inode)?.bits() as usize),
        abi::F_GETOWN => Ok(0),
        abi::F_SETOWN => Ok(0),
        _ => Err(EINVAL),
    }
}

/// Gives the pipe that a descriptor is an end of.
fn pipe_of(file: &OpenFile) -> Result<Arc<Pipe>> {
    file.object::<PipeEnd>().map(|end| end.pipe().clone()).ok_or(EBADF)
}

const F_SETPIPE_SZ: u32 = 1031;
const F_GETPIPE_SZ: u32 = 1032;
const F_ADD_SEALS: u32 = 1033;
const F_GET_SEALS: u32 = 1034;
const F_OFD_GETLK: u32 = 36;
const F_OFD_SETLK: u32 = 37;
const F_OFD_SETLKW: u32 = 38;

/// Record locks are granted and not kept: what runs here are the processes of one program.
fn unlocked(c: &Call<'_>) -> Result<usize> {
    const F_UNLCK: u16 = 2;
    user::write(c.args[2], &F_UNLCK.to_le_bytes())?;
    Ok(0)
}

pub(super) fn flock(c: &mut Call<'_>) -> Result<usize> {
    c.thread.files().get(c.u32(0)).map(|_| 0)
}

pub(super) fn sync(c: &mut Call<'_>) -> Result<usize> {
    c.thread.files().get(c.u32(0))?.sync().map(|()| 0)
}

pub(super) fn ioctl(c: &mut Call<'_>) -> Result<usize> {
    const FIONREAD: u32 = 0x541b;
    const FIONBIO: u32 = 0x5421;
    const FIOCLEX: u32 = 0x5451;
    const FIONCLEX: u32 = 0x5450;
    let files = c.thread.files();
    let file = files.get(c.u32(0))?;
    match c.u32(1) {
        FIONREAD => user::write(c.args[2], &(file.readable()? as u32).to_le_bytes())?,
        FIONBIO => {
            let on = user::read_u32(c.args[2])? != 0;
            let flags = file.flags() & !abi::O_NONBLOCK;
            file.set_status(if on { flags | abi::O_NONBLOCK } else { flags })?;
        }
        FIOCLEX => files.set_on_exec(c.u32(0), OnExec::Close)?,
        FIONCLEX => files.set_on_exec(c.u32(0), OnExec::Keep)?,
        request => return file.ioctl(request, c.args[2]),
    }
    Ok(0)
}

pub(super) fn lseek(c: &mut Call<'_>) -> Result<usize> {
    let file = c.thread.files().get(c.u32(0))?;
    if matches!(file.target, Target::Path) {
        return Err(EBADF);
    }
    Ok(file.seek(c.args[1] as i64, c.u32(2))? as usize)
}

/// Puts two descriptors at `to`; takes them back if they cannot be told.
pub(super) fn install_pair(
    c: &Call<'_>,
    to: u64,
    pair: (alloc::sync::Arc<OpenFile>, alloc::sync::Arc<OpenFile>),
    flags: u32,
) -> Result<usize> {
    let first = install(c, pair.0, flags)? as u32;
    let files = c.thread.files();
    let second = match install(c, pair.1, flags) {
        Ok(second) => second as u32,
        Err(error) => {
            files.close(first)?;
            return Err(error);
        }
    };
    let told = user::write(to, &Packer::new().u32(first).u32(second).0);
    if told.is_err() {
        files.close(first)?;
        files.close(second)?;
    }
    told.map(|()| 0)
}

pub(super) fn pipe(c: &mut Call<'_>, flags: u32) -> Result<usize> {
    only(flags, abi::O_CLOEXEC | abi::O_NONBLOCK | abi::O_DIRECT)?;
    let pair = pipes::pipe(flags & abi::O_NONBLOCK)?;
    install_pair(c, c.args[0], pair, flags)
}

pub(super) fn eventfd(c: &mut Call<'_>, flags: u32) -> Result<usize> {
    const EFD_SEMAPHORE: u32 = 1;
    only(flags, EFD_SEMAPHORE | abi::O_CLOEXEC | abi::O_NONBLOCK)?;
    let take = if flags & EFD_SEMAPHORE != 0 { Take::One } else { Take::All };
    let counter = Counter::new(u64::from(c.u32(0)), take);
    let status = abi::O_RDWR | flags & abi::O_NONBLOCK;
    install(c, OpenFile::anonymous(FileType::Regular, counter, b"anon_inode:[eventfd]", status), flags)
}

/// The longest name of a file of memory.
const MEMFD_NAME_MAX: usize = 249;

/// There is no pool of huge pages.
pub(super) fn memfd_create(c: &mut Call<'_>) -> Result<usize> {
    const HUGE: u32 = abi::MFD_HUGETLB | abi::MFD_HUGE_MASK << abi::MFD_HUGE_SHIFT;
    const EITHER: u32 = abi::MFD_EXEC | abi::MFD_NOEXEC_SEAL;
    let flags = only(c.u32(1), abi::MFD_CLOEXEC | abi::MFD_ALLOW_SEALING | EITHER | HUGE)?;
    if flags & EITHER == EITHER || flags & HUGE != 0 && flags & abi::MFD_HUGETLB == 0 {
        return Err(EINVAL);
    }
    let name = user::path(c.args[0]).map_err(|error| if error == ENAMETOOLONG { EINVAL } else { error })?;
    if name.len() > MEMFD_NAME_MAX {
        return Err(EINVAL);
    }
    if flags & abi::MFD_HUGETLB != 0 {
        return Err(ENOMEM);
    }
    let seals = match flags & (abi::MFD_NOEXEC_SEAL | abi::MFD_ALLOW_SEALING) {
        0 => Seals::SEAL,
        abi::MFD_ALLOW_SEALING => Seals::empty(),
        _ => Seals::EXEC,
    };
    let mode = if seals.contains(Seals::EXEC) { 0o666 } else { 0o777 };
    let inode = vfs().inode(mode, Body::File(Mutex::new(FileData::sealed(seals))));
    inode.update(|meta| meta.nlink = 0);
    let path = [&b"/memfd:"[..], &name, b" (deleted)"].concat();
    let cloexec = if flags & abi::MFD_CLOEXEC != 0 { abi::O_CLOEXEC } else { 0 };
    install(c, OpenFile::new(inode, Target::File, &path, abi::O_RDWR), cloexec)
}

/// Reads `struct epoll_event`: events and data.
pub(super) fn epoll_event(address: u64) -> Result<(u32, u64)> {
    let bytes: [u8; size_of::<abi::epoll_event>()] = user::read_array(address)?;
    let f = Fields(&bytes);
    Ok((f.u32(offset_of!(abi::epoll_event, events)), f.u64(offset_of!(abi::epoll_event, data))))
}
