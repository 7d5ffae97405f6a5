//! Clocks: the time stamp counter as nanoseconds, the CMOS clock for the date, the one-shot timer.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86_64::instructions::port::Port;

use super::apic;
use super::percpu::this_cpu;

/// What QEMU's and KVM's local APICs count.
const APIC_HZ: u64 = 1_000_000_000;
/// For how long the time stamp counter is measured, at least: 10 ms.
const CALIBRATION_TICKS: u32 = (APIC_HZ / 100) as u32;
/// How long a task runs before others get the CPU.
pub const SLICE_NS: u64 = 5_000_000;
const SECOND: u64 = 1_000_000_000;

static TSC_BASE: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per TSC tick, times 2^32.
static TSC_SCALE: AtomicU64 = AtomicU64::new(1 << 32);
/// Wall clock at boot.
static WALL_BASE: AtomicU64 = AtomicU64::new(0);

/// The time stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 CPU has it, and CR4.TSD is off.
    unsafe { _rdtsc() }
}

/// Nanoseconds since boot, monotone.
pub fn now_ns() -> u64 {
    let ticks = tsc().wrapping_sub(TSC_BASE.load(Relaxed));
    ((u128::from(ticks) * u128::from(TSC_SCALE.load(Relaxed))) >> 32) as u64
}

/// What [`now_ns`] and [`wall_ns`] compute with, for programs: the counter at boot, nanoseconds per tick
/// times 2^32, the date at boot. They stay what they are after [`init`].
pub fn scale() -> [u64; 3] {
    [&TSC_BASE, &TSC_SCALE, &WALL_BASE].map(|word| word.load(Relaxed))
}

/// Nanoseconds since 1970-01-01 UTC.
pub fn wall_ns() -> u64 {
    WALL_BASE.load(Relaxed) + now_ns()
}

/// Measures the counter and reads the date. First CPU, its local APIC is on.
pub fn init() {
    TSC_BASE.store(tsc(), Relaxed);
    apic::set_timer(u32::MAX);
    let start = read_both();
    while start.left - apic::timer_left() < CALIBRATION_TICKS {}
    let end = read_both();
    apic::set_timer(0);
    let ns = u128::from(start.left - end.left) * u128::from(SECOND / APIC_HZ);
    let ticks = u128::from((end.tsc - start.tsc).max(1));
    TSC_SCALE.store(((ns << 32) / ticks) as u64, Relaxed);
    WALL_BASE.store(read_cmos_clock() * SECOND - now_ns(), Relaxed);
}

/// The time stamp counter and the timer's ticks left, at one moment.
#[derive(Clone, Copy)]
struct Both {
    tsc: u64,
    left: u32,
}

/// Reads both counters. The CPU may be a thread of a busy host, and stand still between two reads: so the
/// timer is read between two looks at the other counter, and of many such reads the quickest counts.
fn read_both() -> Both {
    const READS: usize = 64;
    let read = |_| {
        let before = tsc();
        let left = apic::timer_left();
        let took = tsc() - before;
        (took, Both { tsc: before + took / 2, left })
    };
    let first = read(0);
    (1..READS).map(read).fold(first, |best, next| if next.0 < best.0 { next } else { best }).1
}

/// Seconds since 1970 by the CMOS clock (UTC, as QEMU sets it); 0 if there is none.
fn read_cmos_clock() -> u64 {
    for _ in 0..1000 {
        let first = read_cmos_fields();
        // No update in progress, and the same twice: a consistent time.
        if cmos(0x0a) & 0x80 == 0 && first == read_cmos_fields() {
            return seconds_since_1970(first);
        }
    }
    0
}

fn cmos(register: u8) -> u8 {
    let mut index = Port::<u8>::new(0x70);
    let mut data = Port::<u8>::new(0x71);
    // SAFETY: selects a CMOS register, NMI off.
    unsafe { index.write(0x80 | register) };
    // SAFETY: reads it.
    unsafe { data.read() }
}

fn read_cmos_fields() -> [u64; 6] {
    let binary = cmos(0x0b) & 4 != 0;
    [0u8, 2, 4, 7, 8, 9].map(|register| {
        let value = u64::from(cmos(register));
        if binary { value } else { (value >> 4) * 10 + (value & 15) }
    })
}

/// From second, minute, hour, day, month, two-digit year.
fn seconds_since_1970([second, minute, hour, day, month, year]: [u64; 6]) -> u64 {
    if day == 0 || month == 0 || month > 12 {
        return 0;
    }
    // Years that start in March put the leap day last: days before a month are 30.6 each, rounded.
    let (y, m) = if month > 2 { (2000 + year, month - 3) } else { (1999 + year, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    const DAYS_TO_1970: u64 = 719_468;
    ((days - DAYS_TO_1970) * 24 + hour) * 3600 + minute * 60 + second
}

/// Makes sure that this CPU's timer fires at `deadline_ns` or before. Interrupts are off.
pub fn arm(deadline_ns: u64) {
    let cpu = this_cpu();
    let now = now_ns();
    let armed = cpu.timer_armed.load(Relaxed);
    // One that should have fired long ago counts as lost.
    if armed <= deadline_ns && armed.saturating_add(SLICE_NS) > now {
        return;
    }
    // The counter has 32 bits: a far deadline takes several turns, and a second is a fine safety net.
    let delay = deadline_ns.saturating_sub(now).clamp(1000, SECOND);
    let ticks = delay * APIC_HZ / SECOND;
    cpu.timer_armed.store(now + delay, Relaxed);
    apic::set_timer(ticks.clamp(1, u64::from(u32::MAX)) as u32);
}

/// Notes that this CPU's timer has fired.
pub fn fired() {
    this_cpu().timer_armed.store(u64::MAX, Relaxed);
}
