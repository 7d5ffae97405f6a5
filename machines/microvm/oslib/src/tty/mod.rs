//! Terminals: what happens to bytes between a keyboard and a program, and between a program and a screen.
//!
//! [`Line`] is the line discipline: it edits lines, shows what is typed, finds the characters that are
//! signals, and hands lines or single bytes to readers. It knows nobody: whoever calls it sends the signals
//! and wakes the sleepers. Linux: drivers/tty/n_tty.c.

mod erase;
mod line;
mod output;
mod termios;

pub use line::{Flow, Line};
pub use termios::{TERMIOS, TERMIOS2, Termios};

/// Bytes that a line discipline holds for readers. Linux: `N_TTY_BUF_SIZE`.
pub const LINE_ROOM: usize = 4096;

#[cfg(test)]
mod tests;
