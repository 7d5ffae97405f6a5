//! Signals that the user sends to the command: they go to the program first; a second one ends the run.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::SigId;
use signal_hook::consts::{
    SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGWINCH, SIGXCPU, SIGXFSZ,
};
use signal_hook::low_level::{pipe, unregister};

/// The signals that are passed on.
const FORWARDED: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Signals that matter, too, while the host's terminal is raw: its window changes, somebody else has used it,
/// or this process would end and leave it raw.
const OF_TERMINAL: [i32; 11] =
    [SIGWINCH, SIGCONT, SIGQUIT, SIGALRM, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGIO];

/// A pipe for each forwarded signal, to be polled with everything else.
#[derive(Debug)]
pub struct Signals {
    pipes: Vec<(i32, UnixStream, SigId)>,
}

impl Signals {
    /// Takes over the forwarded signals until this is dropped.
    ///
    /// # Errors
    ///
    /// The system has no more file descriptors.
    pub fn new() -> io::Result<Self> {
        Self { pipes: Vec::new() }.and(&FORWARDED)
    }

    /// Takes over the signals that matter to a terminal, too.
    ///
    /// # Errors
    ///
    /// The system has no more file descriptors.
    pub fn with_terminal(self) -> io::Result<Self> {
        self.and(&OF_TERMINAL)
    }

    fn and(mut self, signals: &[i32]) -> io::Result<Self> {
        for &signal in signals {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            self.pipes.push((signal, read, pipe::register(signal, write)?));
        }
        Ok(self)
    }

    /// Visits the file descriptors that become readable when a signal arrives.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pipes.iter().map(|(_, read, _)| read.as_fd())
    }

    /// Takes the signals that have arrived, each as often as it did.
    pub fn take(&mut self) -> Vec<i32> {
        let mut arrived = Vec::new();
        for (signal, read, _) in &mut self.pipes {
            let mut bytes = [0; 16];
            while let Ok(count) = read.read(&mut bytes) {
                if count == 0 {
                    break;
                }
                arrived.extend(std::iter::repeat_n(*signal, count));
            }
        }
        arrived
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for (_, _, id) in &self.pipes {
            unregister(*id);
        }
    }
}
