//! The line discipline: from what is typed to what is read.

use super::LINE_ROOM;
use super::output::{self, Cursor, to_lower};
use super::termios::{DISABLED, Termios};
use crate::Result;
use crate::errno::ENOMEM;
use crate::ring::Ring;
use crate::signal::{SIGINT, SIGQUIT, SIGTSTP, SigSet};
use alloc::vec::Vec;
use linux_raw_sys::general as abi;

/// Whether output goes on (`IXON`, `TCXONC`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Goes,
    /// It waits for a character to be typed.
    Stopped,
    /// It waits for a program to let it go on, whatever is typed.
    Held,
}

/// How a byte that is kept is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShownAs {
    /// As `^X`, if it is a control character and `ECHOCTL` says so.
    Character,
    /// As a new line: it was a return.
    NewLine,
}

/// What becomes of a byte that waits to be edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Typed {
    /// As ever.
    Plain,
    /// The one before was `VLNEXT`: it means nothing but itself.
    Quoted,
}

/// A line discipline. All of its memory is there from the start: nothing that is typed needs more.
pub struct Line {
    settings: Termios,
    /// Bytes that wait for a reader, the line that is being typed last.
    bytes: Vec<u8>,
    /// Which of `bytes` end a line.
    ends: Vec<u8>,
    /// Positions count up and are taken modulo the room: read so far, ends of lines, typed so far.
    pub(super) tail: usize,
    pub(super) lines: usize,
    pub(super) head: usize,
    /// What is to be shown of what was typed.
    echo: Ring,
    pub(super) cursor: Cursor,
    next: Typed,
    /// Within what `ECHOPRT` shows as erased.
    pub(super) erasing: bool,
    flow: Flow,
}

impl Line {
    /// Makes one with the settings of a new terminal.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Line> {
        let zeros = |len: usize| {
            let mut zeros = Vec::new();
            zeros.try_reserve_exact(len).map_err(|_| ENOMEM)?;
            zeros.resize(len, 0);
            Ok(zeros)
        };
        Ok(Line {
            settings: Termios::COOKED,
            bytes: zeros(LINE_ROOM)?,
            ends: zeros(LINE_ROOM / 8)?,
            tail: 0,
            lines: 0,
            head: 0,
            echo: Ring::new(LINE_ROOM)?,
            cursor: Cursor::default(),
            next: Typed::Plain,
            erasing: false,
            flow: Flow::Goes,
        })
    }

    /// Gives the settings.
    pub fn settings(&self) -> &Termios {
        &self.settings
    }

    /// Changes the settings. What waits becomes a line, or loses its ends, when `ICANON` changes.
    pub fn set(&mut self, settings: Termios) {
        let changed = (self.settings.local ^ settings.local) & (abi::ICANON | abi::EXTPROC) != 0;
        if !settings.input(abi::IXON) && self.settings.input(abi::IXON) {
            self.start();
        }
        self.settings = settings;
        if !changed {
            return;
        }
        self.ends.fill(0);
        self.erasing = false;
        self.next = Typed::Plain;
        self.lines = self.tail;
        if settings.local(abi::ICANON) && self.head != self.tail {
            self.mark_end(self.head - 1);
            self.lines = self.head;
        }
    }

    /// Says whether output goes on.
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// A program makes output wait (`TCOOFF`).
    pub fn hold(&mut self) {
        self.flow = Flow::Held;
    }

    /// A program lets go of output that one has held (`TCOON`); what was typed stays.
    pub fn release(&mut self) {
        if self.flow == Flow::Held {
            self.flow = Flow::Goes;
        }
    }

    /// What is typed makes output wait.
    fn stop(&mut self) {
        if self.flow == Flow::Goes {
            self.flow = Flow::Stopped;
        }
    }

    /// What is typed lets output go on, unless a program holds it.
    fn start(&mut self) {
        if self.flow == Flow::Stopped {
            self.flow = Flow::Goes;
        }
    }

    /// The same for any character, if `IXANY` says so.
    fn start_for_any(&mut self) {
        if self.settings.input(abi::IXON) && self.settings.input(abi::IXANY) {
            self.start();
        }
    }

    pub(super) fn at(&self, position: usize) -> u8 {
        self.bytes[position % LINE_ROOM]
    }

    fn is_end(&self, position: usize) -> bool {
        let at = position % LINE_ROOM;
        self.ends[at / 8] & 1 << (at % 8) != 0
    }

    fn mark_end(&mut self, position: usize) {
        let at = position % LINE_ROOM;
        self.ends[at / 8] |= 1 << (at % 8);
    }

    fn put(&mut self, byte: u8) {
        self.bytes[self.head % LINE_ROOM] = byte;
        let at = self.head % LINE_ROOM;
        self.ends[at / 8] &= !(1 << (at % 8));
        self.head += 1;
    }

    /// Forgets what was typed and not read. What comes next stays quoted.
    pub fn flush(&mut self) {
        (self.tail, self.lines, self.erasing) = (self.head, self.head, false);
        self.ends.fill(0);
    }

    /// Makes room for one byte; says whether there is some. A line that is too long loses its last byte, so
    /// that it can still be ended.
    fn make_room(&mut self) -> bool {
        let used = self.head - self.tail;
        if used + 1 < LINE_ROOM {
            return true;
        }
        let endless = self.settings.local(abi::ICANON) && self.lines == self.tail;
        if endless && used == LINE_ROOM {
            self.head -= 1;
        }
        endless
    }

    /// Takes a byte that was typed; gives the signal that it means, if it means one. `None`: there is no
    /// room, the byte stays with the caller.
    pub fn take(&mut self, byte: u8) -> Option<SigSet> {
        if !self.make_room() {
            return None;
        }
        let byte = if self.settings.input(abi::ISTRIP) { byte & 0x7f } else { byte };
        let lower = self.settings.input(abi::IUCLC) && self.settings.local(abi::IEXTEN);
        let byte = if lower { to_lower(byte) } else { byte };
        if self.settings.local(abi::EXTPROC) {
            self.put(byte);
        } else if core::mem::replace(&mut self.next, Typed::Plain) == Typed::Quoted {
            self.start_for_any();
            self.keep(byte, ShownAs::Character);
        } else {
            return Some(self.take_plain(byte));
        }
        Some(SigSet::EMPTY)
    }

    fn take_plain(&mut self, byte: u8) -> SigSet {
        let settings = self.settings;
        if settings.input(abi::IXON) {
            if settings.is(abi::VSTART, byte) {
                self.start();
                return SigSet::EMPTY;
            }
            if settings.is(abi::VSTOP, byte) {
                self.stop();
                return SigSet::EMPTY;
            }
        }
        if let Some(signal) = self.signal_of(byte) {
            self.signal(byte);
            return SigSet::of(signal);
        }
        self.start_for_any();
        let (byte, shown) = match byte {
            b'\r' if settings.input(abi::IGNCR) => return SigSet::EMPTY,
            b'\r' if settings.input(abi::ICRNL) => (b'\n', ShownAs::NewLine),
            b'\n' if settings.input(abi::INLCR) => (b'\r', ShownAs::Character),
            byte => (byte, ShownAs::Character),
        };
        if !(settings.local(abi::ICANON) && self.edit(byte)) {
            self.keep(byte, shown);
        }
        SigSet::EMPTY
    }

    fn signal_of(&self, byte: u8) -> Option<u32> {
        let all = [(abi::VINTR, SIGINT), (abi::VQUIT, SIGQUIT), (abi::VSUSP, SIGTSTP)];
        let found = all.iter().find(|(which, _)| self.settings.is(*which, byte));
        found.filter(|_| self.settings.local(abi::ISIG)).map(|(_, signal)| *signal)
    }

    /// What a character that is a signal does to the line.
    fn signal(&mut self, byte: u8) {
        if !self.settings.local(abi::NOFLSH) {
            self.flush();
            self.echo.consume(self.echo.len());
        }
        if self.settings.input(abi::IXON) {
            self.start();
        }
        if self.settings.local(abi::ECHO) {
            self.echo_char(byte);
        }
    }

    /// Does what a character of canonical mode means; says whether it means anything.
    fn edit(&mut self, byte: u8) -> bool {
        let settings = self.settings;
        let extended = |which| settings.local(abi::IEXTEN) && settings.is(which, byte);
        if settings.is(abi::VERASE, byte) || settings.is(abi::VKILL, byte) || extended(abi::VWERASE) {
            self.erase(byte);
        } else if extended(abi::VLNEXT) {
            self.next = Typed::Quoted;
            if settings.local(abi::ECHO) {
                self.finish_erasing();
                if settings.local(abi::ECHOCTL) {
                    self.echo_raw(b'^');
                    self.echo_raw(8);
                }
            }
        } else if settings.local(abi::ECHO) && extended(abi::VREPRINT) {
            self.finish_erasing();
            self.echo_char(byte);
            self.echo_raw(b'\n');
            (self.lines..self.head).for_each(|position| self.echo_char(self.at(position)));
        } else if byte == b'\n' {
            if settings.local(abi::ECHO | abi::ECHONL) {
                self.echo_raw(b'\n');
            }
            self.end_line(byte);
        } else if settings.is(abi::VEOF, byte) {
            self.end_line(DISABLED);
        } else if settings.is(abi::VEOL, byte) || extended(abi::VEOL2) {
            if settings.local(abi::ECHO) {
                self.note_start();
                self.echo_char(byte);
            }
            self.end_line(byte);
        } else {
            return false;
        }
        true
    }

    fn end_line(&mut self, byte: u8) {
        self.put(byte);
        self.mark_end(self.head - 1);
        self.lines = self.head;
    }

    /// Keeps a byte that means itself, and shows it.
    fn keep(&mut self, byte: u8, shown: ShownAs) {
        if self.settings.local(abi::ECHO) {
            self.finish_erasing();
            if shown == ShownAs::NewLine {
                self.echo_raw(byte);
            } else {
                self.note_start();
                self.echo_char(byte);
            }
        }
        if self.settings.input(abi::PARMRK) && byte == 0xff && self.head + 1 - self.tail < LINE_ROOM {
            self.put(byte);
        }
        self.put(byte);
    }

    /// Notes in which column the line begins.
    fn note_start(&mut self) {
        if self.lines == self.head {
            self.cursor.line_start = self.cursor.column;
        }
    }

    /// Ends what `ECHOPRT` shows of erased characters.
    pub(super) fn finish_erasing(&mut self) {
        if core::mem::take(&mut self.erasing) {
            self.echo_raw(b'/');
        }
    }

    /// Shows a byte; a control character as `^X` if `ECHOCTL` says so.
    pub(super) fn echo_char(&mut self, byte: u8) {
        if self.settings.local(abi::ECHOCTL) && byte.is_ascii_control() && byte != b'\t' {
            self.push_echo(&[b'^', byte ^ 0x40]);
            self.cursor.column += 2;
        } else {
            self.echo_raw(byte);
        }
    }

    /// Shows a byte as a program's output would be.
    pub(super) fn echo_raw(&mut self, byte: u8) {
        let shown = self.cursor.show(&self.settings, byte);
        self.push_echo(shown.bytes());
    }

    /// Nobody looks for long: the oldest goes.
    fn push_echo(&mut self, bytes: &[u8]) {
        self.echo.consume(bytes.len().saturating_sub(self.echo.room()));
        self.echo.write(bytes);
    }

    /// Moves what is to be shown of what was typed to the screen, as far as there is room.
    pub fn show_echo(&mut self, to: &mut Ring) {
        while self.flow == Flow::Goes && !self.echo.is_empty() && to.room() > 0 {
            let n = to.write(self.echo.front());
            self.echo.consume(n);
        }
    }

    /// Moves a program's output to the screen, as far as there is room; gives how many bytes went.
    pub fn write(&mut self, bytes: &[u8], to: &mut Ring) -> usize {
        match self.flow {
            Flow::Stopped | Flow::Held => 0,
            Flow::Goes => output::process(&mut self.cursor, &self.settings, bytes, to),
        }
    }

    /// Says whether a read of at least `least` bytes would find something; canonically, a line.
    pub fn has_input(&self, least: usize) -> bool {
        match self.settings.is_canonical() {
            true => self.lines != self.tail,
            false => self.head - self.tail >= least.max(1),
        }
    }

    /// Gives how many bytes readers find (`FIONREAD`): of whole lines, if there are lines.
    pub fn readable(&self) -> usize {
        if !self.settings.is_canonical() {
            return self.head - self.tail;
        }
        let marks = |&position: &usize| self.is_end(position) && self.at(position) == DISABLED;
        self.lines - self.tail - (self.tail..self.lines).filter(marks).count()
    }

    /// Reads what waits: at most one line, if there are lines. An end of file alone is nothing.
    pub fn read(&mut self, to: &mut [u8]) -> usize {
        let canonical = self.settings.is_canonical();
        let last = if canonical { self.lines } else { self.head };
        let mut done = 0;
        while self.tail != last {
            let (byte, ends) = (self.at(self.tail), canonical && self.is_end(self.tail));
            if ends && byte == DISABLED {
                // It goes with the bytes before it, even if they have filled the buffer.
                self.tail += 1;
                break;
            }
            if done == to.len() {
                break;
            }
            to[done] = byte;
            done += 1;
            self.tail += 1;
            if ends {
                break;
            }
        }
        done
    }
}
