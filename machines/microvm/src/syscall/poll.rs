//! Waiting for several descriptors: poll, select, epoll.

use super::call::Call;
use super::fd::epoll_event;
use super::file::install;
use super::user;
use crate::arch::time;
use crate::fs::epoll::Epoll;
use crate::fs::event::wait_for_anything;
use crate::fs::file::{ERR, HUP, IN, OUT, OpenFile};
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::abi::{self as layout, Fields};
use anonmem_oslib::errno::{EINTR, EINVAL, ENOMEM, ETIMEDOUT};
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
    if count > c.nofile() as usize {
        return Err(EINVAL);
    }
    let mut bytes = user::read(at, 8 * count)?;
    let files = c.thread.files();
    let entry = |i: usize| {
        let (fd, events) = (Fields(&bytes).i32(8 * i), u32::from(Fields(&bytes).u16(8 * i + 4)));
        let file = if fd >= 0 { files.get(fd as u32).ok() } else { None };
        Entry { fd, events, file }
    };
    let mut entries: Vec<Entry> = Vec::new();
    entries.try_reserve_exact(count).map_err(|_| ENOMEM)?;
    entries.extend((0..count).map(entry));
    let any = || {
        let mut n = 0;
        for (entry, bytes) in entries.iter().zip(bytes.chunks_exact_mut(8)) {
            let ready = entry.ready();
            n += usize::from(ready != 0);
            bytes[6..].copy_from_slice(&(ready as u16).to_le_bytes());
        }
        (n > 0).then_some(n)
    };
    let n = match wait_for_anything(deadline, any) {
        Ok(n) => n,
        Err(ETIMEDOUT) => 0,
        Err(error) => return Err(error),
    };
    user::write(at, &bytes)?;
    Ok(n)
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

/// A set of descriptors of `select`, as bits, and those of them that are found ready.
struct FdSet {
    at: u64,
    bits: Vec<u8>,
    ready: Vec<u8>,
    events: u32,
}

impl FdSet {
    fn read(at: u64, count: usize, events: u32) -> Result<FdSet> {
        let bytes = count.div_ceil(64) * 8;
        let bits = if at == 0 { user::buffer(bytes)? } else { user::read(at, bytes)? };
        Ok(FdSet { at, bits, ready: user::buffer(bytes)?, events })
    }

    fn has(&self, fd: usize) -> bool {
        self.bits[fd / 8] >> (fd % 8) & 1 != 0
    }

    /// Notes that `fd` is ready like this; says how often that counts.
    fn note(&mut self, fd: usize, ready: u32) -> usize {
        let hit = self.has(fd) && ready & self.events != 0;
        if hit {
            self.ready[fd / 8] |= 1 << (fd % 8);
        }
        usize::from(hit)
    }
}

fn do_select(c: &Call<'_>, deadline: Option<u64>) -> Result<usize> {
    let count = c.i32(0);
    if count < 0 {
        return Err(EINVAL);
    }
    let count = (count as usize).min(c.nofile() as usize);
    let events = [IN | HUP | ERR, OUT | ERR, abi::POLLPRI];
    let [readable, writable, urgent] = [0, 1, 2].map(|i| FdSet::read(c.args[i + 1], count, events[i]));
    let mut sets = [readable?, writable?, urgent?];
    let files = c.thread.files();
    let mut wanted = (0..count).filter(|&fd| sets.iter().any(|set| set.has(fd)));
    wanted.try_for_each(|fd| files.get(fd as u32).map(drop))?;
    let look = || {
        let mut n = 0;
        for fd in 0..count {
            if sets.iter().any(|set| set.has(fd)) {
                // One that was closed meanwhile has nothing to tell.
                let ready = files.get(fd as u32).map_or(0, |file| file.ready());
                n += sets.iter_mut().map(|set| set.note(fd, ready)).sum::<usize>();
            }
        }
        (n > 0).then_some(n)
    };
    let n = match wait_for_anything(deadline, look) {
        Ok(n) => n,
        Err(ETIMEDOUT) => 0,
        Err(error) => return Err(error),
    };
    sets.iter().try_for_each(|set| user::write_unless_null(set.at, &set.ready))?;
    Ok(n)
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
    super::call::only(flags, abi::EPOLL_CLOEXEC)?;
    let epoll = Arc::new(Epoll::default());
    install(c, OpenFile::anonymous(FileType::Regular, epoll, b"anon_inode:[eventpoll]", abi::O_RDWR), flags)
}

/// Events that one `epoll_wait` gives at most.
const EVENTS: usize = 256;

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
    // What has no room is told the next time.
    let mut ready = Vec::new();
    ready.try_reserve_exact((max as usize).min(EVENTS)).map_err(|_| ENOMEM)?;
    let look = || {
        epoll.collect(&mut ready);
        (!ready.is_empty()).then_some(())
    };
    match wait_for_anything(deadline, look) {
        Ok(()) | Err(ETIMEDOUT) => {}
        Err(error) => return Err(error),
    }
    let packed: Vec<u8> =
        ready.iter().flat_map(|(events, data)| layout::epoll_event(*events, *data)).collect();
    user::write(c.args[1], &packed)?;
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
