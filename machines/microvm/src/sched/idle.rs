//! Idle CPUs: how they sleep, how they are woken.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use x86_64::instructions::interrupts;

use super::run::anything_runnable;
use crate::arch::percpu::{cpu, this_cpu};
use crate::arch::{apic, idt, time, tlb};

/// The CPUs that sleep or are about to: a bit each. Who clears a CPU's bit must wake it.
static IDLE: AtomicU64 = AtomicU64::new(0);

/// Sleeps until an interrupt, unless there is something to run. Called and returns with interrupts
/// off.
pub(super) fn idle() {
    let bit = 1u64 << this_cpu().id();
    // SeqCst, then look at the queues: pairs with push, then look at IDLE. One of the two sees the other.
    IDLE.fetch_or(bit, SeqCst);
    if !anything_runnable() {
        let deadline = super::timer::next_deadline();
        if deadline != u64::MAX {
            time::arm(deadline);
        }
        tlb::answer();
        // `sti; hlt` is one step: an interrupt that is pending ends the `hlt`.
        interrupts::enable_and_hlt();
        interrupts::disable();
    }
    IDLE.fetch_and(!bit, SeqCst);
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
    if id != this_cpu().id() {
        apic::send_ipi(cpu(id).apic_id.load(Relaxed), idt::vector::RESCHEDULE);
    }
}
