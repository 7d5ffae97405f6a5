//! Signals by descriptor: `signalfd`.
//!
//! It holds a set of signals and none of them. Who reads or polls it is told of those that wait for the
//! thread that asks, and for its process; so a child that inherits the descriptor reads its own. Every signal
//! to a process wakes its threads that read or poll (`Process::signalled`), for they block it. A signal to a
//! thread kicks that thread anyway, and nobody else could read it.
//!
//! Linux: fs/signalfd.c. Differs: who polls by epoll is woken by signals of its own process, and not by those
//! of the process that has added the descriptor.

use super::current_thread;
use super::thread::try_current;
use crate::arch::lock::SpinLock;
use crate::fs::file::{IN, Object, Ready, Wait, block_on};
use crate::fs::iov::To;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::EINVAL;
use anonmem_oslib::sigframe::RECORD;
use anonmem_oslib::signal::SigSet;
use core::any::Any;

/// A set of signals that are read.
pub struct SignalFd {
    mask: SpinLock<SigSet>,
}

impl SignalFd {
    /// Makes one for the signals of `mask`; SIGKILL and SIGSTOP are left out.
    pub fn new(mask: SigSet) -> Arc<SignalFd> {
        Arc::new(SignalFd { mask: SpinLock::new(mask & !SigSet::UNBLOCKABLE) })
    }

    /// Changes which signals are read.
    pub fn set_mask(&self, mask: SigSet) {
        *self.mask.lock() = mask & !SigSet::UNBLOCKABLE;
    }

    fn mask(&self) -> SigSet {
        *self.mask.lock()
    }
}

impl Object for SignalFd {
    /// Reads whole records, as many as there are and have room; only the first is waited for.
    fn read(&self, to: &mut To<'_>, wait: Wait) -> Result<usize> {
        if to.left() < RECORD {
            return Err(EINVAL);
        }
        let thread = current_thread();
        let take = || thread.take_signal(self.mask());
        let first = block_on(&thread.process.signalled, wait, || take().map(Ok))?;
        // Taken before it is delivered, as on Linux: a signal whose record has no place is lost.
        let mut done = to.put_whole(&first.to_record())?;
        while to.left() >= RECORD
            && let Some(info) = take()
        {
            match to.put_whole(&info.to_record()) {
                Ok(n) => done += n,
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn ready(&self) -> Ready {
        let waits = |pending: SigSet| !(pending & self.mask()).is_empty();
        if try_current().is_some_and(|thread| waits(thread.pending())) { IN } else { 0 }
    }

    fn changes(&self, _of: Ready) -> u64 {
        try_current().map_or(0, |thread| thread.process.signalled.changes())
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
