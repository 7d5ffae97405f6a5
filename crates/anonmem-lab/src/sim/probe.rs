//! The probe of the simulated machine: every access is a step of the explorer.

use super::chance::inject;
pub(crate) use super::chance::running;
use super::listed::{lock_touch, observe};
use crate::{
    accesses::Touch,
    explorer::{
        engine::{Engine, Phase, Waiting, installed, phase, with},
        failure::FailureKind,
        op::{Kind, NONE, Op},
        step::{Turn, escape, stop, turn, visible},
    },
    memory::{By, Model, View, frames::FrameRace, sc},
    trace::{Action, Event},
};
use anonmem_hal::{LockKind, Probe};
use core::{panic::Location, sync::atomic::Ordering};

/// Hands every access to the explorer of this thread. Outside an execution accesses pass through.
#[derive(Debug)]
pub enum SimProbe {}

/// Whether a load concerns the CPU that runs alone; then it is noted.
#[inline]
fn passes(e: &mut Engine, at: usize, by: By) -> bool {
    let passes = e.pass(at, false, by);
    if passes {
        e.cpus[e.current].spin.add_private(at);
    }
    passes
}

/// Whether a store or a read-modify-write concerns the CPU that runs alone; then it is noted.
#[inline]
fn passes_changing(e: &mut Engine, at: usize, by: By) -> bool {
    let passes = e.pass(at, true, by);
    if passes {
        e.watch.note(at);
    }
    passes
}

/// An access while no CPU runs: notes what the condition of a waiting CPU reads, and ends unwinding.
#[inline]
fn outside(at: usize, touch: Touch, caller: &'static Location<'static>) {
    if phase() == Phase::Idle {
        note(at);
    } else {
        outside_cold(at, touch, caller);
    }
}

/// Notes an access that is no step, such as those while a world is built or checked: it has to be undone too.
#[inline]
fn note(at: usize) {
    if installed() {
        with(|e| e.watch.note(at));
    }
}

#[cold]
fn outside_cold(at: usize, touch: Touch, caller: &'static Location<'static>) {
    match phase() {
        Phase::Observed => observe(at, touch, caller),
        Phase::Predicate => with(|e| {
            if e.reads == 0 {
                let (object, _) = e.objects.meet(at, e.current, false);
                e.footprint.add(object);
            }
            e.reads += 1;
        }),
        Phase::Unwinding => escape(),
        Phase::Idle | Phase::Starting | Phase::Running => {}
    }
}

fn name(order: Ordering) -> &'static str {
    match order {
        Ordering::Acquire => "acquire",
        Ordering::Release => "release",
        Ordering::AcqRel => "acq-rel",
        Ordering::SeqCst => "seq-cst",
        _ => "",
    }
}

impl Probe for SimProbe {
    const ACTIVE: bool = true;

    #[inline]
    #[track_caller]
    fn load(at: usize, order: Ordering, read: impl FnOnce() -> u64) -> u64 {
        if phase() == Phase::Running && with(|e| passes(e, at, By::Code)) || phase() == Phase::Idle {
            return read();
        }
        if !running() {
            outside(at, Touch::Read, Location::caller());
            return read();
        }
        let caller = Location::caller();
        let turn = turn(Kind::Load, at, order, None, caller);
        loaded(turn, at, (By::Code, order), read, caller)
    }

    #[inline]
    #[track_caller]
    fn store(at: usize, order: Ordering, value: u64, old: impl FnOnce() -> u64, write: impl FnOnce()) {
        if phase() == Phase::Running && with(|e| passes_changing(e, at, By::Code)) {
            with(|e| e.cpus[e.current].spin.clear());
            return write();
        }
        if !running() {
            outside(at, Touch::Write, Location::caller());
            return write();
        }
        let caller = Location::caller();
        let Turn { id, shared } = turn(Kind::Store, at, order, None, caller);
        inside_frame(at, By::Code, caller);
        if !shared {
            with(|e| e.cpus[e.current].spin.clear());
            return write();
        }
        with(|e| {
            let me = e.current;
            let late = match e.model {
                Model::Sc => {
                    let message = sc::store(&e.cpus[me].views, order);
                    e.objects.touch(id).message = message;
                    0
                }
                Model::C11 => {
                    let history = &mut e.objects.touch(id).history;
                    if history.is_empty() {
                        history.init(old());
                    }
                    let places = history.places(&e.cpus[me].views, order, &e.sc);
                    let place = e.pick(places);
                    let history = &mut e.objects.touch(id).history;
                    let late = history.distance(&e.cpus[me].views, order, &e.sc, place);
                    history.store(me, &e.cpus[me].views, order, &mut e.sc, value, late);
                    late
                }
            };
            if late == 0 {
                write();
            }
            e.objects.touch(id).version += 1;
            e.cpus[me].spin.clear();
            e.record(|e| Event::new(e, Some(at), name(order), Action::Store { value, late }, caller));
            e.tick();
        });
    }

    #[inline]
    #[track_caller]
    fn rmw(at: usize, order: Ordering, op: impl FnOnce() -> (u64, Option<u64>)) -> (u64, Option<u64>) {
        let passes = phase() == Phase::Running && with(|e| passes_changing(e, at, By::Code));
        if !passes && !running() {
            outside(at, Touch::Write, Location::caller());
            return op();
        }
        let caller = Location::caller();
        if passes {
            return changed_alone(at, op);
        }
        exchanged(turn(Kind::Rmw, at, order, None, caller), at, (By::Code, order), op, caller)
    }

    #[track_caller]
    fn fence(order: Ordering) {
        if !running() {
            return ended();
        }
        let caller = Location::caller();
        let visible_fence = order == Ordering::SeqCst && with(|e| e.model == Model::C11);
        if visible_fence {
            let object = with(|e| e.sc_object);
            visible(Op {
                kind: Kind::Fence,
                sc: true,
                order,
                object,
                reads: NONE,
                at: caller,
                shared: true,
                footprint: Default::default(),
            });
        }
        with(|e| {
            let me = e.current;
            match e.model {
                Model::Sc => sc::fence(&mut e.cpus[me].views, order),
                Model::C11 => e.sc.fence(&mut e.cpus[me].views, order),
            }
            e.record(|e| Event::new(e, None, name(order), Action::Word("fence".into()), caller));
            if visible_fence {
                e.tick();
            }
        });
    }

    #[track_caller]
    fn plain_read(at: usize) {
        plain(at, false, Location::caller());
    }

    #[track_caller]
    fn plain_write(at: usize) {
        plain(at, true, Location::caller());
    }

    #[inline]
    #[track_caller]
    fn statistics(at: usize) {
        if phase() == Phase::Observed {
            return observe(at, Touch::Write, Location::caller());
        }
        note(at);
    }

    #[track_caller]
    fn lock(at: usize, mode: LockKind) {
        lock(at, mode, Location::caller());
    }

    #[track_caller]
    fn try_lock(at: usize, mode: LockKind) -> bool {
        try_lock(at, mode, Location::caller())
    }

    #[track_caller]
    fn unlock(at: usize, mode: LockKind) {
        unlock(at, mode, Location::caller());
    }

    #[track_caller]
    fn wait_until(ready: &dyn Fn() -> bool) {
        // Under c11 a condition may hold for stale values: the loop that follows reads them one by one.
        if !running() || with(|e| e.model == Model::C11) {
            return;
        }
        let ready: *const (dyn Fn() -> bool + '_) = ready;
        // SAFETY: only the lifetime changes. The pointer is used while the wait below is pending, during
        // which this frame lives.
        let ready: *const (dyn Fn() -> bool + 'static) = unsafe { core::mem::transmute(ready) };
        wait(Waiting::Condition(ready), Default::default(), Location::caller());
        with(|e| {
            let me = e.current;
            e.cpus[me].spin.clear();
        });
    }
}

/// A load whose turn has come.
#[inline]
fn loaded(
    Turn { id, shared }: Turn,
    at: usize,
    (by, order): (By, Ordering),
    read: impl FnOnce() -> u64,
    caller: &'static Location<'static>,
) -> u64 {
    inside_frame(at, by, caller);
    if !shared {
        with(|e| e.cpus[e.current].spin.add_private(at));
        return read();
    }
    with(|e| {
        let me = e.current;
        let (value, age) = match e.model {
            Model::Sc => {
                let message = e.objects.touch(id).message;
                sc::load(e.cpus[me].views_of(by), &message, order);
                (read(), 0)
            }
            Model::C11 => {
                let history = &mut e.objects.touch(id).history;
                if history.is_empty() {
                    history.init(read());
                }
                let choices = history.choices(e.cpus[me].views_of(by), order, &e.sc);
                let age = e.pick(choices);
                let loaded = e.objects.touch(id).history.load(me, e.cpus[me].views_of(by), order, age);
                (loaded.value, loaded.age)
            }
        };
        let version = e.objects.get(id).version;
        e.cpus[me].spin.add(id, version.wrapping_sub(age as u32));
        e.record(|e| Event::new(e, Some(at), name(order), Action::Load { value, age }, caller));
        e.tick();
        value
    })
}

/// A read-modify-write of an object that concerns the CPU that runs alone.
#[inline]
fn changed_alone(at: usize, op: impl FnOnce() -> (u64, Option<u64>)) -> (u64, Option<u64>) {
    let (old, new) = op();
    with(|e| match new {
        Some(_) => e.cpus[e.current].spin.clear(),
        None => e.cpus[e.current].spin.add_private(at),
    });
    (old, new)
}

/// A read-modify-write whose turn has come.
#[inline]
fn exchanged(
    Turn { id, shared }: Turn,
    at: usize,
    (by, order): (By, Ordering),
    op: impl FnOnce() -> (u64, Option<u64>),
    caller: &'static Location<'static>,
) -> (u64, Option<u64>) {
    inside_frame(at, by, caller);
    if !shared {
        return changed_alone(at, op);
    }
    with(|e| {
        let me = e.current;
        let (old, new) = op();
        match e.model {
            Model::Sc => {
                let message = e.objects.touch(id).message;
                if let Some(next) = sc::rmw(e.cpus[me].views_of(by), &message, order, new.is_some()) {
                    e.objects.touch(id).message = next;
                }
            }
            Model::C11 => {
                let history = &mut e.objects.touch(id).history;
                if history.is_empty() {
                    history.init(old);
                }
                history.rmw(me, e.cpus[me].views_of(by), order, &mut e.sc, new);
            }
        }
        if new.is_some() {
            e.objects.touch(id).version += 1;
            e.cpus[me].spin.clear();
        } else {
            let version = e.objects.get(id).version;
            e.cpus[me].spin.add(id, version);
        }
        e.record(|e| Event::new(e, Some(at), name(order), Action::Rmw { old, new }, caller));
        e.tick();
        (old, new)
    })
}

/// A load by a walk of the page tables, which a flush of this CPU's translations ends: `None` if one came
/// before it.
#[track_caller]
pub(super) fn walk_load(
    at: usize,
    through: usize,
    goes_on: impl Fn() -> bool,
    read: impl FnOnce() -> u64,
) -> Option<u64> {
    // Acquire: a walker depends on what it read, which orders its next read, and the access that is
    // translated, after it.
    let order = Ordering::Acquire;
    let alone = |e: &mut Engine| e.objects.is_private(through, e.current, false) && passes(e, at, By::Mmu);
    if phase() == Phase::Running && with(alone) || !running() {
        return Some(read());
    }
    let caller = Location::caller();
    let turn = turn(Kind::Load, at, order, Some(through), caller);
    goes_on().then(|| loaded(turn, at, (By::Mmu, order), read, caller))
}

/// An exchange by a walk of the page tables; as [`walk_load`].
#[track_caller]
pub(super) fn walk_exchange(
    at: usize,
    through: usize,
    goes_on: impl Fn() -> bool,
    op: impl FnOnce() -> (u64, Option<u64>),
) -> Option<bool> {
    // A bit that the walker sets says nothing of what the CPU did before: no Release.
    let order = Ordering::Acquire;
    let alone =
        |e: &mut Engine| e.objects.is_private(through, e.current, false) && passes_changing(e, at, By::Mmu);
    if phase() == Phase::Running && with(alone) || !running() {
        return Some(op().1.is_some());
    }
    let caller = Location::caller();
    let turn = turn(Kind::Rmw, at, order, Some(through), caller);
    goes_on().then(|| exchanged(turn, at, (By::Mmu, order), op, caller).1.is_some())
}

/// An access inside of a frame, if `at` is in one: nobody may fill the frame at the same time.
#[inline]
pub(super) fn inside_frame(at: usize, by: By, caller: &'static Location<'static>) {
    if let Some(race) = with(|e| e.frame_access(at, by, Some(caller))) {
        frame_race("an access to the contents of a frame", at, race, caller);
    }
}

/// The CPU that runs fills the frame at `at`.
pub(super) fn fill_frame(at: usize, caller: &'static Location<'static>) {
    let race = with(|e| {
        let (now, me) = (e.now(), e.current);
        e.frames.fill(at, me, &now, caller)
    });
    if let Some(race) = race {
        frame_race("a frame is filled or freed", at, race, caller);
    }
}

#[cold]
fn frame_race(what: &str, at: usize, race: FrameRace, caller: &'static Location<'static>) {
    if with(|e| e.astray()) {
        return;
    }
    let theirs = if race.filled { "the filling of it" } else { "an access to it" };
    let place = race.at.map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
    with(|e| {
        let message = format!("{what} that nothing orders with {theirs} by CPU{}{place}", race.cpu);
        let word = if race.filled { "is accessed" } else { "is filled" };
        e.record(|e| Event::new(e, Some(at), "", Action::Word(word.into()), caller));
        e.fail(FailureKind::DataRace, message, Some(caller));
    });
    stop();
}

/// Waits as a step of the current CPU.
pub(crate) fn wait(
    waiting: Waiting,
    footprint: crate::explorer::op::Footprint,
    at: &'static Location<'static>,
) {
    // A reader that waits: a writer may sleep behind it, and others behind the writer.
    with(|e| {
        for i in 0..e.cpus[e.current].reading.len() {
            e.objects.queue(e.cpus[e.current].reading[i]);
        }
    });
    let op = Op {
        kind: Kind::Wait,
        sc: false,
        order: Ordering::Relaxed,
        object: with(|e| {
            e.cpus[e.current].waiting = waiting;
            e.sc_object
        }),
        reads: NONE,
        at,
        shared: true,
        footprint,
    };
    visible(op);
    with(|e| {
        let me = e.current;
        e.cpus[me].waiting = Waiting::Nothing;
        e.tick();
    });
}

fn plain(at: usize, write: bool, caller: &'static Location<'static>) {
    match phase() {
        Phase::Predicate | Phase::Unwinding | Phase::Observed => {
            return unevaluable(at, if write { Touch::Write } else { Touch::Read }, caller);
        }
        Phase::Idle if write => return note(at),
        Phase::Idle => return,
        Phase::Starting | Phase::Running => {}
    }
    inside_frame(at, By::Code, caller);
    let race = with(|e| {
        if write {
            e.watch.note(at);
        }
        let me = e.current;
        if e.skip && e.objects.is_private(at, me, write) {
            return None;
        }
        let (id, shared) = e.objects.meet(at, me, write);
        if e.skip && !shared {
            return None;
        }
        let now = e.now();
        let plain = &mut e.objects.touch(id).plain;
        let race = if write { plain.write(me, &now.hb, caller) } else { plain.read(me, &now.hb, caller) };
        race.filter(|_| !e.astray())
    });
    if let Some(race) = race {
        let (mine, theirs) =
            (if write { "write" } else { "read" }, if race.wrote { "write" } else { "read" });
        let (file, line) = (race.at.file(), race.at.line());
        with(|e| {
            let message =
                format!("a {mine} that nothing orders with the {theirs} of CPU{} at {file}:{line}", race.cpu);
            let word = format!("plain {mine}");
            e.record(|e| Event::new(e, Some(at), "", Action::Word(word), caller));
            e.fail(FailureKind::DataRace, message, Some(caller));
        });
        stop();
    }
}

fn kind(mode: LockKind, exclusive: Kind, shared: Kind) -> Kind {
    match mode {
        LockKind::Exclusive => exclusive,
        LockKind::Shared => shared,
    }
}

/// Takes the lock at `at`; the CPU waits until it is free.
pub(crate) fn lock(at: usize, mode: LockKind, caller: &'static Location<'static>) {
    if !running() {
        return unevaluable(at, lock_touch(mode), caller);
    }
    let (queues, checked) = with(|e| (e.objects.queues(at), is_checked(e, at)));
    if mode == LockKind::Shared && !checked {
        // Whether somebody waits for it while reading is not known.
        with(|e| e.objects.queue(at));
    }
    let exclusive = if queues { Kind::Attempt } else { Kind::Lock };
    loop {
        let turn = turn(kind(mode, exclusive, Kind::LockShared), at, Ordering::Relaxed, None, caller);
        let taken = with(|e| {
            let taken = !queues || mode == LockKind::Shared || attempt(e, turn.id);
            if taken {
                acquired(e, turn, at, mode);
            }
            e.record(|e| {
                let word = if taken { "lock" } else { "lock: sleeps until the holders have left" };
                Event::new(e, Some(at), "", Action::Word(kind_word(mode, word, "lock shared")), caller)
            });
            e.tick();
            taken
        });
        if taken {
            return;
        }
    }
}

/// Whether the lock-order checker of the CPU that runs knows of the lock at `at`.
fn is_checked(e: &Engine, at: usize) -> bool {
    let held = &e.cpus[e.current].held;
    held.entries[..held.len].iter().any(|h| h.1 == at)
}

/// A writer's attempt at a lock that may be held: says whether it gets it; if not, new readers wait from now
/// on.
fn attempt(e: &mut Engine, lock: u32) -> bool {
    let object = e.objects.touch(lock);
    let free = object.writer == 0 && object.readers == 0;
    object.queued |= !free;
    free
}

fn kind_word(mode: LockKind, exclusive: &str, shared: &str) -> String {
    match mode {
        LockKind::Exclusive => exclusive.into(),
        LockKind::Shared => shared.into(),
    }
}

/// A lock or a plain word in the condition of a spin loop: it is not evaluated from outside.
#[inline]
fn unevaluable(at: usize, touch: Touch, caller: &'static Location<'static>) {
    if phase() == Phase::Idle {
        note(at);
    } else {
        unevaluable_now(at, touch, caller);
    }
}

#[cold]
fn unevaluable_now(at: usize, touch: Touch, caller: &'static Location<'static>) {
    if phase() == Phase::Observed {
        return observe(at, touch, caller);
    }
    if phase() == Phase::Predicate {
        with(|e| e.reads += 2);
    }
    ended();
}

/// Ends the execution if a panic unwinds.
#[inline]
pub(crate) fn ended() {
    if phase() == Phase::Unwinding {
        escape();
    }
}

fn acquired(e: &mut Engine, turn: Turn, at: usize, mode: LockKind) {
    let me = e.current;
    let object = e.objects.touch(turn.id);
    match mode {
        LockKind::Exclusive => object.writer = me as u8 + 1,
        LockKind::Shared => {
            object.readers += 1;
            e.cpus[me].reading.push(at);
        }
    }
    let object = e.objects.touch(turn.id);
    if !turn.shared {
        return;
    }
    let mut known: View = object.unlocked;
    if mode == LockKind::Exclusive {
        known.join(&object.unlocked_shared);
    }
    e.cpus[me].views.now.join(&known);
}

fn try_lock(at: usize, mode: LockKind, caller: &'static Location<'static>) -> bool {
    if !running() {
        unevaluable(at, lock_touch(mode), caller);
        return true;
    }
    let turn = turn(kind(mode, Kind::TryLock, Kind::TryLockShared), at, Ordering::Relaxed, None, caller);
    let spurious = with(|e| e.inject.try_lock) && inject(2) == 1;
    with(|e| {
        let object = e.objects.touch(turn.id);
        let free = object.writer == 0 && !object.queued && (mode == LockKind::Shared || object.readers == 0);
        let version = object.version;
        let taken = free && !spurious;
        if taken {
            acquired(e, turn, at, mode);
        } else if spurious && free {
            // Nobody need do anything for it to succeed next time.
            e.cpus[e.current].spin.add_unknown();
        } else {
            e.cpus[e.current].spin.add(turn.id, version);
        }
        e.record(|e| {
            let word = match (taken, free) {
                (true, _) => kind_word(mode, "trylock", "trylock shared"),
                (false, true) => "trylock fails for no reason".into(),
                (false, false) => "trylock fails".into(),
            };
            Event::new(e, Some(at), "", Action::Word(word), caller)
        });
        e.tick();
        taken
    })
}

/// Releases the lock at `at`.
pub(crate) fn unlock(at: usize, mode: LockKind, caller: &'static Location<'static>) {
    if !running() {
        if phase() == Phase::Observed {
            return observe(at, Touch::Unlock, caller);
        }
        note(at);
        return ended();
    }
    // The last reader lets those go on who sleep: then the order of readers' releases matters.
    let shared = if with(|e| e.objects.queues(at)) { Kind::Leave } else { Kind::UnlockShared };
    let turn = turn(kind(mode, Kind::Unlock, shared), at, Ordering::Relaxed, None, caller);
    with(|e| {
        let (now, me) = (e.now(), e.current);
        if mode == LockKind::Shared
            && let Some(place) = e.cpus[me].reading.iter().rposition(|lock| *lock == at)
        {
            e.cpus[me].reading.remove(place);
        }
        let object = e.objects.touch(turn.id);
        match mode {
            LockKind::Exclusive => {
                object.writer = 0;
                object.unlocked = now;
            }
            LockKind::Shared => {
                object.readers -= 1;
                object.unlocked_shared.join(&now);
            }
        }
        object.queued &= object.readers != 0 || object.writer != 0;
        object.version += 1;
        // What the lock protects was looked at before now: somebody else's release would be news. Releases of
        // readers are none, and have no order among themselves that a version could stand for.
        let version = object.version;
        match mode {
            LockKind::Exclusive => e.cpus[me].spin.renew(turn.id, version),
            LockKind::Shared => e.cpus[me].spin.add_unknown(),
        }
        e.record(|e| Event::new(e, Some(at), "", Action::Word("unlock".into()), caller));
        e.tick();
    });
}
