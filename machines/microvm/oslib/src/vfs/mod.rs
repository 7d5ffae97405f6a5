//! The RAM file system: one tree of inodes, from the archive and from what programs create.
//!
//! [`Vfs`] owns the root and does what concerns names (look up, create, link, rename, remove);
//! [`Inode`] is a file, directory, symbolic link, special object or generated entry; [`data`] holds
//! a file's bytes. Everything is reached through `Arc`, so that an unlinked file lives as long as
//! somebody has it open.
//!
//! Locks: `Vfs::tree` (names change) > a directory's entries > a file's data > an inode's metadata.
//! All are spin locks and none is held over an access to user memory.

pub mod data;
pub mod inode;
pub mod mount;
pub mod names;
pub mod path;

pub use data::{FileData, SharedStore};
pub use inode::{Body, FileType, Inode, LinkTarget, Meta, Synthetic, first_names};

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// The file system: the root directory, the inode numbers and the clock.
#[derive(Debug)]
pub struct Vfs {
    root: Arc<Inode>,
    next_ino: AtomicU64,
    clock: fn() -> u64,
    /// Held while names change, so that a rename cannot race with another into a loop.
    tree: Mutex<()>,
}

impl Vfs {
    /// Makes an empty file system. `clock` gives nanoseconds since 1970.
    pub fn new(clock: fn() -> u64) -> Self {
        let root = Inode::directory(1, 0o755, clock());
        root.set_parent(&root);
        Vfs { root, next_ino: AtomicU64::new(2), clock, tree: Mutex::new(()) }
    }

    /// Gives the root directory.
    pub fn root(&self) -> &Arc<Inode> {
        &self.root
    }

    /// Gives the time for timestamps, in nanoseconds since 1970.
    pub fn now_ns(&self) -> u64 {
        (self.clock)()
    }

    /// Gives an inode number that no other inode has.
    pub fn next_ino(&self) -> u64 {
        // Relaxed: only uniqueness matters.
        self.next_ino.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes an inode with no name yet: a pipe, a socket, a deleted temporary file.
    pub fn inode(&self, mode: u32, body: Body) -> Arc<Inode> {
        Inode::new(self.next_ino(), mode, self.now_ns(), body)
    }
}
