//! The end of the kernel by its own fault: said on COM1 and on the channel, then the machine stops.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::arch::power;
use crate::console;
use crate::log::{Line, write_serial};

static PANICKING: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    x86_64::instructions::interrupts::disable();
    // The first panic speaks; one inside it, or on another CPU, only stops the machine.
    if !PANICKING.swap(true, SeqCst) {
        let line = Line::new(format_args!("kernel panic: {info}"));
        write_serial(line.text());
        console::send_last_words(line.text());
    }
    power::off(power::PANIC_CODE)
}

/// The precompiled `core` refers to the unwinder's hooks; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    power::off(power::PANIC_CODE)
}
