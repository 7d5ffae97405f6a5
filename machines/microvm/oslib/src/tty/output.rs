//! What becomes of bytes on their way to the screen (`OPOST`), and where the cursor is then.

use super::termios::Termios;
use crate::ring::Ring;
use linux_raw_sys::general as abi;

/// Where the cursor is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    /// Its column.
    pub(super) column: u32,
    /// The column in which the line that is typed begins.
    pub(super) line_start: u32,
}

/// The bytes that one byte becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    bytes: [u8; 8],
    len: usize,
}

impl Shown {
    const NOTHING: Shown = Shown { bytes: [0; 8], len: 0 };

    fn one(byte: u8) -> Shown {
        Shown { bytes: [byte, 0, 0, 0, 0, 0, 0, 0], len: 1 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Says whether the byte goes on with a character of UTF-8 that others have begun.
pub(super) fn is_continuation(settings: &Termios, byte: u8) -> bool {
    settings.input(abi::IUTF8) && byte & 0xc0 == 0x80
}

// Letters are those of Latin-1, as everywhere in Linux (lib/ctype.c), whatever `IUTF8` says.

fn is_upper(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | 0xc0..=0xd6 | 0xd8..=0xde)
}

fn is_lower(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | 0xdf..=0xf6 | 0xf8..=0xff)
}

/// Says whether the byte is a letter or a digit.
pub(super) fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_digit() || is_upper(byte) || is_lower(byte)
}

/// Makes a large letter a small one.
pub(super) fn to_lower(byte: u8) -> u8 {
    if is_upper(byte) { byte + 0x20 } else { byte }
}

fn to_upper(byte: u8) -> u8 {
    if is_lower(byte) { byte - 0x20 } else { byte }
}

impl Cursor {
    /// Says what is shown of `byte`, and moves the cursor.
    pub(super) fn show(&mut self, settings: &Termios, byte: u8) -> Shown {
        let on = |flag| settings.output & flag != 0;
        if !on(abi::OPOST) {
            return Shown::one(byte);
        }
        match byte {
            b'\n' if on(abi::ONLCR) => {
                *self = Cursor::default();
                return Shown { bytes: *b"\r\n\0\0\0\0\0\0", len: 2 };
            }
            b'\n' => {
                if on(abi::ONLRET) {
                    self.column = 0;
                }
                self.line_start = self.column;
            }
            b'\r' if on(abi::ONOCR) && self.column == 0 => return Shown::NOTHING,
            b'\r' if on(abi::OCRNL) => {
                if on(abi::ONLRET) {
                    *self = Cursor::default();
                }
                return Shown::one(b'\n');
            }
            b'\r' => *self = Cursor::default(),
            b'\t' => {
                let spaces = 8 - (self.column & 7);
                self.column += spaces;
                if settings.output & abi::TABDLY == abi::XTABS {
                    return Shown { bytes: [b' '; 8], len: spaces as usize };
                }
            }
            8 => self.column = self.column.saturating_sub(1),
            _ if byte.is_ascii_control() => {}
            _ => {
                let byte = if on(abi::OLCUC) { to_upper(byte) } else { byte };
                if !is_continuation(settings, byte) {
                    self.column = self.column.wrapping_add(1);
                }
                return Shown::one(byte);
            }
        }
        Shown::one(byte)
    }
}

/// Puts what is shown of `bytes` into `to`, as far as there is room; gives how many bytes that was.
pub(super) fn process(cursor: &mut Cursor, settings: &Termios, bytes: &[u8], to: &mut Ring) -> usize {
    for (done, &byte) in bytes.iter().enumerate() {
        let before = *cursor;
        let shown = cursor.show(settings, byte);
        if to.room() < shown.len {
            *cursor = before;
            return done;
        }
        to.write(shown.bytes());
    }
    bytes.len()
}
