//! Reading, writing and waiting, on both sides of a terminal.
//!
//! Bytes are taken out of a terminal before they are copied to a program: whose memory is not there loses
//! them, as on Linux, and nobody else waits for it.

use super::{Carrier, Kind, State, Tty};
use crate::arch::time;
use crate::fs::file::{ERR, HUP, IN, OUT, Ready, Wait, block_on};
use crate::fs::iov::{From, To};
use crate::sched::Interruptible;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EAGAIN, EFAULT, EIO, ENOMEM, ETIMEDOUT};
use anonmem_oslib::signal::{SIGTTIN, SIGTTOU};
use anonmem_oslib::tty::{Flow, LINE_ROOM};

/// Nanoseconds of a unit of `VTIME`.
const TENTH_NS: u64 = 100_000_000;

/// A buffer for a read of up to `len` bytes.
fn buffer(len: usize) -> Result<Vec<u8>> {
    let len = len.min(LINE_ROOM);
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| ENOMEM)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

fn tenths(n: u8) -> Option<u64> {
    (n > 0).then(|| time::now_ns() + u64::from(n) * TENTH_NS)
}

/// What a look for input found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    bytes: usize,
    /// A line, or the end: no more is waited for.
    whole: bool,
}

impl Tty {
    /// Reads what was typed: one line, or as many bytes as `VMIN` and `VTIME` say.
    ///
    /// # Errors
    /// `EIO`, `EAGAIN`, `EFAULT`, `ENOMEM`, `ERESTARTSYS`.
    pub(super) fn read(&self, to: &mut To<'_>, wait: Wait) -> Result<usize> {
        if self.is_hung_up() {
            return Ok(0);
        }
        self.check_job(SIGTTIN)?;
        if to.left() == 0 {
            return Ok(0);
        }
        let mut bytes = buffer(to.left())?;
        let (canonical, (min, time)) = {
            let state = self.state.lock();
            (state.line.settings().is_canonical(), state.line.settings().min_and_time())
        };
        // Without `VMIN`, the time runs from the start; with it, from the last byte.
        let mut deadline = if canonical || min > 0 { None } else { tenths(time) };
        let poll = !canonical && min == 0 && time == 0;
        let mut done = 0;
        loop {
            let len = bytes.len().min(to.left());
            let taken = match self.take(&mut bytes[..len], if poll { Some(0) } else { deadline }, wait) {
                Ok(taken) => taken,
                Err(ETIMEDOUT) => return Ok(done),
                Err(EAGAIN) if poll => return Ok(0),
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            };
            let put = to.put(&bytes[..taken.bytes]);
            done += put;
            if put < taken.bytes {
                return if done > 0 { Ok(done) } else { Err(EFAULT) };
            }
            if taken.whole || to.left() == 0 || done >= usize::from(min) {
                return Ok(done);
            }
            deadline = tenths(time);
        }
    }

    /// Takes what there is to read, once there is something. Who waits while the master goes learns of it;
    /// who comes later finds the end.
    ///
    /// # Errors
    /// `EIO`, `EAGAIN`, `ERESTARTSYS`, `ETIMEDOUT`.
    fn take(&self, to: &mut [u8], deadline: Option<u64>, wait: Wait) -> Result<Taken> {
        let mut look = || {
            let mut state = self.state.lock();
            if state.carrier == Carrier::Lost {
                return Some(match self.kind {
                    Kind::Pty(_) => Err(EIO),
                    Kind::Console => Ok(Taken { bytes: 0, whole: true }),
                });
            }
            let whole = state.line.settings().is_canonical();
            state.line.has_input(1).then(|| Ok(Taken { bytes: state.line.read(to), whole }))
        };
        let taken = match wait {
            Wait::No => look().unwrap_or(Err(EAGAIN)),
            Wait::Yes => self.changed.wait(deadline, Interruptible::Yes, look)?,
        }?;
        // There is room for what was typed meanwhile.
        self.act(|_| ());
        Ok(taken)
    }

    /// Writes to the screen.
    ///
    /// # Errors
    /// `EIO`, `EAGAIN`, `EFAULT`, `ENOMEM`, `ERESTARTSYS`.
    pub(super) fn write(&self, from: &mut From<'_>, wait: Wait) -> Result<usize> {
        let stops = {
            let state = self.state.lock();
            if state.carrier == Carrier::Lost {
                return Err(EIO);
            }
            state.line.settings().stops_writers()
        };
        if stops {
            self.check_job(SIGTTOU)?;
        }
        let put = |state: &mut State, bytes: &[u8]| match state.carrier {
            Carrier::Lost => Err(EIO),
            Carrier::Up => Ok(state.line.write(bytes, &mut state.screen)),
        };
        let _turn = self.writing.take(wait)?;
        from.drain_to(|_, bytes| self.put_all(bytes, wait, put))
    }

    /// Types, as the master of a pseudo-terminal.
    ///
    /// # Errors
    /// `EAGAIN`, `EFAULT`, `ENOMEM`, `ERESTARTSYS`.
    pub(super) fn type_in(&self, from: &mut From<'_>, wait: Wait) -> Result<usize> {
        let put = |state: &mut State, bytes: &[u8]| Ok(state.typed.write(bytes));
        let _turn = self.typing.take(wait)?;
        from.drain_to(|_, bytes| self.put_all(bytes, wait, put))
    }

    /// Puts all of `bytes` where `put` puts them, in pieces if it must.
    fn put_all(
        &self,
        bytes: &[u8],
        wait: Wait,
        put: impl Fn(&mut State, &[u8]) -> Result<usize>,
    ) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let piece = block_on(&self.changed, wait, || {
                let mut state = self.state.lock();
                match put(&mut state, &bytes[done..]) {
                    Ok(0) => None,
                    Ok(n) => Some(Ok((n, state.pump()))),
                    Err(error) => Some(Err(error)),
                }
            });
            match piece {
                Ok((n, signals)) => {
                    done += n;
                    self.after(signals);
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Looks at the screen, as the master of a pseudo-terminal.
    ///
    /// # Errors
    /// `EIO` if everybody has left the other side; `EAGAIN`, `EFAULT`, `ENOMEM`, `ERESTARTSYS`.
    pub(super) fn look(&self, to: &mut To<'_>, wait: Wait) -> Result<usize> {
        if to.left() == 0 {
            return Ok(0);
        }
        let mut bytes = buffer(to.left())?;
        let n = block_on(&self.changed, wait, || {
            let mut state = self.state.lock();
            match state.screen.read(&mut bytes) {
                0 if state.is_left() => Some(Err(EIO)),
                0 => None,
                n => Some(Ok(n)),
            }
        })?;
        self.act(|_| ());
        match to.put(&bytes[..n]) {
            0 => Err(EFAULT),
            put => Ok(put),
        }
    }

    /// Says what would not wait on the programs' side.
    pub(super) fn ready(&self) -> Ready {
        let state = self.state.lock();
        if state.carrier == Carrier::Lost {
            return IN | OUT | ERR | HUP;
        }
        let (min, time) = state.line.settings().min_and_time();
        let least = if time == 0 { usize::from(min) } else { 1 };
        let input = if state.line.has_input(least) { IN } else { 0 };
        // The console's output goes as fast as the host takes it.
        let room = state.screen.room() > 0 || self.kind == Kind::Console;
        input | if room && state.line.flow() == Flow::Goes { OUT } else { 0 }
    }

    /// Says what would not wait on the master's side.
    pub(super) fn master_ready(&self) -> Ready {
        let state = self.state.lock();
        let output = if state.screen.is_empty() { 0 } else { IN };
        let left = if state.is_left() { HUP } else { 0 };
        output | left | if state.typed.room() > 0 { OUT } else { 0 }
    }
}

impl State {
    /// Says whether programs had it open, and none has.
    fn is_left(&self) -> bool {
        self.users.ever && self.users.now == 0
    }
}
