//! A socket as an open file: read, written and waited for.

use super::super::file::{HUP, IN, OUT, Object, OpenFile, Ready, Wait};
use super::super::iov::{From, To};
use super::super::link::{Amount, Link};
use super::super::parcel::Taking;
use super::{Kind, Role, Socket};
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::address::Family;
use anonmem_oslib::errno::{EINVAL, EPIPE};
use anonmem_oslib::vfs::FileType;
use core::any::Any;
use linux_raw_sys::general as abi;

impl Socket {
    /// Opens it.
    pub fn open(self: Arc<Self>, flags: u32) -> Arc<OpenFile> {
        let name: &[u8] = if self.family == Family::Unix { b"socket:[unix]" } else { b"socket:[inet]" };
        OpenFile::anonymous(FileType::Socket, self, name, abi::O_RDWR | flags)
    }
}

impl Object for Socket {
    fn read(&self, to: &mut To<'_>, wait: Wait) -> Result<usize> {
        self.receive(to, wait, (Taking::Away, Amount::Some)).map(|received| received.n)
    }

    fn write(&self, from: &mut From<'_>, wait: Wait) -> Result<usize> {
        match self.link() {
            Ok(Link::Stream(stream)) => stream.send(from, wait, None, self.signature(None)),
            Ok(Link::Packets(packets)) if self.family == Family::Inet => {
                self.send_datagram(&packets, from, None)
            }
            Ok(Link::Packets(packets)) => {
                self.send_message(&packets, from, wait, None, (None, self.signature(None)))
            }
            Err(_) if self.family == Family::Inet && self.kind == Kind::Stream => Err(EPIPE),
            Err(error) => Err(error),
        }
    }

    fn ready(&self) -> Ready {
        match self.role() {
            Role::Fresh if self.state.lock().ended_receiving() => OUT | HUP | IN | abi::POLLRDHUP,
            Role::Fresh => OUT | HUP,
            Role::Listening(backlog) => {
                let queue = backlog.state.lock();
                if queue.waiting.is_empty() && !queue.closed { 0 } else { IN }
            }
            Role::Connected(link) => link.ready(),
        }
    }

    fn changes(&self, of: Ready) -> u64 {
        match self.role() {
            Role::Fresh => 0,
            Role::Listening(backlog) => backlog.arrived.changes(),
            Role::Connected(link) => link.changes(of),
        }
    }

    fn readable(&self) -> Result<usize> {
        match self.role() {
            Role::Fresh | Role::Listening(_) => Err(EINVAL),
            Role::Connected(link) => link.readable(),
        }
    }

    fn queues(&self, each: &mut dyn FnMut(usize)) {
        if self.family != Family::Unix {
            return;
        }
        match self.role() {
            Role::Fresh => {}
            Role::Connected(link) => each(link.queue()),
            // Nobody else has those who wait.
            Role::Listening(backlog) => {
                backlog.state.lock().waiting.iter().for_each(|socket| socket.queues(each));
            }
        }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
