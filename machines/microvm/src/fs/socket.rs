//! Pairs of connected Unix sockets: streams, which are two pipes, and sockets that send messages.

use super::file::{HUP, IN, OUT, Object, OpenFile, Ready, Wait};
use super::iov::{From, To};
use super::packets::{Kind, Packets, Received};
use super::pipe::{Direction, Meeting, Pipe, PipeEnd};
use crate::arch::lock::SpinLock;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::EPIPE;
use anonmem_oslib::vfs::FileType;
use core::any::Any;
use linux_raw_sys::general as abi;

/// One of two connected sockets.
pub enum Socket {
    /// Bytes in a row.
    Stream(Stream),
    /// Messages.
    Packets(Packets),
}

/// A stream's ends; each is gone after `shutdown`.
pub struct Stream {
    receive: SpinLock<Option<Arc<PipeEnd>>>,
    send: SpinLock<Option<Arc<PipeEnd>>>,
}

impl Stream {
    fn new(receive: Arc<PipeEnd>, send: Arc<PipeEnd>) -> Stream {
        Stream { receive: SpinLock::new(Some(receive)), send: SpinLock::new(Some(send)) }
    }

    fn read(&self, to: &mut To<'_>, wait: Wait) -> Result<usize> {
        let end = self.receive.lock().clone();
        end.map_or(Ok(0), |end| end.read(to, wait))
    }

    fn write(&self, from: &mut From<'_>, wait: Wait) -> Result<usize> {
        let end = self.send.lock().clone();
        end.map_or(Err(EPIPE), |end| end.write(from, wait))
    }

    fn ready(&self) -> Ready {
        let (receive, send) = (self.receive.lock().clone(), self.send.lock().clone());
        let receive = receive.map_or(IN | HUP, |end| end.ready());
        let send = send.map_or(OUT, |end| end.ready());
        let ended = if receive & HUP != 0 { IN | abi::POLLRDHUP } else { 0 };
        receive | send | ended
    }
}

impl Socket {
    /// Receives bytes or one message.
    ///
    /// # Errors
    /// `EAGAIN`, `EFAULT`, `ERESTARTSYS`.
    pub fn receive(&self, to: &mut To<'_>, wait: Wait) -> Result<Received> {
        match self {
            Socket::Stream(stream) => stream.read(to, wait).map(|n| Received { n, len: n }),
            Socket::Packets(packets) => packets.receive(to, wait),
        }
    }

    /// Sends bytes or one message.
    ///
    /// # Errors
    /// `EPIPE`, `EAGAIN`, `EFAULT`, `ERESTARTSYS`; of messages, those of [`Packets::send`].
    pub fn send(&self, from: &mut From<'_>, wait: Wait) -> Result<usize> {
        match self {
            Socket::Stream(stream) => stream.write(from, wait),
            Socket::Packets(packets) => packets.send(from, wait),
        }
    }

    /// Ends receiving, sending or both (`shutdown`).
    pub fn shutdown(&self, direction: Direction) {
        let (receiving, sending) = (direction != Direction::Write, direction != Direction::Read);
        match self {
            Socket::Stream(stream) => {
                let receive = if receiving { stream.receive.lock().take() } else { None };
                let send = if sending { stream.send.lock().take() } else { None };
                drop((receive, send));
            }
            Socket::Packets(packets) => {
                if receiving {
                    packets.end_receiving();
                }
                if sending {
                    packets.end_sending();
                }
            }
        }
    }
}

impl Object for Socket {
    fn read(&self, to: &mut To<'_>, wait: Wait) -> Result<usize> {
        self.receive(to, wait).map(|received| received.n)
    }

    fn write(&self, from: &mut From<'_>, wait: Wait) -> Result<usize> {
        self.send(from, wait)
    }

    fn ready(&self) -> Ready {
        match self {
            Socket::Stream(stream) => stream.ready(),
            Socket::Packets(packets) => packets.ready(),
        }
    }

    fn readable(&self) -> Result<usize> {
        match self {
            Socket::Stream(stream) => {
                let end = stream.receive.lock().clone();
                end.map_or(Ok(0), |end| end.readable())
            }
            Socket::Packets(packets) => Ok(packets.readable()),
        }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

type Pair = (Arc<OpenFile>, Arc<OpenFile>);

/// Makes two connected streams.
///
/// # Errors
/// `ENFILE`.
pub fn streams(flags: u32) -> Result<Pair> {
    let (there, back) = (Pipe::new(Meeting::Skipped)?, Pipe::new(Meeting::Skipped)?);
    let end = |pipe: &Arc<Pipe>, direction| PipeEnd::new(pipe.clone(), direction);
    let a = Stream::new(end(&back, Direction::Read), end(&there, Direction::Write));
    let b = Stream::new(end(&there, Direction::Read), end(&back, Direction::Write));
    Ok((open(Socket::Stream(a), flags), open(Socket::Stream(b), flags)))
}

/// Makes two connected sockets for messages.
pub fn packets(kind: Kind, flags: u32) -> Pair {
    let (a, b) = Packets::pair(kind);
    (open(Socket::Packets(a), flags), open(Socket::Packets(b), flags))
}

fn open(socket: Socket, flags: u32) -> Arc<OpenFile> {
    OpenFile::anonymous(FileType::Socket, Arc::new(socket), b"socket:[unix]", abi::O_RDWR | flags)
}
