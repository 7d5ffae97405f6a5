//! Moving bytes between pipes, files and memory without copying where a reference will do.
//!
//! Locks: the state of a pipe while bytes move to another pipe; of two pipes the one at the lower address
//! comes first. A file is read and written without it: a file may be a socket, which sleeps for long, and
//! what came along with its bytes may be the last end of the same pipe.
//!
//! Linux: fs/splice.c. Differs: bytes of files are copied into pages of the pipe, because files have no page
//! cache.

use super::file::{IN, OpenFile, Wait, block_on};
use super::iov::To;
use super::pages::{Buffer, SIZE};
use super::pipe::{Pipe, State};
use crate::machine::Kernel;
use crate::sched::MutexGuard;
use alloc::sync::Arc;
use anonmem::{Mm, PinFlags};
use anonmem_hal::Va;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EAGAIN, EFAULT, ENOMEM, EPIPE};

/// Where in a file bytes come from or go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the description's position, or nowhere in particular.
    Position,
    /// At an offset.
    Offset(u64),
}

/// Whether the bytes stay in the pipe that they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// They do (`tee`).
    Stays,
    /// They do not (`splice`).
    Goes,
}

/// What was found at the front of a pipe.
enum Taken {
    Buffer(Buffer),
    /// Nothing yet.
    Nothing,
    /// Nothing, and nothing will come.
    End,
}

impl Pipe {
    /// Waits for room; fails if nobody reads.
    fn wait_for_room(&self, wait: Wait) -> Result<()> {
        block_on(&self.drained, wait, || {
            let state = self.state.lock();
            match state.readers {
                0 => Some(Err(EPIPE)),
                _ => (!state.is_full()).then_some(Ok(())),
            }
        })
    }

    /// Waits for bytes, or for the last writer to leave. While somebody has a buffer in hand, others wait: he
    /// may put back what comes before theirs.
    fn wait_for_bytes(&self, wait: Wait) -> Result<()> {
        block_on(&self.filled, wait, || {
            let state = self.state.lock();
            let found = state.in_hand == 0 && !state.buffers.is_empty();
            (found || state.is_at_end()).then_some(Ok(()))
        })
    }

    /// Puts pages of a program into the pipe, by reference, as many as there is room for; waits for the first
    /// room as `wait` says. Gives the number of bytes. Linux: `vmsplice_to_pipe`.
    ///
    /// # Errors
    /// `EPIPE`, `EAGAIN`, `EFAULT`; `ENOMEM` if pipes have too many pages.
    pub fn take_user(
        &self,
        space: &Mm<'static, Kernel>,
        pieces: &[(u64, usize)],
        wait: Wait,
    ) -> Result<usize> {
        self.wait_for_room(wait)?;
        let mut done = 0;
        let mut stopped = Ok(());
        'all: for &(address, len) in pieces {
            let mut within = 0;
            while within < len {
                let at = Va(address.wrapping_add(within as u64));
                let n = (SIZE - at.page_offset()).min(len - within);
                stopped = self.take_page(space, at, n);
                if stopped.is_err() {
                    break 'all;
                }
                (within, done) = (within + n, done + n);
            }
        }
        if done > 0 {
            self.filled.notify();
            return Ok(done);
        }
        stopped.map(|()| 0)
    }

    fn take_page(&self, space: &Mm<'static, Kernel>, at: Va, len: usize) -> Result<()> {
        let look = space.look(at, PinFlags::empty()).map_err(|error| match error {
            anonmem::Error::OutOfMemory => ENOMEM,
            _ => EFAULT,
        })?;
        let mut state = self.state.lock();
        match state.readers {
            0 => Err(EPIPE),
            _ if state.is_full() => Err(EAGAIN),
            _ => {
                let buffer = Buffer::of_user(look, at.page_offset(), len).ok_or(ENOMEM)?;
                state.buffers.push_back(buffer);
                Ok(())
            }
        }
    }

    /// Fills the pipe with at most `len` bytes of a file, as many as there is room for. Linux:
    /// `splice_file_to_pipe`.
    ///
    /// # Errors
    /// `EPIPE`, `EAGAIN`, the file's.
    pub fn take_file(&self, file: &OpenFile, place: Place, len: usize, wait: Wait) -> Result<usize> {
        self.wait_for_room(wait)?;
        let mut done = 0;
        let mut stopped = Ok(());
        // What has nothing more now is not waited for twice.
        while done < len && (done == 0 || file.ready() & IN != 0) {
            let wanted = SIZE.min(len - done);
            let taken = self.take_file_page(wanted, |to| match place {
                Place::Position => file.read(to),
                Place::Offset(offset) => file.read_at(offset + done as u64, to),
            });
            match taken {
                // Somebody was faster.
                Ok(None) if done == 0 => self.wait_for_room(wait)?,
                Ok(None) => break,
                Ok(Some(n)) => {
                    done += n;
                    if n < wanted {
                        break;
                    }
                }
                Err(error) => {
                    stopped = Err(error);
                    break;
                }
            }
        }
        if done > 0 {
            return Ok(done);
        }
        stopped.map(|()| 0)
    }

    /// Lets `read` fill a page with `wanted` bytes, if there is room; gives how many came.
    fn take_file_page(
        &self,
        wanted: usize,
        read: impl FnOnce(&mut To<'_>) -> Result<usize>,
    ) -> Result<Option<usize>> {
        let mut page = {
            let mut state = self.state.lock();
            if state.is_full() {
                return Ok(None);
            }
            let page = state.new_page().ok_or(ENOMEM)?;
            state.promised += 1;
            page
        };
        let read = read(&mut To::Kernel(&mut page.bytes()[..wanted]));
        {
            let mut state = self.state.lock();
            state.promised -= 1;
            match read {
                Ok(n) if n > 0 => state.buffers.push_back(Buffer::own(page, n)),
                Ok(_) | Err(_) => state.keep(page),
            }
        }
        match read {
            Ok(n) if n > 0 => self.filled.notify(),
            // The slot and the page are somebody else's to have.
            Ok(_) | Err(_) => self.drained.notify(),
        }
        read.map(Some)
    }

    /// Writes at most `len` bytes to a file; waits for the first as `wait` says. Linux: `splice_from_pipe`.
    ///
    /// # Errors
    /// `EAGAIN`, the file's.
    pub fn give_file(&self, file: &OpenFile, place: Place, len: usize, wait: Wait) -> Result<usize> {
        self.wait_for_bytes(wait)?;
        let mut done = 0;
        let mut stopped = Ok(());
        while done < len {
            let mut first = match self.take_in_hand() {
                Taken::Buffer(first) => first,
                // Somebody was faster.
                Taken::Nothing if done == 0 => {
                    self.wait_for_bytes(wait)?;
                    continue;
                }
                Taken::Nothing | Taken::End => break,
            };
            let wanted = first.len.min(len - done);
            let mut at = done as u64;
            let passed = first.pass(wanted, |from| {
                let written = match place {
                    Place::Position => file.write(from),
                    Place::Offset(offset) => file.write_at(offset + at, from),
                }?;
                at += written as u64;
                Ok(written)
            });
            let n = *passed.as_ref().unwrap_or(&0);
            stopped = passed.map(drop);
            (first.start, first.len) = (first.start + n, first.len - n);
            self.put_back(first);
            done += n;
            if n < wanted {
                break;
            }
        }
        if done > 0 {
            return Ok(done);
        }
        stopped.map(|()| 0)
    }

    /// Takes the first buffer, if nobody has one: two that put back what is left would change its order.
    /// Readers find what comes after it.
    fn take_in_hand(&self) -> Taken {
        let mut state = self.state.lock();
        if state.in_hand > 0 {
            return Taken::Nothing;
        }
        match state.buffers.pop_front() {
            Some(first) => {
                state.in_hand += 1;
                Taken::Buffer(first)
            }
            None if state.is_at_end() => Taken::End,
            None => Taken::Nothing,
        }
    }

    /// Puts back what is left of a buffer, or the empty page.
    fn put_back(&self, buffer: Buffer) {
        {
            let mut state = self.state.lock();
            state.in_hand -= 1;
            if buffer.len > 0 {
                state.buffers.push_front(buffer);
            } else if let Some(page) = buffer.into_own() {
                state.keep(page);
            }
        }
        // Readers wait for what is in hand; it may have been the last.
        self.filled.notify();
        self.drained.notify();
    }

    /// Moves or lends at most `len` bytes to another pipe, by reference. Linux: `splice_pipe_to_pipe`,
    /// `link_pipe`.
    ///
    /// # Errors
    /// `EPIPE`, `EAGAIN`.
    pub fn give_pipe(
        self: &Arc<Self>,
        to: &Arc<Pipe>,
        len: usize,
        source: Source,
        wait: Wait,
    ) -> Result<usize> {
        loop {
            self.wait_for_bytes(wait)?;
            to.wait_for_room(wait)?;
            let (moved, ended) = {
                let (mut from_state, mut to_state) = lock_two(self, to);
                if to_state.readers == 0 {
                    return Err(EPIPE);
                }
                if !from_state.ensure_spare() {
                    return Err(ENOMEM);
                }
                let moved = match source {
                    _ if from_state.in_hand > 0 => 0,
                    Source::Goes => move_buffers(&mut from_state, &mut to_state, len),
                    Source::Stays => lend_buffers(&mut from_state, &mut to_state, len),
                };
                (moved, from_state.buffers.is_empty() && from_state.is_at_end())
            };
            if moved > 0 {
                to.filled.notify();
                if source == Source::Goes {
                    self.drained.notify();
                }
            }
            match (moved, wait) {
                (0, _) if ended => return Ok(0),
                (0, Wait::No) => return Err(EAGAIN),
                // Somebody was faster.
                (0, Wait::Yes) => {}
                _ => return Ok(moved),
            }
        }
    }
}

/// Locks two pipes.
fn lock_two<'a>(from: &'a Arc<Pipe>, to: &'a Arc<Pipe>) -> (MutexGuard<'a, State>, MutexGuard<'a, State>) {
    if Arc::as_ptr(from) < Arc::as_ptr(to) {
        let first = from.state.lock();
        (first, to.state.lock())
    } else {
        let first = to.state.lock();
        (from.state.lock(), first)
    }
}

fn move_buffers(from: &mut State, to: &mut State, len: usize) -> usize {
    let mut moved = 0;
    while moved < len
        && !to.is_full()
        && let Some(first) = from.buffers.pop_front()
    {
        let wanted = len - moved;
        if first.len <= wanted {
            moved += first.len;
            to.buffers.push_back(first);
            continue;
        }
        let (rest, part) = first.share(wanted);
        from.buffers.push_front(rest);
        from.consume(wanted);
        to.buffers.push_back(part);
        moved += wanted;
    }
    moved
}

fn lend_buffers(from: &mut State, to: &mut State, len: usize) -> usize {
    let mut lent = 0;
    for i in 0..from.buffers.len() {
        if lent >= len || to.is_full() {
            break;
        }
        let Some(buffer) = from.buffers.remove(i) else { break };
        let (buffer, part) = buffer.share(len - lent);
        from.buffers.insert(i, buffer);
        lent += part.len;
        to.buffers.push_back(part);
    }
    lent
}
