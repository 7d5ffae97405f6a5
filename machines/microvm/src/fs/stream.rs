//! Two connected sockets that send bytes in a row: two pipes, and the descriptions that go along.

use super::file::{ERR, HUP, IN, OUT, Object, Ready, Wait};
use super::iov::{From, To};
use super::parcel::{Files, Parcel};
use super::pipe::{Direction, Meeting, Pipe, PipeEnd};
use crate::arch::lock::SpinLock;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{ENOBUFS, EPIPE};
use linux_raw_sys::general as abi;

/// What goes along with these bytes.
struct Sent {
    first: u64,
    end: u64,
    parcel: Parcel,
}

/// What goes along in one direction, and where.
#[derive(Default)]
struct Way {
    sent: u64,
    received: u64,
    parcels: VecDeque<Sent>,
}

/// One of two; each end is gone after `shutdown`.
pub struct Stream {
    receive: SpinLock<Option<Arc<PipeEnd>>>,
    send: SpinLock<Option<Arc<PipeEnd>>>,
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
        let end = |pipe: &Arc<Pipe>, direction| SpinLock::new(Some(PipeEnd::new(pipe.clone(), direction)));
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
        let end = self.receive.lock().clone();
        let Some(end) = end else { return Ok((0, Files::new())) };
        let until = {
            let way = self.receives.lock();
            way.parcels
                .front()
                .map_or(usize::MAX, |sent| sent.end.saturating_sub(way.received).max(1) as usize)
        };
        let n = match to {
            To::User(pieces) if pieces.left() > until => {
                pieces.truncate(until);
                end.read(to, wait)?
            }
            _ => end.read(to, wait)?,
        };
        let mut came = Vec::new();
        {
            let mut way = self.receives.lock();
            way.received += n as u64;
            while way.parcels.front().is_some_and(|sent| sent.first < way.received) {
                came.extend(way.parcels.pop_front().map(|sent| sent.parcel));
            }
        }
        Ok((n, came.into_iter().flat_map(Parcel::open).collect()))
    }

    /// Sends bytes, and what goes along with them.
    ///
    /// # Errors
    /// A pipe's; `EPIPE`, `ENOBUFS`.
    pub fn send(&self, from: &mut From<'_>, wait: Wait, parcel: Option<Parcel>) -> Result<usize> {
        let end = self.send.lock().clone().ok_or(EPIPE)?;
        let mut at = None;
        if let Some(parcel) = parcel {
            let mut way = self.sends.lock();
            if way.parcels.try_reserve(1).is_err() {
                drop(way);
                return Err(ENOBUFS);
            }
            let (first, end) = (way.sent, way.sent + from.left() as u64);
            way.parcels.push_back(Sent { first, end, parcel });
            at = Some(first);
        }
        let sent = end.write(from, wait);
        let mut way = self.sends.lock();
        match (&sent, at) {
            (Ok(n), at) => {
                way.sent += *n as u64;
                let sent = way.sent;
                if let Some(there) = way.parcels.iter_mut().rfind(|there| Some(there.first) == at) {
                    there.end = sent;
                }
            }
            (Err(_), Some(at)) => {
                // Nothing went, so nothing goes along.
                let place = way.parcels.iter().rposition(|there| there.first == at);
                let back = place.and_then(|place| way.parcels.remove(place));
                drop(way);
                drop(back);
            }
            (Err(_), None) => {}
        }
        sent
    }

    /// Ends receiving, sending or both.
    pub fn shutdown(&self, direction: Direction) {
        let receive = if direction != Direction::Write { self.receive.lock().take() } else { None };
        let send = if direction != Direction::Read { self.send.lock().take() } else { None };
        drop((receive, send));
    }

    /// Says what would not wait now.
    pub fn ready(&self) -> Ready {
        let (receive, send) = (self.receive.lock().clone(), self.send.lock().clone());
        let (receive, send) = (receive.map_or(HUP, |end| end.ready()), send.map_or(ERR, |end| end.ready()));
        let (received_all, sent_all) = (receive & HUP != 0, send & ERR != 0);
        let ended = if received_all { IN | abi::POLLRDHUP } else { 0 };
        let writable = if sent_all { OUT } else { send & OUT };
        receive & IN | writable | ended | if received_all && sent_all { HUP } else { 0 }
    }

    /// Gives the number of bytes that can be received.
    ///
    /// # Errors
    /// None.
    pub fn readable(&self) -> Result<usize> {
        let end = self.receive.lock().clone();
        end.map_or(Ok(0), |end| end.readable())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // What nobody receives goes now.
        let left = core::mem::take(&mut self.receives.lock().parcels);
        drop(left);
    }
}
