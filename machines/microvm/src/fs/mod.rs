//! Files as programs see them: the tree, descriptors, pipes, sockets, devices.
//!
//! The tree itself (names, inodes, bytes) is `anonmem_oslib::vfs`. Here is what needs the machine: what
//! waits, what reaches the console, what is mapped.

pub mod backlog;
pub mod block;
pub mod counter;
pub mod device;
pub mod epoll;
pub mod event;
pub mod file;
pub mod iov;
pub mod link;
pub mod names;
pub mod open;
pub mod packets;
pub mod pages;
pub mod parcel;
pub mod pipe;
pub mod seals;
pub mod seq;
pub mod socket;
pub mod sources;
pub mod splice;
pub mod store;
pub mod stream;
pub mod table;
pub mod timer;
mod tree;

pub use tree::{FsContext, vfs};

use crate::machine;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::abi::makedev;
use anonmem_oslib::vfs::{Body, FileType, Inode, data, inode};
use device::Device;
use linux_raw_sys::general as abi;

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
    data::set_page_limit(machine::vm().stats().frames / 2);
    inode::set_inode_limit(vfs_inodes());
    device::init_stdin()
}

/// As many files as tmpfs allows beside what the archive has brought: half of the pages.
fn vfs_inodes() -> u64 {
    inode::inode_usage().0 + machine::vm().stats().frames / 2
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
