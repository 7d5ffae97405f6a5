//! Two connected sockets that send bytes in a row: two pipes, and the descriptions that go along.
//!
//! Which bytes a parcel came with is noted under the lock of the pipe, with the bytes. So parcels are in the
//! order of their bytes, whoever sends at the same time, and nobody receives bytes of two parcels at once.

use super::file::{ERR, HUP, IN, OUT, Object, Ready, Wait};
use super::iov::{From, To};
use super::parcel::{Files, Parcel};
use super::pipe::{Direction, Meeting, Notes, Pipe, PipeEnd};
use crate::arch::lock::SpinLock;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{ENOBUFS, EPIPE};
use linux_raw_sys::general as abi;

/// What goes along with these bytes: none of them was received.
struct Sent {
    first: u64,
    end: u64,
    parcel: Parcel,
}

/// What goes along in one direction, and where. It changes only under the lock of the pipe.
#[derive(Default)]
struct Way {
    sent: u64,
    received: u64,
    parcels: VecDeque<Sent>,
}

/// Notes what goes along with bytes that are sent: with the first of them that fit.
struct Sending<'a> {
    way: &'a SpinLock<Way>,
    parcel: Option<Parcel>,
}

impl Notes for Sending<'_> {
    fn prepare(&mut self) -> Result<usize> {
        if self.parcel.is_some() {
            self.way.lock().parcels.try_reserve(1).map_err(|_| ENOBUFS)?;
        }
        Ok(usize::MAX)
    }

    fn moved(&mut self, n: usize) {
        let mut way = self.way.lock();
        let first = way.sent;
        way.sent += n as u64;
        let end = way.sent;
        if n > 0
            && let Some(parcel) = self.parcel.take()
        {
            way.parcels.push_back(Sent { first, end, parcel });
        }
    }
}

/// Finds what came along with bytes that are received, which are those of one parcel at most.
struct Receiving<'a> {
    way: &'a SpinLock<Way>,
    came: Option<Parcel>,
}

impl Notes for Receiving<'_> {
    fn prepare(&mut self) -> Result<usize> {
        let way = self.way.lock();
        Ok(way.parcels.front().map_or(usize::MAX, |sent| (sent.end - way.received) as usize))
    }

    fn moved(&mut self, n: usize) {
        let mut way = self.way.lock();
        way.received += n as u64;
        if way.parcels.front().is_some_and(|sent| sent.first < way.received) {
            self.came = way.parcels.pop_front().map(|sent| sent.parcel);
        }
    }
}

/// One of two; an end hangs up at `shutdown`.
pub struct Stream {
    receive: Arc<PipeEnd>,
    send: Arc<PipeEnd>,
    receives: Arc<SpinLock<Way>>,
    sends: Arc<SpinLock<Way>>,
}

impl Stream {
    /// Makes two.
    ///
    /// # Errors
    /// `ENFILE`.
    pub fn pair() -> Result<(Stream, Stream)> {
        let (there, back) = (Pipe::new(Meeting::Skipped)?, Pipe::new(Meeting::Skipped)?);
        let (goes, comes) = (Arc::<SpinLock<Way>>::default(), Arc::<SpinLock<Way>>::default());
        let end = |pipe: &Arc<Pipe>, direction| PipeEnd::new(pipe.clone(), direction);
        let other = Stream {
            receive: end(&there, Direction::Read),
            send: end(&back, Direction::Write),
            receives: goes.clone(),
            sends: comes.clone(),
        };
        let one = Stream {
            receive: end(&back, Direction::Read),
            send: end(&there, Direction::Write),
            receives: comes,
            sends: goes,
        };
        Ok((one, other))
    }

    /// Receives bytes, up to the end of the first that something came along with, and that. Linux:
    /// `unix_stream_read_generic`.
    ///
    /// # Errors
    /// A pipe's.
    pub fn receive(&self, to: &mut To<'_>, wait: Wait) -> Result<(usize, Files)> {
        let mut receiving = Receiving { way: &self.receives, came: None };
        let n = self.receive.pipe().read_noting(to, wait, &mut receiving)?;
        Ok((n, receiving.came.map_or_else(Files::new, Parcel::open)))
    }

    /// Sends bytes, and what goes along with them; with no bytes, nothing goes along.
    ///
    /// # Errors
    /// A pipe's; `EPIPE`, `ENOBUFS`.
    pub fn send(&self, from: &mut From<'_>, wait: Wait, parcel: Option<Parcel>) -> Result<usize> {
        if !self.send.is_open() {
            return Err(EPIPE);
        }
        self.send.pipe().write_noting(from, wait, &mut Sending { way: &self.sends, parcel })
    }

    /// Ends receiving, sending or both; whoever waits to do so waits no longer.
    pub fn shutdown(&self, direction: Direction) {
        if direction != Direction::Write {
            self.receive.hang_up();
        }
        if direction != Direction::Read {
            self.send.hang_up();
        }
    }

    /// Says what would not wait now.
    pub fn ready(&self) -> Ready {
        let (receive, send) = (self.receive.ready(), self.send.ready());
        let received_all = receive & HUP != 0 || !self.receive.is_open();
        let sent_all = send & ERR != 0 || !self.send.is_open();
        let ended = if received_all { IN | abi::POLLRDHUP } else { 0 };
        let writable = if sent_all { OUT } else { send & OUT };
        receive & IN | writable | ended | if received_all && sent_all { HUP } else { 0 }
    }

    /// Gives the number of bytes that can be received.
    ///
    /// # Errors
    /// None.
    pub fn readable(&self) -> Result<usize> {
        self.receive.readable()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Nobody sends more; what nobody receives goes now.
        self.receive.hang_up();
        let left = core::mem::take(&mut self.receives.lock().parcels);
        drop(left);
    }
}
