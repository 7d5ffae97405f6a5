//! The scheduler as the memory manager sees it: [`anonmem_hal::Sched`].

use anonmem_hal::{CpuId, GiveUp, HeldLocks, NodeMode, NodePolicy, NodeSet, Sched};
use anonmem_sync::LockWaits;

use super::task::with_held_locks;
use super::wait::wait_was_interrupted_by;
use super::{Interruptible, Wake, park, unpark};
use crate::arch::percpu::{cpu_count, this_cpu};
use crate::arch::{time, tlb};
use crate::machine::{self, Kernel};

/// How long tasks waited for the memory manager's locks.
pub static LOCK_WAITS: LockWaits = LockWaits::new();

/// How long a task spins for a lock before it sleeps. An idle CPU looks for work as long, so a spin that was
/// in vain has cost nobody anything.
const SPIN_NS: u64 = 30_000;

/// Who is told that a message of a userfaultfd has come: whoever lets programs wait for it, above.
static MESSAGES: spin::Once<fn()> = spin::Once::new();

/// Says who is told.
pub fn on_message(tell: fn()) {
    MESSAGES.call_once(|| tell);
}

/// Where the running task's pages go, if there are several nodes: to its CPU's, unless it said otherwise.
#[cold]
fn where_pages_go() -> NodePolicy {
    match super::task::current_node_policy() {
        NodePolicy { mode: NodeMode::Default, .. } => {
            NodePolicy { mode: NodeMode::Local, nodes: NodeSet::EMPTY, tag: 0 }
        }
        policy => policy,
    }
}

// SAFETY: kernel code is not preempted, so a task leaves its CPU only where it parks or yields.
unsafe impl Sched for Kernel {
    #[inline]
    fn current_cpu() -> CpuId {
        CpuId(this_cpu().id() as u32)
    }

    fn nr_cpus() -> usize {
        cpu_count()
    }

    fn park(key: usize, keep_waiting: &dyn Fn() -> bool) {
        park(key, keep_waiting, None, Interruptible::No);
    }

    fn park_for_program(key: usize, keep_waiting: &dyn Fn() -> bool, until: GiveUp) -> bool {
        match park(key, keep_waiting, None, Interruptible::Yes) {
            Wake::Interrupted => wait_was_interrupted_by(until),
            Wake::Unparked | Wake::Invalid | Wake::TimedOut => false,
        }
    }

    fn is_dying() -> bool {
        super::task::try_current_task()
            .and_then(|task| task.thread())
            .is_some_and(|thread| thread.is_ending())
    }

    #[inline]
    fn node_policy() -> NodePolicy {
        if machine::nr_nodes() == 1 { NodePolicy::DEFAULT } else { where_pages_go() }
    }

    #[inline]
    fn current_node() -> u32 {
        machine::node_of_cpu(this_cpu().id())
    }

    fn unpark(key: usize, n: usize) {
        unpark(key, n);
    }

    fn task_number() -> u32 {
        super::current_task().thread().map_or(0, |thread| thread.number())
    }

    fn message_queued() {
        if let Some(tell) = MESSAGES.get() {
            tell();
        }
    }

    fn relax() {
        tlb::relax();
    }

    fn optimistic_spin(keep_waiting: &dyn Fn() -> bool) {
        let end = time::now_ns() + SPIN_NS;
        while keep_waiting() && super::run::may_spin() && time::now_ns() < end {
            tlb::relax();
        }
    }

    fn yield_now() {
        super::yield_now();
    }

    fn contended(level: u16, wait: &mut dyn FnMut()) {
        let start = time::now_ns();
        wait();
        LOCK_WAITS.add(level, time::now_ns() - start);
    }

    unsafe fn with_held_locks(f: &mut dyn FnMut(&mut HeldLocks)) {
        with_held_locks(f);
    }
}
