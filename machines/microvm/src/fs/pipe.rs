//! Pipes: pages of bytes in a row, readers and writers. The pages are [`super::pages`]'s, and what moves them
//! between pipes and files is [`super::splice`].
//!
//! A write fills the last page if its odd bytes fit there, and then new ones, as on Linux; so what a fault, a
//! full pipe or a short read leaves behind is the same, too. A pipe has at least one page from the start:
//! when memory has no other, it is a small pipe, and nobody who writes meets the end of memory.
//!
//! Locks: the state is a sleeping lock, held over the copy from and to the caller's memory, so that bytes
//! leave the pipe only when they were delivered. Linux: fs/pipe.c.

use super::event::Event;
use super::file::{ERR, HUP, IN, OUT, Object, OpenFile, Ready, Wait, block_on, changes_of};
use super::iov::{From, To};
use super::pages::{Buffer, Page, SIZE};
use crate::sched::Mutex;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EAGAIN, EBADF, EBUSY, EFAULT, EINVAL, ENFILE, ENOMEM, EPIPE};
use anonmem_oslib::vfs::{Body, FileType, Inode};
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use linux_raw_sys::general as abi;

/// Pages that a pipe holds at first.
const SLOTS: usize = 16;
/// Pages without bytes that a pipe keeps.
const SPARE: usize = 2;

/// A pipe.
pub struct Pipe {
    pub(super) state: Mutex<State>,
    meeting: Meeting,
    /// Something was written, or the last writer left, or came.
    pub(super) filled: Event,
    /// Something was read, or the last reader left, or came.
    pub(super) drained: Event,
}

/// What somebody notes about bytes that go through a pipe, while it is locked.
pub(super) trait Notes {
    /// Gets ready; says how many bytes may be read. A write may be of any number.
    ///
    /// # Errors
    /// Its own: nothing is moved.
    fn prepare(&mut self) -> Result<usize>;
    /// Learns how many bytes were moved.
    fn moved(&mut self, n: usize);
}

/// Nothing is noted.
struct NoNotes;

impl Notes for NoNotes {
    fn prepare(&mut self) -> Result<usize> {
        Ok(usize::MAX)
    }

    fn moved(&mut self, _: usize) {}
}

/// Whether an open waits for the other kind of end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// It does: a named pipe.
    Awaited,
    /// It does not: a pipe that `pipe` made, opened again through `/proc`.
    Skipped,
}

pub(super) struct State {
    /// Has room for `slots`.
    pub(super) buffers: VecDeque<Buffer>,
    slots: usize,
    /// Slots for bytes that somebody is reading from a file.
    pub(super) promised: usize,
    /// Buffers that somebody took and is writing to a file; what is left of one comes back.
    pub(super) in_hand: usize,
    /// Has room for [`SPARE`]; not empty while `buffers` is.
    spare: Vec<Page>,
    pub(super) readers: usize,
    pub(super) writers: usize,
    /// Ends of each kind that there ever were: an open of a named pipe waits for the other kind.
    readers_ever: u64,
    writers_ever: u64,
}

impl State {
    fn new() -> Option<State> {
        let mut state = State {
            buffers: VecDeque::new(),
            slots: SLOTS,
            promised: 0,
            in_hand: 0,
            spare: Vec::new(),
            readers: 0,
            writers: 0,
            readers_ever: 0,
            writers_ever: 0,
        };
        state.buffers.try_reserve_exact(SLOTS).ok()?;
        state.spare.try_reserve_exact(SPARE).ok()?;
        state.spare.push(Page::new()?);
        Some(state)
    }

    fn len(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.len).sum()
    }

    /// Slots that are in use, or will be.
    fn used(&self) -> usize {
        self.buffers.len() + self.promised + self.in_hand
    }

    pub(super) fn is_full(&self) -> bool {
        self.used() >= self.slots
    }

    /// Whether no more bytes will come; those who ask are readers, if theirs has not hung up.
    pub(super) fn is_at_end(&self) -> bool {
        self.in_hand == 0 && self.writers == 0 || self.readers == 0
    }

    /// Takes bytes until none are left or the pipe is full (`None`); adds to `done` what was taken. Odd bytes
    /// may join the last page if `merge` says so, which they are asked for once.
    ///
    /// Linux: fs/pipe.c `anon_pipe_write`.
    fn fill(&mut self, from: &mut From<'_>, done: &mut usize, merge: &mut Merge) -> Option<Result<()>> {
        // The writer's own end may have hung up meanwhile.
        if self.readers == 0 || self.writers == 0 {
            return Some(Err(EPIPE));
        }
        if core::mem::replace(merge, Merge::Tried) == Merge::Untried
            && let Some(joined) = self.join_last(from)
        {
            match joined {
                Ok(n) => *done += n,
                Err(error) => return Some(Err(error)),
            }
        }
        while from.left() > 0 {
            if self.is_full() {
                return None;
            }
            let mut page = self.new_page()?;
            let wanted = from.left().min(SIZE);
            let n = from.take(&mut page.bytes()[..wanted]);
            if n < wanted {
                self.keep(page);
                return Some(Err(EFAULT));
            }
            self.buffers.push_back(Buffer::own(page, n));
            *done += n;
        }
        Some(Ok(()))
    }

    /// A page to fill, if there is one.
    pub(super) fn new_page(&mut self) -> Option<Page> {
        self.spare.pop().or_else(Page::new)
    }

    /// Puts the odd bytes into the last page, if they fit.
    fn join_last(&mut self, from: &mut From<'_>) -> Option<Result<usize>> {
        let odd = from.left() % SIZE;
        if odd == 0 {
            return None;
        }
        let last = self.buffers.back_mut()?;
        let room = last.room(odd)?;
        if let Err(error) = from.take_whole(room) {
            return Some(Err(error));
        }
        last.len += odd;
        Some(Ok(odd))
    }

    /// Delivers bytes until there is no more room or no byte; adds to `done` what was delivered.
    ///
    /// # Errors
    /// `EFAULT`: what a page has left was not delivered and stays.
    fn drain(&mut self, to: &mut To<'_>, done: &mut usize) -> Result<()> {
        while to.left() > 0
            && let Some(first) = self.buffers.front_mut()
        {
            let n = first.len.min(to.left());
            first.give(n, to)?;
            *done += n;
            self.consume(n);
        }
        Ok(())
    }

    /// Sees to a page for later writes, before pages of this pipe become another's; says whether there is
    /// one.
    pub(super) fn ensure_spare(&mut self) -> bool {
        if self.spare.is_empty() {
            self.spare.extend(Page::new());
        }
        !self.spare.is_empty()
    }

    /// Delivers bytes that stay, until there is no more room or no byte; gives how many.
    ///
    /// # Errors
    /// `EFAULT` if none could be delivered.
    fn look(&self, to: &mut To<'_>) -> Result<usize> {
        let mut done = 0;
        for buffer in &self.buffers {
            let n = buffer.len.min(to.left());
            match buffer.give(n, to) {
                Ok(()) => done += n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Takes `n` bytes of the first page away.
    pub(super) fn consume(&mut self, n: usize) {
        let Some(first) = self.buffers.front_mut() else { return };
        first.start += n;
        first.len -= n;
        if first.len == 0
            && let Some(page) = self.buffers.pop_front().and_then(Buffer::into_own)
        {
            self.keep(page);
        }
    }

    pub(super) fn keep(&mut self, page: Page) {
        if self.spare.len() < SPARE {
            self.spare.push(page);
        }
    }
}

/// Whether a write was asked to join the last page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Merge {
    Untried,
    Tried,
}

impl Pipe {
    /// Makes a pipe without ends.
    ///
    /// # Errors
    /// `ENFILE` if pipes have too much of memory, or there is none.
    pub fn new(meeting: Meeting) -> Result<Arc<Pipe>> {
        let state = Mutex::new(State::new().ok_or(ENFILE)?);
        Ok(Arc::new(Pipe { state, meeting, filled: Event::new(), drained: Event::new() }))
    }

    /// Delivers waiting bytes. Nothing there and no writer left: zero.
    ///
    /// # Errors
    /// `EAGAIN`, `EFAULT`, `ERESTARTSYS`.
    pub fn read(&self, to: &mut To<'_>, wait: Wait) -> Result<usize> {
        self.read_noting(to, wait, &mut NoNotes)
    }

    /// As [`Pipe::read`], and `notes` learns of it. Zero, too, if the reader's own end has hung up.
    ///
    /// # Errors
    /// As [`Pipe::read`]; those of `notes`.
    pub(super) fn read_noting(&self, to: &mut To<'_>, wait: Wait, notes: &mut impl Notes) -> Result<usize> {
        if to.left() == 0 {
            return Ok(0);
        }
        let mut done = 0;
        let result = block_on(&self.filled, wait, || {
            let mut state = self.state.lock();
            if state.buffers.is_empty() && !state.is_at_end() {
                return None;
            }
            match notes.prepare() {
                Ok(most) => to.truncate(most),
                Err(error) => return Some(Err(error)),
            }
            let result = state.drain(to, &mut done);
            notes.moved(done);
            Some(result)
        });
        if done > 0 {
            self.drained.notify();
            return Ok(done);
        }
        result.map(|()| 0)
    }

    /// As [`Pipe::read_noting`], but the bytes stay, and `notes` only says how many there may be.
    ///
    /// # Errors
    /// As [`Pipe::read`]; those of `notes`.
    pub(super) fn look_noting(&self, to: &mut To<'_>, wait: Wait, notes: &mut impl Notes) -> Result<usize> {
        block_on(&self.filled, wait, || {
            let state = self.state.lock();
            if state.buffers.is_empty() && !state.is_at_end() && to.left() > 0 {
                return None;
            }
            Some(notes.prepare().and_then(|most| {
                to.truncate(most);
                state.look(to)
            }))
        })
    }

    /// Writes all there is, in pieces if it must; a page or less whole. Without readers: `EPIPE`, and SIGPIPE
    /// is the system call's to send.
    fn write(&self, from: &mut From<'_>, wait: Wait) -> Result<usize> {
        self.write_noting(from, wait, &mut NoNotes)
    }

    /// As [`Pipe::write`], and `notes` learns of it. `EPIPE`, too, if the writer's own end has hung up.
    ///
    /// # Errors
    /// As [`Pipe::write`]; those of `notes`.
    pub(super) fn write_noting(
        &self,
        from: &mut From<'_>,
        wait: Wait,
        notes: &mut impl Notes,
    ) -> Result<usize> {
        if from.left() == 0 {
            return Ok(0);
        }
        let (mut done, mut merge) = (0, Merge::Untried);
        let result = block_on(&self.drained, wait, || {
            let before = done;
            let result = {
                let mut state = self.state.lock();
                if let Err(error) = notes.prepare() {
                    return Some(Err(error));
                }
                let result = state.fill(from, &mut done, &mut merge);
                notes.moved(done - before);
                result
            };
            if done > before {
                self.filled.notify();
            }
            result
        });
        if done > 0 { Ok(done) } else { result.map(|()| 0) }
    }

    /// Gives how many bytes fit (`F_GETPIPE_SZ`).
    pub fn capacity(&self) -> usize {
        self.state.lock().slots * SIZE
    }

    /// Makes room for `size` bytes or a little more (`F_SETPIPE_SZ`); gives how many fit now.
    ///
    /// # Errors
    /// `EINVAL` for more than 2 GiB, `EBUSY` if more bytes wait, `ENOMEM`.
    pub fn resize(&self, size: usize) -> Result<usize> {
        if size > 1 << 31 {
            return Err(EINVAL);
        }
        let slots = size.div_ceil(SIZE).max(1).next_power_of_two();
        {
            let mut state = self.state.lock();
            if slots < state.used() {
                return Err(EBUSY);
            }
            let more = slots - state.buffers.len();
            state.buffers.try_reserve_exact(more).map_err(|_| ENOMEM)?;
            state.slots = slots;
        }
        self.drained.notify();
        Ok(slots * SIZE)
    }
}

/// One end of a pipe, open.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    pub(super) direction: Direction,
    /// It counts.
    open: AtomicBool,
}

/// Which way an end goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Bytes come out.
    Read,
    /// Bytes go in.
    Write,
    /// Both, as a named pipe opened `O_RDWR`.
    Both,
}

impl PipeEnd {
    /// Gives the pipe.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    /// Opens an end.
    pub fn new(pipe: Arc<Pipe>, direction: Direction) -> Arc<PipeEnd> {
        {
            let mut state = pipe.state.lock();
            if direction != Direction::Write {
                state.readers += 1;
                state.readers_ever += 1;
            }
            if direction != Direction::Read {
                state.writers += 1;
                state.writers_ever += 1;
            }
        }
        pipe.filled.notify();
        pipe.drained.notify();
        Arc::new(PipeEnd { pipe, direction, open: AtomicBool::new(true) })
    }

    /// Says whether it has not hung up.
    pub fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// Leaves the pipe, though somebody may still be reading or writing through this end.
    pub fn hang_up(&self) {
        if !self.open.swap(false, Relaxed) {
            return;
        }
        {
            let mut state = self.pipe.state.lock();
            state.readers -= usize::from(self.direction != Direction::Write);
            state.writers -= usize::from(self.direction != Direction::Read);
        }
        self.pipe.filled.notify();
        self.pipe.drained.notify();
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        self.hang_up();
    }
}

impl Object for PipeEnd {
    fn read(&self, to: &mut To<'_>, wait: Wait) -> Result<usize> {
        if self.direction == Direction::Write { Err(EBADF) } else { self.pipe.read(to, wait) }
    }

    fn write(&self, from: &mut From<'_>, wait: Wait) -> Result<usize> {
        if self.direction == Direction::Read { Err(EBADF) } else { self.pipe.write(from, wait) }
    }

    fn ready(&self) -> Ready {
        let state = self.pipe.state.lock();
        let mut ready = 0;
        if self.direction != Direction::Write {
            ready |= if state.buffers.is_empty() { 0 } else { IN };
            ready |= if state.writers == 0 && state.writers_ever > 0 { HUP } else { 0 };
        }
        if self.direction != Direction::Read {
            ready |= if state.is_full() { 0 } else { OUT };
            ready |= if state.readers == 0 { ERR } else { 0 };
        }
        ready
    }

    fn changes(&self, of: Ready) -> u64 {
        let of = match self.direction {
            Direction::Read => of & !OUT,
            Direction::Write => OUT,
            Direction::Both => of,
        };
        changes_of(of, &self.pipe.filled, &self.pipe.drained)
    }

    fn readable(&self) -> Result<usize> {
        Ok(self.pipe.state.lock().len())
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        // Who opens the pipe again through /proc finds the pipe, not this end.
        self
    }
}

/// Makes a pipe and opens both ends: for reading, for writing.
///
/// # Errors
/// `ENFILE`.
pub fn pipe(flags: u32) -> Result<(Arc<OpenFile>, Arc<OpenFile>)> {
    let pipe = Pipe::new(Meeting::Skipped)?;
    let body = Body::Special { kind: FileType::Fifo, rdev: 0, object: pipe.clone() };
    let inode = super::vfs().inode(0o600, body);
    let name = alloc::format!("pipe:[{}]", inode.ino);
    let open = |direction, access| {
        let end = PipeEnd::new(pipe.clone(), direction);
        OpenFile::new(inode.clone(), super::file::Target::Object(end), name.as_bytes(), access | flags)
    };
    Ok((open(Direction::Read, abi::O_RDONLY), open(Direction::Write, abi::O_WRONLY)))
}

/// Opens a named pipe: waits for the other kind of end, as `O_NONBLOCK` allows.
///
/// # Errors
/// `ENXIO` for a writer that would not wait, `ERESTARTSYS`.
pub fn open_fifo(inode: &Arc<Inode>, pipe: Arc<Pipe>, path: &[u8], flags: u32) -> Result<Arc<OpenFile>> {
    let wait = if flags & abi::O_NONBLOCK != 0 { Wait::No } else { Wait::Yes };
    let direction = match flags & abi::O_ACCMODE {
        abi::O_RDONLY => Direction::Read,
        abi::O_WRONLY => Direction::Write,
        _ => Direction::Both,
    };
    let (readers, writers) = {
        let state = pipe.state.lock();
        (state.readers_ever, state.writers_ever)
    };
    let end = PipeEnd::new(pipe.clone(), direction);
    let met = match direction {
        _ if pipe.meeting == Meeting::Skipped => Ok(()),
        Direction::Both => Ok(()),
        Direction::Read => block_on(&pipe.filled, wait, || {
            let state = pipe.state.lock();
            (state.writers > 0 || state.writers_ever != writers).then_some(Ok(()))
        }),
        Direction::Write => block_on(&pipe.drained, wait, || {
            let state = pipe.state.lock();
            (state.readers > 0 || state.readers_ever != readers).then_some(Ok(()))
        }),
    };
    match (met, direction) {
        (Err(EAGAIN), Direction::Write) => return Err(anonmem_oslib::errno::ENXIO),
        (Err(EAGAIN), _) | (Ok(()), _) => {}
        (Err(error), _) => return Err(error),
    }
    Ok(OpenFile::new(inode.clone(), super::file::Target::Object(end), path, flags))
}
