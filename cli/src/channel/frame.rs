//! Frames: eight bytes of header (type, three zeros, little-endian payload length) and the payload.

use std::fmt;

/// The longest payload, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;
const HEADER_LEN: usize = 8;

/// What the kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestFrame {
    /// Bytes for standard output.
    Stdout(Vec<u8>),
    /// Bytes for standard error.
    Stderr(Vec<u8>),
    /// The program's status, 128+N for a signal. Nothing of the program follows.
    Exit(i32),
    /// A piece of the bill.
    Bill(Vec<u8>),
    /// One line of the kernel log.
    Log(String),
    /// The kernel has booted and is about to start the program.
    Ready,
    /// So many more bytes of standard input may be sent.
    StdinWant(u32),
    /// What is used now, as JSON.
    Sample(Vec<u8>),
}

/// What the command says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostFrame<'a> {
    /// Bytes of standard input, at most as many as were wanted.
    Stdin(&'a [u8]),
    /// The end of standard input.
    StdinEof,
    /// A signal for the program's process group.
    Signal(u32),
    /// The size of the terminal's window: rows, columns, and the same in dots.
    Window([u16; 4]),
}

/// Bytes that are no frame: the kernel or the line is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A type that no kernel sends.
    UnknownType(u8),
    /// The three bytes after the type are not zero.
    BadHeader([u8; 8]),
    /// A payload over [`MAX_PAYLOAD`].
    TooLong(u32),
    /// A payload of the wrong length for its type.
    BadPayload {
        /// The frame's type.
        kind: u8,
        /// The payload's length.
        len: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownType(kind) => write!(f, "a frame of unknown type {kind}"),
            Self::BadHeader(bytes) => write!(f, "bytes that are no frame header: {bytes:02x?}"),
            Self::TooLong(len) => write!(f, "a frame of {len} bytes; {MAX_PAYLOAD} are allowed"),
            Self::BadPayload { kind, len } => write!(f, "a frame of type {kind} with {len} bytes"),
        }
    }
}

impl std::error::Error for FrameError {}

impl HostFrame<'_> {
    /// Appends the frame's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Stdin(bytes) => encode(out, 16, bytes),
            Self::StdinEof => encode(out, 17, &[]),
            Self::Signal(number) => encode(out, 18, &number.to_le_bytes()),
            Self::Window(size) => encode(out, 19, &size.map(u16::to_le_bytes).concat()),
        }
    }
}

impl GuestFrame {
    /// Appends the frame's bytes (the kernel does this; tests stand in for it).
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Stdout(bytes) => encode(out, 1, bytes),
            Self::Stderr(bytes) => encode(out, 2, bytes),
            Self::Exit(status) => encode(out, 3, &status.to_le_bytes()),
            Self::Bill(bytes) => encode(out, 4, bytes),
            Self::Log(line) => encode(out, 5, line.as_bytes()),
            Self::Ready => encode(out, 6, &[]),
            Self::StdinWant(credit) => encode(out, 7, &credit.to_le_bytes()),
            Self::Sample(json) => encode(out, 8, json),
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, FrameError> {
        let word = || payload.try_into().map_err(|_| FrameError::BadPayload { kind, len: payload.len() });
        Ok(match kind {
            1 => Self::Stdout(payload.to_vec()),
            2 => Self::Stderr(payload.to_vec()),
            3 => Self::Exit(i32::from_le_bytes(word()?)),
            4 => Self::Bill(payload.to_vec()),
            5 => Self::Log(String::from_utf8_lossy(payload).trim_end().to_string()),
            6 => Self::Ready,
            7 => Self::StdinWant(u32::from_le_bytes(word()?)),
            8 => Self::Sample(payload.to_vec()),
            _ => return Err(FrameError::UnknownType(kind)),
        })
    }
}

fn encode(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    debug_assert!(payload.len() <= MAX_PAYLOAD);
    out.extend_from_slice(&[kind, 0, 0, 0]);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Puts frames together from bytes as they arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole frame, if there is one.
    ///
    /// # Errors
    ///
    /// The bytes are no frame; nothing after them can be understood.
    pub fn next_frame(&mut self) -> Result<Option<GuestFrame>, FrameError> {
        let rest = &self.bytes[self.taken..];
        let Some(header) = rest.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let [kind, a, b, c, len @ ..] = *header;
        let len = u32::from_le_bytes(len);
        if [a, b, c] != [0; 3] {
            return Err(FrameError::BadHeader(*header));
        }
        if !(1..=8).contains(&kind) {
            return Err(FrameError::UnknownType(kind));
        }
        if len as usize > MAX_PAYLOAD {
            return Err(FrameError::TooLong(len));
        }
        let Some(payload) = rest.get(HEADER_LEN..HEADER_LEN + len as usize) else {
            return Ok(None);
        };
        let frame = GuestFrame::decode(kind, payload)?;
        self.taken += HEADER_LEN + len as usize;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode_all(decoder: &mut Decoder) -> Vec<GuestFrame> {
        std::iter::from_fn(|| decoder.next_frame().unwrap()).collect()
    }

    #[test]
    fn host_frames_have_the_documented_bytes() {
        let mut out = Vec::new();
        HostFrame::Stdin(b"ab").encode(&mut out);
        HostFrame::StdinEof.encode(&mut out);
        HostFrame::Signal(2).encode(&mut out);
        HostFrame::Window([24, 80, 0, 256]).encode(&mut out);
        assert_eq!(
            out,
            [
                16, 0, 0, 0, 2, 0, 0, 0, b'a', b'b', 17, 0, 0, 0, 0, 0, 0, 0, 18, 0, 0, 0, 4, 0, 0, 0, 2, 0,
                0, 0, 19, 0, 0, 0, 8, 0, 0, 0, 24, 0, 80, 0, 0, 0, 0, 1
            ]
        );
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        let fails = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            decoder.next_frame().unwrap_err()
        };
        assert_eq!(fails(&[9, 0, 0, 0, 0, 0, 0, 0]), FrameError::UnknownType(9));
        assert!(matches!(fails(&[1, 0, 1, 0, 0, 0, 0, 0]), FrameError::BadHeader(_)));
        assert_eq!(fails(&[1, 0, 0, 0, 1, 0, 1, 0]), FrameError::TooLong(65537));
        assert_eq!(fails(&[3, 0, 0, 0, 1, 0, 0, 0, 7]), FrameError::BadPayload { kind: 3, len: 1 });
    }

    fn any_frame() -> impl Strategy<Value = GuestFrame> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            bytes().prop_map(GuestFrame::Stdout),
            bytes().prop_map(GuestFrame::Stderr),
            any::<i32>().prop_map(GuestFrame::Exit),
            bytes().prop_map(GuestFrame::Bill),
            "[a-z ]{0,40}[a-z]".prop_map(GuestFrame::Log),
            Just(GuestFrame::Ready),
            any::<u32>().prop_map(GuestFrame::StdinWant),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(
            frames in proptest::collection::vec(any_frame(), 0..12),
            cut in 1_usize..40,
        ) {
            let mut bytes = Vec::new();
            for frame in &frames {
                frame.encode(&mut bytes);
            }
            let mut decoder = Decoder::default();
            let mut decoded = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                decoded.extend(decode_all(&mut decoder));
            }
            prop_assert_eq!(decoded, frames);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }
}
