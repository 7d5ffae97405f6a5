//! The promises of `Sched` and `Clock`.

use super::{Checked, Stop, World, equal, holds};
use crate::{
    port::MAX_TASKS,
    tally::{Step, Tally, pause},
};
use anonmem::Machine;
use anonmem_hal::{CpuId, CpuSlots as _, GiveUp, HeldLocks};
use core::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};

/// How often a race is tried.
const ROUNDS: usize = 20;
/// How long a task that asks whether to wait leaves its waker the time to come too early.
const TOO_EARLY_NS: u64 = 2_000_000;
/// A task that is not awake by then was lost.
const LOST_NS: u64 = 1_000_000_000;

impl<M: Machine> World<'_, '_, M> {
    /// How many tasks to run at once, at least two.
    pub(super) fn several(&self) -> Result<usize, Stop> {
        match self.port.cpus().min(MAX_TASKS) {
            0 | 1 => Err(Stop::NotTried("one task runs at a time")),
            tasks => Ok(tasks),
        }
    }
}

pub(super) fn clock<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let (tally, latest) = (Tally::new(), AtomicU64::new(0));
    w.port.at_once(w.port.cpus().min(MAX_TASKS), &|_| {
        for _ in 0..1_000 {
            let before = latest.load(SeqCst);
            let now = w.machine().now_ns();
            latest.fetch_max(now, SeqCst);
            tally.note(equal("the least time, after another CPU saw a later one", now.max(before), now));
        }
    });
    Ok(tally.result()?)
}

pub(super) fn cpu_numbers<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let (tally, cpus) = (Tally::new(), M::nr_cpus());
    holds("nr_cpus is at least 1 and at most Cpus::MAX", (1..=M::Cpus::MAX).contains(&cpus))?;
    w.port.at_once(w.port.cpus().min(MAX_TASKS), &|_| {
        tally.note(holds("current_cpu is below nr_cpus", M::current_cpu().index() < cpus));
        tally.note(equal("nr_cpus, from another CPU", M::nr_cpus() as u64, cpus as u64));
    });
    Ok(tally.result()?)
}

pub(super) fn one_task_a_cpu<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let tasks = w.several()?;
    let (tally, step, taken) = (Tally::new(), Step::new(), AtomicU64::new(0));
    w.port.at_once(tasks, &|_| {
        let CpuId(cpu) = M::current_cpu();
        let before = taken.fetch_or(1 << cpu, SeqCst);
        tally.note(equal("tasks on this CPU beside the one that asks", before >> cpu & 1, 0));
        step.meet::<M>(tasks, 1);
        for _ in 0..1_000 {
            M::relax();
            tally.note(equal("the CPU of a task that did not park", M::current_cpu().0.into(), cpu.into()));
        }
        step.meet::<M>(tasks, 2);
    });
    Ok(tally.result()?)
}

pub(super) fn contended<M: Machine>(_: &World<'_, '_, M>) -> Checked {
    // A lock that sleeps and one that spins: the ranks of `anonmem_sync::order`.
    for level in [16, 80] {
        let mut waits = 0;
        M::contended(level, &mut || waits += 1);
        equal("how often `wait` ran before `contended` returned", waits, 1)?;
    }
    Ok(())
}

/// What nobody ends the machine ends. On all CPUs at once, for elsewhere somebody has to run.
pub(super) fn spin_ends<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    M::optimistic_spin(&|| false);
    let tally = Tally::new();
    w.port.at_once(w.port.cpus().min(MAX_TASKS), &|_| {
        let (start, asked) = (w.machine().now_ns(), AtomicU64::new(0));
        let over = || w.machine().now_ns() - start > LOST_NS || asked.load(Relaxed) > 100_000_000;
        M::optimistic_spin(&|| {
            asked.fetch_add(1, Relaxed);
            !over()
        });
        tally.note(holds("a task that spun for a second went to sleep before", !over()));
    });
    Ok(tally.result()?)
}

/// Runs `f` on the list of the task.
fn held_list<M: Machine>(f: &mut dyn FnMut(&mut HeldLocks)) {
    // SAFETY: no function here does so in another one.
    unsafe { M::with_held_locks(f) };
}

/// What the list has on top, and how long it is.
fn top<M: Machine>() -> (u64, (u16, usize)) {
    let mut seen = (u64::MAX, (0, 0));
    held_list::<M>(&mut |held: &mut HeldLocks| {
        seen = (held.len as u64, if held.len == 0 { (0, 0) } else { held.entries[held.len - 1] });
    });
    seen
}

pub(super) fn held_locks<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    if !M::CHECKED {
        return Err(Stop::NotTried("the machine is not CHECKED"));
    }
    let tasks = w.port.cpus().min(MAX_TASKS);
    let (tally, step) = (Tally::new(), Step::new());
    w.port.at_once(tasks, &|me| {
        tally.note(equal("locks that a task holds that has taken none", top::<M>().0, 0));
        step.meet::<M>(tasks, 1);
        held_list::<M>(&mut |held| {
            held.entries[0] = (u16::MAX, me);
            held.len = 1;
        });
        step.meet::<M>(tasks, 2);
        let (len, (rank, whose)) = top::<M>();
        tally.note(equal("locks that a task holds that has taken one", len, 1));
        tally.note(equal("whose lock it is", whose as u64, me as u64));
        tally.note(equal("its rank", rank.into(), u16::MAX.into()));
        step.meet::<M>(tasks, 3);
        held_list::<M>(&mut |held| held.len = 0);
    });
    Ok(tally.result()?)
}

pub(super) fn park_returns<M: Machine>(_: &World<'_, '_, M>) -> Checked {
    let word = AtomicUsize::new(0);
    let key = core::ptr::from_ref(&word).addr();
    M::unpark(key, 1);
    M::park(key, &|| false);
    let gave_up = M::park_for_program(key, &|| false, GiveUp::Death);
    Ok(holds("a wait that was over was not given up", !gave_up)?)
}

/// One sleeper and its waker. The sleeper, when it is asked whether to wait, lets the waker come first: if
/// asking and going to sleep are two steps, the waker finds nobody.
pub(super) fn no_lost_wake_up<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    w.several()?;
    for _ in 0..ROUNDS {
        let (asked, woken, back) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
        let (tally, key) = (Tally::new(), core::ptr::from_ref(&asked).addr());
        w.port.at_once(2, &|me| {
            if me == 0 {
                while !woken.load(SeqCst) {
                    M::park(key, &|| {
                        let waits = !woken.load(SeqCst);
                        if !asked.swap(true, SeqCst) {
                            pause(w.machine(), TOO_EARLY_NS);
                        }
                        waits
                    });
                }
                back.store(true, SeqCst);
            } else {
                while !asked.load(SeqCst) {
                    M::relax();
                }
                woken.store(true, SeqCst);
                M::unpark(key, 1);
                rescue_if_lost(w, &back, key, &tally);
            }
        });
        tally.result()?;
    }
    Ok(())
}

/// Waits for a sleeper that was woken. One that does not come back was lost; it is woken again.
fn rescue_if_lost<M: Machine>(w: &World<'_, '_, M>, back: &AtomicBool, key: usize, tally: &Tally) {
    let start = w.machine().now_ns();
    let mut spins = 0u64;
    while !back.load(SeqCst) {
        spins += 1;
        if w.machine().now_ns() - start > LOST_NS || spins > 500_000_000 {
            tally.note(holds("a sleeper that was woken came back", false));
            M::unpark(key, usize::MAX);
        }
        M::relax();
    }
}

/// All sleep on one key, and are woken one by one.
pub(super) fn everybody_wakes<M: Machine>(w: &World<'_, '_, M>) -> Checked {
    let tasks = w.several()?;
    let (tally, turn, asleep, left) =
        (Tally::new(), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(tasks - 1));
    let done = AtomicBool::new(false);
    let key = core::ptr::from_ref(&turn).addr();
    w.port.at_once(tasks, &|me| {
        if me > 0 {
            asleep.fetch_add(1, SeqCst);
            while turn.load(SeqCst) == 0 {
                M::park(key, &|| turn.load(SeqCst) == 0);
            }
            if left.fetch_sub(1, SeqCst) == 1 {
                done.store(true, SeqCst);
            }
            return;
        }
        while asleep.load(SeqCst) < tasks - 1 {
            M::relax();
        }
        pause(w.machine(), TOO_EARLY_NS);
        turn.store(1, SeqCst);
        (1..tasks).for_each(|_| M::unpark(key, 1));
        rescue_if_lost(w, &done, key, &tally);
    });
    equal("sleepers that are left", left.load(Relaxed) as u64, 0)?;
    Ok(tally.result()?)
}
