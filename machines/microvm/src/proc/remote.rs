//! The memory of other processes: who may touch it, and moving bytes.
//!
//! Linux: kernel/ptrace.c `__ptrace_may_access`, kernel/fork.c `mm_access`, fs/proc/base.c `mem_rw`. Differs:
//! no process is marked as one that is not to be dumped.

use super::Thread;
use super::mm::Space;
use super::process::Process;
use crate::fs::file::Positioned;
use crate::fs::iov::{From, To};
use crate::machine::{self, Kernel};
use alloc::vec::Vec;
use anonmem::{MmGrab, PinFlags, RemoteBytes};
use anonmem_hal::{PAGE_SIZE, Va};
use anonmem_oslib::Result;
use anonmem_oslib::cred::{Cap, Cred, Ids};
use anonmem_oslib::errno::{EFAULT, EIO, ENOMEM, EPERM, ESRCH};

/// Which of the caller's identities counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    /// The one who started it: for what a call names.
    Real,
    /// The one who opens files.
    Files,
}

/// Whether what a mapping does not allow is done all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// As a debugger.
    Yes,
    /// As the program itself.
    No,
}

impl Force {
    fn flags(self) -> PinFlags {
        if self == Force::Yes { PinFlags::FORCE } else { PinFlags::empty() }
    }
}

/// Fails unless the running thread may do as it likes with a process.
///
/// # Errors
/// `EPERM`.
pub fn check_access(thread: &Thread, process: &Process, who: As) -> Result<()> {
    if thread.process.pid == process.pid {
        return Ok(());
    }
    let (own, target) = (thread.cred(), process.threads().next().map(|t| t.cred()));
    if own.has(Cap::SysPtrace) || target.is_some_and(|target| is_equal(&own, &target, who)) {
        return Ok(());
    }
    Err(EPERM)
}

/// Whether somebody is all that the target is or may become, and can do what it can.
fn is_equal(own: &Cred, target: &Cred, who: As) -> bool {
    let all = |own: Ids, target: Ids| {
        let me = if who == As::Real { own.real } else { own.fs };
        [target.real, target.effective, target.saved].iter().all(|&id| id == me)
    };
    let caps = if who == As::Real { own.permitted } else { own.effective };
    all(own.user, target.user) && all(own.group, target.group) && target.permitted & !caps == 0
}

/// Gives the address space of a process that the running thread may touch.
///
/// # Errors
/// `EPERM`; `ESRCH` if it has none any more.
pub fn space_of(thread: &Thread, process: &Process, who: As) -> Result<Space> {
    let space = process.space().ok_or(ESRCH)?;
    check_access(thread, process, who)?;
    Ok(space)
}

/// Reads bytes of an address space, up to the first page that cannot be had; gives how many.
///
/// # Errors
/// `EFAULT` if there are none.
pub fn peek(space: &Space, at: u64, to: &mut [u8], force: Force) -> Result<usize> {
    space.access_remote(Va(at), RemoteBytes::Read(to), force.flags()).or(Err(EFAULT))
}

/// Writes bytes to an address space, up to the first page that cannot be had; gives how many.
///
/// # Errors
/// `EFAULT` if there are none.
pub fn poke(space: &Space, at: u64, from: &[u8], force: Force) -> Result<usize> {
    space.access_remote(Va(at), RemoteBytes::Write(from), force.flags()).or(Err(EFAULT))
}

/// The caller's side of a transfer.
pub enum Local<'a> {
    /// Bytes come.
    To(To<'a>),
    /// Bytes go.
    From(From<'a>),
}

impl Local<'_> {
    fn left(&self) -> usize {
        match self {
            Local::To(to) => to.left(),
            Local::From(from) => from.left(),
        }
    }

    /// Moves as many bytes as `buffer` has between it, the caller and `at`; gives how many arrived.
    fn step(&mut self, space: &Space, at: u64, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Local::To(to) => {
                let n = peek(space, at, buffer, Force::No)?;
                Ok(to.put(&buffer[..n]))
            }
            Local::From(from) => {
                let n = from.take(buffer);
                if n == 0 { Err(EFAULT) } else { poke(space, at, &buffer[..n], Force::No) }
            }
        }
    }
}

/// Moves bytes between the running process and the pieces `remote` of another, up to the first that cannot be
/// had on either side; gives how many. Linux: mm/process_vm_access.c `process_vm_rw_core`.
///
/// # Errors
/// `EFAULT` if there are none, `ENOMEM`.
pub fn move_bytes(space: &Space, mut local: Local<'_>, remote: &[(u64, usize)]) -> Result<usize> {
    let mut buffer = page()?;
    let mut done = 0;
    for &(address, len) in remote {
        let mut within = 0;
        while within < len && local.left() > 0 {
            let at = address.wrapping_add(within as u64);
            let n = (PAGE_SIZE - Va(at).page_offset()).min(len - within).min(local.left());
            match local.step(space, at, &mut buffer[..n]) {
                Ok(moved) => {
                    (within, done) = (within + moved, done + moved);
                    if moved < n {
                        return if done > 0 { Ok(done) } else { Err(EFAULT) };
                    }
                }
                Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
            }
        }
    }
    Ok(done)
}

/// A kernel buffer of a page.
fn page() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(PAGE_SIZE).map_err(|_| ENOMEM)?;
    bytes.resize(PAGE_SIZE, 0);
    Ok(bytes)
}

/// `/proc/PID/mem`: the address space that the process had when the file was opened.
pub struct Memory(MmGrab<'static, Kernel>);

impl Memory {
    /// Opens it for the running thread.
    ///
    /// # Errors
    /// `EPERM`, `ESRCH`.
    pub fn open(thread: &Thread, process: &Process) -> Result<Memory> {
        Ok(Memory(space_of(thread, process, As::Files)?.grab()))
    }

    /// Moves pages until one cannot be had; gives how many bytes that were. None of a process that has ended.
    fn each(
        &self,
        mut at: u64,
        mut step: impl FnMut(&Space, u64, &mut [u8]) -> Result<usize>,
    ) -> Result<usize> {
        let Some(space) = self.0.user(machine::vm()) else { return Ok(0) };
        let mut buffer = page()?;
        let mut done = 0;
        loop {
            match step(&space, at, &mut buffer) {
                Ok(0) => return Ok(done),
                Ok(n) => (at, done) = (at.wrapping_add(n as u64), done + n),
                Err(EIO) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Positioned for Memory {
    fn read_at(&self, offset: u64, to: &mut To<'_>) -> Result<usize> {
        self.each(offset, |space, at, buffer| {
            let n = to.left().min(buffer.len());
            if n == 0 {
                return Ok(0);
            }
            let n = peek(space, at, &mut buffer[..n], Force::Yes).or(Err(EIO))?;
            to.put_whole(&buffer[..n])
        })
    }

    fn write_at(&self, offset: u64, from: &mut From<'_>) -> Result<usize> {
        let mut torn = false;
        self.each(offset, |space, at, buffer| {
            let n = from.left().min(buffer.len());
            if n == 0 || torn {
                return if torn { Err(EIO) } else { Ok(0) };
            }
            from.take_whole(&mut buffer[..n])?;
            let written = poke(space, at, &buffer[..n], Force::Yes).or(Err(EIO))?;
            torn = written < n;
            Ok(written)
        })
    }
}
