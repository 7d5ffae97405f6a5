//! Tasks of the simulated machine: one on each CPU, which sleeps and wakes as steps of the explorer.
//!
//! A park takes the lock of the key's queue, asks whether to wait, access by access, enqueues itself and
//! releases the lock; an unpark takes the same lock. So a wake-up that comes too early, or is never sent,
//! shows as a deadlock. An unpark that wakes some of those that sleep wakes any of them. A task that wakes up
//! for no reason (`Inject::wake_up`) stays in the queue until it takes the lock again and leaves: an unpark
//! that comes before that is spent on it.

use super::{
    Sim, choose, misfortune,
    probe::{self, running, wait},
};
use crate::{
    explorer::{
        engine::{Engine, Phase, Waiting, installed, phase, with},
        op::{Footprint, Kind},
        step::turn,
    },
    limits::address,
    trace::{Action, Event},
};
use anonmem_hal::{CpuId, HeldLocks, LockKind, Sched};
use core::{panic::Location, sync::atomic::Ordering};

// SAFETY: the explorer runs one coroutine of a CPU at a time, and switches only where they ask it to.
unsafe impl Sched for Sim {
    #[inline]
    fn current_cpu() -> CpuId {
        if installed() { with(|e| CpuId(e.current as u32)) } else { CpuId(0) }
    }

    fn nr_cpus() -> usize {
        if installed() { with(|e| e.nr_cpus) } else { 1 }
    }

    #[track_caller]
    fn park(key: usize, keep_waiting: &dyn Fn() -> bool) {
        if !running() {
            return probe::ended();
        }
        let at = Location::caller();
        let queue = address::queue(key);
        probe::lock(queue, LockKind::Exclusive, at);
        if !keep_waiting() {
            return probe::unlock(queue, LockKind::Exclusive, at);
        }
        with(|e| {
            let me = e.current;
            e.cpus[me].parked = Some(key);
            e.cpus[me].woken = false;
        });
        probe::unlock(queue, LockKind::Exclusive, at);
        if with(|e| e.inject.wake_up) && misfortune("wakes up for no reason") {
            return leave_queue(queue, at);
        }
        let flag = with(|e| e.objects.meet(address::WAKE + e.current, e.current, false).0);
        let mut footprint = Footprint::EMPTY;
        footprint.add(flag);
        wait(Waiting::Unpark, footprint, at);
        with(|e| {
            let me = e.current;
            let message = e.objects.touch(flag).message;
            e.cpus[me].views.now.join(&message);
            e.record(|e| Event::new(e, Some(key), "", Action::Word("wakes up".into()), at));
        });
    }

    #[track_caller]
    fn unpark(key: usize, n: usize) {
        if !running() {
            return probe::ended();
        }
        let at = Location::caller();
        let queue = address::queue(key);
        probe::lock(queue, LockKind::Exclusive, at);
        for woken in 0..n {
            let Some(cpu) = one_parked(key, n - woken) else { break };
            let flag = turn(Kind::Rmw, address::WAKE + cpu, Ordering::Relaxed, None, at);
            with(|e| {
                let now = e.now();
                e.cpus[cpu].woken = true;
                e.cpus[cpu].parked = None;
                let object = e.objects.touch(flag.id);
                object.version += 1;
                object.message = now;
                e.record(|e| Event::new(e, Some(key), "", Action::Word(format!("wakes CPU{cpu}")), at));
                e.tick();
            });
        }
        probe::unlock(queue, LockKind::Exclusive, at);
    }

    /// Waits until something that this CPU has read since its last turn changes.
    #[track_caller]
    fn relax() {
        if !running() {
            return probe::ended();
        }
        let footprint = with(|e| {
            suspect_private(e);
            let mut footprint = Footprint::EMPTY;
            if let Some(reads) = e.cpus[e.current].spin.list() {
                reads.iter().for_each(|r| footprint.add(r.0));
            }
            footprint
        });
        wait(Waiting::Change, footprint, Location::caller());
        with(|e| {
            let me = e.current;
            let spin = core::mem::take(&mut e.cpus[me].spin);
            for &(object, _) in spin.list().unwrap_or_default() {
                e.objects.touch(object).history.catch_up(me, &e.cpus[me].views);
            }
            e.tick();
        });
    }

    /// Waits until somebody else has made a step, if anybody can.
    #[track_caller]
    fn yield_now() {
        if !running() {
            return probe::ended();
        }
        let now = with(|e| e.depth);
        wait(Waiting::Others(now), Footprint::ALL, Location::caller());
        with(|e| {
            let me = e.current;
            e.cpus[me].spin.clear();
        });
    }

    unsafe fn with_held_locks(f: &mut dyn FnMut(&mut HeldLocks)) {
        if !installed() {
            return f(&mut HeldLocks::default());
        }
        probe::ended();
        let held: *mut HeldLocks = with(|e| match phase() {
            Phase::Idle => &raw mut e.setup_held,
            _ => {
                let me = e.current;
                &raw mut e.cpus[me].held
            }
        });
        // SAFETY: the engine outlives the call, and the checker does nothing but look at the list.
        f(unsafe { &mut *held });
    }
}

/// One of the CPUs that are parked on `key`: any of them, if not all are to be woken.
#[track_caller]
fn one_parked(key: usize, n: usize) -> Option<usize> {
    let parked = with(|e| {
        let parked = (0..e.nr_cpus).filter(|cpu| e.cpus[*cpu].parked == Some(key));
        parked.fold(0u16, |all, cpu| all | 1 << cpu)
    });
    let count = parked.count_ones() as usize;
    let nth = if count > n { choose(count, "the sleeper that is woken") } else { 0 };
    (0..16).filter(|cpu| parked >> cpu & 1 == 1).nth(nth)
}

/// A loop that waits for private objects alone: somebody is going to change one of them.
fn suspect_private(e: &mut Engine) {
    let me = e.current;
    let spin = e.cpus[me].spin;
    for &address in spin.only_private() {
        e.objects.suspect(address);
        let id = e.objects.id(address);
        let version = e.objects.get(id).version;
        e.cpus[me].spin.add(id, version);
    }
}

/// A task that woke up for no reason leaves the queue, unless it has been woken meanwhile.
fn leave_queue(queue: usize, at: &'static Location<'static>) {
    probe::lock(queue, LockKind::Exclusive, at);
    with(|e| {
        let me = e.current;
        e.cpus[me].parked = None;
    });
    probe::unlock(queue, LockKind::Exclusive, at);
}
