//! What passes between two sockets: bytes in a row, or messages.

use super::file::{Ready, Wait};
use super::iov::To;
use super::packets::{self, Packets, Received};
use super::parcel::{Credentials, Taking};
use super::pipe::Direction;
use super::stream::Stream;
use alloc::sync::Arc;
use anonmem_oslib::{Errno, Result};

/// How a socket sends; the values are those of `SOCK_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Bytes in a row.
    Stream = 1,
    /// Messages, to and from anybody.
    Datagram = 2,
    /// Messages in order.
    Sequenced = 5,
}

/// How much is received of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// What there is.
    Some,
    /// All that there is room for, before the end (`MSG_WAITALL`).
    All,
}

/// One end of it.
#[derive(Clone)]
pub enum Link {
    /// Bytes in a row.
    Stream(Arc<Stream>),
    /// Messages.
    Packets(Arc<Packets>),
}

impl Link {
    /// Makes both ends.
    ///
    /// # Errors
    /// `ENFILE`.
    pub fn pair(kind: Kind) -> Result<(Link, Link)> {
        let packets = |kind| {
            let (one, other) = Packets::pair(kind);
            (Link::Packets(Arc::new(one)), Link::Packets(Arc::new(other)))
        };
        Ok(match kind {
            Kind::Stream => {
                let (one, other) = Stream::pair()?;
                (Link::Stream(Arc::new(one)), Link::Stream(Arc::new(other)))
            }
            Kind::Datagram => packets(packets::Kind::Datagram),
            Kind::Sequenced => packets(packets::Kind::Sequenced),
        })
    }

    /// Receives bytes or one message.
    ///
    /// # Errors
    /// Those of a stream, or of messages.
    pub fn receive(&self, to: &mut To<'_>, wait: Wait, how: (Taking, Amount)) -> Result<Received> {
        match self {
            Link::Stream(stream) => {
                let mut all = match how.0 {
                    Taking::Away => stream.receive(to, wait)?,
                    Taking::Look => stream.look(to, wait)?,
                };
                while how == (Taking::Away, Amount::All) && all.n > 0 && to.left() > 0 && all.files.is_empty()
                {
                    match stream.receive(to, wait) {
                        Ok(more) if more.n > 0 => (all.n, all.files) = (all.n + more.n, more.files),
                        Ok(_) | Err(_) => break,
                    }
                }
                Ok(Received { n: all.n, len: all.n, files: all.files, from: None, who: all.who })
            }
            Link::Packets(packets) => packets.receive(to, wait, how.0),
        }
    }

    /// Says whether it wants to know who sends.
    pub fn set_credentials(&self, credentials: Credentials) {
        match self {
            Link::Stream(stream) => stream.set_credentials(credentials),
            Link::Packets(packets) => packets.set_credentials(credentials),
        }
    }

    /// Gives what the next call would fail with, which it then does not.
    pub fn take_error(&self) -> Option<Errno> {
        match self {
            Link::Packets(packets) => packets.take_error(),
            Link::Stream(_) => None,
        }
    }

    /// Ends receiving, sending or both.
    pub fn shutdown(&self, direction: Direction) {
        match self {
            Link::Stream(stream) => stream.shutdown(direction),
            Link::Packets(packets) => {
                if direction != Direction::Write {
                    packets.end_receiving();
                }
                if direction != Direction::Read {
                    packets.end_sending();
                }
            }
        }
    }

    /// Gives the number of the queue that it reads.
    pub fn queue(&self) -> usize {
        match self {
            Link::Stream(stream) => stream.queue(),
            Link::Packets(packets) => packets.queue(),
        }
    }

    /// Says what would not wait now.
    pub fn ready(&self) -> Ready {
        match self {
            Link::Stream(stream) => stream.ready(),
            Link::Packets(packets) => packets.ready(),
        }
    }

    /// Says how often something has come that may make it ready for `of`.
    pub fn changes(&self, of: Ready) -> u64 {
        match self {
            Link::Stream(stream) => stream.changes(of),
            Link::Packets(packets) => packets.changes(of),
        }
    }

    /// Gives the number of bytes that a read would find.
    ///
    /// # Errors
    /// None.
    pub fn readable(&self) -> Result<usize> {
        match self {
            Link::Stream(stream) => stream.readable(),
            Link::Packets(packets) => Ok(packets.readable()),
        }
    }
}
