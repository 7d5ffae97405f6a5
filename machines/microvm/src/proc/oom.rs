//! No memory is left: one process must go.
//!
//! The process with the largest resident set is killed, as Linux's mm/oom_kill.c does it, and whoever
//! needed memory waits for its end. `oom_score_adj` counts like there: a share of the memory in
//! thousandths, -1000 means never. Who is chosen, and whether somebody is, is decided in
//! [`anonmem_oslib::oom`], under one lock until the victim is marked.
//!
//! Where a strict policy found its nodes full, the end of who has nothing there would help nobody. Then the
//! one with most pages on these nodes is killed, and swap does not count. Linux: `CONSTRAINT_MEMORY_POLICY`,
//! `oom_cpuset_eligible`. Differs: Linux asks for policies, not for pages, and kills the largest of those
//! whose policy may have given them pages there.
//!
//! Takes no memory.

use super::mm;
use super::nodes;
use super::process::{ExitStatus, Process};
use super::table;
use crate::arch::time;
use crate::klog;
use crate::machine;
use crate::sched::{self, Interruptible, Mutex};
use crate::swap;
use alloc::sync::Arc;
use anonmem_hal::{NodeSet, NrPages};
use anonmem_oslib::Errno;
use anonmem_oslib::cred::Cap;
use anonmem_oslib::errno::{EACCES, EINVAL};
use anonmem_oslib::oom::{Candidate, Chooser, Decision, Fate, Memory};
use anonmem_oslib::signal::SIGKILL;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

static KILLS: AtomicU64 = AtomicU64::new(0);
static CHOOSER: Mutex<Chooser> = Mutex::new(Chooser::new());
/// How long to wait before looking again whether memory has come back.
const PATIENCE_NS: u64 = 2_000_000;
/// How often somebody who finds no memory is told that there is some before that counts for nothing.
const TRIES: u32 = 64;

/// The running process was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen;

/// Gives the number of processes that were killed.
pub fn kills() -> u64 {
    KILLS.load(SeqCst)
}

/// Sees to it that memory of `nodes` comes back, and waits a moment for it. The caller tries again; `tries`
/// says how often it has.
///
/// # Errors
/// [`Chosen`] if the caller's own process is to end, or nobody could be chosen.
pub fn make_room(tries: u32, nodes: NodeSet) -> Result<(), Chosen> {
    if is_ending() {
        return Err(Chosen);
    }
    match choose(tries, nodes) {
        Decision::TryAgain => return Ok(()),
        Decision::Wait | Decision::Kill(_) => {}
        Decision::Nobody => {
            klog!("Out of memory and no killable processes");
            return Err(Chosen);
        }
    }
    if is_ending() {
        return Err(Chosen);
    }
    sched::sleep_until(time::now_ns() + PATIENCE_NS, Interruptible::No);
    Ok(())
}

/// Decides, and ends the victim, in one step.
fn choose(tries: u32, nodes: NodeSet) -> Decision {
    let mut chooser = CHOOSER.lock();
    let is_back = tries < TRIES && machine::vm().is_above_high_on(nodes);
    let memory = if is_back { Memory::Back } else { Memory::Short };
    let decision = chooser.decide(time::now_ns(), memory, table::processes().map(|p| candidate(&p, nodes)));
    if let Decision::Kill(pid) = decision
        && let Some(victim) = table::process(pid)
    {
        if nodes != nodes::all() {
            klog!("oom-kill:constraint=CONSTRAINT_MEMORY_POLICY,nodemask={:#x}", nodes.0);
        }
        kill(&victim);
    }
    decision
}

/// Whether the running task's process is to end. Kernel tasks have none.
fn is_ending() -> bool {
    super::thread::try_current().is_some_and(|thread| thread.process.ending().is_some())
}

/// What happens to a process, and how much would be gained by its end: bytes in memory and in swap, adjusted;
/// of certain nodes, bytes in their memory.
fn candidate(process: &Process, nodes: NodeSet) -> Candidate {
    let adj = i64::from(process.oom_score_adj.load(SeqCst));
    // It is over when its address space is torn down, not when it lets go of it.
    let fate = if process.life.lock().zombie.is_some() {
        Fate::Over
    } else if process.ending().is_some() {
        Fate::Ending
    } else if adj == NEVER {
        Fate::Protected
    } else {
        let gain = if nodes == nodes::all() { gain(process, adj) } else { gain_on(process, adj, nodes) };
        gain.map_or(Fate::Protected, Fate::Lives)
    };
    Candidate { id: process.pid, fate }
}

/// All that programs can have, in bytes: memory and swap.
fn total() -> i64 {
    (mm::memory().total_bytes + swap::space().0).max(1) as i64
}

/// How much would be gained by a process's end, adjusted. Linux: `oom_badness`.
fn gain(process: &Process, adj: i64) -> Option<i64> {
    let c = mm::counters(&process.space()?);
    Some((c.rss + c.swap + c.page_tables) as i64 + adj * (total() / 1000))
}

/// The same on some nodes; nothing, if the process has no page there.
fn gain_on(process: &Process, adj: i64, nodes: NodeSet) -> Option<i64> {
    let there = process.space()?.pages_on(nodes).bytes() as i64;
    let of_nodes: u64 =
        nodes.iter().map(|node| machine::vm().node_frames(node)).map(|of| of.end.0 - of.start.0).sum();
    let total = NrPages(of_nodes).bytes() as i64 + swap::space().0 as i64;
    (there > 0).then(|| there + adj * (total / 1000))
}

/// Gives what `/proc/PID/oom_score` tells: two thirds of thousandths, and a thousand above. Linux:
/// fs/proc/base.c `proc_oom_score`.
pub fn score(process: &Process) -> i64 {
    let adj = i64::from(process.oom_score_adj.load(SeqCst));
    match gain(process, adj) {
        Some(gain) if adj != NEVER => (1000 + gain / (total() / 1000).max(1)) * 2 / 3,
        Some(_) | None => 0,
    }
}

/// Who is never chosen.
const NEVER: i64 = -1000;
/// The ends of the scale of `oom_adj`, which is older: -17 is never.
const OLD: (i32, i32) = (-17, 15);

/// On which scale an adjustment is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// `oom_score_adj`: -1000 to 1000.
    Thousandths,
    /// `oom_adj`: -17 to 15.
    Old,
}

/// Gives the adjustment of a process.
pub fn adjustment(process: &Process, scale: Scale) -> i32 {
    let adj = process.oom_score_adj.load(SeqCst);
    match scale {
        Scale::Thousandths => adj,
        Scale::Old if adj == 1000 => OLD.1,
        Scale::Old => adj * -OLD.0 / 1000,
    }
}

/// Sets the adjustment of a process. Linux: fs/proc/base.c `__set_oom_adj`.
///
/// # Errors
/// `EINVAL` beyond the scale; `EACCES` if it is lowered by who may not.
pub fn adjust(process: &Process, scale: Scale, written: i32) -> Result<(), Errno> {
    let capable = super::current_thread().cred().has(Cap::SysResource);
    let (adj, least) = match scale {
        Scale::Thousandths if (-1000..=1000).contains(&written) => {
            (written, process.oom_score_adj_least.load(SeqCst))
        }
        Scale::Old if written == OLD.1 => (1000, process.oom_score_adj.load(SeqCst)),
        Scale::Old if (OLD.0..OLD.1).contains(&written) => {
            (written * 1000 / -OLD.0, process.oom_score_adj.load(SeqCst))
        }
        Scale::Thousandths | Scale::Old => return Err(EINVAL),
    };
    if adj < least && !capable {
        return Err(EACCES);
    }
    process.oom_score_adj.store(adj, SeqCst);
    if capable && scale == Scale::Thousandths {
        process.oom_score_adj_least.store(adj, SeqCst);
    }
    Ok(())
}

fn kill(victim: &Arc<Process>) {
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
