//! The kernel log: lines to COM1 while the channel is closed, to the host as LOG frames afterwards.
//!
//! Lines go through a ring, because the channel may sleep and the log may be written from anywhere (but
//! not under the scheduler's locks).

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::arch::lock::IrqLock;
use crate::arch::{power, serial};
use crate::console::{self, to_host};
use crate::sched::{self, Interruptible};

const LINE: usize = 512;
const LINES: usize = 64;

/// Writes one line to the kernel log; any context.
#[macro_export]
macro_rules! klog {
    ($($arg:tt)*) => { $crate::log::write(format_args!($($arg)*)) };
}

/// A line being made; what does not fit is cut off.
struct Line {
    bytes: [u8; LINE],
    len: usize,
}

impl Line {
    fn new(text: fmt::Arguments<'_>) -> Line {
        let mut line = Line { bytes: [0; LINE], len: 0 };
        // Cannot fail: `write_str` below does not.
        let _ = line.write_fmt(text);
        line
    }

    fn text(&self) -> &[u8] {
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
static PANICKING: AtomicBool = AtomicBool::new(false);

fn key() -> usize {
    core::ptr::from_ref(&RING) as usize
}

/// Writes one line (use [`klog!`](crate::klog)).
pub fn write(text: fmt::Arguments<'_>) {
    let line = Line::new(text);
    if !console::is_up() {
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
    if console::is_up() {
        sched::unpark(key(), 1);
    }
}

fn write_serial(line: &[u8]) {
    serial::write(b"anonmem: ");
    serial::write(line);
    serial::write(b"\r\n");
}

fn pop() -> Option<(usize, [u8; LINE])> {
    let mut ring = RING.lock();
    if ring.count == 0 {
        return None;
    }
    let (len, bytes) = ring.lines[ring.first];
    ring.first = (ring.first + 1) % LINES;
    ring.count -= 1;
    Some((len as usize, bytes))
}

/// Sends the lines that wait. Task context.
pub fn drain() {
    while let Some((len, bytes)) = pop() {
        console::send(to_host::LOG, &bytes[..len]);
    }
    let lost = core::mem::take(&mut RING.lock().lost);
    if lost > 0 {
        console::send(to_host::LOG, Line::new(format_args!("{lost} log lines lost")).text());
    }
}

/// The task that sends the log.
pub fn run(_: usize) {
    loop {
        drain();
        sched::park(key(), &|| RING.lock().count == 0, None, Interruptible::No);
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    x86_64::instructions::interrupts::disable();
    // The first panic speaks; one inside it, or on another CPU, only stops the machine.
    if !PANICKING.swap(true, SeqCst) {
        let line = Line::new(format_args!("kernel panic: {info}"));
        write_serial(line.text());
        console::send_last_words(line.text());
    }
    power::off(power::PANIC_CODE)
}

/// The precompiled `core` refers to the unwinder's hooks; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    power::off(power::PANIC_CODE)
}
