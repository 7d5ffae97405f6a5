//! Dynamic partial-order reduction with source sets and sleep sets.
//!
//! Two executions that differ only in the order of independent steps show the same. After each new step
//! the earlier steps that it races with are found; where the race could be turned round, a CPU that would
//! start the other order is added to the step's backtrack set, unless one is there (source sets: Abdulla,
//! Aronis, Jonsson, Sagonas, "Optimal dynamic partial order reduction", POPL 2014). Sleep sets stop an
//! execution that would repeat one.
//!
//! A lock may be taken only when it is free, a wait goes on only when its condition holds: such a step
//! does not race with the one that makes it possible, but with the one before that which excluded it; so
//! the walk back goes on past releases, and for waits past everything.

use super::{
    engine::{Engine, Node},
    op::{Kind, NONE, Op},
};
use crate::{limits::MAX_CPUS, memory::Clock};

/// Adds to the path's backtrack sets what the races of `op`, about to be made by `cpu` at step `depth`,
/// ask for.
pub(crate) fn races(engine: &mut Engine, depth: usize, cpu: usize, op: &Op) {
    if op.kind == Kind::Choice {
        return;
    }
    let broken = engine.broken;
    let clock = engine.cpus[cpu].clock;
    for i in (0..depth).rev() {
        let earlier = &engine.nodes[i];
        let (other, event) = (usize::from(earlier.cpu), earlier.clock);
        if other == cpu || !op.depends_on(&earlier.op, broken) {
            continue;
        }
        if clock.knows(other, event.0[other]) {
            // Ordered already; whatever is ordered before that one is too.
            if is_last(op, &earlier.op) {
                break;
            }
            continue;
        }
        if !op.could_precede(&earlier.op) {
            continue;
        }
        let last = is_last(op, &earlier.op);
        // Where nobody could start the other order, something before that keeps `op` from being made: that is
        // the race.
        if reverse(&mut engine.nodes[..depth], i, cpu, op, &clock, broken) && last {
            break;
        }
    }
}

/// Whether all steps before `earlier` on which `op` depends are ordered with `earlier`.
fn is_last(op: &Op, earlier: &Op) -> bool {
    let one_object = op.kind != Kind::Wait && !op.sc && op.reads == NONE && earlier.object == op.object;
    // Waits are ordered with what they could notice only.
    let all_are_ordered = earlier.totally_ordered() && (!op.changes() || earlier.changes());
    // A release may have let `op` go on: then `op` races with what stopped it before.
    let let_go =
        matches!((op.kind, earlier.kind), (Kind::LockShared | Kind::Attempt, Kind::Unlock | Kind::Leave));
    one_object && all_are_ordered && !let_go
}

/// Makes sure that some execution will have `op` of `cpu` before step `i`. Returns whether that is possible.
fn reverse(
    nodes: &mut [Node],
    i: usize,
    cpu: usize,
    op: &Op,
    clock: &Clock,
    broken: super::op::Broken,
) -> bool {
    let (other, event) = (usize::from(nodes[i].cpu), nodes[i].clock.0[usize::from(nodes[i].cpu)]);
    // The steps after `i` that do not depend on it, then `op`. Who can come first among them?
    let mut first_event = [u16::MAX; MAX_CPUS];
    let mut initials = 0u16;
    let mut depends = false;
    for node in &nodes[i + 1..] {
        if node.clock.knows(other, event) {
            continue;
        }
        let who = usize::from(node.cpu);
        if first_event[who] == u16::MAX {
            if !preceded(&first_event, who, &node.clock) {
                initials |= 1 << who;
            }
            first_event[who] = node.clock.0[who];
        }
        depends |= who != cpu && node.op.depends_on(op, broken);
    }
    if first_event[cpu] == u16::MAX && !depends && !preceded(&first_event, cpu, clock) {
        initials |= 1 << cpu;
    }
    let node = &mut nodes[i];
    initials &= node.enabled;
    if initials != 0 && node.backtrack & initials == 0 {
        let add = if initials >> cpu & 1 == 1 { 1 << cpu } else { initials & initials.wrapping_neg() };
        node.backtrack |= add;
    }
    initials != 0
}

/// Whether an event of another CPU in the sequence, given by each one's first, happens before `clock`.
fn preceded(first_event: &[u16; MAX_CPUS], cpu: usize, clock: &Clock) -> bool {
    (0..MAX_CPUS).any(|c| c != cpu && first_event[c] != u16::MAX && clock.0[c] >= first_event[c])
}

/// Advances the Mazurkiewicz clocks over `op` of `cpu`; returns the step's clock.
pub(crate) fn advance(engine: &mut Engine, cpu: usize, op: &Op) -> Clock {
    let mut clock = engine.cpus[cpu].clock;
    clock.0[cpu] += 1;
    match op.kind {
        Kind::Choice => {}
        Kind::Wait => {
            for id in op.footprint.iter() {
                clock.join(&engine.objects.touch(id).change_clock);
            }
            if op.footprint.len().is_none() {
                engine.objects.used().iter().for_each(|id| clock.join(&engine.objects.get(*id).change_clock));
                engine.waits_for_all.join(&clock);
            }
            for id in op.footprint.iter() {
                engine.objects.touch(id).wait_clock.join(&clock);
            }
        }
        Kind::Fence => {
            let all = engine.objects.touch(engine.sc_object);
            clock.join(&all.write_clock);
            clock.join(&all.read_clock);
            all.write_clock = clock;
        }
        _ => {
            if op.sc {
                clock.join(&engine.objects.touch(engine.sc_object).write_clock);
            }
            if op.reads != NONE {
                clock.join(&engine.objects.touch(op.reads).write_clock);
            }
            let object = engine.objects.touch(op.object);
            clock.join(&object.write_clock);
            if op.changes() {
                clock.join(&object.wait_clock);
                clock.join(&engine.waits_for_all);
            }
            if op.totally_ordered() {
                clock.join(&object.read_clock);
                object.write_clock = clock;
            } else {
                object.read_clock.join(&clock);
            }
            if op.changes() {
                object.change_clock.join(&clock);
            }
            if op.sc {
                engine.objects.touch(engine.sc_object).read_clock.join(&clock);
            }
            if op.reads != NONE {
                engine.objects.touch(op.reads).read_clock.join(&clock);
            }
        }
    }
    engine.cpus[cpu].clock = clock;
    clock
}

/// The CPUs of `asleep` that still sleep after `op` of `cpu`.
pub(crate) fn still_asleep(engine: &Engine, asleep: u16, cpu: usize, op: &Op) -> u16 {
    let mut rest = asleep & !(1 << cpu);
    let mut left = rest;
    while left != 0 {
        let sleeper = left.trailing_zeros() as usize;
        left &= left - 1;
        let wakes = engine.cpus[sleeper].pending.is_none_or(|p| p.depends_on(op, engine.broken));
        if wakes {
            rest &= !(1 << sleeper);
        }
    }
    rest
}
