//! Two connected sockets that send bytes in a row: two pipes, and the descriptions that go along.
//!
//! Which bytes a parcel came with is noted under the lock of the pipe, with the bytes. So parcels are in the
//! order of their bytes, whoever sends at the same time, and nobody receives bytes of two parcels at once.

use super::file::{ERR, HUP, IN, OUT, Object, Ready, Wait, changes_of};
use super::iov::{From, To};
use super::parcel::{Credentials, Files, Parcel, Signature, Who};
use super::pipe::{Direction, Meeting, Notes, Pipe, PipeEnd};
use crate::arch::lock::SpinLock;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{ENOBUFS, EPIPE};
use linux_raw_sys::general as abi;

/// What goes along with these bytes.
struct Sent {
    first: u64,
    end: u64,
    /// Until the first of them is received.
    parcel: Option<Parcel>,
    /// Who has sent them.
    who: Option<Who>,
}

/// What goes along in one direction, and where. It changes only under the lock of the pipe.
#[derive(Default)]
struct Way {
    sent: u64,
    received: u64,
    parcels: VecDeque<Sent>,
    /// Whether the receiver wants to know who sends.
    credentials: Credentials,
}

/// Notes what goes along with bytes that are sent: with the first of them that fit.
struct Sending<'a> {
    way: &'a SpinLock<Way>,
    parcel: Option<Parcel>,
    signed: Signature,
}

impl Notes for Sending<'_> {
    fn prepare(&mut self) -> Result<usize> {
        let mut way = self.way.lock();
        if self.parcel.is_some() || self.signed.for_receiver(way.credentials).is_some() {
            way.parcels.try_reserve(1).map_err(|_| ENOBUFS)?;
        }
        Ok(usize::MAX)
    }

    fn moved(&mut self, n: usize) {
        let mut way = self.way.lock();
        let first = way.sent;
        way.sent += n as u64;
        let (end, parcel) = (way.sent, if n > 0 { self.parcel.take() } else { None });
        let who = self.signed.for_receiver(way.credentials);
        if n == 0 || parcel.is_none() && who.is_none() {
            return;
        }
        let has_room = way.parcels.len() < way.parcels.capacity();
        match way.parcels.back_mut() {
            Some(last) if parcel.is_none() && last.continues(first, who) => last.end = end,
            // Room was reserved, unless the receiver began to ask meanwhile: then nobody is named.
            _ if parcel.is_some() || has_room => way.parcels.push_back(Sent { first, end, parcel, who }),
            _ => {}
        }
    }
}

impl Sent {
    /// Whether bytes from `first` on, of the same sender, follow with nothing between.
    fn continues(&self, first: u64, who: Option<Who>) -> bool {
        self.parcel.is_none() && self.end == first && self.who == who
    }
}

impl Way {
    /// How many bytes are received at once: up to the end of those of one parcel, and of one sender if the
    /// receiver asks who that is.
    fn most(&self) -> usize {
        let asks = self.credentials == Credentials::Told;
        let Some(next) = self.parcels.iter().find(|sent| asks || sent.parcel.is_some()) else {
            return usize::MAX;
        };
        let end = if asks && next.first > self.received { next.first } else { next.end };
        (end - self.received) as usize
    }
}

/// Finds what came along with bytes that are received, which are those of one parcel at most.
struct Receiving<'a> {
    way: &'a SpinLock<Way>,
    came: Option<Parcel>,
    who: Option<Who>,
}

impl Notes for Receiving<'_> {
    fn prepare(&mut self) -> Result<usize> {
        Ok(self.way.lock().most())
    }

    fn moved(&mut self, n: usize) {
        let mut way = self.way.lock();
        way.received += n as u64;
        let received = way.received;
        while let Some(sent) = way.parcels.front_mut().filter(|sent| sent.first < received) {
            self.came = self.came.take().or_else(|| sent.parcel.take());
            self.who = self.who.or(sent.who);
            if sent.end > received && sent.who.is_some() {
                break;
            }
            way.parcels.pop_front();
        }
    }
}

/// What was received.
pub struct Arrived {
    /// Bytes.
    pub n: usize,
    /// Descriptions that came along.
    pub files: Files,
    /// Who has sent them, if that was told.
    pub who: Option<Who>,
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
    pub fn receive(&self, to: &mut To<'_>, wait: Wait) -> Result<Arrived> {
        let mut receiving = Receiving { way: &self.receives, came: None, who: None };
        let n = self.receive.pipe().read_noting(to, wait, &mut receiving)?;
        Ok(Arrived { n, files: receiving.came.map_or_else(Files::new, Parcel::open), who: receiving.who })
    }

    /// The same, and all stays for the next one.
    ///
    /// # Errors
    /// A pipe's.
    pub fn look(&self, to: &mut To<'_>, wait: Wait) -> Result<Arrived> {
        let mut receiving = Receiving { way: &self.receives, came: None, who: None };
        let n = self.receive.pipe().look_noting(to, wait, &mut receiving)?;
        let way = self.receives.lock();
        let seen = way.received + n as u64;
        let with = |sent: &&Sent| sent.first < seen;
        let files =
            way.parcels.iter().take_while(with).find_map(|sent| sent.parcel.as_ref()).map(Parcel::look);
        let who = way.parcels.front().filter(with).and_then(|sent| sent.who);
        Ok(Arrived { n, files: files.unwrap_or_default(), who })
    }

    /// Gives the number of the queue that it reads.
    pub fn queue(&self) -> usize {
        Arc::as_ptr(&self.receives).addr()
    }

    /// Says whether it wants to know who sends.
    pub fn set_credentials(&self, credentials: Credentials) {
        self.receives.lock().credentials = credentials;
    }

    /// Sends bytes, and what goes along with them; with no bytes, nothing goes along.
    ///
    /// # Errors
    /// A pipe's; `EPIPE`, `ENOBUFS`.
    pub fn send(
        &self,
        from: &mut From<'_>,
        wait: Wait,
        parcel: Option<Parcel>,
        signed: Signature,
    ) -> Result<usize> {
        if !self.send.is_open() {
            return Err(EPIPE);
        }
        if let Some(parcel) = &parcel {
            parcel.goes_to(Arc::as_ptr(&self.sends).addr());
        }
        self.send.pipe().write_noting(from, wait, &mut Sending { way: &self.sends, parcel, signed })
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

    /// Says how often something has come that may make it ready for `of`.
    pub fn changes(&self, of: Ready) -> u64 {
        changes_of(of, &self.receive.pipe().filled, &self.send.pipe().drained)
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
