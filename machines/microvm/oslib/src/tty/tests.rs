//! The line discipline, typed at.

use super::*;
use crate::ring::Ring;
use crate::signal::{SIGINT, SIGQUIT, SIGTSTP, SigSet};
use linux_raw_sys::general as abi;
use std::string::String;
use std::vec::Vec;

/// A terminal with a screen.
struct Desk {
    line: Line,
    screen: Ring,
    signals: SigSet,
}

impl Desk {
    fn new() -> Desk {
        Desk { line: Line::new().unwrap(), screen: Ring::new(8192).unwrap(), signals: SigSet::EMPTY }
    }

    fn with(change: impl FnOnce(&mut Termios)) -> Desk {
        let mut desk = Desk::new();
        desk.change(change);
        desk
    }

    fn change(&mut self, change: impl FnOnce(&mut Termios)) {
        let mut settings = *self.line.settings();
        change(&mut settings);
        self.line.set(settings);
    }

    fn types(&mut self, text: &[u8]) -> usize {
        for (n, &byte) in text.iter().enumerate() {
            let Some(signals) = self.line.take(byte) else { return n };
            self.signals = self.signals | signals;
            self.line.show_echo(&mut self.screen);
        }
        text.len()
    }

    fn reads(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = std::vec![0; most];
        let n = self.line.read(&mut bytes);
        bytes.truncate(n);
        bytes
    }

    fn shows(&mut self) -> String {
        let mut bytes = [0; 8192];
        let n = self.screen.read(&mut bytes);
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }
}

fn set_character(settings: &mut Termios, which: u32, to: u8) {
    let mut bytes = settings.to_bytes();
    bytes[core::mem::offset_of!(abi::termios, c_cc) + which as usize] = to;
    *settings = settings.changed_to(&bytes);
}

#[test]
fn a_line_is_read_when_it_has_ended_and_one_at_a_time() {
    let mut desk = Desk::new();
    desk.types(b"one");
    assert!(!desk.line.has_input(1));
    assert_eq!(desk.line.readable(), 0);
    desk.types(b"\rtwo\nthr");
    assert_eq!(desk.line.readable(), 8);
    assert_eq!(desk.reads(100), b"one\n");
    assert_eq!(desk.reads(2), b"tw");
    assert_eq!(desk.reads(100), b"o\n");
    assert!(!desk.line.has_input(1));
    assert_eq!(desk.shows(), "one\r\ntwo\r\nthr");
}

#[test]
fn an_end_of_file_ends_a_line_and_is_not_read() {
    let mut desk = Desk::new();
    desk.types(b"ab\x04cd\n\x04");
    assert_eq!(desk.line.readable(), 5);
    assert_eq!(desk.reads(100), b"ab");
    assert_eq!(desk.reads(100), b"cd\n");
    assert!(desk.line.has_input(1));
    assert_eq!(desk.reads(100), b"");
    assert!(!desk.line.has_input(1));
    desk.types(b"xy\x04");
    assert_eq!(desk.reads(2), b"xy");
    assert!(!desk.line.has_input(1), "the end of file went with the full buffer");
}

#[test]
fn characters_words_and_lines_are_taken_back() {
    let mut desk = Desk::new();
    desk.types(b"abc\x7f\x7fd\n");
    assert_eq!(desk.reads(100), b"ad\n");
    assert_eq!(desk.shows(), "abc\x08 \x08\x08 \x08d\r\n");
    desk.types(b"one two_3  \x17x\n");
    assert_eq!(desk.reads(100), b"one x\n");
    desk.shows();
    desk.types(b"a\x01\x15b\n");
    assert_eq!(desk.reads(100), b"b\n");
    assert_eq!(desk.shows(), "a^A\x08 \x08\x08 \x08\x08 \x08b\r\n");
    desk.types(b"\x7f\x17\x15");
    assert_eq!(desk.shows(), "", "of an empty line, nothing can be taken");
}

#[test]
fn a_line_is_killed_as_the_flags_say() {
    let mut desk = Desk::with(|s| s.local &= !abi::ECHOKE);
    desk.types(b"ab\x15");
    assert_eq!(desk.shows(), "ab^U\r\n");
    let mut desk = Desk::with(|s| s.local &= !(abi::ECHOKE | abi::ECHOK));
    desk.types(b"ab\x15");
    assert_eq!(desk.shows(), "ab^U");
    let mut desk = Desk::with(|s| s.local &= !abi::ECHO);
    desk.types(b"ab\x15c\n");
    assert_eq!((desk.shows(), desk.reads(9)), (String::new(), b"c\n".to_vec()));
    let mut desk = Desk::with(|s| s.local &= !abi::ECHOE);
    desk.types(b"ab\x7f");
    assert_eq!(desk.shows(), "ab^?");
    let mut desk = Desk::with(|s| s.local |= abi::ECHOPRT);
    desk.types(b"ab\x7f\x7fc");
    assert_eq!(desk.shows(), "ab\\ba/c");
}

#[test]
fn a_tab_is_taken_back_to_the_column_before_it() {
    let mut desk = Desk::new();
    desk.line.write(b"$ ", &mut desk.screen);
    desk.types(b"a\t\x7f");
    assert_eq!(desk.shows(), "$ a\t\x08\x08\x08\x08\x08");
    desk.types(b"\t\t\x7f");
    assert_eq!(desk.shows(), "\t\t\x08\x08\x08\x08\x08\x08\x08\x08");
}

#[test]
fn a_character_of_several_bytes_goes_as_one() {
    let mut desk = Desk::with(|s| s.input |= abi::IUTF8);
    desk.types("aä€\x7f\x7f\n".as_bytes());
    assert_eq!(desk.reads(9), b"a\n");
    assert_eq!(desk.shows(), "aä€\x08 \x08\x08 \x08\r\n");
    let mut desk = Desk::new();
    desk.types("ä\x7f\n".as_bytes());
    assert_eq!(desk.reads(9), b"\xc3\n");
}

#[test]
fn characters_are_signals_and_take_the_line_along() {
    let mut desk = Desk::new();
    desk.types(b"abc\x03d\n");
    assert_eq!(desk.signals, SigSet::of(SIGINT));
    assert_eq!(desk.reads(9), b"d\n");
    assert_eq!(desk.shows(), "abc^Cd\r\n");
    desk.types(b"\x1c\x1a");
    assert_eq!(desk.signals, SigSet::of(SIGINT) | SigSet::of(SIGQUIT) | SigSet::of(SIGTSTP));
    let mut desk = Desk::with(|s| s.local |= abi::NOFLSH);
    desk.types(b"ab\x03c\n");
    assert_eq!(desk.reads(9), b"abc\n");
    let mut desk = Desk::with(|s| s.local &= !abi::ISIG);
    desk.types(b"\x03\n");
    assert_eq!((desk.signals, desk.reads(9)), (SigSet::EMPTY, b"\x03\n".to_vec()));
    let mut desk = Desk::with(|s| set_character(s, abi::VINTR, 0));
    desk.types(b"\0\x03\n");
    assert_eq!((desk.signals, desk.reads(9)), (SigSet::EMPTY, b"\0\x03\n".to_vec()));
}

#[test]
fn the_next_character_can_be_quoted() {
    let mut desk = Desk::new();
    desk.types(b"\x16\x03\x16\x7f\x16\n\n");
    assert_eq!(desk.reads(9), b"\x03\x7f\n\n");
    assert_eq!(desk.shows(), "^\x08^C^\x08^?^\x08^J\r\n");
    desk.types(b"ab\x12");
    assert_eq!(desk.shows(), "ab^R\r\nab");
}

#[test]
fn raw_bytes_are_read_as_they_come() {
    let mut desk = Desk::with(|s| s.local &= !(abi::ICANON | abi::ECHO | abi::ISIG));
    desk.types(b"a\x03\x04\x7f\r");
    assert!(desk.line.has_input(5) && !desk.line.has_input(6));
    assert_eq!(desk.line.readable(), 5);
    assert_eq!(desk.reads(2), b"a\x03");
    assert_eq!(desk.reads(9), b"\x04\x7f\n");
    assert_eq!(desk.shows(), "");
}

#[test]
fn a_new_line_that_is_no_end_is_shown_as_a_character() {
    let mut desk = Desk::with(|s| s.local &= !abi::ICANON);
    desk.types(b"a\nb\r");
    assert_eq!((desk.shows().as_str(), desk.reads(9)), ("a^Jb\r\n", b"a\nb\n".to_vec()));
}

#[test]
fn letters_are_those_of_latin_1() {
    let mut desk = Desk::with(|s| s.input |= abi::IUTF8);
    desk.types("one äß \x17\n".as_bytes());
    assert_eq!(desk.reads(9), b"one \n");
    let mut desk = Desk::with(|s| s.input |= abi::IUCLC);
    desk.types(b"\xc4\xd7\xde\xdfA\n");
    assert_eq!(desk.reads(9), b"\xe4\xd7\xfe\xdfa\n");
    let mut screen = Ring::new(16).unwrap();
    desk.change(|s| s.output |= abi::OLCUC);
    assert_eq!(desk.line.write(b"\xe4\xf7\xff\xdfa", &mut screen), 5);
    assert_eq!(&screen.front()[screen.len() - 5..], b"\xc4\xf7\xdf\xbfA");
}

#[test]
fn what_waits_changes_with_the_mode() {
    let mut desk = Desk::new();
    desk.types(b"ab\ncd");
    desk.change(|s| s.local &= !abi::ICANON);
    assert_eq!(desk.reads(4), b"ab\nc");
    desk.types(b"e");
    desk.change(|s| s.local |= abi::ICANON);
    assert!(desk.line.has_input(1));
    assert_eq!(desk.reads(9), b"de");
    assert!(!desk.line.has_input(1));
}

#[test]
fn carriage_returns_and_new_lines_change_places() {
    let typed = |flags: u32| {
        let mut desk = Desk::with(|s| {
            s.input = flags;
            s.local &= !(abi::ICANON | abi::ECHO);
        });
        desk.types(b"\r\n");
        desk.reads(9)
    };
    assert_eq!(typed(0), b"\r\n");
    assert_eq!(typed(abi::ICRNL), b"\n\n");
    assert_eq!(typed(abi::INLCR), b"\r\r");
    assert_eq!(typed(abi::IGNCR), b"\n");
    let shown = |flags: u32| {
        let mut desk = Desk::with(|s| s.output = flags);
        desk.line.write(b"\ra\tb\rc\n", &mut desk.screen);
        desk.shows()
    };
    assert_eq!(shown(0), "\ra\tb\rc\n");
    assert_eq!(shown(abi::OPOST), "\ra\tb\rc\n");
    assert_eq!(shown(abi::OPOST | abi::ONLCR | abi::XTABS), "\ra       b\rc\r\n");
    assert_eq!(shown(abi::OPOST | abi::ONOCR), "a\tb\rc\n");
    assert_eq!(shown(abi::OPOST | abi::OCRNL), "\na\tb\nc\n");
    assert_eq!(shown(abi::OPOST | abi::OLCUC), "\rA\tB\rC\n");
}

#[test]
fn output_waits_while_it_is_stopped() {
    let mut desk = Desk::new();
    desk.types(b"\x13ab");
    assert_eq!(desk.line.flow(), Flow::Stopped);
    assert_eq!(desk.line.write(b"x", &mut desk.screen), 0);
    assert_eq!(desk.shows(), "");
    desk.types(b"\x11");
    assert_eq!(desk.shows(), "ab");
    assert_eq!(desk.line.write(b"x", &mut desk.screen), 1);
}

#[test]
fn what_a_program_holds_no_character_lets_go() {
    let mut desk = Desk::with(|s| s.input |= abi::IXANY);
    desk.line.hold();
    desk.types(b"\x11q\x13\x03");
    assert_eq!(desk.line.flow(), Flow::Held);
    desk.change(|s| s.input &= !abi::IXON);
    assert_eq!(desk.line.flow(), Flow::Held);
    desk.line.release();
    assert_eq!(desk.line.flow(), Flow::Goes);
    desk.change(|s| s.input |= abi::IXON);
    desk.types(b"\x13");
    desk.line.release();
    assert_eq!(desk.line.flow(), Flow::Stopped);
    desk.types(b"\x16q");
    assert_eq!(desk.line.flow(), Flow::Goes);
}

#[test]
fn a_line_that_is_too_long_can_still_be_ended() {
    let mut desk = Desk::with(|s| s.local &= !abi::ECHO);
    assert_eq!(desk.types(&[b'a'; 5000]), 5000);
    desk.types(b"\n");
    let line = desk.reads(9000);
    assert_eq!((line.len(), line[4094], line[4095]), (4096, b'a', b'\n'));
    let mut desk = Desk::with(|s| s.local &= !(abi::ICANON | abi::ECHO));
    assert_eq!(desk.types(&[b'a'; 5000]), 4095);
    let mut desk = Desk::with(|s| s.local &= !abi::ECHO);
    desk.types(b"x\n");
    assert_eq!(desk.types(&[b'a'; 5000]), 4093, "with a line to read, the rest waits");
}

#[test]
fn what_is_shown_fits_or_waits() {
    let mut desk = Desk::new();
    desk.screen = Ring::new(3).unwrap();
    assert_eq!(desk.line.write(b"a\n\n", &mut desk.screen), 2);
    assert_eq!(desk.shows(), "a\r\n");
    assert_eq!(desk.line.write(b"\n", &mut desk.screen), 1);
}

#[test]
fn settings_survive_as_bytes() {
    let bytes = Termios::COOKED.to_bytes();
    assert_eq!(Termios::COOKED.changed_to(&bytes), Termios::COOKED);
    assert_eq!(Termios::COOKED.changed_to(&bytes[..TERMIOS]), Termios::COOKED);
    let mut odd = bytes;
    odd[8..12].copy_from_slice(&(abi::BOTHER | abi::PARENB | abi::CS7).to_le_bytes());
    odd[TERMIOS2 - 4..].copy_from_slice(&12345u32.to_le_bytes());
    let odd = Termios::COOKED.changed_to(&odd);
    assert_eq!(odd.control & (abi::PARENB | abi::CSIZE), abi::CS8);
    assert_eq!(odd.to_bytes()[TERMIOS2 - 4..], 12345u32.to_le_bytes());
    // What `struct termios` cannot say stays, and input without a code is as fast as output.
    let bytes = odd.to_bytes();
    assert_eq!(odd.changed_to(&bytes[..TERMIOS]), odd);
    assert_eq!(bytes[TERMIOS2 - 8..TERMIOS2 - 4], 12345u32.to_le_bytes());
    let mut input = bytes;
    input[8..12].copy_from_slice(&(abi::B38400 | abi::B9600 << abi::IBSHIFT).to_le_bytes());
    let speeds = [9600u32.to_le_bytes(), 38400u32.to_le_bytes()].concat();
    assert_eq!(odd.changed_to(&input).to_bytes()[TERMIOS2 - 8..], speeds);
}

/// Any bytes under any settings: nothing panics, and no more is read than was typed.
#[test]
fn nothing_that_is_typed_breaks_a_line() {
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let mut desk = Desk::new();
    for round in 0..2_000 {
        if round % 7 == 0 {
            let mut bytes = Termios::COOKED.to_bytes();
            (0..8).for_each(|_| bytes[random() as usize % TERMIOS] ^= 1 << (random() % 8));
            desk.line.set(Termios::COOKED.changed_to(&bytes));
        }
        let text: Vec<u8> = (0..random() % 200).map(|_| (random() % 160) as u8).collect();
        desk.types(&text);
        if round % 3 == 0 {
            let most = random() as usize % 300;
            assert!(desk.reads(most).len() <= most);
        }
        desk.line.write(&text, &mut desk.screen);
        desk.shows();
        assert!(desk.line.readable() <= LINE_ROOM);
    }
}
