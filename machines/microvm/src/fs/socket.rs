//! Pairs of connected Unix sockets: two rings, one each way.

use super::file::{HUP, IN, OUT, Object, OpenFile, Ready, Wait};
use super::pipe::{Direction, Meeting, Pipe, PipeEnd};
use crate::arch::lock::SpinLock;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::EPIPE;
use anonmem_oslib::vfs::FileType;
use core::any::Any;
use linux_raw_sys::general as abi;

/// One of two connected stream sockets.
pub struct Socket {
    receive: SpinLock<Option<Arc<PipeEnd>>>,
    send: SpinLock<Option<Arc<PipeEnd>>>,
}

impl Socket {
    fn new(receive: Arc<PipeEnd>, send: Arc<PipeEnd>) -> Arc<Socket> {
        Arc::new(Socket { receive: SpinLock::new(Some(receive)), send: SpinLock::new(Some(send)) })
    }

    /// Ends receiving, sending or both (`shutdown`).
    pub fn shutdown(&self, direction: Direction) {
        let receive = if direction != Direction::Write { self.receive.lock().take() } else { None };
        let send = if direction != Direction::Read { self.send.lock().take() } else { None };
        drop((receive, send));
    }
}

impl Object for Socket {
    fn read(&self, to: &mut [u8], wait: Wait) -> Result<usize> {
        let end = self.receive.lock().clone();
        end.map_or(Ok(0), |end| end.read(to, wait))
    }

    fn write(&self, from: &[u8], wait: Wait) -> Result<usize> {
        let end = self.send.lock().clone();
        match end {
            Some(end) => end.write(from, wait),
            None => Err(EPIPE),
        }
    }

    fn ready(&self) -> Ready {
        let receive = self.receive.lock().as_ref().map_or(IN | HUP, |end| end.ready());
        let send = self.send.lock().as_ref().map_or(OUT, |end| end.ready());
        let ended = if receive & HUP != 0 { IN | abi::POLLRDHUP } else { 0 };
        receive | send | ended
    }

    fn readable(&self) -> Result<usize> {
        let end = self.receive.lock().clone();
        end.map_or(Ok(0), |end| end.readable())
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// Makes two connected sockets.
///
/// # Errors
/// `ENOMEM`.
pub fn pair(flags: u32) -> Result<(Arc<OpenFile>, Arc<OpenFile>)> {
    let (there, back) = (Pipe::new(Meeting::Skipped)?, Pipe::new(Meeting::Skipped)?);
    let end = |pipe: &Arc<Pipe>, direction| PipeEnd::new(pipe.clone(), direction);
    let a = Socket::new(end(&back, Direction::Read), end(&there, Direction::Write));
    let b = Socket::new(end(&there, Direction::Read), end(&back, Direction::Write));
    let open = |socket| OpenFile::anonymous(FileType::Socket, socket, b"socket:[unix]", abi::O_RDWR | flags);
    Ok((open(a), open(b)))
}
