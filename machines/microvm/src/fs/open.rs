//! Opening: from a path and `O_*` to an open file description.

use super::block::BlockDevice;
use super::device::Device;
use super::file::{Cursor, Object, OpenFile, Opened, Target};
use super::pipe::{self, Pipe};
use super::seq::Seq;
use super::sources;
use super::vfs;
use crate::sched;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EACCES, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, ENXIO};
use anonmem_oslib::vfs::path::Follow;
use anonmem_oslib::vfs::{Body, FileData, FileType, Inode};
use linux_raw_sys::general as abi;
use spin::Mutex;

/// What makes an object for everybody who may open its inode, with these `O_*`.
pub struct Opener(pub fn(&Inode, u32) -> Result<Arc<dyn Object>>);

/// Opens `path` relative to `at`, creating the file if `O_CREAT` says so.
///
/// # Errors
/// Those of open(2).
pub fn open(at: &Arc<Inode>, path: &[u8], flags: u32, mode: u32) -> Result<Arc<OpenFile>> {
    let inode = find_or_create(at, path, flags, mode)?;
    let follow = if flags & abi::O_NOFOLLOW != 0 { Follow::No } else { Follow::Yes };
    open_inode(&inode, &shown(at, path, follow), flags)
}

fn find_or_create(at: &Arc<Inode>, path: &[u8], flags: u32, mode: u32) -> Result<Arc<Inode>> {
    const TMPFILE: u32 = abi::__O_TMPFILE;
    let nofollow =
        flags & abi::O_NOFOLLOW != 0 || flags & (abi::O_CREAT | abi::O_EXCL) == abi::O_CREAT | abi::O_EXCL;
    let follow = if nofollow { Follow::No } else { Follow::Yes };
    if flags & TMPFILE != 0 {
        let dir = vfs().lookup(at, path, Follow::Yes)?;
        let file = vfs().inode(mode, Body::File(Mutex::new(FileData::default())));
        file.update(|meta| meta.nlink = 0);
        return if dir.is_dir() { Ok(file) } else { Err(ENOTDIR) };
    }
    if flags & abi::O_CREAT == 0 {
        return vfs().lookup(at, path, follow);
    }
    match vfs().lookup(at, path, follow) {
        Ok(_) if flags & abi::O_EXCL != 0 => Err(EEXIST),
        Ok(inode) if inode.is_dir() => Err(EISDIR),
        Err(ENOENT) => create(at, path, mode, 0),
        found => found,
    }
}

/// Creates a file where nothing is; a dangling link's target if the path names one.
fn create(at: &Arc<Inode>, path: &[u8], mode: u32, links: usize) -> Result<Arc<Inode>> {
    if path.ends_with(b"/") {
        return Err(if path.is_empty() { ENOENT } else { EISDIR });
    }
    let place = vfs().lookup_place(at, path)?;
    if let Ok(there) = place.dir.child(&place.name)
        && let Body::Symlink(target) = &there.body
    {
        return if links < 40 { create(&place.dir, target, mode, links + 1) } else { Err(ELOOP) };
    }
    match vfs().create(&place, mode, Body::File(Mutex::default())) {
        // Somebody else created it between the look and now.
        Err(EEXIST) => place.dir.child(&place.name),
        made => made,
    }
}

/// Opens an inode.
///
/// # Errors
/// `EISDIR`, `ENOTDIR`, `ELOOP`, `ENXIO`; what generating a text gives.
pub fn open_inode(inode: &Arc<Inode>, path: &[u8], flags: u32) -> Result<Arc<OpenFile>> {
    let writes = flags & abi::O_ACCMODE != abi::O_RDONLY;
    let kind = inode.kind();
    if flags & abi::O_DIRECTORY != 0 && kind != FileType::Directory && flags & abi::__O_TMPFILE == 0 {
        return Err(ENOTDIR);
    }
    if flags & abi::O_PATH != 0 {
        // All others are ignored, as on Linux.
        let flags = flags & (abi::O_PATH | abi::O_DIRECTORY | abi::O_NOFOLLOW);
        return Ok(OpenFile::new(inode.clone(), Target::Path, path, flags));
    }
    let target = match (kind, &inode.body) {
        (FileType::Directory, _) if writes => return Err(EISDIR),
        (FileType::Directory, _) => Target::Directory(sched::Mutex::new(Cursor::default())),
        (FileType::Symlink, _) => return Err(ELOOP),
        (_, Body::File(_)) => {
            if writes && flags & abi::O_TRUNC != 0 {
                sources::truncate(inode, 0)?;
            }
            Target::File
        }
        (_, Body::Synthetic(entry)) if !entry.admits(&inode.meta(), wanted(flags)) => return Err(EACCES),
        (_, Body::Synthetic(entry)) => match (entry.open(), entry.read_at(0, &mut [])) {
            (Some(opened), _) => Target::Placed(opened?.downcast::<Opened>().map_err(|_| EINVAL)?),
            (None, Some(_)) => Target::Pieces,
            (None, None) => Target::Text(sched::Mutex::new(Seq::new())),
        },
        (_, Body::Special { .. }) => return open_special(inode, path, flags),
        (_, Body::Directory(_) | Body::Symlink(_)) => return Err(EINVAL),
    };
    OpenFile::of_path(inode.clone(), target, path, flags)
}

/// The permissions that `O_*` ask for: 4 to read, 2 to write.
pub const fn wanted(flags: u32) -> u32 {
    match flags & abi::O_ACCMODE {
        abi::O_RDONLY => 4,
        abi::O_WRONLY => 2,
        _ => 6,
    }
}

fn open_special(inode: &Arc<Inode>, path: &[u8], flags: u32) -> Result<Arc<OpenFile>> {
    if let Some(device) = inode.object::<Device>() {
        return OpenFile::of_path(inode.clone(), Target::Object(device), path, flags);
    }
    if let Some(disk) = inode.object::<BlockDevice>() {
        return OpenFile::of_path(inode.clone(), Target::Block(disk), path, flags);
    }
    if let Some(opener) = inode.object::<Opener>() {
        return OpenFile::of_path(inode.clone(), Target::Object((opener.0)(inode, flags)?), path, flags);
    }
    if flags & abi::O_DIRECT != 0 {
        return Err(EINVAL);
    }
    match inode.object::<Pipe>() {
        Some(pipe) => pipe::open_fifo(inode, pipe, path, flags),
        None => Err(ENXIO),
    }
}

/// Gives the path that is shown of what `path` leads to: from the root, without links. What cannot be found
/// stays as it was given.
fn shown(at: &Arc<Inode>, path: &[u8], follow: Follow) -> Vec<u8> {
    vfs().real_path(at, path, follow).unwrap_or_else(|_| path.to_vec())
}

/// The same of what is run or loaded.
pub fn absolute(at: &Arc<Inode>, path: &[u8]) -> Vec<u8> {
    shown(at, path, Follow::Yes)
}
