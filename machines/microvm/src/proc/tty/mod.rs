//! Terminals: pseudo-terminals, and the console if the command's own standard input is a terminal.
//!
//! A terminal has a side that programs call their terminal, and a side of who types and looks: the master of
//! a pseudo-terminal, or the host. Between the two is the line discipline (`anonmem_oslib::tty`). Linux:
//! drivers/tty/tty_io.c, pty.c.
//!
//! Locks: `state` and `job` are never held together, and nobody touches a program's memory, allocates or
//! sends a signal under one. `job` comes before a process's `terminal`.

pub mod console;
mod control;
mod io;
mod names;
mod pty;
mod session;

pub use names::init;
pub use session::{Leaving, check_inherited, leave};

use super::groups;
use crate::arch::lock::SpinLock;
use crate::fs::event::Event;
use crate::fs::file::{Wait, block_on};
use crate::sched::Mutex;
use alloc::sync::Arc;
use anonmem_oslib::Result;
use anonmem_oslib::abi::makedev;
use anonmem_oslib::ring::Ring;
use anonmem_oslib::signal::SigSet;
use anonmem_oslib::tty::Line;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use session::Job;

/// Bytes that were typed and wait for the line discipline.
const TYPED: usize = 8192;
/// Bytes on their way to who looks.
const SCREEN: usize = 8192;
/// Memory of a terminal, about: its rings, and the line discipline's.
const BYTES: u64 = 32 << 10;
/// Device numbers of the sides of pseudo-terminals.
const SLAVES: u32 = 136;
const DEVICES: u32 = 5;

/// What a terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A pseudo-terminal, by its number.
    Pty(u32),
    /// The console: who types and looks is on the host.
    Console,
}

/// Whether who types and looks is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Up,
    Lost,
}

/// Whether programs may open the side that is theirs (`TIOCSPTLCK`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Latch {
    Locked,
    Free,
}

/// Who has the programs' side open.
#[derive(Clone, Copy, Debug, Default)]
struct Users {
    now: usize,
    ever: bool,
}

/// What a terminal's lock protects.
struct State {
    line: Line,
    typed: Ring,
    screen: Ring,
    /// `struct winsize`.
    size: [u8; 8],
    latch: Latch,
    users: Users,
    carrier: Carrier,
    /// Bytes that the host may still send (the console).
    credit: usize,
}

impl State {
    /// Lets the line discipline take what was typed, as far as it does; gives the signals that were meant.
    fn pump(&mut self) -> SigSet {
        let mut signals = SigSet::EMPTY;
        self.line.show_echo(&mut self.screen);
        while let Some(&byte) = self.typed.front().first() {
            let Some(meant) = self.line.take(byte) else { break };
            self.typed.consume(1);
            signals = signals | meant;
            self.line.show_echo(&mut self.screen);
        }
        signals
    }
}

/// What one writes at once, others do not write into: they wait for their turn, or until a signal comes.
/// Linux: `tty_write_lock`.
#[derive(Default)]
struct Turn {
    is_taken: AtomicBool,
    ended: Event,
}

/// The turn, until this is dropped.
struct Taken<'a>(&'a Turn);

impl Turn {
    /// Waits for it.
    ///
    /// # Errors
    /// `EAGAIN`, `ERESTARTSYS`.
    fn take(&self, wait: Wait) -> Result<Taken<'_>> {
        let take = || (!self.is_taken.swap(true, SeqCst)).then(|| Ok(Taken(self)));
        block_on(&self.ended, wait, take)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.is_taken.store(false, SeqCst);
        self.0.ended.notify();
    }
}

/// A terminal.
pub struct Tty {
    kind: Kind,
    state: SpinLock<State>,
    job: SpinLock<Job>,
    /// Anything changed: there is something to read, or room, or somebody has gone.
    changed: Event,
    /// Whose turn it is to write.
    writing: Turn,
    /// The same on the master's side.
    typing: Turn,
    /// Held while the console's output is handed to the host, so that it stays in order.
    handing: Mutex<()>,
}

impl Tty {
    fn new(kind: Kind, latch: Latch) -> Result<Arc<Tty>> {
        let state = State {
            line: Line::new()?,
            typed: Ring::new(TYPED)?,
            screen: Ring::new(SCREEN)?,
            size: [0; 8],
            latch,
            users: Users::default(),
            carrier: Carrier::Up,
            credit: 0,
        };
        Ok(Arc::new(Tty {
            kind,
            state: SpinLock::new(state),
            job: SpinLock::default(),
            changed: Event::new(),
            writing: Turn::default(),
            typing: Turn::default(),
            handing: Mutex::new(()),
        }))
    }

    /// Gives the number that `stat` and `/proc` tell.
    pub fn device(&self) -> u64 {
        match self.kind {
            Kind::Pty(number) => makedev(SLAVES, number),
            Kind::Console => makedev(DEVICES, 1),
        }
    }

    /// Changes the state, lets the line discipline go on, and tells everybody.
    fn act<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (value, signals) = {
            let mut state = self.state.lock();
            let value = change(&mut state);
            (value, state.pump())
        };
        self.after(signals);
        value
    }

    /// How often anything has changed.
    fn changes(&self) -> u64 {
        self.changed.changes()
    }

    /// What is to be done after the state changed and `signals` were meant.
    fn after(&self, mut signals: SigSet) {
        self.changed.notify();
        while let Some(signal) = signals.first() {
            signals.remove(signal);
            self.tell_foreground(signal);
        }
        if self.kind == Kind::Console {
            self.hand_over();
        }
    }

    /// Sends a signal to the group that the terminal is for.
    fn tell_foreground(&self, signal: u32) {
        let foreground = self.job.lock().foreground;
        if foreground != 0 {
            groups::tell(foreground, signal);
        }
    }

    fn is_hung_up(&self) -> bool {
        self.state.lock().carrier == Carrier::Lost
    }
}
