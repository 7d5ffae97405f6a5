//! Messages between two connected sockets: datagrams and sequenced packets.
//!
//! A message arrives whole or not at all; what the reader has no room for is lost, and so is a message that
//! could not be delivered to the reader's memory, as on Linux. Linux: net/unix/af_unix.c
//! `unix_dgram_sendmsg`.

use super::event::Event;
use super::file::{HUP, IN, OUT, Ready, Wait, block_on};
use super::iov::{From, To};
use crate::arch::mem::PAGE;
use crate::machine;
use crate::sched::Mutex;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{ECONNREFUSED, EFAULT, EMSGSIZE, ENOBUFS, EPIPE};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use linux_raw_sys::general as abi;

/// Bytes that wait in one direction at most, and what a message takes beside its own (net.core.wmem_default,
/// and the truesize of a small skb).
const ROOM: usize = 212_992;
const OVERHEAD: usize = 768;
/// The largest message.
const LARGEST: usize = ROOM - 32;

/// Whether a reader learns that nobody is left who could send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It does not: datagrams.
    Datagram,
    /// It does: sequenced packets.
    Sequenced,
}

/// What was received of a message.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Bytes that were delivered.
    pub n: usize,
    /// Bytes that the message had.
    pub len: usize,
}

/// Bytes of all messages. They may take a sixteenth of memory.
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// A message; its bytes count as long as it lives.
struct Message(Vec<u8>);

impl Message {
    /// Makes a message of zeros.
    ///
    /// # Errors
    /// `ENOBUFS` if there are too many, or memory has no room.
    fn new(len: usize) -> Result<Message> {
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
        let message = Message(bytes);
        found.map(|()| message).map_err(|_| ENOBUFS)
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        BYTES.fetch_sub(self.0.len() + OVERHEAD, Relaxed);
    }
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    reader_gone: bool,
    writer_gone: bool,
}

impl State {
    fn used(&self) -> usize {
        self.messages.iter().map(|message| message.0.len() + OVERHEAD).sum()
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

/// One of two connected sockets.
pub struct Packets {
    kind: Kind,
    receive: Arc<Way>,
    send: Arc<Way>,
}

impl Packets {
    /// Makes two connected sockets.
    pub fn pair(kind: Kind) -> (Packets, Packets) {
        let (there, back) = (Arc::<Way>::default(), Arc::<Way>::default());
        let other = Packets { kind, receive: there.clone(), send: back.clone() };
        (Packets { kind, receive: back, send: there }, other)
    }

    /// Receives one message.
    ///
    /// # Errors
    /// `EAGAIN`, `ERESTARTSYS`; `EFAULT`, and the message is gone.
    pub fn receive(&self, to: &mut To<'_>, wait: Wait) -> Result<Received> {
        let message = block_on(&self.receive.filled, wait, || {
            let mut state = self.receive.state.lock();
            match state.messages.pop_front() {
                Some(message) => Some(Ok(Some(message))),
                None if state.reader_gone => Some(Ok(None)),
                None if state.writer_gone && self.kind == Kind::Sequenced => Some(Ok(None)),
                None => None,
            }
        })?;
        let Some(message) = message else { return Ok(Received { n: 0, len: 0 }) };
        self.receive.drained.notify();
        let n = message.0.len().min(to.left());
        if to.put(&message.0[..n]) < n {
            return Err(EFAULT);
        }
        Ok(Received { n, len: message.0.len() })
    }

    /// Sends one message.
    ///
    /// # Errors
    /// `EMSGSIZE`, `EFAULT`, `EAGAIN`, `ERESTARTSYS`, `ENOBUFS`; `ECONNREFUSED` or `EPIPE` if nobody will
    /// receive it.
    pub fn send(&self, from: &mut From<'_>, wait: Wait) -> Result<usize> {
        let len = from.left();
        if len > LARGEST {
            return Err(EMSGSIZE);
        }
        let mut message = Message::new(len)?;
        from.take_whole(&mut message.0)?;
        let mut message = Some(message);
        block_on(&self.send.drained, wait, || {
            let mut state = self.send.state.lock();
            if state.reader_gone {
                return Some(Err(if self.kind == Kind::Sequenced { EPIPE } else { ECONNREFUSED }));
            }
            if state.writer_gone {
                return Some(Err(EPIPE));
            }
            if state.used() >= ROOM {
                return None;
            }
            if state.messages.try_reserve(1).is_err() {
                return Some(Err(ENOBUFS));
            }
            state.messages.extend(message.take());
            Some(Ok(()))
        })?;
        self.send.filled.notify();
        Ok(len)
    }

    /// Says what would not wait now.
    pub fn ready(&self) -> Ready {
        let (receive, send) = (self.receive.state.lock(), self.send.state.lock());
        let ended = receive.writer_gone && self.kind == Kind::Sequenced || receive.reader_gone;
        let readable = if !receive.messages.is_empty() || ended { IN } else { 0 };
        let writable = if send.used() < ROOM { OUT } else { 0 };
        readable | writable | if ended { HUP | abi::POLLRDHUP } else { 0 }
    }

    /// Gives the length of the first message.
    pub fn readable(&self) -> usize {
        self.receive.state.lock().messages.front().map_or(0, |message| message.0.len())
    }

    /// Ends receiving.
    pub fn end_receiving(&self) {
        self.receive.close(|state| state.reader_gone = true);
    }

    /// Ends sending.
    pub fn end_sending(&self) {
        self.send.close(|state| state.writer_gone = true);
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        self.end_receiving();
        self.end_sending();
    }
}
