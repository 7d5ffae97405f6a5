//! The host's userfaultfd.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// A userfaultfd of this process whose reads do not wait.
pub struct HostUffd(OwnedFd);

const API: u64 = 0xc018_aa3f;
const REGISTER: u64 = 0xc020_aa00;
const COPY: u64 = 0xc028_aa03;
const MOVE: u64 = 0xc028_aa05;
const WRITEPROTECT: u64 = 0xc018_aa06;

impl HostUffd {
    /// To be told of missing pages.
    pub const MISSING: u64 = 1;
    /// To protect pages against writes.
    pub const WP: u64 = 2;
    /// Writes end protection themselves; pages that are not there are protected, too.
    pub const WP_ASYNC: u64 = 1 << 13 | 1 << 15;

    /// Makes one that has agreed upon `features`.
    ///
    /// # Errors
    /// What the host says.
    pub fn new(features: u64) -> io::Result<Self> {
        // SAFETY: numbers are all that is passed.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just opened it, for us alone.
        let this = Self(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        this.call(API, &mut [0xaa, features, 0])?;
        Ok(this)
    }

    /// Calls with an argument of 64-bit words, as all of these structures are.
    fn call(&self, request: u64, argument: &mut [u64]) -> io::Result<()> {
        // SAFETY: the request's structure is as long as the argument. What it names is memory of this process
        // whose bytes nobody relies on.
        let status = unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument.as_mut_ptr()) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Watches `len` bytes.
    ///
    /// # Errors
    /// What the host says.
    pub fn register(&self, at: *mut u8, len: usize, mode: u64) -> io::Result<()> {
        self.call(REGISTER, &mut [at as u64, len as u64, mode, 0])
    }

    /// Fills `len` bytes.
    ///
    /// # Errors
    /// What the host says.
    pub fn copy(&self, to: *mut u8, from: *mut u8, len: usize) -> io::Result<()> {
        self.call(COPY, &mut [to as u64, from as u64, len as u64, 0, 0])
    }

    /// Moves `len` bytes.
    ///
    /// # Errors
    /// What the host says: Linux before 6.8 does not know it.
    pub fn shift(&self, to: *mut u8, from: *mut u8, len: usize) -> io::Result<()> {
        self.call(MOVE, &mut [to as u64, from as u64, len as u64, 0, 0])
    }

    /// Protects `len` bytes.
    ///
    /// # Errors
    /// What the host says.
    pub fn protect(&self, at: *mut u8, len: usize) -> io::Result<()> {
        self.call(WRITEPROTECT, &mut [at as u64, len as u64, 1])
    }

    /// The address of a fault that waits, if there is one.
    pub fn fault(&self) -> Option<usize> {
        let mut message = [0u64; 4];
        // SAFETY: the buffer is as long as a message.
        let got = unsafe { libc::read(self.0.as_raw_fd(), message.as_mut_ptr().cast(), 32) };
        (got == 32).then_some(message[2] as usize)
    }
}
