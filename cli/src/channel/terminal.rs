//! The host's terminal: raw while a program has it for its own, and as it was when the guard goes.
//!
//! A terminal that stays raw shows nobody what they type. So the guard puts it back when it goes: at the end,
//! after an error, and when this process panics. Signals that would end this process are taken meanwhile
//! ([`Signals::with_terminal`](super::signals::Signals::with_terminal)); the session ends for them in order.

use std::os::fd::BorrowedFd;

use rustix::process::getpgrp;
use rustix::termios::{
    OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
};

/// Which standard streams are the terminal, and how large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Rows, columns, and the same in dots.
    pub size: [u16; 4],
    /// Standard input, output and error.
    pub streams: [bool; 3],
}

impl Terminal {
    /// Looks at the standard streams; `None` if standard input is no terminal, or if this process is in the
    /// background of one: then nobody types for it, and the terminal is another's.
    #[must_use]
    pub fn of(streams: [BorrowedFd<'_>; 3]) -> Option<Terminal> {
        let size = size(streams[0]).filter(|_| tcgetpgrp(streams[0]).ok() == Some(getpgrp()))?;
        Some(Terminal { size, streams: streams.map(isatty) })
    }

    /// Writes it as the kernel's start record has it.
    #[must_use]
    pub fn record(&self) -> String {
        let [rows, columns, width, height] = self.size;
        let digits = ["0", "1", "2"].iter().zip(self.streams);
        let streams: String =
            digits.filter(|(_, is_terminal)| *is_terminal).map(|(digit, _)| *digit).collect();
        format!("{rows} {columns} {width} {height} {streams}")
    }
}

/// The size of a terminal's window; `None` if it is no terminal.
#[must_use]
pub fn size(fd: BorrowedFd<'_>) -> Option<[u16; 4]> {
    let Winsize { ws_row, ws_col, ws_xpixel, ws_ypixel } = tcgetwinsize(fd).ok().filter(|_| isatty(fd))?;
    Some([ws_row, ws_col, ws_xpixel, ws_ypixel])
}

/// The terminal is raw until this is dropped.
#[derive(Debug)]
pub struct Raw<'a> {
    fd: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Raw<'a> {
    /// Makes the terminal raw; `None` if it cannot be made so.
    #[must_use]
    pub fn enter(fd: BorrowedFd<'a>) -> Option<Self> {
        let raw = Raw { fd, before: tcgetattr(fd).ok()? };
        raw.again();
        Some(raw)
    }

    /// Makes it raw once more: this process was stopped, and a shell has used it since.
    pub fn again(&self) {
        let mut raw = self.before.clone();
        raw.make_raw();
        // A terminal that has gone takes no settings, and needs none.
        let _ = tcsetattr(self.fd, OptionalActions::Drain, &raw);
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.fd, OptionalActions::Drain, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_as_the_kernel_reads_it() {
        let terminal = Terminal { size: [24, 80, 0, 7], streams: [true, false, true] };
        assert_eq!(terminal.record(), "24 80 0 7 02");
    }
}
