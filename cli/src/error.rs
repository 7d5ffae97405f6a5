//! What can go wrong before, around and inside a run, as one line and an exit status.
//!
//! Every message says what to do about it where something can be done.

use std::fmt;

/// The exit status of a command line that cannot be carried out: a bad option, no such program, no
/// QEMU, no kernel.
pub const EXIT_USAGE: u8 = 2;
/// The exit status when the guest ended without telling the program's status (`EX_SOFTWARE`).
pub const EXIT_GUEST_DIED: u8 = 70;
/// The exit status of a measurement that others disturbed, and of a planted bug that was not found: done, and
/// not to be relied on.
pub const EXIT_UNSURE: u8 = 3;
/// The exit status when nobody reads the output any more (128 + SIGPIPE).
pub const EXIT_CLOSED_PIPE: u8 = 141;
/// The exit status when `--timeout` ended the run, as `timeout(1)` has it.
pub const EXIT_TIMEOUT: u8 = 124;
/// The exit status when a second interrupt ended the run (128 + SIGINT).
pub const EXIT_INTERRUPTED: u8 = 130;

/// An error of the command itself; the program's own failures are exit statuses.
#[derive(Debug)]
pub enum Error {
    /// The command line asks for something that cannot be done as it stands.
    Usage(String),
    /// The guest ended without an exit status; `log` holds its last words.
    GuestDied {
        /// How it ended.
        how: String,
        /// The last lines of the kernel log, of the serial line and of QEMU.
        log: Vec<String>,
    },
    /// `--timeout` ran out after this many seconds.
    Timeout(f64),
    /// The user interrupted twice.
    Interrupted,
    /// Nobody reads the output any more; nothing is to be said.
    ClosedPipe,
}

impl Error {
    /// Makes an [`Error::Usage`] from anything that prints.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(message.to_string())
    }

    /// Tells the exit status that this error ends the command with.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::GuestDied { .. } => EXIT_GUEST_DIED,
            Self::Timeout(_) => EXIT_TIMEOUT,
            Self::Interrupted => EXIT_INTERRUPTED,
            Self::ClosedPipe => EXIT_CLOSED_PIPE,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) => f.write_str(message),
            Self::GuestDied { how, log } => {
                write!(f, "{how}")?;
                for line in log {
                    write!(f, "\n  | {line}")?;
                }
                Ok(())
            }
            Self::Timeout(seconds) => {
                write!(f, "timed out after {seconds} s; the microVM was stopped (--timeout)")
            }
            Self::Interrupted => f.write_str("interrupted; the microVM was stopped"),
            Self::ClosedPipe => f.write_str("nobody reads the output any more"),
        }
    }
}

impl std::error::Error for Error {}

/// Makes one line of a parser's message: its first paragraph without the word "error", and what it guesses
/// was meant.
#[must_use]
pub fn one_line(message: &str) -> String {
    let lines = message.lines().map(str::trim).take_while(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let tips: Vec<_> = message.lines().filter_map(|line| line.trim().strip_prefix("tip: ")).collect();
    if tips.is_empty() { line.to_string() } else { format!("{line} ({})", tips.join("; ")) }
}

/// The result of a step of a run.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parsers_message_becomes_one_line() {
        let message = "error: the following were not provided:\n  <PROGRAM>\n\nUsage: x\n";
        assert_eq!(one_line(message), "the following were not provided: <PROGRAM>");
        let message = "error: no '--cpu'\n\n  tip: a similar argument exists: '--cpus'\n\nUsage: x\n";
        assert_eq!(one_line(message), "no '--cpu' (a similar argument exists: '--cpus')");
    }

    #[test]
    fn the_last_words_are_set_off() {
        let error = Error::GuestDied { how: "gone".into(), log: vec!["a".into(), "b".into()] };
        assert_eq!(error.to_string(), "gone\n  | a\n  | b");
        assert_eq!(error.exit_status(), 70);
        assert_eq!(Error::Timeout(1.5).exit_status(), 124);
        assert_eq!(Error::Interrupted.exit_status(), 130);
    }
}
