//! Files as programs see them: the tree, descriptors, pipes, sockets, devices.
//!
//! The tree itself (names, inodes, bytes) is `anonmem_oslib::vfs`. Here is what needs the machine: what
//! waits, what reaches the console, what is mapped.

pub mod counter;
pub mod device;
pub mod epoll;
pub mod event;
pub mod file;
pub mod open;
pub mod pipe;
pub mod socket;
pub mod sources;
pub mod store;
pub mod table;

use crate::arch::time;
use crate::proc::{mm, signal};
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::abi::makedev;
use anonmem_oslib::vfs::{Body, FileType, Inode, Vfs, data};
use device::Device;
use linux_raw_sys::general as abi;
use spin::{Mutex, Once};

static VFS: Once<Vfs> = Once::new();

/// Gives the tree.
pub fn vfs() -> &'static Vfs {
    VFS.call_once(|| Vfs::new(time::wall_ns))
}

/// Fills the tree: the archive, devices, the directories that every program expects.
///
/// # Errors
/// `EINVAL` if the archive is damaged, `ENOMEM`.
pub fn init(archive: &'static [u8]) -> Result<()> {
    let vfs = vfs();
    vfs.unpack(archive)?;
    for dir in ["/tmp", "/var/tmp", "/dev/shm", "/proc", "/sys", "/etc", "/root", "/run"] {
        vfs.make_dirs(dir.as_bytes())?;
    }
    for dir in ["/tmp", "/var/tmp", "/dev/shm"] {
        vfs.make_dirs(dir.as_bytes())?.update(|meta| meta.mode = 0o1777);
    }
    for (name, device, major, minor) in [
        ("null", Device::Null, 1, 3),
        ("zero", Device::Zero, 1, 5),
        ("full", Device::Full, 1, 7),
        ("random", Device::Random, 1, 8),
        ("urandom", Device::Random, 1, 9),
        ("tty", Device::Console, 5, 0),
        ("console", Device::Console, 5, 1),
    ] {
        let object = Arc::new(device);
        let body = Body::Special { kind: FileType::Char, rdev: makedev(major, minor), object };
        missing_ok(vfs.put(alloc::format!("/dev/{name}").as_bytes(), 0o666, body))?;
    }
    for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        let target = alloc::format!("/proc/self/fd{target}").into_bytes();
        missing_ok(vfs.put(alloc::format!("/dev/{name}").as_bytes(), 0o777, Body::Symlink(target.into())))?;
    }
    // Half of memory, as tmpfs has it.
    data::set_page_limit(mm::memory().total_bytes / data::PAGE as u64 / 2);
    device::init_stdin()?;
    crate::procfs::init(vfs)
}

/// What the archive has already put there stays.
fn missing_ok(made: Result<Arc<Inode>>) -> Result<()> {
    match made {
        Ok(_) | Err(anonmem_oslib::errno::EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the descriptions of standard input, output and error.
pub fn standard_streams() -> [Arc<file::OpenFile>; 3] {
    [(Device::Stdin, abi::O_RDONLY), (Device::Stdout, abi::O_WRONLY), (Device::Stderr, abi::O_WRONLY)].map(
        |(device, flags)| file::OpenFile::anonymous(FileType::Char, Arc::new(device), b"/dev/console", flags),
    )
}

/// A frame of the host's arrived: input, its end, a signal.
pub fn channel_frame(kind: u8, payload: &[u8]) {
    use crate::console::to_guest;
    match kind {
        to_guest::STDIN => device::stdin_bytes(payload),
        to_guest::STDIN_EOF => device::stdin_end(),
        to_guest::SIGNAL => {
            let number = anonmem_oslib::abi::Fields(payload).u32(0);
            if (1..=anonmem_oslib::signal::SIGNALS).contains(&number) {
                signal::from_host(number);
            }
        }
        _ => crate::klog!("the host sent a frame of unknown type {kind}"),
    }
}

/// A program's view of the tree: where relative paths start, and which permissions new files lose.
pub struct FsContext {
    state: Mutex<FsState>,
}

#[derive(Clone)]
struct FsState {
    cwd: Arc<Inode>,
    umask: u32,
}

impl FsContext {
    /// Starts at `cwd`.
    pub fn new(cwd: Arc<Inode>) -> Self {
        FsContext { state: Mutex::new(FsState { cwd, umask: 0o022 }) }
    }

    /// Makes a copy (`fork`).
    pub fn fork(&self) -> Self {
        FsContext { state: Mutex::new(self.state.lock().clone()) }
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
