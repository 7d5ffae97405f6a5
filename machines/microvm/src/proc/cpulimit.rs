//! `RLIMIT_CPU`: who has used the seconds that he may is told so every second (SIGXCPU), and ends at the hard
//! limit.
//!
//! No tick counts. A timer is set for the earliest moment at which all CPUs together can have used what is
//! left, and looks again then. Linux: kernel/time/posix-cpu-timers.c `check_process_timers`.

use super::process::{ExitStatus, Process};
use super::signal;
use crate::arch::percpu::cpu_count;
use crate::arch::time;
use crate::fs::timer::Timer;
use alloc::boxed::Box;
use alloc::sync::Arc;
use anonmem_oslib::sigframe::{Detail, SigInfo};
use anonmem_oslib::signal::{SIGKILL, SIGXCPU, code};
use linux_raw_sys::general as abi;

const SECOND_NS: u64 = 1_000_000_000;
/// The least time between two looks: a tick of Linux's.
const TICK_NS: u64 = 4_000_000;

/// Watches a process whose limit may have changed.
pub fn watch(process: &Arc<Process>) {
    let (soft, hard) = process.limits()[abi::RLIMIT_CPU as usize];
    if soft.min(hard) == u64::MAX {
        return;
    }
    let timer = {
        let mut slot = process.cpu_watch.lock();
        let new = || {
            let process = Arc::downgrade(process);
            Timer::new(
                abi::CLOCK_MONOTONIC,
                Box::new(move |_| {
                    if let Some(process) = process.upgrade() {
                        look(&process);
                    }
                }),
            )
        };
        slot.get_or_insert_with(new).clone()
    };
    timer.set(Some(time::now_ns() + TICK_NS), 0);
}

/// Looks at what was used; tells of it, and sets the timer for the next look.
fn look(process: &Arc<Process>) {
    if process.nr_threads() == 0 || process.ending().is_some() {
        return;
    }
    let used = process.cpu_time_ns();
    let reached = |seconds: u64| used >= seconds.saturating_mul(SECOND_NS);
    let (told, left) = {
        let mut limits = process.limits.lock();
        let (soft, hard) = &mut limits[abi::RLIMIT_CPU as usize];
        if reached(*hard) {
            (Some(SIGKILL), u64::MAX)
        } else {
            let told = reached(*soft).then(|| {
                *soft = used / SECOND_NS + 1;
                SIGXCPU
            });
            (told, (*soft).min(*hard).saturating_mul(SECOND_NS).saturating_sub(used))
        }
    };
    match told {
        Some(SIGKILL) => return process.end(ExitStatus::killed(SIGKILL)),
        Some(signal) => {
            signal::send(process, SigInfo { signal, code: code::SI_KERNEL, detail: Detail::None });
        }
        None => {}
    }
    let timer = process.cpu_watch.lock().clone();
    if let Some(timer) = timer.filter(|_| left != u64::MAX) {
        timer.set(Some(time::now_ns() + (left / cpu_count() as u64).max(TICK_NS)), 0);
    }
}
