//! Waiting for several descriptors: poll, select, epoll.

use super::fd::epoll_event;
use super::file::install;
use super::{Call, user};
use crate::arch::time;
use crate::fs::epoll::Epoll;
use crate::fs::event::wait_for_anything;
use crate::fs::file::{ERR, HUP, IN, OUT, OpenFile};
use crate::fs::table::FdTable;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::abi::{Fields, Packer};
use anonmem_oslib::errno::{EBADF, EINTR, EINVAL, ETIMEDOUT};
use anonmem_oslib::restart::{ERESTARTNOHAND, ERESTARTSYS};
use anonmem_oslib::signal::SigSet;
use anonmem_oslib::vfs::FileType;
use anonmem_oslib::{Errno, Result};
use linux_raw_sys::general as abi;

/// A deadline from milliseconds; negative means never.
fn after_ms(ms: i32) -> Option<u64> {
    u64::try_from(ms).ok().map(|ms| time::now_ns() + ms * 1_000_000)
}

/// A deadline from a `struct timespec`; null means never.
fn after_timespec(address: u64) -> Result<Option<u64>> {
    if address == 0 {
        return Ok(None);
    }
    Ok(Some(time::now_ns().saturating_add(user::timespec(address)?)))
}

/// Sets the mask for the time of the call, if there is one; the way back to user code restores it.
fn with_mask(c: &Call<'_>, address: u64, size: u64) -> Result<()> {
    if address == 0 {
        return Ok(());
    }
    if size != 8 {
        return Err(EINVAL);
    }
    super::signal::set_temporary_mask(c, SigSet(user::read_u64(address)?));
    Ok(())
}

/// The mask of `with_mask` goes with the end of the call, unless a signal still has to see it.
fn finish<T>(c: &Call<'_>, result: Result<T>) -> Result<T> {
    match result {
        Err(ERESTARTSYS) => Err(ERESTARTNOHAND),
        other => {
            super::signal::end_temporary_mask(c);
            other
        }
    }
}

/// One entry of `poll`.
struct Entry {
    fd: i32,
    events: u32,
    file: Option<Arc<OpenFile>>,
}

impl Entry {
    fn ready(&self) -> u32 {
        match &self.file {
            _ if self.fd < 0 => 0,
            Some(file) => file.ready() & (self.events | ERR | HUP),
            None => abi::POLLNVAL,
        }
    }
}

fn do_poll(c: &Call<'_>, at: u64, count: usize, deadline: Option<u64>) -> Result<usize> {
    if count > crate::fs::table::LIMIT {
        return Err(EINVAL);
    }
    let mut bytes = user::read(at, 8 * count)?;
    let files = c.thread.files();
    let entry = |i: usize| {
        let (fd, events) = (Fields(&bytes).i32(8 * i), u32::from(Fields(&bytes).u16(8 * i + 4)));
        let file = if fd >= 0 { files.get(fd as u32).ok() } else { None };
        Entry { fd, events, file }
    };
    let entries: Vec<Entry> = (0..count).map(entry).collect();
    let any = || {
        let ready: Vec<u32> = entries.iter().map(Entry::ready).collect();
        ready.iter().any(|&r| r != 0).then_some(ready)
    };
    let ready = match wait_for_anything(deadline, any) {
        Ok(ready) => ready,
        Err(ETIMEDOUT) => alloc::vec![0; count],
        Err(error) => return Err(error),
    };
    for (i, &r) in ready.iter().enumerate() {
        bytes[8 * i + 6..8 * i + 8].copy_from_slice(&(r as u16).to_le_bytes());
    }
    user::write(at, &bytes)?;
    Ok(ready.iter().filter(|&&r| r != 0).count())
}

pub(super) fn poll(c: &mut Call<'_>) -> Result<usize> {
    let deadline = kept_deadline(c).or_else(|| after_ms(c.i32(2)));
    let result = do_poll(c, c.args[0], c.len(1), deadline);
    keep_deadline(c, result, deadline)
}

/// The deadline of the first run, if this is a second one.
fn kept_deadline(c: &Call<'_>) -> Option<u64> {
    c.thread.restart.lock().take()
}

fn keep_deadline<T>(c: &Call<'_>, result: Result<T>, deadline: Option<u64>) -> Result<T> {
    match result {
        Err(ERESTARTSYS) => {
            *c.thread.restart.lock() = deadline;
            Err(anonmem_oslib::restart::ERESTART_RESTARTBLOCK)
        }
        other => other,
    }
}

pub(super) fn ppoll(c: &mut Call<'_>) -> Result<usize> {
    let deadline = after_timespec(c.args[2])?;
    with_mask(c, c.args[3], c.args[4])?;
    let result = do_poll(c, c.args[0], c.len(1), deadline);
    finish(c, result)
}

/// A set of descriptors of `select`, as bits.
struct FdSet {
    at: u64,
    bits: Vec<u8>,
}

impl FdSet {
    fn read(at: u64, count: usize) -> Result<FdSet> {
        let bytes = count.div_ceil(64) * 8;
        let bits = if at == 0 { alloc::vec![0; bytes] } else { user::read(at, bytes)? };
        Ok(FdSet { at, bits })
    }

    fn has(&self, fd: usize) -> bool {
        self.bits[fd / 8] >> (fd % 8) & 1 != 0
    }

    /// Writes back those of the set that `keep` names; says how many.
    fn store(&self, keep: &[bool]) -> Result<usize> {
        let mut out = alloc::vec![0; self.bits.len()];
        let kept = keep.iter().enumerate().filter(|(fd, ready)| **ready && self.has(*fd));
        let n = kept.map(|(fd, _)| out[fd / 8] |= 1 << (fd % 8)).count();
        user::write_unless_null(self.at, &out)?;
        Ok(n)
    }
}

fn do_select(c: &Call<'_>, deadline: Option<u64>) -> Result<usize> {
    let count = c.i32(0);
    if count < 0 {
        return Err(EINVAL);
    }
    let count = (count as usize).min(crate::fs::table::LIMIT);
    let sets =
        [FdSet::read(c.args[1], count)?, FdSet::read(c.args[2], count)?, FdSet::read(c.args[3], count)?];
    let files = wanted(&c.thread.files(), &sets, count)?;
    let events = [IN | HUP | ERR, OUT | ERR, abi::POLLPRI];
    let look = || {
        let ready: Vec<u32> = files.iter().map(|f| f.as_ref().map_or(0, |f| f.ready())).collect();
        let hit = |fd: usize| (0..3).any(|i| sets[i].has(fd) && ready[fd] & events[i] != 0);
        (0..count).any(hit).then_some(ready)
    };
    let ready = match wait_for_anything(deadline, look) {
        Ok(ready) => ready,
        Err(ETIMEDOUT) => alloc::vec![0; count],
        Err(error) => return Err(error),
    };
    let mut n = 0;
    for (set, events) in sets.iter().zip(events) {
        let hits: Vec<bool> = ready.iter().map(|r| r & events != 0).collect();
        n += set.store(&hits)?;
    }
    Ok(n)
}

fn wanted(files: &FdTable, sets: &[FdSet; 3], count: usize) -> Result<Vec<Option<Arc<OpenFile>>>> {
    let one = |fd: usize| match sets.iter().any(|set| set.has(fd)) {
        true => files.get(fd as u32).map(Some).or(Err(EBADF)),
        false => Ok(None),
    };
    (0..count).map(one).collect()
}

pub(super) fn select(c: &mut Call<'_>) -> Result<usize> {
    let deadline = match c.args[4] {
        0 => None,
        at => Some(time::now_ns().saturating_add(user::timeval(at)?)),
    };
    let result = do_select(c, deadline);
    finish(c, result)
}

pub(super) fn pselect6(c: &mut Call<'_>) -> Result<usize> {
    let deadline = after_timespec(c.args[4])?;
    if c.args[5] != 0 {
        let (mask, size) = (user::read_u64(c.args[5])?, user::read_u64(c.args[5] + 8)?);
        with_mask(c, mask, size)?;
    }
    let result = do_select(c, deadline);
    finish(c, result)
}

pub(super) fn epoll_create(c: &mut Call<'_>, flags: u32) -> Result<usize> {
    super::only(flags, abi::EPOLL_CLOEXEC)?;
    let epoll = Arc::new(Epoll::default());
    install(c, OpenFile::anonymous(FileType::Regular, epoll, b"anon_inode:[eventpoll]", abi::O_RDWR), flags)
}

fn epoll_of(c: &Call<'_>) -> Result<Arc<Epoll>> {
    c.thread.files().get(c.u32(0))?.object::<Epoll>().ok_or(EINVAL)
}

pub(super) fn epoll_ctl(c: &mut Call<'_>) -> Result<usize> {
    let epoll = epoll_of(c)?;
    let fd = c.u32(2);
    let file = c.thread.files().get(fd)?;
    match c.u32(1) {
        abi::EPOLL_CTL_ADD => {
            let (events, data) = epoll_event(c.args[3])?;
            epoll.add(fd, &file, events, data)?;
        }
        abi::EPOLL_CTL_MOD => {
            let (events, data) = epoll_event(c.args[3])?;
            epoll.modify(fd, events, data)?;
        }
        abi::EPOLL_CTL_DEL => epoll.remove(fd)?,
        _ => return Err(EINVAL),
    }
    Ok(0)
}

fn do_epoll_wait(c: &Call<'_>, deadline: Option<u64>) -> Result<usize> {
    let epoll = epoll_of(c)?;
    let max = c.i32(2);
    if max <= 0 {
        return Err(EINVAL);
    }
    let look = || Some(epoll.collect(max as usize)).filter(|ready| !ready.is_empty());
    let ready = match wait_for_anything(deadline, look) {
        Ok(ready) => ready,
        Err(ETIMEDOUT) => Vec::new(),
        Err(error) => return Err(error),
    };
    let packed = ready.iter().fold(Packer::new(), |p, (events, data)| p.u32(*events).u64(*data));
    user::write(c.args[1], &packed.0)?;
    Ok(ready.len())
}

pub(super) fn epoll_wait(c: &mut Call<'_>) -> Result<usize> {
    do_epoll_wait(c, after_ms(c.i32(3))).map_err(never_restarted)
}

pub(super) fn epoll_pwait(c: &mut Call<'_>) -> Result<usize> {
    with_mask(c, c.args[4], c.args[5])?;
    let result = do_epoll_wait(c, after_ms(c.i32(3)));
    match result {
        // The mask must be in force until the signal has been delivered.
        Err(ERESTARTSYS) => Err(EINTR),
        other => finish(c, other),
    }
}

/// `epoll_wait` always fails with EINTR after a signal.
fn never_restarted(error: Errno) -> Errno {
    if error == ERESTARTSYS { EINTR } else { error }
}
