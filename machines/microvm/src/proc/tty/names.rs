//! Where terminals are found: `/dev/ptmx`, `/dev/pts`, `/dev/tty`, `/dev/console`.

use super::pty::{find, numbers, open_master, open_own, open_slave};
use super::{DEVICES, SLAVES, console};
use crate::arch::time;
use crate::fs;
use crate::fs::open::Opener;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::abi::makedev;
use anonmem_oslib::errno::{EEXIST, ENOENT};
use anonmem_oslib::vfs::{Body, FileType, Inode, Synthetic};
use spin::Once;

/// The number of the first terminal's inode; far from those of all others.
const FIRST_INO: u64 = 1 << 41;

/// `/dev/pts`.
struct Directory {
    inode: Once<Weak<Inode>>,
}

static PTS: Once<Arc<Directory>> = Once::new();

/// Puts the names into the tree. What the archive has already put there stays.
///
/// # Errors
/// `ENOMEM`.
pub fn init() -> Result<()> {
    put("/dev/tty", 0o666, 0, Opener(open_own))?;
    put("/dev/console", 0o600, 1, Opener(console::open))?;
    put("/dev/ptmx", 0o666, 2, Opener(open_master))?;
    let directory = PTS.call_once(|| Arc::new(Directory { inode: Once::new() }));
    match fs::vfs().put(b"/dev/pts", 0o755, Body::Synthetic(directory.clone())) {
        Ok(inode) => {
            directory.inode.call_once(|| Arc::downgrade(&inode));
            Ok(())
        }
        Err(EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

fn put(path: &str, mode: u32, minor: u32, opener: Opener) -> Result<()> {
    let object = Arc::new(opener);
    let body = Body::Special { kind: FileType::Char, rdev: makedev(DEVICES, minor), object };
    match fs::vfs().put(path.as_bytes(), mode, body) {
        Ok(_) | Err(EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives an inode for the programs' side of a pseudo-terminal.
pub(super) fn inode(number: u32) -> Arc<Inode> {
    let object = Arc::new(Opener(open_slave));
    let body = Body::Special { kind: FileType::Char, rdev: makedev(SLAVES, number), object };
    let inode = Inode::new(FIRST_INO + u64::from(number), 0o620, time::wall_ns(), body);
    if let Some(parent) = PTS.get().and_then(|pts| pts.inode.get()).and_then(Weak::upgrade) {
        inode.set_parent(&parent);
    }
    inode
}

/// Gives the number of the pseudo-terminal that an inode is of.
pub(super) fn number_of(inode: &Inode) -> Option<u32> {
    u32::try_from(inode.ino.checked_sub(FIRST_INO)?).ok()
}

impl Synthetic for Directory {
    fn kind(&self) -> FileType {
        FileType::Directory
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<Inode>> {
        let text = core::str::from_utf8(name).or(Err(ENOENT))?;
        let number: u32 = text.parse().or(Err(ENOENT))?;
        // Only as it is listed: no sign and no zeros before it.
        if format!("{number}") != text || find(number).is_none() {
            return Err(ENOENT);
        }
        Ok(inode(number))
    }

    fn list(&self) -> Result<Vec<(Vec<u8>, FileType)>> {
        let name = |number: u32| (format!("{number}").into_bytes(), FileType::Char);
        Ok(numbers()?.into_iter().map(name).collect())
    }
}
