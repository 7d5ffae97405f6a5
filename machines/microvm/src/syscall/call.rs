//! A system call in progress.

use crate::arch::trap::TrapFrame;
use crate::fs::table::NR_OPEN;
use crate::heap;
use crate::proc::Thread;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EINVAL, ENOMEM};
use linux_raw_sys::general as abi;

/// A system call in progress.
pub(super) struct Call<'a> {
    /// The caller.
    pub(super) thread: Arc<Thread>,
    /// Its registers.
    pub(super) frame: &'a mut TrapFrame,
    /// The arguments.
    pub(super) args: [u64; 6],
}

impl Call<'_> {
    /// Gives argument `i` as the ABI's unsigned int.
    pub(super) fn u32(&self, i: usize) -> u32 {
        self.args[i] as u32
    }

    /// Gives argument `i` as the ABI's int.
    pub(super) fn i32(&self, i: usize) -> i32 {
        self.args[i] as i32
    }

    /// Gives the limit of the caller's descriptors.
    pub(super) fn nofile(&self) -> u32 {
        self.thread.process.limits()[abi::RLIMIT_NOFILE as usize].0.min(u64::from(NR_OPEN)) as u32
    }

    /// Gives argument `i` as a length.
    pub(super) fn len(&self, i: usize) -> usize {
        self.args[i] as usize
    }
}

/// Gives `value` if `allowed` has all its bits.
///
/// # Errors
/// `EINVAL`.
pub(super) fn only(value: u32, allowed: u32) -> Result<u32> {
    if value & !allowed == 0 { Ok(value) } else { Err(EINVAL) }
}

/// Refuses the part of a call that leaves something behind, when the other part gives back.
pub(super) fn ensure_room() -> Result<()> {
    if heap::is_short() { Err(ENOMEM) } else { Ok(()) }
}
