//! Descriptors: small numbers for open file descriptions.
//!
//! A program chooses how many it has, within `RLIMIT_NOFILE`; so the table grows by groups, each of which may
//! be refused. Descriptions are dropped outside of the lock: the end of a pipe that goes wakes its other end.

use super::file::OpenFile;
use crate::arch::lock::SpinLock;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EBADF, EINVAL, EMFILE, ENOMEM};

/// The most descriptors that a limit may allow (`fs.nr_open`).
pub const NR_OPEN: u32 = 1 << 20;
/// Descriptors of a group: a page.
const GROUP: usize = 256;

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

type Group = Box<[Option<Slot>]>;

/// A process's descriptors.
#[derive(Default)]
pub struct FdTable {
    slots: SpinLock<Slots>,
}

#[derive(Default)]
struct Slots {
    groups: Vec<Option<Group>>,
    /// All numbers below it are in use.
    first_free: u32,
}

impl Slots {
    fn slot(&self, fd: u32) -> Option<&Slot> {
        self.groups.get(fd as usize / GROUP)?.as_ref()?.get(fd as usize % GROUP)?.as_ref()
    }

    fn slot_mut(&mut self, fd: u32) -> Option<&mut Option<Slot>> {
        self.groups.get_mut(fd as usize / GROUP)?.as_mut()?.get_mut(fd as usize % GROUP)
    }

    /// Makes sure that there is a place for `fd`.
    fn grow(&mut self, fd: u32) -> Result<&mut Option<Slot>> {
        let (group, at) = (fd as usize / GROUP, fd as usize % GROUP);
        if group >= self.groups.len() {
            self.groups.try_reserve(group + 1 - self.groups.len()).map_err(|_| ENOMEM)?;
            self.groups.resize_with(group + 1, || None);
        }
        let group = &mut self.groups[group];
        if group.is_none() {
            *group = Some(new_group()?);
        }
        group.as_mut().map(|group| &mut group[at]).ok_or(ENOMEM)
    }

    /// The numbers in use from `from` on.
    fn used_from(&self, from: u32) -> Option<u32> {
        let (first, within) = (from as usize / GROUP, from as usize % GROUP);
        (first..self.groups.len()).find_map(|number| {
            let skip = if number == first { within } else { 0 };
            let at = self.groups[number].as_ref()?.iter().skip(skip).position(Option::is_some)?;
            Some((number * GROUP + skip + at) as u32)
        })
    }

    /// The lowest number from `from` on that is not in use.
    fn free_from(&self, from: u32) -> u32 {
        let mut fd = from.max(self.first_free);
        while self.slot(fd).is_some() {
            fd += 1;
        }
        fd
    }

    fn take(&mut self, fd: u32) -> Option<Slot> {
        let slot = self.slot_mut(fd)?.take()?;
        self.first_free = self.first_free.min(fd);
        Some(slot)
    }
}

fn new_group() -> Result<Group> {
    let mut group = Vec::new();
    group.try_reserve_exact(GROUP).map_err(|_| ENOMEM)?;
    group.resize_with(GROUP, || None);
    Ok(group.into_boxed_slice())
}

impl FdTable {
    /// Makes a copy that shares the descriptions (`fork`).
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn fork(&self) -> Result<FdTable> {
        let slots = self.slots.lock();
        let mut groups = Vec::new();
        groups.try_reserve_exact(slots.groups.len()).map_err(|_| ENOMEM)?;
        for group in &slots.groups {
            let copy = match group {
                Some(group) => {
                    let mut copy = new_group()?;
                    copy.clone_from_slice(group);
                    Some(copy)
                }
                None => None,
            };
            groups.push(copy);
        }
        Ok(FdTable { slots: SpinLock::new(Slots { groups, first_free: slots.first_free }) })
    }

    /// Gives the description of `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, fd: u32) -> Result<Arc<OpenFile>> {
        self.slots.lock().slot(fd).map(|slot| slot.file.clone()).ok_or(EBADF)
    }

    /// Gives the lowest free number from `least` on to `file`; all numbers are below `limit`.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`, `EINVAL` if `least` is beyond the limit.
    pub fn insert(&self, file: Arc<OpenFile>, on_exec: OnExec, least: u32, limit: u32) -> Result<u32> {
        if least >= limit {
            return Err(if least == 0 { EMFILE } else { EINVAL });
        }
        let mut slots = self.slots.lock();
        let free = slots.free_from(least);
        if free >= limit {
            return Err(EMFILE);
        }
        *slots.grow(free)? = Some(Slot { file, on_exec });
        if least <= slots.first_free {
            slots.first_free = free + 1;
        }
        Ok(free)
    }

    /// Makes `fd`, which is below `limit`, stand for `file`, closing what it stood for.
    ///
    /// # Errors
    /// `EBADF` if the number is beyond the limit, `ENOMEM`.
    pub fn replace(&self, fd: u32, file: Arc<OpenFile>, on_exec: OnExec, limit: u32) -> Result<()> {
        if fd >= limit {
            return Err(EBADF);
        }
        let old = self.slots.lock().grow(fd)?.replace(Slot { file, on_exec });
        drop(old);
        Ok(())
    }

    /// Closes `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close(&self, fd: u32) -> Result<()> {
        let old = self.slots.lock().take(fd);
        old.map(drop).ok_or(EBADF)
    }

    /// Says what execve does with `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn on_exec(&self, fd: u32) -> Result<OnExec> {
        self.slots.lock().slot(fd).map(|slot| slot.on_exec).ok_or(EBADF)
    }

    /// Says what execve is to do with `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_on_exec(&self, fd: u32, on_exec: OnExec) -> Result<()> {
        let mut slots = self.slots.lock();
        let slot = slots.slot_mut(fd).and_then(Option::as_mut).ok_or(EBADF)?;
        slot.on_exec = on_exec;
        Ok(())
    }

    /// Closes what execve closes.
    pub fn close_on_exec(&self) {
        for fd in self.numbers() {
            let old = {
                let mut slots = self.slots.lock();
                let closes = slots.slot(fd).is_some_and(|slot| slot.on_exec == OnExec::Close);
                if closes { slots.take(fd) } else { None }
            };
            drop(old);
        }
    }

    /// Closes the numbers of `range` (`close_range`).
    pub fn close_range(&self, range: core::ops::RangeInclusive<u32>) {
        for fd in self.numbers_from(*range.start()).take_while(|fd| range.contains(fd)) {
            let old = self.slots.lock().take(fd);
            drop(old);
        }
    }

    /// Gives the numbers in use, one look at a time.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.numbers_from(0)
    }

    /// Gives the numbers in use from `from` on, one look at a time.
    pub fn numbers_from(&self, from: u32) -> impl Iterator<Item = u32> {
        let mut next = from;
        core::iter::from_fn(move || {
            let fd = self.slots.lock().used_from(next)?;
            next = fd + 1;
            Some(fd)
        })
    }
}
