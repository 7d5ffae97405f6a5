//! Processes by descriptor: `pidfd_open`, `pidfd_send_signal`, `process_madvise`, `process_mrelease`.

use super::call::{Call, only};
use super::file::install;
use super::io::vector;
use super::signal::from_caller;
use crate::fs::event::wait_for_anything;
use crate::fs::file::OpenFile;
use crate::proc::pidfd::PidFd;
use crate::proc::process::Process;
use crate::proc::remote::{self, As};
use crate::proc::{mm, signal};
use crate::sched;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::cred::Cap;
use anonmem_oslib::errno::{EBADF, EINVAL, EPERM, ESRCH};
use anonmem_oslib::signal::{SIGNALS, code};
use anonmem_oslib::vfs::FileType;
use linux_raw_sys::general as abi;

pub(super) fn pidfd_open(c: &mut Call<'_>) -> Result<usize> {
    let flags = only(c.u32(1), abi::O_NONBLOCK)?;
    let pid = u32::try_from(c.i32(0)).ok().filter(|&pid| pid > 0).ok_or(EINVAL)?;
    let status = abi::O_RDWR | flags;
    let file = OpenFile::anonymous(FileType::Regular, PidFd::open(pid)?, b"anon_inode:[pidfd]", status);
    install(c, file, abi::O_CLOEXEC)
}

/// The process behind a descriptor.
pub(super) fn named(c: &Call<'_>, fd: u32) -> Result<Arc<Process>> {
    let file = c.thread.files().get(fd)?;
    let found = file.object::<PidFd>().ok_or(EBADF)?;
    Ok(found.process().clone())
}

pub(super) fn pidfd_send_signal(c: &mut Call<'_>) -> Result<usize> {
    let signal = c.u32(1);
    let process = named(c, c.u32(0))?;
    // What a caller would put into the information, nobody here reads.
    if c.u32(3) != 0 || signal > SIGNALS || c.args[2] != 0 {
        return Err(EINVAL);
    }
    if process.life.lock().zombie.is_some() {
        return Err(ESRCH);
    }
    if signal != 0 {
        signal::send(&process, from_caller(c, signal, code::SI_USER));
    }
    Ok(0)
}

/// Advice that loses nothing, and so may be given about the memory of others. Linux:
/// `process_madvise_remote_valid`.
fn is_for_others(advice: u32) -> bool {
    matches!(advice, abi::MADV_COLD | abi::MADV_PAGEOUT | abi::MADV_WILLNEED | abi::MADV_COLLAPSE)
}

/// Gives the number of bytes that took the advice: pieces before the first that did not.
pub(super) fn process_madvise(c: &mut Call<'_>) -> Result<usize> {
    let advice = c.u32(3);
    if c.args[4] != 0 {
        return Err(EINVAL);
    }
    let pieces = vector(c.args[1], c.len(2))?;
    let process = named(c, c.u32(0))?;
    let space = remote::space_of(&c.thread, &process, As::Files)?;
    if !sched::current_mm().is_some_and(|own| own.is(&space)) {
        if !is_for_others(advice) {
            return Err(EINVAL);
        }
        if !c.thread.cred().has(Cap::SysNice) {
            return Err(EPERM);
        }
    }
    let mut done = 0;
    for (address, len) in pieces {
        match mm::madvise(&space, address, len as u64, advice) {
            Ok(()) => done += len,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Waits until the memory of a process that is ending is free: its last thread frees all of it at once.
pub(super) fn process_mrelease(c: &mut Call<'_>) -> Result<usize> {
    if c.u32(1) != 0 {
        return Err(EINVAL);
    }
    let process = named(c, c.u32(0))?;
    if process.space().is_none() {
        return Err(ESRCH);
    }
    if process.ending().is_none() {
        return Err(EINVAL);
    }
    wait_for_anything(None, || process.space().is_none().then_some(()))?;
    Ok(0)
}
