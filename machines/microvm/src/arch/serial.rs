//! COM1, output only: the early kernel log and panics.

use x86_64::instructions::port::Port;

const COM1: u16 = 0x3f8;

/// Sets 115200 baud, 8N1.
pub fn init() {
    for (offset, value) in [(1, 0u8), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 0xc7), (4, 3)] {
        // SAFETY: a 16550's registers; interrupts stay off.
        unsafe { Port::<u8>::new(COM1 + offset).write(value) };
    }
}

/// Writes bytes, newlines as they are.
pub fn write(bytes: &[u8]) {
    for &byte in bytes {
        // A UART that never gets ready (there is none) must not hang the kernel.
        for _ in 0..100_000 {
            // SAFETY: reads the line status.
            if unsafe { Port::<u8>::new(COM1 + 5).read() } & 0x20 != 0 {
                break;
            }
        }
        // SAFETY: writes one byte to the transmitter.
        unsafe { Port::<u8>::new(COM1).write(byte) };
    }
}
