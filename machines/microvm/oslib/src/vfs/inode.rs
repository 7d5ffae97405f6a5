//! What a name stands for.

use super::data::FileData;
use crate::errno::{EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTTY, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use spin::Mutex;

/// The file types, with the values that `d_type` has; `st_mode` has them shifted by twelve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FileType {
    /// A named pipe.
    Fifo = 1,
    /// A character device.
    Char = 2,
    /// A directory.
    Directory = 4,
    /// A block device.
    Block = 6,
    /// A regular file.
    Regular = 8,
    /// A symbolic link.
    Symlink = 10,
    /// A socket.
    Socket = 12,
}

impl FileType {
    /// Gives the type's bits of `st_mode`.
    pub fn mode_bits(self) -> u32 {
        (self as u32) << 12
    }
}

/// What `stat` tells beside type and size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meta {
    /// Permission bits, without the type.
    pub mode: u32,
    /// Names (and for a directory its own dot entries).
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access, nanoseconds since 1970.
    pub atime_ns: u64,
    /// Last change of the bytes.
    pub mtime_ns: u64,
    /// Last change of anything.
    pub ctime_ns: u64,
}

/// A directory's entries in order of their names.
#[derive(Debug, Default)]
pub struct Directory {
    /// Names and what they stand for; without `.` and `..`.
    pub entries: BTreeMap<Box<[u8]>, Arc<Inode>>,
    /// Set by rmdir: nothing can be created in it any more.
    pub removed: bool,
}

/// What an inode is.
pub enum Body {
    /// Bytes.
    File(Mutex<FileData>),
    /// Names.
    Directory(Mutex<Directory>),
    /// Another path.
    Symlink(Box<[u8]>),
    /// An object of the kernel: a device, a pipe, a socket. The kernel knows what it is.
    Special {
        /// Its type.
        kind: FileType,
        /// Its device number.
        rdev: u64,
        /// The object.
        object: Arc<dyn Any + Send + Sync>,
    },
    /// Something whose content is generated when it is looked at: `/proc`.
    Synthetic(Arc<dyn Synthetic>),
}

/// An entry that is generated.
pub trait Synthetic: Send + Sync {
    /// Gives its type: a directory, a regular file or a symbolic link.
    fn kind(&self) -> FileType;
    /// Finds a name in a generated directory.
    fn lookup(&self, _name: &[u8]) -> Result<Arc<Inode>> {
        Err(ENOTDIR)
    }
    /// Lists a generated directory.
    fn list(&self) -> Result<Vec<(Vec<u8>, FileType)>> {
        Err(ENOTDIR)
    }
    /// Gives up to `limit` entries after the name `after`, in order. For directories that may be long.
    fn list_after(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, FileType)>> {
        Ok(first_names(after, limit, self.list()?.into_iter()))
    }
    /// Generates the whole content of a file that is short.
    fn content(&self) -> Result<Vec<u8>> {
        Err(EISDIR)
    }
    /// Puts the next piece of a text of any length into `out`, which is empty: from `cursor` on, 0 for the
    /// first. Gives the cursor of the piece after it; `None` at the end.
    fn piece(&self, _cursor: u64, out: &mut Vec<u8>) -> Result<Option<u64>> {
        *out = self.content()?;
        Ok(None)
    }
    /// Reads at an offset, for files that have no text. `None`: use `piece`.
    fn read_at(&self, _offset: u64, _to: &mut [u8]) -> Option<Result<usize>> {
        None
    }
    /// Tells whether the caller may open it to read (4) and write (2) it, by what its inode says. Files of
    /// processes decide themselves when they are used.
    fn admits(&self, _meta: &Meta, _wanted: u32) -> bool {
        true
    }
    /// Gives what an open of a file stands for from then on, for files that are no text and belong to more
    /// than their name. `None`: the entry itself.
    fn open(&self) -> Option<Result<Arc<dyn Any + Send + Sync>>> {
        None
    }
    /// Answers an ioctl on a file.
    fn ioctl(&self, _request: u32, _argument: u64) -> Result<usize> {
        Err(ENOTTY)
    }
    /// Takes what was written to a file.
    fn write(&self, _bytes: &[u8]) -> Result<()> {
        Err(EINVAL)
    }
    /// Gives a symbolic link's target.
    fn target(&self) -> Result<LinkTarget> {
        Err(EINVAL)
    }
}

/// Picks the first `limit` names after `after` out of any number, in order, in the memory of those.
pub fn first_names(
    after: Option<&[u8]>,
    limit: usize,
    names: impl Iterator<Item = (Vec<u8>, FileType)>,
) -> Vec<(Vec<u8>, FileType)> {
    let mut first: Vec<(Vec<u8>, FileType)> = Vec::new();
    for (name, kind) in names.filter(|(name, _)| after.is_none_or(|after| &name[..] > after)) {
        let at = first.partition_point(|(other, _)| *other < name);
        if at < limit {
            first.insert(at, (name, kind));
            first.truncate(limit);
        }
    }
    first
}

/// Where a generated link leads.
#[derive(Clone, Debug)]
pub enum LinkTarget {
    /// To a path, as readlink shows it and a walk follows it.
    Path(Vec<u8>),
    /// To an inode; the path is what readlink shows.
    Inode(Arc<Inode>, Vec<u8>),
}

/// Inodes that there are, and how many files may have names. Linux: the `nr_inodes=` of tmpfs.
static INODES: AtomicU64 = AtomicU64::new(0);
static INODES_MAX: AtomicU64 = AtomicU64::new(u64::MAX);

/// Limits the number of inodes at which files can still be created.
pub fn set_inode_limit(inodes: u64) {
    INODES_MAX.store(inodes, Relaxed);
}

/// Gives how many inodes there are, and how many there may be.
pub fn inode_usage() -> (u64, u64) {
    (INODES.load(Relaxed), INODES_MAX.load(Relaxed))
}

impl Drop for Inode {
    fn drop(&mut self) {
        INODES.fetch_sub(1, Relaxed);
    }
}

/// A file, directory, link or special object.
pub struct Inode {
    /// Its number.
    pub ino: u64,
    /// What it is.
    pub body: Body,
    meta: Mutex<Meta>,
    parent: Mutex<Weak<Inode>>,
}

impl fmt::Debug for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inode").field("ino", &self.ino).field("kind", &self.kind()).finish()
    }
}

impl Inode {
    /// Makes an inode.
    pub fn new(ino: u64, mode: u32, now_ns: u64, body: Body) -> Arc<Inode> {
        let meta = Meta {
            mode: mode & 0o7777,
            nlink: 1,
            atime_ns: now_ns,
            mtime_ns: now_ns,
            ctime_ns: now_ns,
            ..Meta::default()
        };
        INODES.fetch_add(1, Relaxed);
        Arc::new(Inode { ino, body, meta: Mutex::new(meta), parent: Mutex::new(Weak::new()) })
    }

    /// Makes an empty directory.
    pub fn directory(ino: u64, mode: u32, now_ns: u64) -> Arc<Inode> {
        let inode = Inode::new(ino, mode, now_ns, Body::Directory(Mutex::default()));
        inode.update(|meta| meta.nlink = 2);
        inode
    }

    /// Makes a generated entry below `parent`.
    pub fn synthetic(
        ino: u64,
        mode: u32,
        now_ns: u64,
        parent: &Arc<Inode>,
        entry: Arc<dyn Synthetic>,
    ) -> Arc<Inode> {
        let inode = Inode::new(ino, mode, now_ns, Body::Synthetic(entry));
        inode.set_parent(parent);
        inode
    }

    /// Gives the file type.
    pub fn kind(&self) -> FileType {
        match &self.body {
            Body::File(_) => FileType::Regular,
            Body::Directory(_) => FileType::Directory,
            Body::Symlink(_) => FileType::Symlink,
            Body::Special { kind, .. } => *kind,
            Body::Synthetic(entry) => entry.kind(),
        }
    }

    /// Says whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Gives a copy of the metadata.
    pub fn meta(&self) -> Meta {
        *self.meta.lock()
    }

    /// Changes the metadata.
    pub fn update(&self, change: impl FnOnce(&mut Meta)) {
        change(&mut self.meta.lock());
    }

    /// Notes that the bytes or names changed at `now_ns`.
    pub fn touch(&self, now_ns: u64) {
        self.update(|meta| (meta.mtime_ns, meta.ctime_ns) = (now_ns, now_ns));
    }

    /// Gives `st_mode`.
    pub fn st_mode(&self) -> u32 {
        self.kind().mode_bits() | self.meta().mode
    }

    /// Gives the size in bytes that `stat` shows.
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::File(data) => data.lock().size(),
            Body::Directory(dir) => dir.lock().entries.len() as u64 * 32,
            Body::Symlink(target) => target.len() as u64,
            Body::Special { .. } | Body::Synthetic(_) => 0,
        }
    }

    /// Gives the directory that holds this one; itself for the root.
    pub fn parent(&self) -> Option<Arc<Inode>> {
        self.parent.lock().upgrade()
    }

    /// Says which directory holds this one.
    pub fn set_parent(&self, parent: &Arc<Inode>) {
        *self.parent.lock() = Arc::downgrade(parent);
    }

    /// Gives the object of a special inode if it is a `T`.
    pub fn object<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        match &self.body {
            Body::Special { object, .. } => object.clone().downcast().ok(),
            _ => None,
        }
    }

    /// Finds a name in a directory.
    ///
    /// # Errors
    /// `ENOTDIR` if this is none, `ENOENT` if the name does not exist.
    pub fn child(&self, name: &[u8]) -> Result<Arc<Inode>> {
        match &self.body {
            Body::Directory(dir) => dir.lock().entries.get(name).cloned().ok_or(ENOENT),
            Body::Synthetic(entry) => entry.lookup(name),
            _ => Err(ENOTDIR),
        }
    }

    /// Gives up to `limit` entries after the name `after` (from the start if `None`).
    ///
    /// A name as cursor stays right while entries come and go between two calls.
    ///
    /// # Errors
    /// `ENOTDIR` if this is none.
    pub fn list(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, u64, FileType)>> {
        use core::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        match &self.body {
            Body::Directory(dir) => {
                let dir = dir.lock();
                let range = dir.entries.range::<[u8], _>((from, Unbounded)).take(limit);
                Ok(range.map(|(name, inode)| (name.to_vec(), inode.ino, inode.kind())).collect())
            }
            Body::Synthetic(entry) => {
                let some = entry.list_after(after, limit)?;
                Ok(some.into_iter().map(|(name, kind)| (name, self.ino, kind)).collect())
            }
            _ => Err(ENOTDIR),
        }
    }

    /// Reads a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` if this is none.
    pub fn target(&self) -> Result<LinkTarget> {
        match &self.body {
            Body::Symlink(target) => Ok(LinkTarget::Path(target.to_vec())),
            Body::Synthetic(entry) => entry.target(),
            _ => Err(EINVAL),
        }
    }
}
