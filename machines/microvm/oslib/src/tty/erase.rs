//! Taking back what was typed: a character, a word, the line.

use super::line::Line;
use super::output::{is_alphanumeric, is_continuation};
use linux_raw_sys::general as abi;

/// How much goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Much {
    Character,
    Word,
    Line,
}

impl Line {
    /// Does what the character `by`, one of three, does to the line that is typed.
    pub(super) fn erase(&mut self, by: u8) {
        if self.head == self.lines {
            return;
        }
        let settings = *self.settings();
        let much = if settings.is(abi::VERASE, by) {
            Much::Character
        } else if settings.is(abi::VWERASE, by) && settings.local(abi::IEXTEN) {
            Much::Word
        } else {
            Much::Line
        };
        let shown_erased = [abi::ECHOK, abi::ECHOKE, abi::ECHOE].iter().all(|flag| settings.local(*flag));
        if much == Much::Line && !(settings.local(abi::ECHO) && shown_erased) {
            self.head = self.lines;
            if settings.local(abi::ECHO) {
                self.finish_erasing();
                self.echo_char(by);
                if settings.local(abi::ECHOK) {
                    self.echo_raw(b'\n');
                }
            }
            return;
        }
        self.erase_characters(much, by);
        if self.head == self.lines && settings.local(abi::ECHO) {
            self.finish_erasing();
        }
    }

    fn erase_characters(&mut self, much: Much, by: u8) {
        let settings = *self.settings();
        let mut in_word = false;
        while self.head != self.lines {
            let mut first = self.head - 1;
            while is_continuation(&settings, self.at(first)) && first != self.lines {
                first -= 1;
            }
            let byte = self.at(first);
            if is_continuation(&settings, byte) {
                return;
            }
            if much == Much::Word {
                if is_alphanumeric(byte) || byte == b'_' {
                    in_word = true;
                } else if in_word {
                    return;
                }
            }
            let end = core::mem::replace(&mut self.head, first);
            if settings.local(abi::ECHO) {
                self.show_erased(byte, first + 1..end, much, by);
            }
            if much == Much::Character {
                return;
            }
        }
    }

    /// Shows that the character `byte`, which the bytes of `rest` belong to, is gone.
    fn show_erased(&mut self, byte: u8, rest: core::ops::Range<usize>, much: Much, by: u8) {
        let settings = *self.settings();
        let as_two = byte.is_ascii_control() && settings.local(abi::ECHOCTL);
        if settings.local(abi::ECHOPRT) {
            if !core::mem::replace(&mut self.erasing, true) {
                self.echo_raw(b'\\');
            }
            self.echo_char(byte);
            rest.for_each(|position| self.echo_raw(self.at(position)));
        } else if much == Much::Character && !settings.local(abi::ECHOE) {
            self.echo_char(by);
        } else if byte == b'\t' {
            self.show_erased_tab();
        } else if !byte.is_ascii_control() || as_two {
            for _ in 0..=usize::from(as_two) {
                b"\x08 \x08".iter().for_each(|&shown| self.echo_raw(shown));
            }
        }
    }

    /// Goes back to where the text before a tab ends: that depends on all that stands before it.
    fn show_erased_tab(&mut self) {
        let settings = *self.settings();
        let (mut columns, mut position) = (0, self.head);
        let mut after_tab = false;
        while position != self.lines && !after_tab {
            position -= 1;
            columns += match self.at(position) {
                b'\t' => {
                    after_tab = true;
                    0
                }
                byte if byte.is_ascii_control() => 2 * u32::from(settings.local(abi::ECHOCTL)),
                byte => u32::from(!is_continuation(&settings, byte)),
            };
        }
        if !after_tab {
            columns += self.cursor.line_start;
        }
        for _ in 0..8 - (columns & 7) {
            self.echo_raw(8);
        }
    }
}
