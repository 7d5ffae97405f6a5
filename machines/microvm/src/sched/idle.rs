//! Idle CPUs: how they sleep, how they are woken.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use x86_64::instructions::interrupts;

use super::run::anything_runnable;
use crate::arch::percpu::{cpu, cpu_count, this_cpu};
use crate::arch::{apic, idt, time, tlb};

/// The CPUs that sleep or are about to: a bit each. Who clears a CPU's bit must wake it.
static IDLE: AtomicU64 = AtomicU64::new(0);

/// The idle CPUs that still look at their queues: they need no interrupt.
static POLLING: AtomicU64 = AtomicU64::new(0);
/// How long an idle CPU looks before it sleeps. An interrupt to a sleeping CPU costs more than that where
/// CPUs are threads of a host, and tasks that talk through pipes wake each other all the time.
const POLL_NS: u64 = 30_000;

/// Waits for something to run: looks for a moment, then sleeps until an interrupt. Called and returns with
/// interrupts off.
pub(super) fn idle() {
    let bit = 1u64 << this_cpu().id();
    // SeqCst, then look at the queues: pairs with push, then look at IDLE. One of the two sees the other.
    IDLE.fetch_or(bit, SeqCst);
    POLLING.fetch_or(bit, SeqCst);
    let end = time::now_ns() + POLL_NS;
    while !anything_runnable() && time::now_ns() < end {
        interrupts::enable();
        core::hint::spin_loop();
        interrupts::disable();
    }
    // SeqCst, then look again: pairs with push, then look at POLLING (in `kick`).
    POLLING.fetch_and(!bit, SeqCst);
    // Again: somebody may have claimed this CPU for a task that another one took.
    IDLE.fetch_or(bit, SeqCst);
    if !anything_runnable() {
        sleep();
    }
    IDLE.fetch_and(!bit, SeqCst);
}

/// Whether another CPU runs a task, as far as this one can tell.
pub(super) fn others_run() -> bool {
    let me = 1u64 << this_cpu().id();
    ((IDLE.load(Relaxed) | me).count_ones() as usize) < cpu_count()
}

fn sleep() {
    let deadline = super::timer::next_deadline();
    if deadline != u64::MAX {
        time::arm(deadline);
    }
    tlb::answer();
    // `sti; hlt` is one step: an interrupt that is pending ends the `hlt`.
    interrupts::enable_and_hlt();
    interrupts::disable();
}

/// Takes an idle CPU off the list (preferably `preferred`): the caller gives it work and then must
/// [`kick`] it.
pub(super) fn claim(preferred: usize) -> Option<usize> {
    loop {
        let idle = IDLE.load(SeqCst);
        if idle == 0 {
            return None;
        }
        let id = if idle >> preferred & 1 == 1 { preferred } else { idle.trailing_zeros() as usize };
        if IDLE.fetch_and(!(1 << id), SeqCst) >> id & 1 == 1 {
            return Some(id);
        }
    }
}

/// Makes a CPU look at its state.
pub(super) fn kick(id: usize) {
    if id != this_cpu().id() && POLLING.load(SeqCst) >> id & 1 == 0 {
        apic::send_ipi(cpu(id).apic_id.load(Relaxed), idt::vector::RESCHEDULE);
    }
}
