//! One conversation with a booted kernel, from the first frame to the end of the microVM.
//!
//! One thread, one `poll`: the channel, standard input (only while the kernel has given credit for it),
//! signals and the deadline. Standard output and error are written as they come; a slow reader slows
//! the guest down, through the channel.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGCONT, SIGWINCH};

use super::frame::{Decoder, FrameError, GuestFrame, HostFrame};
use super::signals::Signals;
use super::stdio::{self, Input, Written};
use super::terminal::{self, Raw};
use crate::progress::Progress;
use crate::watch::Watch;

/// Log lines kept for the report when the guest dies.
const LOG_LINES_KEPT: usize = 30;
/// Standard input is not read while so many bytes wait to be sent.
const MAX_UNSENT: usize = 64 * 1024;
/// How often the progress line moves.
const TICK: Duration = Duration::from_millis(100);
/// How long the microVM may take to power off after it told the status.
const POWER_OFF_GRACE: Duration = Duration::from_secs(20);
/// The signal that a closed pipe means to its writer.
const SIGPIPE: u32 = 13;

/// The host's ends of the streams.
#[derive(Debug)]
pub struct Streams<'a> {
    /// Where the program's input comes from.
    pub stdin: BorrowedFd<'a>,
    /// Where its output goes.
    pub stdout: BorrowedFd<'a>,
    /// Where its errors go, and the kernel's warnings.
    pub stderr: BorrowedFd<'a>,
}

/// Which kernel log lines are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Warnings, above all who was killed when memory ran out.
    Warnings,
    /// All of them.
    All,
}

/// How a conversation ended.
#[derive(Debug)]
pub enum End {
    /// The program ended with this status.
    Exit(i32),
    /// The channel closed without a status.
    Died,
    /// The kernel sent bytes that are no frame.
    Broken(FrameError),
    /// The deadline passed.
    Timeout,
    /// The user insisted, with this signal.
    Interrupted,
}

/// What a conversation brought.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The bill, as it came.
    pub bill: Vec<u8>,
    /// The last lines of the kernel log.
    pub log: Vec<String>,
}

/// A conversation.
pub struct Session<'a> {
    channel: &'a UnixStream,
    streams: Streams<'a>,
    signals: &'a mut Signals,
    progress: &'a mut Progress,
    log_level: LogLevel,
    deadline: Option<Instant>,
    decoder: Decoder,
    unsent: Vec<u8>,
    credit: usize,
    stdin_open: StdinState,
    stdout_open: OutputState,
    stderr_open: OutputState,
    interrupts: u32,
    status: Option<(i32, Instant)>,
    bill: Vec<u8>,
    log: Vec<String>,
    watch: Option<&'a mut Watch>,
    terminal: TerminalState<'a>,
}

/// What standard input is.
enum TerminalState<'a> {
    /// No terminal, or none that the program is to have.
    Absent,
    /// A terminal, as its user left it.
    Cooked,
    /// A terminal that the program has.
    Raw(Raw<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StdinState {
    Open,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutputState {
    Open,
    Closed,
}

impl OutputState {
    /// Writes `bytes` to the stream while somebody reads it. Says once that nobody does any more.
    fn write(&mut self, stream: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<Written> {
        if *self == Self::Closed {
            return Ok(Written::All);
        }
        let written = stdio::write_all(stream, bytes)?;
        if written == Written::Closed {
            *self = Self::Closed;
        }
        Ok(written)
    }
}

/// What `poll` found.
struct Readiness {
    channel_in: PollFlags,
    stdin: PollFlags,
    signals: PollFlags,
}

impl<'a> Session<'a> {
    /// Starts a conversation over a connected channel.
    ///
    /// # Errors
    ///
    /// The channel cannot be made non-blocking.
    pub fn new(
        channel: &'a UnixStream,
        streams: Streams<'a>,
        signals: &'a mut Signals,
        progress: &'a mut Progress,
        log_level: LogLevel,
        deadline: Option<Instant>,
    ) -> io::Result<Self> {
        channel.set_nonblocking(true)?;
        Ok(Self {
            channel,
            streams,
            signals,
            progress,
            log_level,
            deadline,
            decoder: Decoder::default(),
            unsent: Vec::new(),
            credit: 0,
            stdin_open: StdinState::Open,
            stdout_open: OutputState::Open,
            stderr_open: OutputState::Open,
            interrupts: 0,
            status: None,
            bill: Vec::new(),
            log: Vec::new(),
            watch: None,
            terminal: TerminalState::Absent,
        })
    }

    /// Hands the kernel's looks at what is used to `watch`.
    #[must_use]
    pub fn watched_by(mut self, watch: &'a mut Watch) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Gives the program the terminal that standard input is, once it runs.
    #[must_use]
    pub fn with_terminal(mut self) -> Self {
        self.terminal = TerminalState::Cooked;
        self
    }

    /// Carries everything until the microVM closes the channel, time runs out or the user insists.
    ///
    /// # Errors
    ///
    /// The host's streams or the channel failed in a way that is not the guest's.
    pub fn run(mut self) -> io::Result<Outcome> {
        let end = loop {
            if let Some(end) = self.step()? {
                break end;
            }
        };
        self.progress.finish();
        Ok(Outcome { end, bill: self.bill, log: self.log })
    }

    fn step(&mut self) -> io::Result<Option<End>> {
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now >= deadline) && self.status.is_none() {
            return Ok(Some(End::Timeout));
        }
        if let Some((status, since)) = self.status
            && now >= since + POWER_OFF_GRACE
        {
            return Ok(Some(End::Exit(status)));
        }
        self.progress.tick();
        self.send()?;
        let ready = self.wait(now)?;
        if !ready.signals.is_empty() && self.forward_signals() {
            return Ok(Some(End::Interrupted));
        }
        if !ready.stdin.is_empty() {
            self.forward_stdin();
        }
        if !ready.channel_in.is_empty() {
            return self.receive();
        }
        Ok(None)
    }

    /// Waits for something to do, at most until the next moment that matters.
    fn wait(&self, now: Instant) -> io::Result<Readiness> {
        let deadline = self.status.map(|(_, since)| since + POWER_OFF_GRACE).or(self.deadline);
        let until = deadline.map(|deadline| deadline.saturating_duration_since(now));
        let timeout =
            if self.progress.is_wanted() { Some(until.map_or(TICK, |u| u.min(TICK))) } else { until };
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });

        let wants_stdin =
            self.stdin_open == StdinState::Open && self.credit > 0 && self.unsent.len() < MAX_UNSENT;
        let mut channel_events = PollFlags::IN;
        if !self.unsent.is_empty() {
            channel_events |= PollFlags::OUT;
        }
        let mut fds = vec![PollFd::new(self.channel, channel_events)];
        fds.extend(self.signals.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let signals_end = fds.len();
        if wants_stdin {
            fds.push(PollFd::from_borrowed_fd(self.streams.stdin, PollFlags::IN));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Readiness {
            channel_in: fds[0].revents() & (PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            signals: fds[1..signals_end].iter().fold(PollFlags::empty(), |all, fd| all | fd.revents()),
            stdin: fds.get(signals_end).map_or(PollFlags::empty(), PollFd::revents),
        })
    }

    /// Sends what the channel takes without waiting.
    fn send(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.channel.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The microVM has gone; reading says so, after what it still had to say.
                Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    self.unsent.clear();
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Passes signals on; true if the user has insisted.
    fn forward_signals(&mut self) -> bool {
        for signal in self.signals.take() {
            match (signal, &self.terminal) {
                (SIGWINCH, _) => {
                    self.tell_size();
                    continue;
                }
                (SIGCONT, TerminalState::Raw(raw)) => {
                    raw.again();
                    self.tell_size();
                    continue;
                }
                (SIGCONT, _) => continue,
                _ => {}
            }
            self.interrupts += 1;
            if self.interrupts > 1 {
                return true;
            }
            HostFrame::Signal(signal.unsigned_abs()).encode(&mut self.unsent);
        }
        false
    }

    /// Tells the kernel the size of the window.
    fn tell_size(&mut self) {
        if let Some(size) = terminal::size(self.streams.stdin) {
            HostFrame::Window(size).encode(&mut self.unsent);
        }
    }

    /// Makes the terminal the program's.
    fn hand_terminal_over(&mut self) {
        if matches!(self.terminal, TerminalState::Cooked)
            && let Some(raw) = Raw::enter(self.streams.stdin)
        {
            self.terminal = TerminalState::Raw(raw);
            self.tell_size();
        }
    }

    /// Gives text of the command's own as the terminal needs it: raw, it does not go to the start of a line.
    fn own_text(&self, text: &str) -> String {
        match self.terminal {
            TerminalState::Raw(_) => text.replace('\n', "\r\n"),
            TerminalState::Absent | TerminalState::Cooked => text.to_string(),
        }
    }

    fn forward_stdin(&mut self) {
        let mut buffer = [0; 16 * 1024];
        let room = self.credit.min(buffer.len());
        match stdio::read(self.streams.stdin, &mut buffer[..room]) {
            Input::Bytes(count) => {
                self.credit -= count;
                HostFrame::Stdin(&buffer[..count]).encode(&mut self.unsent);
            }
            Input::End => {
                self.stdin_open = StdinState::Ended;
                HostFrame::StdinEof.encode(&mut self.unsent);
            }
            Input::NotYet => {}
        }
    }

    /// Reads from the channel and acts on whole frames.
    fn receive(&mut self) -> io::Result<Option<End>> {
        let mut buffer = [0; 64 * 1024];
        match (&mut &*self.channel).read(&mut buffer) {
            Ok(0) => return Ok(Some(self.closed())),
            Ok(count) => self.decoder.push(&buffer[..count]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Some(self.closed())),
            Err(e) => return Err(e),
        }
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => self.act(frame)?,
                Ok(None) => return Ok(None),
                Err(error) => return Ok(Some(End::Broken(error))),
            }
        }
    }

    fn closed(&self) -> End {
        self.status.map_or(End::Died, |(status, _)| End::Exit(status))
    }

    fn act(&mut self, frame: GuestFrame) -> io::Result<()> {
        match frame {
            GuestFrame::Stdout(bytes) => self.output(&bytes),
            GuestFrame::Stderr(bytes) => self.errors(&bytes),
            GuestFrame::Exit(status) => {
                self.status = Some((status, Instant::now()));
                Ok(())
            }
            GuestFrame::Bill(bytes) => {
                self.bill.extend_from_slice(&bytes);
                Ok(())
            }
            GuestFrame::Log(text) => text.lines().try_for_each(|line| self.log_line(line)),
            GuestFrame::Ready => {
                self.progress.finish();
                self.hand_terminal_over();
                Ok(())
            }
            GuestFrame::StdinWant(credit) => {
                self.credit = self.credit.saturating_add(credit as usize);
                Ok(())
            }
            GuestFrame::Sample(json) => {
                let text = self.watch.as_mut().map_or_else(String::new, |watch| watch.take(&json));
                self.progress.finish();
                let text = self.own_text(&text);
                self.stderr_open.write(self.streams.stderr, text.as_bytes()).map(drop)
            }
        }
    }

    /// Takes away what is shown of the run, before bytes of the program's.
    fn make_way(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.progress.finish();
        let text = self.watch.as_mut().map_or_else(String::new, |watch| watch.make_way(bytes));
        let text = self.own_text(&text);
        self.stderr_open.write(self.streams.stderr, text.as_bytes()).map(drop)
    }

    fn output(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.make_way(bytes)?;
        if self.stdout_open.write(self.streams.stdout, bytes)? == Written::Closed {
            HostFrame::Signal(SIGPIPE).encode(&mut self.unsent);
        }
        Ok(())
    }

    fn errors(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.make_way(bytes)?;
        self.stderr_open.write(self.streams.stderr, bytes).map(drop)
    }

    fn log_line(&mut self, line: &str) -> io::Result<()> {
        let (is_warning, line) = split_level(line);
        if self.log.len() == LOG_LINES_KEPT {
            self.log.remove(0);
        }
        self.log.push(line.to_string());
        if self.log_level == LogLevel::All || is_warning {
            let text = self.own_text(&format!("anonmem: kernel: {line}\n"));
            return self.errors(text.as_bytes());
        }
        Ok(())
    }
}

/// Splits a log line into whether it is a warning and its text. A level may precede it as in Linux's
/// kernel log: `<4>text`; warnings are 4 and below. Running out of memory is always one.
fn split_level(line: &str) -> (bool, &str) {
    let leveled = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    let (level, text) = match leveled.and_then(|(level, text)| Some((level.parse::<u8>().ok()?, text))) {
        Some((level, text)) => (level, text),
        None => (6, line),
    };
    (level <= 4 || text.to_ascii_lowercase().contains("out of memory"), text)
}

/// Waits until the microVM connects, the microVM ends (`gone`), time runs out or the user interrupts.
///
/// # Errors
///
/// The host failed.
pub fn wait_for_connection(
    listener: BorrowedFd<'_>,
    gone: BorrowedFd<'_>,
    signals: &mut Signals,
    progress: &mut Progress,
    deadline: Option<Instant>,
) -> io::Result<Connection> {
    loop {
        progress.tick();
        let now = Instant::now();
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Ok(Connection::Timeout);
        }
        let mut fds = vec![PollFd::new(&listener, PollFlags::IN), PollFd::new(&gone, PollFlags::IN)];
        fds.extend(signals.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
        match poll(&mut fds, Some(&tick)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [connected, ended] = [&fds[0], &fds[1]].map(|fd| !fd.revents().is_empty());
        if connected {
            return Ok(Connection::Ready);
        }
        if ended {
            return Ok(Connection::Gone);
        }
        if !signals.take().is_empty() {
            return Ok(Connection::Interrupted);
        }
    }
}

/// How waiting for the microVM's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It can be accepted.
    Ready,
    /// The microVM ended first.
    Gone,
    /// Time ran out.
    Timeout,
    /// The user interrupted.
    Interrupted,
}

/// Borrows the command's own standard streams.
#[must_use]
pub fn own_streams() -> Streams<'static> {
    Streams {
        stdin: rustix::stdio::stdin(),
        stdout: rustix::stdio::stdout(),
        stderr: rustix::stdio::stderr(),
    }
}

/// Borrows any file descriptors as the streams (for tests).
pub fn streams<'a>(stdin: &'a impl AsFd, stdout: &'a impl AsFd, stderr: &'a impl AsFd) -> Streams<'a> {
    Streams { stdin: stdin.as_fd(), stdout: stdout.as_fd(), stderr: stderr.as_fd() }
}

#[cfg(test)]
mod tests;
