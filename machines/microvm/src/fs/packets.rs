//! Messages between sockets: datagrams and sequenced packets.
//!
//! A message arrives whole or not at all; what the reader has no room for is lost, and so is a message that
//! could not be delivered to the reader's memory, as on Linux. Linux: net/unix/af_unix.c
//! `unix_dgram_sendmsg`.

use super::event::Event;
use super::file::{ERR, HUP, IN, OUT, Ready, Wait, block_on, changes_of};
use super::iov::{From, To};
use super::parcel::{Credentials, Files, Parcel, Signature, Taking, Who};
use crate::arch::lock::SpinLock;
use crate::arch::mem::PAGE;
use crate::heap;
use crate::machine;
use crate::sched::Mutex;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::address::Address;
use anonmem_oslib::errno::{ECONNREFUSED, EFAULT, EMSGSIZE, ENOBUFS, ENOTCONN, EPIPE};
use anonmem_oslib::{Errno, Result};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use linux_raw_sys::general as abi;

/// Bytes that wait in one direction at most, and what a message takes beside its own (net.core.wmem_default,
/// and the truesize of a small skb).
const ROOM: usize = 212_992;
const OVERHEAD: usize = 768;
/// The largest message.
pub const LARGEST: usize = ROOM - 32;

/// Whether a reader learns that nobody is left who could send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It does not: datagrams.
    Datagram,
    /// It does: sequenced packets.
    Sequenced,
    /// It does not, and what finds no room or nobody is lost: datagrams over a network.
    Lossy,
}

/// What was received of a message.
pub struct Received {
    /// Bytes that were delivered.
    pub n: usize,
    /// Bytes that the message had.
    pub len: usize,
    /// Descriptions that came along.
    pub files: Files,
    /// Who sent it: his address.
    pub from: Option<Arc<Address>>,
    /// Who he is.
    pub who: Option<Who>,
}

impl Received {
    /// Nothing: the end.
    fn nothing() -> Received {
        Received { n: 0, len: 0, files: Files::new(), from: None, who: None }
    }
}

/// What a message has beside its bytes.
pub struct Letter<'a> {
    /// Whom it is for, if not the one that the socket is connected to.
    pub to: Option<&'a Packets>,
    /// The address of who sends it.
    pub from: &'a Arc<Address>,
    /// Descriptions that go along.
    pub parcel: Option<Parcel>,
    /// Who sends it.
    pub signed: Signature,
}

/// Bytes of all messages. They may take a sixteenth of memory.
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// A message; its bytes count as long as it lives.
struct Message {
    bytes: Vec<u8>,
    parcel: Option<Parcel>,
    from: Arc<Address>,
    who: Option<Who>,
}

impl Message {
    /// Makes a message of zeros.
    ///
    /// # Errors
    /// `ENOBUFS` if there are too many, or memory has no room.
    fn new(len: usize, parcel: Option<Parcel>, from: &Arc<Address>, who: Option<Who>) -> Result<Message> {
        if heap::is_short() {
            return Err(ENOBUFS);
        }
        let most = machine::nr_frames() as usize * PAGE as usize / 16;
        let may = |bytes| (bytes < most).then_some(bytes + len + OVERHEAD);
        BYTES.fetch_update(Relaxed, Relaxed, may).map_err(|_| ENOBUFS)?;
        let mut bytes = Vec::new();
        let found = bytes.try_reserve_exact(len);
        if found.is_ok() {
            bytes.resize(len, 0);
        } else {
            BYTES.fetch_sub(len, Relaxed);
        }
        let message = Message { bytes, parcel, from: from.clone(), who };
        found.map(|()| message).map_err(|_| ENOBUFS)
    }

    /// Delivers what there is room for, with these descriptions.
    fn deliver(&self, to: &mut To<'_>, files: Files) -> Result<Received> {
        let (n, len) = (self.bytes.len().min(to.left()), self.bytes.len());
        if to.put(&self.bytes[..n]) < n {
            return Err(EFAULT);
        }
        Ok(Received { n, len, files, from: Some(self.from.clone()), who: self.who })
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        BYTES.fetch_sub(self.bytes.len() + OVERHEAD, Relaxed);
    }
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    reader_gone: bool,
    /// The reader was closed, not only shut.
    closed: bool,
    writer_gone: bool,
    /// What the reader is told first.
    error: Option<Errno>,
    /// Whether the reader wants to know who sends.
    credentials: Credentials,
}

impl State {
    fn used(&self) -> usize {
        self.messages.iter().map(|message| message.bytes.len() + OVERHEAD).sum()
    }
}

/// One direction.
#[derive(Default)]
struct Way {
    state: Mutex<State>,
    filled: Event,
    drained: Event,
}

impl Way {
    fn close(&self, end: impl FnOnce(&mut State)) {
        end(&mut self.state.lock());
        self.filled.notify();
        self.drained.notify();
    }
}

/// Where messages went before.
#[must_use]
pub struct Before {
    _way: Option<Arc<Way>>,
}

/// A socket that sends messages. What it receives comes from the one that it is connected to; datagrams come
/// from anybody.
pub struct Packets {
    kind: Kind,
    receive: Arc<Way>,
    /// Where messages go that are sent to nobody in particular.
    send: SpinLock<Option<Arc<Way>>>,
    sent_all: AtomicBool,
}

impl Packets {
    /// Makes one that sends to nobody yet.
    pub fn alone(kind: Kind) -> Packets {
        let sent_all = AtomicBool::new(false);
        Packets { kind, receive: Arc::default(), send: SpinLock::new(None), sent_all }
    }

    /// Makes two that send to each other.
    pub fn pair(kind: Kind) -> (Packets, Packets) {
        let (one, other) = (Packets::alone(kind), Packets::alone(kind));
        drop(one.connect(Some(&other)));
        drop(other.connect(Some(&one)));
        (one, other)
    }

    /// Sends to `other` from now on, or to nobody in particular. What it gives is let go without a lock: it
    /// may be the last of a queue.
    pub fn connect(&self, other: Option<&Packets>) -> Before {
        let way = other.map(|other| other.receive.clone());
        Before { _way: core::mem::replace(&mut *self.send.lock(), way) }
    }

    /// Says whether it takes messages from `other`: who is connected hears nobody else. Linux:
    /// `unix_may_send`.
    pub fn hears(&self, other: &Packets) -> bool {
        self.send.lock().as_ref().is_none_or(|way| Arc::ptr_eq(way, &other.receive))
    }

    /// Says whether there is somebody in particular that it sends to.
    pub fn is_connected(&self) -> bool {
        self.send.lock().is_some()
    }

    /// Receives one message.
    ///
    /// # Errors
    /// `EAGAIN`, `ERESTARTSYS`; `EFAULT`, and the message is gone.
    pub fn receive(&self, to: &mut To<'_>, wait: Wait, taking: Taking) -> Result<Received> {
        let mut looked = None;
        let message = block_on(&self.receive.filled, wait, || {
            let mut state = self.receive.state.lock();
            if let Some(error) = state.error.take() {
                return Some(Err(error));
            }
            if taking == Taking::Look
                && let Some(message) = state.messages.front()
            {
                let files = message.parcel.as_ref().map_or_else(Files::new, Parcel::look);
                looked = Some(message.deliver(to, files));
                return Some(Ok(None));
            }
            match state.messages.pop_front() {
                Some(message) => Some(Ok(Some(message))),
                None if state.reader_gone => Some(Ok(None)),
                None if state.writer_gone && self.kind == Kind::Sequenced => Some(Ok(None)),
                None => None,
            }
        })?;
        let Some(mut message) = message else { return looked.unwrap_or_else(|| Ok(Received::nothing())) };
        self.receive.drained.notify();
        let parcel = message.parcel.take();
        let mut received = message.deliver(to, Files::new())?;
        received.files = parcel.map_or_else(Files::new, Parcel::open);
        Ok(received)
    }

    /// Gives the number of the queue that it reads.
    pub fn queue(&self) -> usize {
        Arc::as_ptr(&self.receive).addr()
    }

    /// Has the next call that sends or receives fail.
    pub fn fail_next(&self, error: Errno) {
        self.receive.close(|state| state.error = Some(error));
    }

    /// Takes back what the next call would fail with.
    pub fn take_error(&self) -> Option<Errno> {
        self.receive.state.lock().error.take()
    }

    /// Says whether it wants to know who sends.
    pub fn set_credentials(&self, credentials: Credentials) {
        self.receive.state.lock().credentials = credentials;
    }

    /// Sends one message, to the one that it is connected to or to another, with whose address it was sent.
    ///
    /// # Errors
    /// `EMSGSIZE`, `EFAULT`, `EAGAIN`, `ERESTARTSYS`, `ENOBUFS`; `ENOTCONN` if it is to go to nobody;
    /// `ECONNREFUSED` or `EPIPE` if nobody will receive it.
    pub fn send(&self, from: &mut From<'_>, wait: Wait, letter: Letter<'_>) -> Result<usize> {
        let len = from.left();
        if len > LARGEST {
            return Err(EMSGSIZE);
        }
        let way = match letter.to {
            Some(other) => other.receive.clone(),
            None => self.send.lock().clone().ok_or(ENOTCONN)?,
        };
        if let Some(parcel) = &letter.parcel {
            parcel.goes_to(Arc::as_ptr(&way).addr());
        }
        let who = letter.signed.for_receiver(way.state.lock().credentials);
        let mut message = Message::new(len, letter.parcel, letter.from, who)?;
        from.take_whole(&mut message.bytes)?;
        let mut message = Some(message);
        let sent = block_on(&way.drained, wait, || {
            let mut state = way.state.lock();
            if self.sent_all.load(Relaxed) {
                return Some(Err(EPIPE));
            }
            if state.reader_gone {
                let is_shut = self.kind == Kind::Datagram && !state.closed;
                return Some(Err(if self.kind == Kind::Sequenced || is_shut { EPIPE } else { ECONNREFUSED }));
            }
            if state.used() >= ROOM {
                return (self.kind == Kind::Lossy).then_some(Ok(()));
            }
            if state.messages.try_reserve(1).is_err() {
                return Some(Err(ENOBUFS));
            }
            state.messages.extend(message.take());
            Some(Ok(()))
        });
        if sent == Err(ECONNREFUSED) && letter.to.is_none() {
            self.forget(&way);
        }
        sent?;
        way.filled.notify();
        Ok(len)
    }

    /// Whom it sent to has gone: it sends to nobody, if not to another already.
    fn forget(&self, way: &Arc<Way>) {
        let mut send = self.send.lock();
        // The caller has the queue too: this is not the last of it.
        if send.as_ref().is_some_and(|there| Arc::ptr_eq(there, way)) {
            *send = None;
        }
    }

    /// Says what would not wait now.
    pub fn ready(&self) -> Ready {
        let (readable, ended, failed) = {
            let receive = self.receive.state.lock();
            let ended = receive.writer_gone && self.kind == Kind::Sequenced || receive.reader_gone;
            (!receive.messages.is_empty() || ended, ended, receive.error.is_some())
        };
        let way = self.send.lock().clone();
        let has_room = way.is_none_or(|way| way.state.lock().used() < ROOM);
        let readable = if readable { IN } else { 0 };
        let failed = if failed { ERR } else { 0 };
        readable | failed | if has_room { OUT } else { 0 } | if ended { HUP | abi::POLLRDHUP } else { 0 }
    }

    /// Says how often something has come that may make it ready for `of`.
    pub fn changes(&self, of: Ready) -> u64 {
        let way = self.send.lock().clone();
        changes_of(of, &self.receive.filled, way.as_ref().map_or(&Event::new(), |way| &way.drained))
    }

    /// Gives the length of the first message.
    pub fn readable(&self) -> usize {
        self.receive.state.lock().messages.front().map_or(0, |message| message.bytes.len())
    }

    /// Ends receiving.
    pub fn end_receiving(&self) {
        self.receive.close(|state| state.reader_gone = true);
    }

    /// Ends sending.
    pub fn end_sending(&self) {
        self.sent_all.store(true, Relaxed);
        let way = self.send.lock().clone();
        match (way, self.kind) {
            (Some(way), Kind::Sequenced) => way.close(|state| state.writer_gone = true),
            // A datagram may come from anybody: nobody is the last. But who waits for room learns of it.
            (Some(way), Kind::Datagram) => way.drained.notify(),
            (Some(_), Kind::Lossy) | (None, Kind::Sequenced | Kind::Datagram | Kind::Lossy) => {}
        }
        self.receive.drained.notify();
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        self.receive.state.lock().closed = true;
        self.end_receiving();
        self.end_sending();
        // Those who are connected to it still keep the queue.
        let left = core::mem::take(&mut self.receive.state.lock().messages);
        drop(left);
    }
}
