//! The tree, and a program's view of it.

use crate::arch::lock::SpinLock;
use crate::arch::time;
use alloc::sync::Arc;
use anonmem_oslib::vfs::{Inode, Vfs};
use spin::Once;

static VFS: Once<Vfs> = Once::new();

/// Gives the tree.
pub fn vfs() -> &'static Vfs {
    VFS.call_once(|| Vfs::new(time::wall_ns))
}

/// A program's view of the tree: where relative paths start, and which permissions new files lose.
pub struct FsContext {
    state: SpinLock<FsState>,
}

#[derive(Clone)]
struct FsState {
    cwd: Arc<Inode>,
    umask: u32,
}

impl FsContext {
    /// Starts at `cwd`.
    pub fn new(cwd: Arc<Inode>) -> Self {
        FsContext { state: SpinLock::new(FsState { cwd, umask: 0o022 }) }
    }

    /// Makes a copy (`fork`).
    pub fn fork(&self) -> Self {
        FsContext { state: SpinLock::new(self.state.lock().clone()) }
    }

    /// Gives the working directory.
    pub fn cwd(&self) -> Arc<Inode> {
        self.state.lock().cwd.clone()
    }

    /// Sets the working directory.
    pub fn set_cwd(&self, cwd: Arc<Inode>) {
        let old = core::mem::replace(&mut self.state.lock().cwd, cwd);
        drop(old);
    }

    /// Gives the permissions that new files lose.
    pub fn umask(&self) -> u32 {
        self.state.lock().umask
    }

    /// Sets the permissions that new files lose; gives the former ones.
    pub fn set_umask(&self, umask: u32) -> u32 {
        core::mem::replace(&mut self.state.lock().umask, umask & 0o777)
    }
}
