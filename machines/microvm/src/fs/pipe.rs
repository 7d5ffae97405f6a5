//! Pipes: a ring of 64 KiB, readers and writers.

use super::event::Event;
use super::file::{ERR, HUP, IN, OUT, Object, OpenFile, Ready, Wait, block_on};
use crate::arch::lock::SpinLock;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EAGAIN, EBADF, EPIPE};
use anonmem_oslib::ring::Ring;
use anonmem_oslib::vfs::{Body, FileType, Inode};
use core::any::Any;
use linux_raw_sys::general as abi;

/// Bytes that a pipe holds.
pub const CAPACITY: usize = 64 << 10;
/// A write of at most this many bytes is not torn.
const PIPE_BUF: usize = 4096;

/// A pipe.
pub struct Pipe {
    state: SpinLock<State>,
    meeting: Meeting,
    /// Something was written, or the last writer left, or came.
    filled: Event,
    /// Something was read, or the last reader left, or came.
    drained: Event,
}

/// Whether an open waits for the other kind of end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// It does: a named pipe.
    Awaited,
    /// It does not: a pipe that `pipe` made, opened again through `/proc`.
    Skipped,
}

struct State {
    ring: Ring,
    readers: usize,
    writers: usize,
    /// Ends of each kind that there ever were: an open of a named pipe waits for the other kind.
    readers_ever: u64,
    writers_ever: u64,
}

impl Pipe {
    /// Makes a pipe without ends.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(meeting: Meeting) -> Result<Arc<Pipe>> {
        let ring = Ring::new(CAPACITY)?;
        let state = State { ring, readers: 0, writers: 0, readers_ever: 0, writers_ever: 0 };
        Ok(Arc::new(Pipe {
            state: SpinLock::new(state),
            meeting,
            filled: Event::new(),
            drained: Event::new(),
        }))
    }

    /// Moves waiting bytes to `to`. Nothing there and no writer left: zero.
    fn read(&self, to: &mut [u8], wait: Wait) -> Result<usize> {
        let n = block_on(&self.filled, wait, || {
            let mut state = self.state.lock();
            if state.ring.is_empty() && state.writers > 0 && !to.is_empty() {
                return None;
            }
            Some(Ok(state.ring.read(to)))
        })?;
        if n > 0 {
            self.drained.notify();
        }
        Ok(n)
    }

    /// Writes all of `from`, in pieces if it must; small writes whole. Without readers: `EPIPE`, and SIGPIPE is the
    /// system call's to send.
    fn write(&self, from: &[u8], wait: Wait) -> Result<usize> {
        let mut done = 0;
        while done < from.len() {
            let rest = &from[done..];
            let whole = if from.len() <= PIPE_BUF { rest.len() } else { 1 };
            let written = block_on(&self.drained, wait, || {
                let mut state = self.state.lock();
                if state.readers == 0 {
                    return Some(Err(EPIPE));
                }
                (state.ring.room() >= whole).then(|| Ok(state.ring.write(rest)))
            });
            match written {
                Ok(n) => {
                    done += n;
                    self.filled.notify();
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// One end of a pipe, open.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    direction: Direction,
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
        Arc::new(PipeEnd { pipe, direction })
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        {
            let mut state = self.pipe.state.lock();
            state.readers -= usize::from(self.direction != Direction::Write);
            state.writers -= usize::from(self.direction != Direction::Read);
        }
        self.pipe.filled.notify();
        self.pipe.drained.notify();
    }
}

impl Object for PipeEnd {
    fn read(&self, to: &mut [u8], wait: Wait) -> Result<usize> {
        if self.direction == Direction::Write { Err(EBADF) } else { self.pipe.read(to, wait) }
    }

    fn write(&self, from: &[u8], wait: Wait) -> Result<usize> {
        if self.direction == Direction::Read { Err(EBADF) } else { self.pipe.write(from, wait) }
    }

    fn ready(&self) -> Ready {
        let state = self.pipe.state.lock();
        let mut ready = 0;
        if self.direction != Direction::Write {
            ready |= if state.ring.is_empty() { 0 } else { IN };
            ready |= if state.writers == 0 && state.writers_ever > 0 { HUP } else { 0 };
        }
        if self.direction != Direction::Read {
            ready |= if state.ring.room() >= PIPE_BUF { OUT } else { 0 };
            ready |= if state.readers == 0 { ERR } else { 0 };
        }
        ready
    }

    fn readable(&self) -> Result<usize> {
        Ok(self.pipe.state.lock().ring.len())
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        // Who opens the pipe again through /proc finds the pipe, not this end.
        self
    }
}

/// Makes a pipe and opens both ends: for reading, for writing.
///
/// # Errors
/// `ENOMEM`.
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
