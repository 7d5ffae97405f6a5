//! Structures of the Linux ABI as bytes: what system calls copy to user memory.
//!
//! [`structure!`](crate::structure) puts fields where the headers have them. A [`Packer`] is for what has no
//! structure: numbers one after another.

use crate::vfs::FileType;
use alloc::vec::Vec;
use linux_raw_sys::general as abi;

/// Nanoseconds in a clock tick of `times`, `/proc` and what a SIGCHLD tells. Linux: `USER_HZ`.
pub const TICK_NS: u64 = 10_000_000;

/// A number that a structure may have as a field.
pub trait Number: Copy {
    /// Writes it, little-endian, to the first bytes of `to`.
    fn put(self, to: &mut [u8]);
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Number for $type {
            fn put(self, to: &mut [u8]) {
                to[..size_of::<Self>()].copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
numbers! { u8 u16 u32 u64 i8 i16 i32 i64 }

/// `value`, which has the type of the field that `_of` gives.
pub fn as_field<S, F: Number>(_of: impl Fn(&S) -> F, value: F) -> F {
    value
}

/// The bytes of a structure of `linux-raw-sys` with these fields; all others are 0. A value is cast to the
/// type of its field, as in C.
#[macro_export]
macro_rules! structure {
    ($type:path { $($($field:ident).+: $value:expr),* $(,)? }) => {{
        let mut bytes = ::alloc::vec![0; size_of::<$type>()];
        $(
            let value = $crate::abi::as_field(|all: &$type| all.$($field).+, $value as _);
            $crate::abi::Number::put(value, &mut bytes[::core::mem::offset_of!($type, $($field).+)..]);
        )*
        bytes
    }};
}

/// Puts little-endian numbers one after another.
#[derive(Clone, Debug, Default)]
pub struct Packer(pub Vec<u8>);

impl Packer {
    /// Starts with nothing.
    pub fn new() -> Self {
        Packer(Vec::with_capacity(256))
    }

    /// Adds two bytes.
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Adds four bytes.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Adds four bytes of a signed number.
    pub fn i32(self, value: i32) -> Self {
        self.u32(value as u32)
    }

    /// Adds eight bytes.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Adds zeros up to `len` bytes in all.
    pub fn zeros_to(mut self, len: usize) -> Self {
        self.0.resize(len.max(self.0.len()), 0);
        self
    }

    /// Adds a string of a fixed size, cut so that a NUL follows it.
    pub fn fixed(mut self, text: &[u8], size: usize) -> Self {
        let end = self.0.len() + size;
        self.0.extend_from_slice(&text[..text.len().min(size - 1)]);
        self.0.resize(end, 0);
        self
    }
}

const NS: u64 = 1_000_000_000;

/// Gives `struct timespec`.
pub fn timespec(ns: u64) -> Vec<u8> {
    structure!(abi::timespec { tv_sec: ns / NS, tv_nsec: ns % NS })
}

/// Gives `struct timeval`.
pub fn timeval(ns: u64) -> Vec<u8> {
    structure!(abi::timeval { tv_sec: ns / NS, tv_usec: ns % NS / 1000 })
}

/// Gives `struct itimerspec`.
pub fn itimerspec(interval_ns: u64, value_ns: u64) -> Vec<u8> {
    structure!(abi::itimerspec {
        it_interval.tv_sec: interval_ns / NS,
        it_interval.tv_nsec: interval_ns % NS,
        it_value.tv_sec: value_ns / NS,
        it_value.tv_nsec: value_ns % NS,
    })
}

/// Gives `struct itimerval`.
pub fn itimerval(interval_ns: u64, value_ns: u64) -> Vec<u8> {
    structure!(abi::itimerval {
        it_interval.tv_sec: interval_ns / NS,
        it_interval.tv_usec: interval_ns % NS / 1000,
        it_value.tv_sec: value_ns / NS,
        it_value.tv_usec: value_ns % NS / 1000,
    })
}

/// Gives `struct epoll_event`.
pub fn epoll_event(events: u32, data: u64) -> Vec<u8> {
    structure!(abi::epoll_event { events: events, data: data })
}

/// What `stat` and `statx` tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stat {
    /// Device that holds the inode.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Number of names.
    pub nlink: u32,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Memory in units of 512 bytes.
    pub blocks: u64,
    /// Last access, nanoseconds since 1970.
    pub atime_ns: u64,
    /// Last change of the bytes.
    pub mtime_ns: u64,
    /// Last change of anything.
    pub ctime_ns: u64,
}

/// Gives a device number from its parts, as far as small parts go.
pub const fn makedev(major: u32, minor: u32) -> u64 {
    (major as u64) << 8 | (minor as u64 & 0xff) | (minor as u64 & !0xff) << 12
}

impl Stat {
    /// Gives `struct stat`.
    pub fn stat(&self) -> Vec<u8> {
        structure!(abi::stat {
            st_dev: self.dev,
            st_ino: self.ino,
            st_nlink: self.nlink,
            st_mode: self.mode,
            st_uid: self.uid,
            st_gid: self.gid,
            st_rdev: self.rdev,
            st_size: self.size,
            st_blksize: 4096,
            st_blocks: self.blocks,
            st_atime: self.atime_ns / NS,
            st_atime_nsec: self.atime_ns % NS,
            st_mtime: self.mtime_ns / NS,
            st_mtime_nsec: self.mtime_ns % NS,
            st_ctime: self.ctime_ns / NS,
            st_ctime_nsec: self.ctime_ns % NS,
        })
    }

    /// Gives `struct statx` with the basic fields.
    pub fn statx(&self) -> Vec<u8> {
        let major = |dev: u64| dev >> 8 & 0xfff;
        let minor = |dev: u64| dev & 0xff;
        structure!(abi::statx {
            stx_mask: abi::STATX_BASIC_STATS,
            stx_blksize: 4096,
            stx_nlink: self.nlink,
            stx_uid: self.uid,
            stx_gid: self.gid,
            stx_mode: self.mode,
            stx_ino: self.ino,
            stx_size: self.size,
            stx_blocks: self.blocks,
            stx_atime.tv_sec: self.atime_ns / NS,
            stx_atime.tv_nsec: self.atime_ns % NS,
            stx_ctime.tv_sec: self.ctime_ns / NS,
            stx_ctime.tv_nsec: self.ctime_ns % NS,
            stx_mtime.tv_sec: self.mtime_ns / NS,
            stx_mtime.tv_nsec: self.mtime_ns % NS,
            stx_rdev_major: major(self.rdev),
            stx_rdev_minor: minor(self.rdev),
            stx_dev_major: major(self.dev),
            stx_dev_minor: minor(self.dev),
        })
    }
}

/// Appends one `struct linux_dirent64` to `out` unless it would grow over `limit`; says whether it fit.
pub fn dirent64(out: &mut Vec<u8>, limit: usize, ino: u64, next: u64, kind: FileType, name: &[u8]) -> bool {
    let len = (19 + name.len() + 1).next_multiple_of(8);
    if out.len() + len > limit {
        return false;
    }
    let end = out.len() + len;
    out.extend_from_slice(&ino.to_le_bytes());
    out.extend_from_slice(&next.to_le_bytes());
    out.extend_from_slice(&(len as u16).to_le_bytes());
    out.push(kind as u8);
    out.extend_from_slice(name);
    out.resize(end, 0);
    true
}

/// Reads numbers from bytes that came from user memory.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    /// Gives the two bytes at `at`; zero past the end.
    pub fn u16(&self, at: usize) -> u16 {
        self.0.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
    }

    /// Gives the four bytes at `at`; zero past the end.
    pub fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    /// Gives the four bytes at `at` as a signed number.
    pub fn i32(&self, at: usize) -> i32 {
        self.u32(at) as i32
    }

    /// Gives the eight bytes at `at`; zero past the end.
    pub fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_has_the_fields_where_linux_has_them() {
        let stat = Stat {
            dev: 1,
            ino: 2,
            nlink: 3,
            mode: 4,
            rdev: makedev(1, 3),
            size: 7,
            mtime_ns: 8_000_000_009,
            ..Stat::default()
        };
        let bytes = stat.stat();
        let f = Fields(&bytes);
        assert_eq!(bytes.len(), 144);
        assert_eq!((f.u64(0), f.u64(8), f.u64(16), f.u32(24), f.u64(40), f.u64(48)), (1, 2, 3, 4, 0x103, 7));
        assert_eq!((f.u64(88), f.u64(96)), (8, 9));
        let bytes = stat.statx();
        let f = Fields(&bytes);
        assert_eq!(bytes.len(), 256);
        assert_eq!((f.u32(16), f.u16(28), f.u64(32), f.u64(40)), (3, 4, 2, 7));
        assert_eq!((f.u64(112), f.u32(120), f.u32(128), f.u32(132)), (8, 9, 1, 3));
    }

    #[test]
    fn directory_entries_are_aligned_and_bounded() {
        let mut out = Vec::new();
        assert!(dirent64(&mut out, 64, 9, 1, FileType::Regular, b"abcd"));
        assert_eq!(out.len(), 24);
        assert_eq!((out[16], out[18], out[23]), (24, 8, 0));
        assert!(dirent64(&mut out, 64, 9, 2, FileType::Regular, b"abcde"));
        assert!(!dirent64(&mut out, 64, 9, 3, FileType::Regular, b"x"));
    }
}
