//! The end of the machine.

use x86_64::instructions::port::Port;
use x86_64::instructions::{hlt, interrupts};

const DEBUG_EXIT: u16 = 0xf4;
/// What [`off`] is called with after a panic.
pub const PANIC_CODE: u8 = 0x55;

/// Stops QEMU through isa-debug-exit: its exit status becomes `(code << 1) | 1`.
pub fn off(code: u8) -> ! {
    interrupts::disable();
    // SAFETY: QEMU ends on this write; without the device nothing listens.
    unsafe { Port::<u32>::new(DEBUG_EXIT).write(u32::from(code)) };
    // No such device: a reset through the keyboard controller (QEMU runs with -no-reboot).
    // SAFETY: nothing is left to lose.
    unsafe { Port::<u8>::new(0x64).write(0xfe) };
    loop {
        hlt();
    }
}
