//! The settings of a terminal: `struct termios` and `struct termios2`.

use crate::abi::Fields;
use core::mem::offset_of;
use linux_raw_sys::general as abi;

/// Bytes of `struct termios`.
pub const TERMIOS: usize = size_of::<abi::termios>();
/// Bytes of `struct termios2`, which has the speeds as numbers.
pub const TERMIOS2: usize = size_of::<abi::termios2>();

const CHARACTERS: usize = 19;
/// The speed of a terminal that has none.
const SPEED: u32 = 38400;
/// The value of a special character that is switched off.
pub(super) const DISABLED: u8 = 0;

/// The settings of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termios {
    /// `c_iflag`.
    pub input: u32,
    /// `c_oflag`.
    pub output: u32,
    /// `c_cflag`.
    pub control: u32,
    /// `c_lflag`.
    pub local: u32,
    line: u8,
    characters: [u8; CHARACTERS],
    speeds: [u32; 2],
}

impl Termios {
    /// Those of a terminal that nobody has set: lines that can be edited, echo, signals.
    pub const COOKED: Termios = Termios {
        input: abi::ICRNL | abi::IXON,
        output: abi::OPOST | abi::ONLCR,
        control: abi::B38400 | abi::CS8 | abi::CREAD,
        local: abi::ISIG
            | abi::ICANON
            | abi::ECHO
            | abi::ECHOE
            | abi::ECHOK
            | abi::ECHOCTL
            | abi::ECHOKE
            | abi::IEXTEN,
        line: 0,
        characters: [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0],
        speeds: [SPEED; 2],
    };

    /// Gives a character of `c_cc`, by `V*`.
    pub fn character(&self, which: u32) -> u8 {
        self.characters[which as usize % CHARACTERS]
    }

    /// Says whether `c` is the character `which`, and that is not switched off.
    pub(super) fn is(&self, which: u32, c: u8) -> bool {
        c != DISABLED && c == self.character(which)
    }

    /// Says whether `ICANON` or the like is among the local flags.
    pub(super) fn local(&self, flag: u32) -> bool {
        self.local & flag != 0
    }

    /// Says whether `ICRNL` or the like is among the input flags.
    pub(super) fn input(&self, flag: u32) -> bool {
        self.input & flag != 0
    }

    /// Says whether readers get lines.
    pub fn is_canonical(&self) -> bool {
        self.local(abi::ICANON) && !self.local(abi::EXTPROC)
    }

    /// Says whether background groups may not write.
    pub fn stops_writers(&self) -> bool {
        self.local(abi::TOSTOP)
    }

    /// Gives `VMIN` and `VTIME`.
    pub fn min_and_time(&self) -> (u8, u8) {
        (self.character(abi::VMIN), self.character(abi::VTIME))
    }

    /// Gives `struct termios2`, which starts with `struct termios`.
    pub fn to_bytes(&self) -> [u8; TERMIOS2] {
        let mut bytes = [0; TERMIOS2];
        let words = [self.input, self.output, self.control, self.local];
        for (word, to) in words.iter().zip(bytes.chunks_exact_mut(4)) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes[offset_of!(abi::termios2, c_line)] = self.line;
        let at = offset_of!(abi::termios2, c_cc);
        bytes[at..at + CHARACTERS].copy_from_slice(&self.characters);
        let at = offset_of!(abi::termios2, c_ispeed);
        bytes[at..at + 4].copy_from_slice(&self.speeds[0].to_le_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&self.speeds[1].to_le_bytes());
        bytes
    }

    /// Reads `struct termios`, or `struct termios2` if there are as many bytes. Speeds that are not given
    /// stay as they are. A pseudo-terminal has eight bits and no parity, whatever is asked.
    #[must_use]
    pub fn changed_to(&self, bytes: &[u8]) -> Termios {
        let fields = Fields(bytes);
        let at = offset_of!(abi::termios, c_cc);
        let mut characters = [0; CHARACTERS];
        characters.copy_from_slice(&bytes[at..at + CHARACTERS]);
        let asked = fields.u32(offset_of!(abi::termios, c_cflag));
        let own = if bytes.len() >= TERMIOS2 {
            let at = offset_of!(abi::termios2, c_ispeed);
            [fields.u32(at), fields.u32(at + 4)]
        } else {
            self.speeds
        };
        let speed = |code: u32, own: u32| if code == abi::BOTHER { own } else { baud(code) };
        let output = speed(asked & abi::CBAUD, own[1]);
        // Without a code of its own, input is as fast as output.
        let input = match asked >> abi::IBSHIFT & abi::CBAUD {
            abi::B0 => output,
            code => speed(code, own[0]),
        };
        Termios {
            input: fields.u32(offset_of!(abi::termios, c_iflag)),
            output: fields.u32(offset_of!(abi::termios, c_oflag)),
            control: asked & !(abi::CSIZE | abi::PARENB | abi::ADDRB) | abi::CS8 | abi::CREAD,
            local: fields.u32(offset_of!(abi::termios, c_lflag)),
            line: bytes[offset_of!(abi::termios, c_line)],
            characters,
            speeds: [input, output],
        }
    }
}

/// The bits in a second that `CBAUD` names.
fn baud(code: u32) -> u32 {
    const SLOW: [u32; 16] =
        [0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, SPEED];
    const FAST: [u32; 15] = [
        57600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000,
        2_000_000, 2_500_000, 3_000_000, 3_500_000, 4_000_000,
    ];
    match code {
        0..16 => SLOW[code as usize],
        _ => FAST.get((code & 15).wrapping_sub(1) as usize).copied().unwrap_or(0),
    }
}
