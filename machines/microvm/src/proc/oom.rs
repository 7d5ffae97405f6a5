//! No memory is left: one process must go.
//!
//! The process with the largest resident set is killed, as Linux's mm/oom_kill.c does it, and whoever
//! needed memory waits for its end. `oom_score_adj` counts like there: a share of the memory in
//! thousandths, -1000 means never.

use super::mm;
use super::process::{ExitStatus, Process};
use super::table;
use crate::arch::time;
use crate::klog;
use crate::sched::{self, Interruptible};
use alloc::sync::Arc;
use anonmem_oslib::signal::SIGKILL;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

static KILLS: AtomicU64 = AtomicU64::new(0);
/// How long to wait before looking again whether memory has come back.
const PATIENCE_NS: u64 = 2_000_000;

/// The running process was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen;

/// Gives the number of processes that were killed.
pub fn kills() -> u64 {
    KILLS.load(SeqCst)
}

/// Sees to it that memory comes back, and waits a moment for it. The caller tries again.
///
/// # Errors
/// [`Chosen`] if the caller's own process is to end, or nobody could be chosen.
pub fn make_room() -> Result<(), Chosen> {
    if is_ending() {
        return Err(Chosen);
    }
    let processes = table::processes();
    // One at a time: a victim on its way out gives memory back soon. It becomes a zombie (or vanishes) when
    // its address space is torn down, not when it lets go of it.
    let dying = processes.iter().any(|p| p.oom_victim.load(SeqCst) && p.life.lock().zombie.is_none());
    if !dying {
        let victim =
            processes.iter().filter_map(|p| Some((badness(p)?, p))).max_by_key(|(points, _)| *points);
        match victim {
            Some((_, victim)) => kill(victim),
            None => {
                klog!("Out of memory and no killable processes");
                return Err(Chosen);
            }
        }
    }
    drop(processes);
    if is_ending() {
        return Err(Chosen);
    }
    sched::sleep_until(time::now_ns() + PATIENCE_NS, Interruptible::No);
    Ok(())
}

/// Whether the running task's process is to end. Kernel tasks have none.
fn is_ending() -> bool {
    super::thread::try_current().is_some_and(|thread| thread.process.ending().is_some())
}

/// How much would be gained: bytes in memory and in swap, adjusted. `None` if it must not be killed.
fn badness(process: &Arc<Process>) -> Option<i64> {
    let adj = i64::from(process.oom_score_adj.load(SeqCst));
    if adj == -1000 || process.ending().is_some() {
        return None;
    }
    let mm = process.space()?;
    let counters = mm::counters(&mm);
    let total = mm::memory().total_bytes as i64;
    Some((counters.rss + counters.swap + counters.page_tables) as i64 + adj * (total / 1000))
}

fn kill(victim: &Arc<Process>) {
    victim.oom_victim.store(true, SeqCst);
    let counters = victim.space().map(|mm| mm::counters(&mm)).unwrap_or_default();
    KILLS.fetch_add(1, SeqCst);
    klog!(
        "Out of memory: Killed process {} ({}) total-vm:{}kB, anon-rss:{}kB, pgtables:{}kB oom_score_adj:{}",
        victim.pid,
        victim.name(),
        counters.total_vm / 1024,
        counters.rss / 1024,
        counters.page_tables / 1024,
        victim.oom_score_adj.load(SeqCst)
    );
    victim.end(ExitStatus::killed(SIGKILL));
    // The memory comes back when all who use it are gone: a vfork parent waits for its child.
    let Some(space) = victim.space() else { return };
    for other in table::processes() {
        if other.space().is_some_and(|mm| mm.is(&space)) {
            other.end(ExitStatus::killed(SIGKILL));
        }
    }
}
