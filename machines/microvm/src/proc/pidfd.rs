//! A process as a descriptor: `pidfd_open`.
//!
//! It names the process as long as it is open, whatever becomes of the number. Who polls it learns that the
//! process has ended. Linux: kernel/pid.c `pidfd_create`, fs/pidfs.c `pidfd_poll`.

use super::process::Process;
use super::table;
use crate::fs::file::{IN, Object, Ready};
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::errno::{EINVAL, ESRCH};
use core::any::Any;

/// The process behind a descriptor.
pub struct PidFd(Arc<Process>);

impl PidFd {
    /// Opens the process with this number.
    ///
    /// # Errors
    /// `ESRCH` if nobody has it, `EINVAL` if a thread has it that is not its process's first.
    pub fn open(pid: u32) -> Result<Arc<PidFd>> {
        match table::process(pid) {
            Some(process) => Ok(Arc::new(PidFd(process))),
            None if table::thread(pid).is_some() => Err(EINVAL),
            None => Err(ESRCH),
        }
    }

    /// The process.
    pub fn process(&self) -> &Arc<Process> {
        &self.0
    }
}

impl Object for PidFd {
    /// Whoever ends a process tells its parent, and so everybody who polls.
    fn ready(&self) -> Ready {
        let ended = self.0.life.lock().zombie.is_some();
        if ended { IN } else { 0 }
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
