//! The local APIC: end of interrupt, inter-processor interrupts, the one-shot timer; the I/O APICs.
//!
//! Intel SDM volume 3, chapter 11; 82093AA data sheet.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::idt::vector;
use super::irq::IrqOff;
use super::mem::{PhysAddr, direct};

const ID: u64 = 0x20;
const TASK_PRIORITY: u64 = 0x80;
const EOI: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const LVT_LINT0: u64 = 0x350;
const LVT_LINT1: u64 = 0x360;
const TIMER_INITIAL: u64 = 0x380;
const TIMER_CURRENT: u64 = 0x390;
const TIMER_DIVIDE: u64 = 0x3e0;

const ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const ICR_PENDING: u32 = 1 << 12;
const ICR_INIT: u32 = 0x4500;
const ICR_STARTUP: u32 = 0x4600;
const ICR_FIXED: u32 = 0x4000;
const DIVIDE_BY_1: u32 = 0xb;

static BASE: AtomicU64 = AtomicU64::new(0xfee0_0000);

/// Says where the registers are.
pub fn set_base(base: PhysAddr) {
    BASE.store(base, Relaxed);
}

fn read(register: u64) -> u32 {
    // SAFETY: the registers are mapped uncached in the direct map; reading them has no side effect
    // on memory.
    unsafe { direct(BASE.load(Relaxed) + register).cast::<u32>().read_volatile() }
}

fn write(register: u64, value: u32) {
    // SAFETY: as above; what is written only concerns interrupts.
    unsafe { direct(BASE.load(Relaxed) + register).cast::<u32>().write_volatile(value) };
}

/// Switches this CPU's local APIC on, the timer masked off.
pub fn init() {
    write(TASK_PRIORITY, 0);
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, MASKED);
    write(TIMER_DIVIDE, DIVIDE_BY_1);
    write(LVT_TIMER, vector::TIMER as u32);
    write(SPURIOUS, ENABLE | vector::SPURIOUS as u32);
}

/// This CPU's APIC id.
pub fn id() -> u32 {
    read(ID) >> 24
}

/// Ends the interrupt in service.
pub fn eoi() {
    write(EOI, 0);
}

/// Starts the one-shot timer; 0 stops it.
pub fn set_timer(ticks: u32) {
    write(TIMER_INITIAL, ticks);
}

/// The ticks left.
pub fn timer_left() -> u32 {
    read(TIMER_CURRENT)
}

fn send(apic_id: u32, command: u32) {
    // The two halves belong together: no handler may send in between.
    let _interrupts = IrqOff::new();
    while read(ICR_LOW) & ICR_PENDING != 0 {
        core::hint::spin_loop();
    }
    write(ICR_HIGH, apic_id << 24);
    write(ICR_LOW, command);
}

/// Interrupts another CPU.
pub fn send_ipi(apic_id: u32, vector: u64) {
    send(apic_id, ICR_FIXED | vector as u32);
}

/// Puts another CPU into its wait-for-startup state.
pub fn send_init(apic_id: u32) {
    send(apic_id, ICR_INIT);
}

/// Starts a waiting CPU in real mode at `page`.
pub fn send_startup(apic_id: u32, page: PhysAddr) {
    send(apic_id, ICR_STARTUP | (page >> 12) as u32);
}

/// Routes all pins of an I/O APIC, edge triggered, to the device vector of the CPU `apic_id`.
///
/// The virtio transports are the only devices whose interrupts are switched on. Which pins they have is
/// only said in AML; so all pins get one vector, and the handler asks the device.
pub fn route_io_apic(registers: PhysAddr, apic_id: u32) {
    let select = direct(registers).cast::<u32>();
    let window = direct(registers + 0x10).cast::<u32>();
    let access = |index: u32, value: Option<u32>| {
        // SAFETY: the index register of an I/O APIC that the MADT names; mapped uncached.
        unsafe { select.write_volatile(index) };
        if let Some(value) = value {
            // SAFETY: the data register; redirection entries only concern interrupts.
            unsafe { window.write_volatile(value) };
        }
        // SAFETY: as above.
        unsafe { window.read_volatile() }
    };
    let last_pin = access(1, None) >> 16 & 0xff;
    for pin in 0..=last_pin {
        // Pins 0 to 4 are the timer, the keyboard and COM ports: not used.
        let mask = if pin < 5 { MASKED } else { 0 };
        access(0x10 + 2 * pin + 1, Some(apic_id << 24));
        access(0x10 + 2 * pin, Some(mask | vector::DEVICE as u32));
    }
}
