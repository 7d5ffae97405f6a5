//! What a descriptor stands for: an open file description.

use super::event::Event;
use crate::arch::lock::SpinLock;
use crate::arch::time;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::abi::Stat;
use anonmem_oslib::errno::{EBADF, EINVAL, EISDIR, ENOTTY, ESPIPE, ESRCH};
use anonmem_oslib::vfs::{Body, FileType, Inode};
use anonmem_oslib::{Errno, Result};
use core::any::Any;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use linux_raw_sys::general as abi;

/// Whether an operation waits if it cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until it can, or a signal comes.
    Yes,
    /// No: `EAGAIN`.
    No,
}

/// What poll tells: `POLL*` bits.
pub type Ready = u32;
/// Something to read, or the end.
pub const IN: Ready = abi::POLLIN | abi::POLLRDNORM;
/// Room to write.
pub const OUT: Ready = abi::POLLOUT | abi::POLLWRNORM;
/// Nobody will read what is written.
pub const ERR: Ready = abi::POLLERR;
/// The other end is closed.
pub const HUP: Ready = abi::POLLHUP;

/// An object that can be read, written or waited for: a device, a pipe's end, a counter.
///
/// Its methods may sleep, so they are called without any lock.
pub trait Object: Send + Sync + Any {
    /// Reads.
    fn read(&self, _to: &mut [u8], _wait: Wait) -> Result<usize> {
        Err(EINVAL)
    }
    /// Writes.
    fn write(&self, _from: &[u8], _wait: Wait) -> Result<usize> {
        Err(EINVAL)
    }
    /// Says what would not wait now.
    fn ready(&self) -> Ready {
        IN | OUT
    }
    /// Gives the number of bytes that a read would find (`FIONREAD`).
    fn readable(&self) -> Result<usize> {
        Err(ENOTTY)
    }
    /// Says whether the object has no position.
    fn is_stream(&self) -> bool {
        true
    }
    /// Gives the object as what it is.
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// What an open file description reads and writes.
pub enum Target {
    /// The inode's own bytes.
    File,
    /// The inode's entries; the position is the name that was given out last.
    Directory(SpinLock<Cursor>),
    /// A generated text, as it was when it was opened.
    Text(Vec<u8>),
    /// A generated file that is read piecewise.
    Pieces,
    /// An object.
    Object(Arc<dyn Object>),
    /// Nothing (`O_PATH`).
    Path,
}

/// Where reading a directory has come to.
#[derive(Debug, Default)]
pub struct Cursor {
    /// How many entries were given out, with `.` and `..`.
    pub count: u64,
    /// The last name.
    pub last: Option<Vec<u8>>,
}

/// An open file description: what `dup` and `fork` share.
pub struct OpenFile {
    /// The inode.
    pub inode: Arc<Inode>,
    /// What it reads and writes.
    pub target: Target,
    /// The path that it was opened by.
    pub path: Box<[u8]>,
    /// `O_*`: access mode and status flags.
    flags: AtomicU32,
    position: SpinLock<u64>,
}

impl OpenFile {
    /// Makes a description.
    pub fn new(inode: Arc<Inode>, target: Target, path: &[u8], flags: u32) -> Arc<OpenFile> {
        let flags = AtomicU32::new(
            flags & !(abi::O_CLOEXEC | abi::O_CREAT | abi::O_EXCL | abi::O_TRUNC | abi::O_NOCTTY),
        );
        Arc::new(OpenFile { inode, target, path: path.into(), flags, position: SpinLock::new(0) })
    }

    /// Makes a description of an object that has no name: a pipe, a socket, a counter.
    pub fn anonymous(kind: FileType, object: Arc<dyn Object>, name: &[u8], flags: u32) -> Arc<OpenFile> {
        let body = Body::Special { kind, rdev: 0, object: object.clone().as_any() };
        let inode = super::vfs().inode(0o600, body);
        OpenFile::new(inode, Target::Object(object), name, flags)
    }

    /// Gives `O_*`.
    pub fn flags(&self) -> u32 {
        self.flags.load(Relaxed)
    }

    /// Changes the status flags that can change (`F_SETFL`).
    pub fn set_status(&self, flags: u32) {
        const SETTABLE: u32 = abi::O_APPEND | abi::O_NONBLOCK | abi::O_DIRECT | abi::O_NOATIME;
        self.flags.store(self.flags() & !SETTABLE | flags & SETTABLE, Relaxed);
    }

    fn wait(&self) -> Wait {
        if self.flags() & abi::O_NONBLOCK != 0 { Wait::No } else { Wait::Yes }
    }

    /// Fails unless it was opened for reading.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn check_readable(&self) -> Result<()> {
        let path_only = matches!(self.target, Target::Path);
        if path_only || self.flags() & abi::O_ACCMODE == abi::O_WRONLY { Err(EBADF) } else { Ok(()) }
    }

    /// Fails unless it was opened for writing.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn check_writable(&self) -> Result<()> {
        let path_only = matches!(self.target, Target::Path);
        if path_only || self.flags() & abi::O_ACCMODE == abi::O_RDONLY { Err(EBADF) } else { Ok(()) }
    }

    /// Gives the object if it is a `T`.
    pub fn object<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        match &self.target {
            Target::Object(object) => object.clone().as_any().downcast().ok(),
            _ => None,
        }
    }

    /// Says whether reads and writes have no position.
    pub fn is_stream(&self) -> bool {
        matches!(&self.target, Target::Object(object) if object.is_stream())
    }

    /// Reads at the position and moves it.
    ///
    /// # Errors
    /// `EBADF`, `EISDIR`, an object's.
    pub fn read(&self, to: &mut [u8]) -> Result<usize> {
        self.check_readable()?;
        if let Target::Object(object) = &self.target {
            return object.read(to, self.wait());
        }
        let at = *self.position.lock();
        let n = self.read_at(at, to)?;
        *self.position.lock() = at + n as u64;
        Ok(n)
    }

    /// Reads at `offset`.
    ///
    /// # Errors
    /// As [`OpenFile::read`]; `ESPIPE` for what has no position.
    pub fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<usize> {
        self.check_readable()?;
        match &self.target {
            Target::File => read_inode(&self.inode, offset, to),
            Target::Text(text) => {
                let rest = text.get(offset as usize..).unwrap_or(&[]);
                let n = rest.len().min(to.len());
                to[..n].copy_from_slice(&rest[..n]);
                Ok(n)
            }
            Target::Pieces => match &self.inode.body {
                Body::Synthetic(entry) => entry.read_at(offset, to).unwrap_or(Err(EINVAL)),
                _ => Err(EINVAL),
            },
            Target::Directory(_) => Err(EISDIR),
            Target::Path => Err(EBADF),
            Target::Object(object) if object.is_stream() => Err(ESPIPE),
            Target::Object(object) => object.read(to, self.wait()),
        }
    }

    /// Writes at the position (at the end if `O_APPEND`) and moves it.
    ///
    /// # Errors
    /// `EBADF`, an object's, `ENOSPC`.
    pub fn write(&self, from: &[u8]) -> Result<usize> {
        self.check_writable()?;
        if let Target::Object(object) = &self.target {
            return object.write(from, self.wait());
        }
        if self.flags() & abi::O_APPEND != 0 {
            let (end, n) = append_inode(&self.inode, from)?;
            *self.position.lock() = end;
            return Ok(n);
        }
        let at = *self.position.lock();
        let n = self.write_at(at, from)?;
        *self.position.lock() = at + n as u64;
        Ok(n)
    }

    /// Writes at `offset`.
    ///
    /// # Errors
    /// As [`OpenFile::write`]; `ESPIPE` for what has no position.
    pub fn write_at(&self, offset: u64, from: &[u8]) -> Result<usize> {
        self.check_writable()?;
        match &self.target {
            Target::File => write_inode(&self.inode, offset, from),
            Target::Text(_) | Target::Pieces => match &self.inode.body {
                Body::Synthetic(entry) => entry.write(from).map(|()| from.len()),
                _ => Err(EINVAL),
            },
            Target::Directory(_) => Err(EISDIR),
            Target::Path => Err(EBADF),
            Target::Object(object) if object.is_stream() => Err(ESPIPE),
            Target::Object(object) => object.write(from, self.wait()),
        }
    }

    /// Moves the position (`lseek`); gives the new one.
    ///
    /// # Errors
    /// `ESPIPE` for what has none, `EINVAL` if it would be negative.
    pub fn seek(&self, offset: i64, whence: u32) -> Result<u64> {
        if self.is_stream() {
            return Err(ESPIPE);
        }
        let size = self.size();
        let mut position = self.position.lock();
        let from = match whence {
            abi::SEEK_SET => 0,
            abi::SEEK_CUR => *position,
            abi::SEEK_END => size,
            // No holes are told: everything is data.
            abi::SEEK_DATA if (offset as u64) < size => 0,
            abi::SEEK_HOLE if (offset as u64) < size => {
                *position = size;
                return Ok(size);
            }
            abi::SEEK_DATA | abi::SEEK_HOLE => return Err(anonmem_oslib::errno::ENXIO),
            _ => return Err(EINVAL),
        };
        let to = from.checked_add_signed(offset).filter(|&to| to <= i64::MAX as u64).ok_or(EINVAL)?;
        *position = to;
        if let Target::Directory(cursor) = &self.target
            && to == 0
        {
            *cursor.lock() = Cursor::default();
        }
        Ok(to)
    }

    fn size(&self) -> u64 {
        match &self.target {
            Target::Text(text) => text.len() as u64,
            _ => self.inode.size(),
        }
    }

    /// Says what would not wait now.
    pub fn ready(&self) -> Ready {
        match &self.target {
            Target::Object(object) => object.ready(),
            _ => IN | OUT,
        }
    }

    /// Gives the number of bytes that a read would find.
    ///
    /// # Errors
    /// `ENOTTY` where that makes no sense.
    pub fn readable(&self) -> Result<usize> {
        match &self.target {
            Target::Object(object) => object.readable(),
            Target::File => Ok(self.inode.size().saturating_sub(*self.position.lock()) as usize),
            _ => Err(ENOTTY),
        }
    }
}

/// Reads a regular file's bytes.
///
/// # Errors
/// `EINVAL` if it is none.
pub fn read_inode(inode: &Inode, offset: u64, to: &mut [u8]) -> Result<usize> {
    let Body::File(data) = &inode.body else { return Err(EINVAL) };
    let data = data.lock();
    match data.store() {
        None => data.read(offset, to),
        Some(store) => {
            // A store may sleep: its bytes are read without the lock.
            let n = (to.len() as u64).min(data.size().saturating_sub(offset)) as usize;
            drop(data);
            store.read(offset, &mut to[..n])?;
            Ok(n)
        }
    }
}

/// Writes a regular file's bytes.
///
/// # Errors
/// `EINVAL` if it is none; `ENOSPC`, `EFBIG`.
pub fn write_inode(inode: &Inode, offset: u64, from: &[u8]) -> Result<usize> {
    let Body::File(data) = &inode.body else { return Err(EINVAL) };
    inode.touch(time::wall_ns());
    data.lock().write(offset, from)
}

fn append_inode(inode: &Inode, from: &[u8]) -> Result<(u64, usize)> {
    let Body::File(data) = &inode.body else {
        let Body::Synthetic(entry) = &inode.body else { return Err(EINVAL) };
        return entry.write(from).map(|()| (0, from.len()));
    };
    inode.touch(time::wall_ns());
    let mut data = data.lock();
    let end = data.size();
    let n = data.write(end, from)?;
    Ok((data.size(), n))
}

/// Gives what `stat` tells about an inode.
pub fn stat(inode: &Inode) -> Stat {
    let meta = inode.meta();
    let blocks = match &inode.body {
        Body::File(data) => data.lock().blocks(),
        _ => 0,
    };
    let rdev = match &inode.body {
        Body::Special { rdev, .. } => *rdev,
        _ => 0,
    };
    Stat {
        dev: 1,
        ino: inode.ino,
        nlink: meta.nlink,
        mode: inode.st_mode(),
        uid: meta.uid,
        gid: meta.gid,
        rdev,
        size: inode.size(),
        blocks,
        atime_ns: meta.atime_ns,
        mtime_ns: meta.mtime_ns,
        ctime_ns: meta.ctime_ns,
    }
}

/// Waits for `event` as `wait` says until `look` gives a value.
///
/// # Errors
/// `EAGAIN`, `ERESTARTSYS`, what `look` gives.
pub fn block_on<T>(event: &Event, wait: Wait, mut look: impl FnMut() -> Option<Result<T>>) -> Result<T> {
    match wait {
        Wait::No => look().unwrap_or(Err(anonmem_oslib::errno::EAGAIN)),
        Wait::Yes => event.wait_interruptible(look)?,
    }
}

/// The process that an open `/proc` file was about has ended.
pub const GONE: Errno = ESRCH;
