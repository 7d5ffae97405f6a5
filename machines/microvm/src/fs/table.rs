//! Descriptors: small numbers for open file descriptions.

use super::file::OpenFile;
use crate::arch::lock::SpinLock;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EBADF, EINVAL, EMFILE, ENOMEM};

/// The largest number of descriptors.
pub const LIMIT: usize = 1024;

/// Whether a descriptor survives execve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExec {
    /// It does.
    Keep,
    /// It is closed (`FD_CLOEXEC`).
    Close,
}

#[derive(Clone)]
struct Slot {
    file: Arc<OpenFile>,
    on_exec: OnExec,
}

/// A process's descriptors.
#[derive(Default)]
pub struct FdTable {
    slots: SpinLock<Vec<Option<Slot>>>,
}

impl FdTable {
    /// Makes a copy that shares the descriptions (`fork`).
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn fork(&self) -> Result<FdTable> {
        let slots = self.slots.lock();
        let mut copy = Vec::new();
        copy.try_reserve_exact(slots.len()).map_err(|_| ENOMEM)?;
        copy.extend(slots.iter().cloned());
        Ok(FdTable { slots: SpinLock::new(copy) })
    }

    /// Gives the description of `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, fd: u32) -> Result<Arc<OpenFile>> {
        self.slots.lock().get(fd as usize).and_then(Option::as_ref).map(|s| s.file.clone()).ok_or(EBADF)
    }

    /// Gives the lowest free number from `least` on to `file`.
    ///
    /// # Errors
    /// `EMFILE`, `EINVAL` if `least` is beyond the limit.
    pub fn insert(&self, file: Arc<OpenFile>, on_exec: OnExec, least: u32) -> Result<u32> {
        let least = least as usize;
        if least >= LIMIT {
            return Err(EINVAL);
        }
        let mut slots = self.slots.lock();
        let free = (least..slots.len()).find(|&fd| slots[fd].is_none()).unwrap_or(slots.len().max(least));
        if free >= LIMIT {
            return Err(EMFILE);
        }
        if free >= slots.len() {
            slots.resize(free + 1, None);
        }
        slots[free] = Some(Slot { file, on_exec });
        Ok(free as u32)
    }

    /// Makes `fd` stand for `file`, closing what it stood for.
    ///
    /// # Errors
    /// `EBADF` if the number is beyond the limit.
    pub fn replace(&self, fd: u32, file: Arc<OpenFile>, on_exec: OnExec) -> Result<()> {
        let fd = fd as usize;
        if fd >= LIMIT {
            return Err(EBADF);
        }
        let old = {
            let mut slots = self.slots.lock();
            if fd >= slots.len() {
                slots.resize(fd + 1, None);
            }
            slots[fd].replace(Slot { file, on_exec })
        };
        drop(old);
        Ok(())
    }

    /// Closes `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close(&self, fd: u32) -> Result<()> {
        let old = self.slots.lock().get_mut(fd as usize).and_then(Option::take);
        old.map(drop).ok_or(EBADF)
    }

    /// Says what execve does with `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn on_exec(&self, fd: u32) -> Result<OnExec> {
        self.slots.lock().get(fd as usize).and_then(Option::as_ref).map(|s| s.on_exec).ok_or(EBADF)
    }

    /// Says what execve is to do with `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_on_exec(&self, fd: u32, on_exec: OnExec) -> Result<()> {
        let mut slots = self.slots.lock();
        let slot = slots.get_mut(fd as usize).and_then(Option::as_mut).ok_or(EBADF)?;
        slot.on_exec = on_exec;
        Ok(())
    }

    /// Closes what execve closes.
    pub fn close_on_exec(&self) {
        self.close_where(|slot| slot.on_exec == OnExec::Close);
    }

    /// Closes the numbers of `range` (`close_range`).
    pub fn close_range(&self, range: core::ops::RangeInclusive<u32>) {
        let closed: Vec<Option<Slot>> = {
            let mut slots = self.slots.lock();
            slots
                .iter_mut()
                .enumerate()
                .filter(|(fd, _)| range.contains(&(*fd as u32)))
                .map(|(_, s)| s.take())
                .collect()
        };
        drop(closed);
    }

    fn close_where(&self, condition: impl Fn(&Slot) -> bool) {
        let closed: Vec<Option<Slot>> = {
            let mut slots = self.slots.lock();
            slots.iter_mut().filter(|s| s.as_ref().is_some_and(&condition)).map(Option::take).collect()
        };
        // Outside of the lock: the end of a pipe that goes wakes its other end.
        drop(closed);
    }

    /// Gives the numbers in use.
    pub fn numbers(&self) -> Vec<u32> {
        let slots = self.slots.lock();
        (0..slots.len() as u32).filter(|&fd| slots[fd as usize].is_some()).collect()
    }
}
