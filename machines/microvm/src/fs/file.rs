//! What a descriptor stands for: an open file description.

use super::block::{BlockDevice, Travel};
use super::event::Event;
use super::iov::{From, To};
use super::seq::Seq;
use crate::arch::mem::PAGE;
use crate::arch::time;
use crate::sched::{self, Mutex, MutexGuard};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::abi::Stat;
use anonmem_oslib::errno::{EBADF, EFBIG, EINVAL, EISDIR, ENOTTY, EPERM, ESPIPE, ESRCH};
use anonmem_oslib::vfs::data::LIMIT;
use anonmem_oslib::vfs::{Body, FileType, Inode};
use anonmem_oslib::{Errno, Result};
use core::any::Any;
use core::ops::Range;
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
/// Its methods may sleep, so they are called without any lock. What could not be delivered stays with the
/// object where Linux keeps it: a pipe's and a stream's bytes do, a datagram and an eventfd's count do not.
pub trait Object: Send + Sync + Any {
    /// Reads.
    fn read(&self, _to: &mut To<'_>, _wait: Wait) -> Result<usize> {
        Err(EINVAL)
    }
    /// Writes.
    fn write(&self, _from: &mut From<'_>, _wait: Wait) -> Result<usize> {
        Err(EINVAL)
    }
    /// Says what would not wait now.
    fn ready(&self) -> Ready {
        IN | OUT
    }
    /// The same for a description whose operations wait or do not.
    fn ready_for(&self, _wait: Wait) -> Ready {
        self.ready()
    }
    /// Says how often something has come that may make it ready for `of`, for edges of epoll. It may count
    /// more than that: an edge too many finds `EAGAIN`, and an edge too few is a program that sleeps.
    fn changes(&self, _of: Ready) -> u64 {
        0
    }
    /// Gives the number of bytes that a read would find (`FIONREAD`).
    fn readable(&self) -> Result<usize> {
        Err(ENOTTY)
    }
    /// Answers an ioctl.
    fn ioctl(&self, _request: u32, _argument: u64) -> Result<usize> {
        Err(ENOTTY)
    }
    /// Tells the queues that only who has the object can read, by numbers of their own: descriptions may be
    /// in them (`SCM_RIGHTS`). Does not sleep.
    fn queues(&self, _each: &mut dyn FnMut(usize)) {}
    /// Says whether the object has no position.
    fn is_stream(&self) -> bool {
        true
    }
    /// Gives the object as what it is.
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// The changes that `of` asks for, of something that is filled for readers and drained for writers.
pub fn changes_of(of: Ready, filled: &Event, drained: &Event) -> u64 {
    let of_readers = if of & !OUT != 0 { filled.changes() } else { 0 };
    of_readers + if of & OUT != 0 { drained.changes() } else { 0 }
}

/// Bytes that are read and written at offsets, and are no file's.
pub trait Positioned: Send + Sync {
    /// Reads.
    ///
    /// # Errors
    /// Its own.
    fn read_at(&self, offset: u64, to: &mut To<'_>) -> Result<usize>;
    /// Writes.
    ///
    /// # Errors
    /// Its own.
    fn write_at(&self, offset: u64, from: &mut From<'_>) -> Result<usize>;
    /// Answers an ioctl.
    ///
    /// # Errors
    /// `ENOTTY` if there are none; its own.
    fn ioctl(&self, _request: u32, _argument: u64) -> Result<usize> {
        Err(ENOTTY)
    }
}

/// What [`Synthetic::open`](anonmem_oslib::vfs::Synthetic::open) gives.
pub struct Opened(pub alloc::boxed::Box<dyn Positioned>);

/// What an open file description reads and writes.
pub enum Target {
    /// The inode's own bytes.
    File,
    /// The inode's entries; the position is the name that was given out last.
    Directory(Mutex<Cursor>),
    /// A generated text, as far as it was read.
    Text(Mutex<Seq>),
    /// A generated file that is read at any offset.
    Pieces,
    /// What an entry of `/proc` was when it was opened.
    Placed(Arc<Opened>),
    /// An object.
    Object(Arc<dyn Object>),
    /// A disk.
    Block(Arc<BlockDevice>),
    /// Nothing (`O_PATH`).
    Path,
}

/// Where reading a directory has come to.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// How many entries were given out, with `.` and `..`.
    pub count: u64,
    /// The last name.
    pub last: Option<Vec<u8>>,
}

/// Whether a description takes `O_DIRECT`. Linux: `FMODE_CAN_ODIRECT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direct {
    Taken,
    Refused,
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
    /// Whether `O_DIRECT` may be among them.
    direct: Direct,
    /// Held over a read or write that uses and moves it, so that no byte is read or written twice.
    position: Mutex<u64>,
}

impl OpenFile {
    /// Makes a description.
    pub fn new(inode: Arc<Inode>, target: Target, path: &[u8], flags: u32) -> Arc<OpenFile> {
        let flags = AtomicU32::new(
            flags & !(abi::O_CLOEXEC | abi::O_CREAT | abi::O_EXCL | abi::O_TRUNC | abi::O_NOCTTY),
        );
        let (path, position) = (path.into(), Mutex::new(0));
        Arc::new(OpenFile { inode, target, path, flags, direct: Direct::Refused, position })
    }

    /// Makes a description of what a path has led to: a file of memory takes `O_DIRECT` and makes nothing of
    /// it, as tmpfs since Linux 6.6, and a disk means it.
    ///
    /// # Errors
    /// `EINVAL` if `O_DIRECT` is asked of anything else.
    pub fn of_path(inode: Arc<Inode>, target: Target, path: &[u8], flags: u32) -> Result<Arc<OpenFile>> {
        let direct = match target {
            Target::File | Target::Block(_) => Direct::Taken,
            Target::Directory(_)
            | Target::Text(_)
            | Target::Pieces
            | Target::Placed(_)
            | Target::Object(_)
            | Target::Path => Direct::Refused,
        };
        if flags & abi::O_DIRECT != 0 && direct == Direct::Refused {
            return Err(EINVAL);
        }
        let mut file = OpenFile::new(inode, target, path, flags);
        if let Some(file) = Arc::get_mut(&mut file) {
            file.direct = direct;
        }
        Ok(file)
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
    ///
    /// # Errors
    /// `EINVAL` if `O_DIRECT` is asked of what does not take it; a pipe does, for packets.
    pub fn set_status(&self, flags: u32) -> Result<()> {
        const SETTABLE: u32 = abi::O_APPEND | abi::O_NONBLOCK | abi::O_DIRECT | abi::O_NOATIME;
        let takes_direct = self.direct == Direct::Taken || self.inode.kind() == FileType::Fifo;
        if flags & abi::O_DIRECT != 0 && !takes_direct {
            return Err(EINVAL);
        }
        self.flags.store(self.flags() & !SETTABLE | flags & SETTABLE, Relaxed);
        Ok(())
    }

    /// How bytes travel between a disk and the program.
    fn travel(&self) -> Travel {
        if self.flags() & abi::O_DIRECT != 0 { Travel::Direct } else { Travel::Buffered }
    }

    /// Says whether operations wait.
    pub fn wait(&self) -> Wait {
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

    /// Tells the queues of its object.
    pub fn queues(&self, each: &mut dyn FnMut(usize)) {
        if let Target::Object(object) = &self.target {
            object.queues(each);
        }
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

    /// Reads at the position and moves it by what was delivered.
    ///
    /// # Errors
    /// `EBADF`, `EISDIR`, `EFAULT`, an object's.
    pub fn read(&self, to: &mut To<'_>) -> Result<usize> {
        self.check_readable()?;
        match &self.target {
            Target::Object(object) => object.read(to, self.wait()),
            _ => self.at_position(|at| self.read_at(at, to)),
        }
    }

    /// Does `transfer` at the position, and moves the position by what it gives.
    ///
    /// # Errors
    /// Those of `transfer`.
    pub fn at_position(&self, transfer: impl FnOnce(u64) -> Result<usize>) -> Result<usize> {
        let mut position = self.position.lock();
        let n = transfer(*position)?;
        *position += n as u64;
        Ok(n)
    }

    /// Reads at `offset`.
    ///
    /// # Errors
    /// As [`OpenFile::read`]; `ESPIPE` for what has no position.
    pub fn read_at(&self, offset: u64, to: &mut To<'_>) -> Result<usize> {
        self.check_readable()?;
        match (&self.target, &self.inode.body) {
            (Target::File, _) => to.fill_from(|done, bytes| read_inode(&self.inode, offset + done, bytes)),
            (Target::Text(seq), Body::Synthetic(entry)) => seq.lock().read(&**entry, offset, to),
            (Target::Pieces, Body::Synthetic(entry)) => {
                to.fill_from(|done, bytes| entry.read_at(offset + done, bytes).unwrap_or(Err(EINVAL)))
            }
            (Target::Text(_) | Target::Pieces, _) => Err(EINVAL),
            (Target::Directory(_), _) => Err(EISDIR),
            (Target::Path, _) => Err(EBADF),
            (Target::Placed(opened), _) => opened.0.read_at(offset, to),
            (Target::Object(object), _) if object.is_stream() => Err(ESPIPE),
            (Target::Object(object), _) => object.read(to, self.wait()),
            (Target::Block(device), _) => device.read(offset, to, self.travel()),
        }
    }

    /// Writes at the position (at the end if `O_APPEND`) and moves it by what was taken.
    ///
    /// # Errors
    /// `EBADF`, `EFAULT`, an object's, `ENOSPC`.
    pub fn write(&self, from: &mut From<'_>) -> Result<usize> {
        self.check_writable()?;
        if let Target::Object(object) = &self.target {
            return object.write(from, self.wait());
        }
        let mut position = self.position.lock();
        let (end, n) = self.write_from(*position, from)?;
        *position = end;
        Ok(n)
    }

    /// Writes at `offset` (at the end if `O_APPEND`).
    ///
    /// # Errors
    /// As [`OpenFile::write`]; `ESPIPE` for what has no position.
    pub fn write_at(&self, offset: u64, from: &mut From<'_>) -> Result<usize> {
        self.check_writable()?;
        match &self.target {
            Target::Object(object) if object.is_stream() => Err(ESPIPE),
            Target::Object(object) => object.write(from, self.wait()),
            _ => self.write_from(offset, from).map(|(_, n)| n),
        }
    }

    /// Writes what is no object; gives where it ended and how much it was.
    fn write_from(&self, offset: u64, from: &mut From<'_>) -> Result<(u64, usize)> {
        match (&self.target, &self.inode.body) {
            (Target::File, _) => {
                let _writer = writer(&self.inode);
                let offset = if self.flags() & abi::O_APPEND != 0 { self.inode.size() } else { offset };
                keep_to_limit(offset, from)?;
                let n = from.drain_to(|done, bytes| write_inode(&self.inode, offset + done, bytes))?;
                Ok((offset + n as u64, n))
            }
            (Target::Text(_) | Target::Pieces, Body::Synthetic(entry)) => {
                // What is written there is a word.
                let mut word = [0; PAGE as usize];
                let n = from.left().min(word.len());
                from.take_whole(&mut word[..n])?;
                entry.write(&word[..n])?;
                Ok((offset + n as u64, n))
            }
            (Target::Block(device), _) => {
                let offset = if self.flags() & abi::O_APPEND != 0 { device.size() } else { offset };
                let n = device.write(offset, from, self.travel())?;
                if self.flags() & abi::O_DSYNC != 0 {
                    device.sync()?;
                }
                Ok((offset + n as u64, n))
            }
            (Target::Placed(opened), _) => {
                let n = opened.0.write_at(offset, from)?;
                Ok((offset + n as u64, n))
            }
            (Target::Text(_) | Target::Pieces, _) => Err(EINVAL),
            (Target::Directory(_), _) => Err(EISDIR),
            (Target::Path | Target::Object(_), _) => Err(EBADF),
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
            _ if matches!(self.target, Target::Placed(_)) => return Err(EINVAL),
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
            Target::Block(device) => device.size(),
            _ => self.inode.size(),
        }
    }

    /// Waits until what was written is safe.
    ///
    /// # Errors
    /// `EINVAL` for what has no position, `EIO`.
    pub fn sync(&self) -> Result<()> {
        match &self.target {
            Target::Block(device) => device.sync(),
            _ if self.is_stream() => Err(EINVAL),
            _ => Ok(()),
        }
    }

    /// Answers an ioctl that not every description knows.
    ///
    /// # Errors
    /// `ENOTTY`: nothing here is a terminal; those of the object.
    pub fn ioctl(&self, request: u32, argument: u64) -> Result<usize> {
        match &self.target {
            Target::Block(device) => device.ioctl(request, argument),
            Target::Object(object) => object.ioctl(request, argument),
            Target::Placed(opened) => opened.0.ioctl(request, argument),
            Target::Text(_) => match &self.inode.body {
                Body::Synthetic(file) => file.ioctl(request, argument),
                _ => Err(ENOTTY),
            },
            _ => Err(ENOTTY),
        }
    }

    /// Says what would not wait now.
    pub fn ready(&self) -> Ready {
        match &self.target {
            Target::Object(object) => object.ready_for(self.wait()),
            _ => IN | OUT,
        }
    }

    /// Says how often something has come that may make it ready for `of`.
    pub fn changes(&self, of: Ready) -> u64 {
        match &self.target {
            Target::Object(object) => object.changes(of),
            _ => 0,
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

/// Locks a regular file against all others who change its bytes or its size; may sleep. Files share these
/// locks by number, so nobody may hold two. Linux: `inode_lock`.
pub fn writer(inode: &Inode) -> MutexGuard<'static, ()> {
    static WRITERS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];
    WRITERS[inode.ino as usize % WRITERS.len()].lock()
}

/// Writes a regular file's bytes. The caller has [`writer`].
fn write_inode(inode: &Inode, offset: u64, from: &[u8]) -> Result<usize> {
    let Body::File(data) = &inode.body else { return Err(EINVAL) };
    inode.touch(time::wall_ns());
    let (store, from) = {
        let mut data = data.lock();
        let from = &from[..data.seals.may_write(offset, from.len(), data.size())?];
        match data.store() {
            None => return data.write(offset, from),
            Some(store) => (store, from),
        }
    };
    if offset.saturating_add(from.len() as u64) > LIMIT {
        return Err(EFBIG);
    }
    // A store may sleep: its bytes are written without the spin lock, page by page.
    let mut done = 0;
    for chunk in pages(offset, from) {
        let at = offset + done as u64;
        let size = inode.size().max(at + chunk.len() as u64);
        match store.resize(size).and_then(|()| store.write(at, chunk)) {
            Ok(()) => done += chunk.len(),
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    data.lock().grew(offset + done as u64);
    Ok(done)
}

/// Cuts bytes that belong at `offset` at page boundaries.
fn pages(offset: u64, mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = offset;
    core::iter::from_fn(move || {
        let n = bytes.len().min((PAGE - at % PAGE) as usize);
        let (now, later) = bytes.split_at(n);
        (at, bytes) = (at + n as u64, later);
        (n > 0).then_some(now)
    })
}

/// Forgets the bytes that would make a file larger than the caller may (`RLIMIT_FSIZE`). Linux:
/// fs/read_write.c `generic_write_check_limits`.
///
/// # Errors
/// `EFBIG`, and SIGXFSZ, if none is left.
fn keep_to_limit(offset: u64, from: &mut From<'_>) -> Result<()> {
    let limit = sched::file_size_limit();
    if limit == u64::MAX || from.left() == 0 {
        return Ok(());
    }
    if offset >= limit {
        sched::tell_of_file_size();
        return Err(EFBIG);
    }
    from.truncate(usize::try_from(limit - offset).unwrap_or(usize::MAX));
    Ok(())
}

/// Sets a regular file's size; what is cut off reads as zero if it grows again.
///
/// # Errors
/// `EINVAL` if it is none, `EFBIG`.
pub fn truncate(inode: &Inode, size: u64) -> Result<()> {
    let Body::File(data) = &inode.body else { return Err(EINVAL) };
    let _writer = writer(inode);
    if size > data.lock().size() && size > sched::file_size_limit() {
        sched::tell_of_file_size();
        return Err(EFBIG);
    }
    let shrinking = {
        let mut data = data.lock();
        data.seals.may_resize(data.size(), size)?;
        match data.store() {
            None => {
                data.truncate(size)?;
                None
            }
            Some(store) => Some(store),
        }
    };
    if let Some(store) = shrinking {
        if size > LIMIT {
            return Err(EFBIG);
        }
        // May sleep: without the spin lock.
        store.resize(size)?;
        data.lock().resized(size)?;
    }
    inode.touch(time::wall_ns());
    Ok(())
}

/// Makes bytes of a regular file read as zero; its size stays.
///
/// # Errors
/// `EINVAL` if it is none, `EPERM` if it is sealed, `ENOSPC`.
pub fn punch(inode: &Inode, hole: Range<u64>) -> Result<()> {
    let Body::File(data) = &inode.body else { return Err(EINVAL) };
    let _writer = writer(inode);
    let store = {
        let mut data = data.lock();
        if data.seals.refuse_writes() {
            return Err(EPERM);
        }
        match data.store() {
            None => {
                data.punch(hole.clone())?;
                None
            }
            Some(store) => Some(store),
        }
    };
    if let Some(store) = store {
        // May sleep: without the spin lock.
        store.punch(hole)?;
    }
    inode.touch(time::wall_ns());
    Ok(())
}

/// Gives what `stat` tells about an inode.
pub fn stat(inode: &Inode) -> Stat {
    let meta = inode.meta();
    let blocks = match &inode.body {
        Body::File(data) => {
            let (own, store) = {
                let data = data.lock();
                (data.blocks(), data.store())
            };
            own + store.map_or(0, |store| store.pages() * (PAGE / 512))
        }
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
