//! The kernel log: lines to COM1 while the channel is closed, to the host as LOG frames afterwards.
//!
//! Lines go through a ring, because the channel may sleep and the log may be written from anywhere (but
//! not under the scheduler's locks). The channel lies above the log: it says when it is open, and takes the
//! lines out.

use core::fmt::{self, Write};

use spin::Once;

use crate::arch::lock::IrqLock;
use crate::arch::serial;

/// Bytes of a line at most.
pub const LINE: usize = 512;
const LINES: usize = 64;

/// Writes one line to the kernel log; any context.
#[macro_export]
macro_rules! klog {
    ($($arg:tt)*) => { $crate::log::write(format_args!($($arg)*)) };
}

/// A line being made; what does not fit is cut off.
pub struct Line {
    bytes: [u8; LINE],
    len: usize,
}

impl Line {
    /// Formats a line.
    pub fn new(text: fmt::Arguments<'_>) -> Line {
        let mut line = Line { bytes: [0; LINE], len: 0 };
        // Cannot fail: `write_str` below does not.
        let _ = line.write_fmt(text);
        line
    }

    /// The line.
    pub fn text(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let len = text.len().min(LINE - self.len);
        self.bytes[self.len..self.len + len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

struct Ring {
    lines: [(u16, [u8; LINE]); LINES],
    first: usize,
    count: usize,
    lost: usize,
}

static RING: IrqLock<Ring> =
    IrqLock::new(Ring { lines: [(0, [0; LINE]); LINES], first: 0, count: 0, lost: 0 });
/// Wakes whoever sends lines to the host; empty while the channel is closed.
static WAKE: Once<fn()> = Once::new();

/// The channel is open: from now on lines go there, and `wake` is called for each.
pub fn channel_is_open(wake: fn()) {
    WAKE.call_once(|| wake);
}

/// Writes one line (use [`klog!`](crate::klog)).
pub fn write(text: fmt::Arguments<'_>) {
    let line = Line::new(text);
    let wake = WAKE.get();
    if wake.is_none() {
        write_serial(line.text());
    }
    let mut ring = RING.lock();
    if ring.count == LINES {
        ring.lost += 1;
        return;
    }
    let slot = (ring.first + ring.count) % LINES;
    ring.lines[slot] = (line.len as u16, line.bytes);
    ring.count += 1;
    drop(ring);
    if let Some(wake) = wake {
        wake();
    }
}

/// Writes a line to COM1.
pub fn write_serial(line: &[u8]) {
    serial::write(b"anonmem: ");
    serial::write(line);
    serial::write(b"\r\n");
}

/// Takes the oldest line that waits: its length and bytes.
pub fn pop() -> Option<(usize, [u8; LINE])> {
    let mut ring = RING.lock();
    if ring.count == 0 {
        return None;
    }
    let (len, bytes) = ring.lines[ring.first];
    ring.first = (ring.first + 1) % LINES;
    ring.count -= 1;
    Some((len as usize, bytes))
}

/// Whether no line waits.
pub fn is_empty() -> bool {
    RING.lock().count == 0
}

/// How many lines found no room since this was asked last.
pub fn take_lost() -> usize {
    core::mem::take(&mut RING.lock().lost)
}
