//! The channel to the `anonmem` command: frames over a virtio serial port.
//!
//! A frame is 8 bytes of header (type, three zeros, little-endian payload length) and the payload.

/// Frame types, guest to host.
pub mod to_host {
    #![allow(missing_docs, reason = "the names of the protocol")]
    pub const STDOUT: u8 = 1;
    pub const STDERR: u8 = 2;
    pub const EXIT: u8 = 3;
    pub const BILL: u8 = 4;
    pub const LOG: u8 = 5;
    pub const READY: u8 = 6;
    pub const STDIN_WANT: u8 = 7;
}

/// Frame types, host to guest (`proc::hooks::channel_frame` gets them).
pub mod to_guest {
    #![allow(missing_docs, reason = "the names of the protocol")]
    pub const STDIN: u8 = 16;
    pub const STDIN_EOF: u8 = 17;
    pub const SIGNAL: u8 = 18;
}

/// Sends one frame (or several, if the payload is over 64 KiB). Sleeps while the host is slow.
/// Task context only.
pub fn send(_kind: u8, _payload: &[u8]) {
    todo!()
}

/// Waits until the host has taken everything that was sent.
pub fn flush() {
    todo!()
}
