//! Descriptors: small numbers for open file descriptions.
//!
//! A program chooses how many it has, within `RLIMIT_NOFILE`; so the table grows by groups, each of which may
//! be refused. Descriptions are dropped outside of the lock: the end of a pipe that goes wakes its other end.

use super::file::OpenFile;
use super::parcel;
use crate::arch::lock::SpinLock;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EBADF, EBUSY, EINVAL, EMFILE, ENOMEM};
use anonmem_oslib::vfs::FileType;

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
    /// None yet where somebody has reserved the number: only [`Slots::free_from`] sees it.
    file: Option<Arc<OpenFile>>,
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
    fn file(&self, fd: u32) -> Option<&Arc<OpenFile>> {
        self.slot(fd)?.file.as_ref()
    }

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
            let at = self.groups[number]
                .as_ref()?
                .iter()
                .skip(skip)
                .position(|slot| slot.as_ref().is_some_and(|slot| slot.file.is_some()))?;
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
        self.file(fd)?;
        self.free(fd)
    }

    fn free(&mut self, fd: u32) -> Option<Slot> {
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
                    // What the parent has reserved is not the child's.
                    copy.iter_mut().for_each(|slot| drop(slot.take_if(|slot| slot.file.is_none())));
                    Some(copy)
                }
                None => None,
            };
            groups.push(copy);
        }
        Ok(FdTable { slots: SpinLock::new(Slots { groups, first_free: 0 }) })
    }

    /// Gives the description of `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, fd: u32) -> Result<Arc<OpenFile>> {
        self.slots.lock().file(fd).cloned().ok_or(EBADF)
    }

    /// Gives the lowest free number from `least` on to `file`; all numbers are below `limit`.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`, `EINVAL` if `least` is beyond the limit.
    pub fn insert(&self, file: Arc<OpenFile>, on_exec: OnExec, least: u32, limit: u32) -> Result<u32> {
        self.put(Slot { file: Some(file), on_exec }, least, limit)
    }

    /// Keeps the lowest free number below `limit` for a description that is yet to come: nobody else gets it,
    /// nor sees it. Linux: `get_unused_fd_flags`.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`.
    pub fn reserve(self: Arc<Self>, on_exec: OnExec, limit: u32) -> Result<Reserved> {
        let fd = self.put(Slot { file: None, on_exec }, 0, limit)?;
        Ok(Reserved { table: self, fd: Some(fd) })
    }

    fn put(&self, slot: Slot, least: u32, limit: u32) -> Result<u32> {
        if least >= limit {
            return Err(if least == 0 { EMFILE } else { EINVAL });
        }
        let mut slots = self.slots.lock();
        let free = slots.free_from(least);
        if free >= limit {
            return Err(EMFILE);
        }
        *slots.grow(free)? = Some(slot);
        if least <= slots.first_free {
            slots.first_free = free + 1;
        }
        Ok(free)
    }

    /// Makes `fd`, which is below `limit`, stand for `file`, closing what it stood for.
    ///
    /// # Errors
    /// `EBADF` if the number is beyond the limit, `EBUSY` if it is reserved, `ENOMEM`.
    pub fn replace(&self, fd: u32, file: Arc<OpenFile>, on_exec: OnExec, limit: u32) -> Result<()> {
        if fd >= limit {
            return Err(EBADF);
        }
        let old = {
            let mut slots = self.slots.lock();
            let place = slots.grow(fd)?;
            if place.as_ref().is_some_and(|slot| slot.file.is_none()) {
                return Err(EBUSY);
            }
            place.replace(Slot { file: Some(file), on_exec })
        };
        let_go(old);
        Ok(())
    }

    /// Closes `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close(&self, fd: u32) -> Result<()> {
        let old = self.slots.lock().take(fd);
        old.map(|slot| let_go(Some(slot))).ok_or(EBADF)
    }

    /// Says what execve does with `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn on_exec(&self, fd: u32) -> Result<OnExec> {
        let slots = self.slots.lock();
        slots.slot(fd).filter(|slot| slot.file.is_some()).map(|slot| slot.on_exec).ok_or(EBADF)
    }

    /// Says what execve is to do with `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_on_exec(&self, fd: u32, on_exec: OnExec) -> Result<()> {
        let mut slots = self.slots.lock();
        let slot =
            slots.slot_mut(fd).and_then(Option::as_mut).filter(|slot| slot.file.is_some()).ok_or(EBADF)?;
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
            let_go(old);
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

/// A number that is kept for a description; free again if none comes.
pub struct Reserved {
    table: Arc<FdTable>,
    /// None once it is the program's.
    fd: Option<u32>,
}

impl Reserved {
    /// Gives the number.
    ///
    /// # Errors
    /// `EBADF`: it was filled before.
    pub fn number(&self) -> Result<u32> {
        self.fd.ok_or(EBADF)
    }

    /// Gives the number to `file`, and says what it is.
    ///
    /// # Errors
    /// `EBADF`: it was filled before.
    pub fn fill(mut self, file: Arc<OpenFile>) -> Result<u32> {
        let fd = self.fd.take().ok_or(EBADF)?;
        if let Some(Some(slot)) = self.table.slots.lock().slot_mut(fd) {
            slot.file = Some(file);
        }
        Ok(fd)
    }
}

/// Drops a description. A socket that others still have may be one that nobody can receive any more.
fn let_go(slot: Option<Slot>) {
    let Some(file) = slot.and_then(|slot| slot.file) else { return };
    let is_kept = file.inode.kind() == FileType::Socket && Arc::strong_count(&file) > 1;
    drop(file);
    if is_kept {
        parcel::collect();
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(fd) = self.fd {
            self.table.slots.lock().free(fd);
        }
    }
}
