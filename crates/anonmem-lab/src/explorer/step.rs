//! One execution: CPUs take turns, one operation at a time.
//!
//! A CPU that reaches an operation announces it and asks who goes next. If it is itself, it just goes on;
//! otherwise it hands over to the loop in [`run`], which resumes the one that was chosen. An operation takes
//! effect after its CPU was chosen, and nothing else happens until that CPU announces its next one.

use super::{
    Search, dpor,
    engine::{Engine, Node, Phase, Waiting, phase, set_phase, with},
    failure::FailureKind,
    op::{Footprint, Kind, NONE, Op},
    random,
};
use crate::{limits::MAX_CPUS, memory::Model, names::Names, scenario::Program};
use core::{
    panic::{AssertUnwindSafe, Location},
    sync::atomic::Ordering,
};
use corosensei::{Coroutine, CoroutineResult, Yielder, stack::DefaultStack};
use std::panic::catch_unwind;

type Task = Coroutine<(), (), (), DefaultStack>;

/// Stack of a CPU in bytes.
const STACK: usize = 256 * 1024;

/// The stacks of an exploration's CPUs, used again for every execution.
pub(crate) struct Stacks(Vec<DefaultStack>);

impl Stacks {
    /// One for each CPU.
    pub(crate) fn new(nr_cpus: usize) -> Self {
        Self((0..nr_cpus).map(|_| DefaultStack::new(STACK).expect("memory for a stack")).collect())
    }
}

/// An operation that has its turn, or needs none.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    /// The object.
    pub(crate) id: u32,
    /// Whether others could notice: then the memory model applies, and the trace shows it.
    pub(crate) shared: bool,
}

/// An operation of the CPU that runs, on the object at `address`: waits for its turn, unless nobody else
/// touches that object. `through`: an object that it reads besides.
#[inline]
pub(crate) fn turn(
    kind: Kind,
    address: usize,
    order: Ordering,
    through: Option<usize>,
    at: &'static Location<'static>,
) -> Turn {
    let starting = phase() == Phase::Starting;
    let (op, silent) = with(|e| {
        if kind != Kind::Load {
            e.watch.note(address);
        }
        let me = e.current;
        let (object, mut shared) = e.objects.meet(address, me, !kind.reads_only());
        let mut reads = NONE;
        if let Some(through) = through {
            let (id, also) = e.objects.meet(through, me, false);
            (reads, shared) = (id, shared | also);
        }
        let silent = !shared && e.skip && !starting && is_free(e, kind, object);
        let sc = order == Ordering::SeqCst && e.model == Model::C11;
        (Op { kind, sc, order, object, reads, at, shared, footprint: Footprint::EMPTY }, silent)
    });
    if silent {
        count_silent(at);
        return Turn { id: op.object, shared: false };
    }
    visible(op);
    // What the access goes through may be shared while the object itself is not: then the object has no
    // history yet, and must not get one, because what this CPU alone does to it is not written there.
    let shared = through.is_none() || with(|e| e.objects.meet(address, e.current, !kind.reads_only()).1);
    Turn { id: op.object, shared }
}

/// A choice of the environment: it concerns nobody else.
pub(crate) fn choice_turn(at: &'static Location<'static>) {
    if phase() == Phase::Running && with(|e| e.skip) {
        return count_silent(at);
    }
    let object = with(|e| e.sc_object);
    let order = Ordering::Relaxed;
    let (kind, footprint) = (Kind::Choice, Footprint::EMPTY);
    visible(Op { kind, sc: false, order, object, reads: NONE, at, shared: false, footprint });
}

/// Whether nothing keeps `kind` from being done at once: a lock that the CPU holds itself does.
#[inline]
fn is_free(e: &Engine, kind: Kind, object: u32) -> bool {
    match kind {
        Kind::Lock => matches!(e.objects.get(object), o if o.writer == 0 && o.readers == 0),
        Kind::LockShared => matches!(e.objects.get(object), o if o.writer == 0 && !o.queued),
        Kind::Attempt => !e.objects.get(object).queued,
        _ => true,
    }
}

#[inline]
fn count_silent(at: &'static Location<'static>) {
    if !with(Engine::silent) {
        with(|e| {
            let message = format!("no end after {} steps", e.ops);
            e.fail(FailureKind::Livelock, message, Some(at));
        });
        stop();
    }
}

/// Announces `op` of the CPU that runs; returns when it is its turn.
#[inline]
pub(crate) fn visible(op: Op) {
    with(|e| e.cpus[e.current].pending = Some(op));
    if phase() == Phase::Starting {
        switch();
        return;
    }
    let me = with(|e| e.current);
    if select() != Some(me) {
        switch();
    }
}

/// Gives up the rest of the execution, after a failure was noted.
pub(crate) fn stop() -> ! {
    with(|e| e.next = None);
    switch();
    unreachable!("a stopped CPU was resumed");
}

/// Ends the execution in the middle of unwinding, without running further destructors.
pub(crate) fn escape() -> ! {
    super::panics::note();
    stop();
}

/// Switches to the loop of [`run`].
fn switch() {
    let yielder = with(|e| e.cpus[e.current].yielder);
    // SAFETY: the coroutine of the current CPU set this pointer to its own yielder, which lives as long as
    // the coroutine; this runs on that coroutine.
    unsafe { &*yielder }.suspend(());
}

/// Decides who makes the next step, and commits it.
fn select() -> Option<usize> {
    let (mut enabled, conditions, yielding) = with(ready);
    let mut left = conditions;
    while left != 0 {
        let cpu = left.trailing_zeros() as usize;
        left &= left - 1;
        if condition_holds(cpu) {
            enabled |= 1 << cpu;
        }
    }
    if enabled == 0 {
        enabled = yielding;
    }
    with(|e| {
        e.next = if e.failure.is_some() { None } else { choose_cpu(e, enabled) };
        e.next
    })
}

/// The CPUs that can make their step, those of whom a condition has to be asked, and those that let others go
/// first.
fn ready(e: &mut Engine) -> (u16, u16, u16) {
    let (mut enabled, mut conditions, mut yielding) = (0, 0, 0);
    for index in 0..e.nr_cpus {
        let cpu = &e.cpus[index];
        let Some(op) = &cpu.pending else { continue };
        let able = match op.kind {
            Kind::Lock | Kind::LockShared | Kind::Attempt => is_free(e, op.kind, op.object),
            Kind::Wait => match cpu.waiting {
                Waiting::Nothing => true,
                Waiting::Unpark => cpu.woken,
                Waiting::Change => cpu.spin.list().is_none_or(|reads| {
                    reads.iter().any(|&(o, version)| e.objects.get(o).version != version)
                }),
                Waiting::Others(since) => {
                    yielding |= 1 << index;
                    e.depth > since
                }
                Waiting::Condition(_) => {
                    conditions |= 1 << index;
                    false
                }
            },
            _ => true,
        };
        if able {
            enabled |= 1 << index;
        }
    }
    (enabled, conditions, yielding)
}

/// Evaluates the condition that `cpu` waits for, and notes what it reads.
///
/// If the first read alone says that it does not hold, the CPU is blocked until that object changes: so the
/// step is a read of that object. A condition that reads more is not evaluated in one step by real code; then
/// the CPU goes on and evaluates it itself, access by access.
fn condition_holds(cpu: usize) -> bool {
    let (condition, current, outer) = with(|e| {
        let Waiting::Condition(condition) = e.cpus[cpu].waiting else { unreachable!("no condition") };
        e.footprint = Footprint::EMPTY;
        e.reads = 0;
        (condition, core::mem::replace(&mut e.current, cpu), phase())
    });
    set_phase(Phase::Predicate);
    // SAFETY: the closure lives in the frame of `wait_until` of `cpu`, which cannot return before the
    // operation that is pending has been made.
    let holds = catch_unwind(AssertUnwindSafe(|| unsafe { (*condition)() }));
    set_phase(outer);
    if holds.is_err() {
        super::panics::note();
    }
    with(|e| {
        e.current = current;
        let footprint = e.footprint;
        e.cpus[cpu].pending.as_mut().expect("it waits").footprint = footprint;
        !matches!(holds, Ok(false)) || e.reads != 1
    })
}

/// Follows the path, or extends it by a step.
fn choose_cpu(e: &mut Engine, enabled: u16) -> Option<usize> {
    e.enabled = enabled;
    let depth = e.depth;
    if e.ops >= e.max_steps {
        let message = format!("no end after {} steps", e.ops);
        e.fail(FailureKind::Livelock, message, None);
        return None;
    }
    let cpu = if depth < e.nodes.len() { follow(e, enabled) } else { extend(e, enabled) }?;
    commit(e, cpu);
    Some(cpu)
}

/// Who made this step the last time; nobody if the scenario does something else now.
fn follow(e: &mut Engine, enabled: u16) -> Option<usize> {
    let depth = e.depth;
    let node = &e.nodes[depth];
    let cpu = usize::from(node.cpu);
    let same = node.enabled == enabled && enabled >> cpu & 1 == 1;
    // The last step of the path may be new; those before it have been made like this.
    let made = depth + 1 < e.replay;
    if !same || made && e.cpus[cpu].pending.is_none_or(|op| !op.looks_like(&node.op)) {
        let message = format!(
            "step {depth}: CPUs {:#b} could run, CPU{cpu} would make {:?}; now {enabled:#b}, {:?}: a scenario \
             must do the same each time",
            node.enabled,
            node.op.kind,
            e.cpus[cpu].pending.map(|op| op.kind)
        );
        e.fail(FailureKind::Nondeterminism, message, None);
        return None;
    }
    e.sleep = node.sleep | (node.done & !(1 << cpu));
    Some(cpu)
}

/// Lengthens the path by a step that was never made; nobody makes it if there is no need.
fn extend(e: &mut Engine, enabled: u16) -> Option<usize> {
    if enabled == 0 {
        return None;
    }
    let Some((cpu, backtrack)) = choose_new(e, enabled) else {
        e.redundant = true;
        return None;
    };
    let op = e.cpus[cpu].pending.expect("enabled");
    e.nodes.push(Node {
        cpu: cpu as u8,
        op,
        clock: crate::memory::Clock::ZERO,
        enabled,
        backtrack,
        done: 0,
        sleep: e.sleep,
        first_choice: e.choice,
        ops: e.ops,
    });
    Some(cpu)
}

/// Who makes a step that no path prescribes, and who else shall be tried here.
fn choose_new(e: &mut Engine, enabled: u16) -> Option<(usize, u16)> {
    let current = e.current;
    let goes_on = enabled >> current & 1 == 1;
    let stay = |candidates: u16| {
        if candidates >> current & 1 == 1 { current } else { candidates.trailing_zeros() as usize }
    };
    Some(match e.search {
        Search::Dpor => {
            let candidates = enabled & !e.sleep;
            if candidates == 0 {
                return None;
            }
            let cpu = stay(candidates);
            (cpu, 1 << cpu)
        }
        Search::Plain => (stay(enabled), enabled),
        Search::Bounded { preemptions } => {
            let free = !goes_on || e.depth == 0;
            let may = free || e.preemptions < preemptions && contended(e, current);
            (stay(enabled), if may { enabled } else { 1 << current })
        }
        Search::Random { .. } => (random::walk(e, enabled), 0),
        Search::Pct { .. } => (random::pct(e, enabled), 0),
        Search::Guided => {
            let wanted = e.guide.cpus.get(e.depth).map(|c| usize::from(*c));
            (wanted.filter(|c| enabled >> c & 1 == 1).unwrap_or_else(|| stay(enabled)), 0)
        }
    })
}

/// Whether somebody else could notice when `cpu` makes its next step.
fn contended(e: &Engine, cpu: usize) -> bool {
    e.cpus[cpu].pending.is_some_and(|op| match op.kind {
        Kind::Choice => false,
        Kind::Wait => true,
        Kind::Fence => true,
        _ => op.shared,
    })
}

/// Makes `cpu` the one that runs; its pending operation is now its step.
fn commit(e: &mut Engine, cpu: usize) {
    let op = e.cpus[cpu].pending.take().expect("only a CPU with an operation is chosen");
    let depth = e.depth;
    e.nodes[depth].op = op;
    if depth > 0 && cpu != e.current && e.enabled >> e.current & 1 == 1 {
        e.preemptions += 1;
    }
    if e.search == Search::Dpor || e.sign {
        if e.search == Search::Dpor && depth + 1 >= e.replay {
            dpor::races(e, depth, cpu, &op);
        }
        let clock = dpor::advance(e, cpu, &op);
        e.nodes[depth].clock = clock;
        e.sleep = dpor::still_asleep(e, e.sleep, cpu, &op);
    }
    e.nodes[depth].ops = e.ops;
    e.depth += 1;
    e.ops += 1;
    e.current = cpu;
}

/// Runs one execution of `program` from its beginning to its end, or as far as it is worth.
pub(crate) fn run(program: &dyn Program, stacks: &mut Stacks) {
    set_phase(Phase::Idle);
    program.reset(with(|e| e.ended));
    let names = with(|e| e.recorder.is_some()).then(|| {
        let mut names = Names::default();
        program.names(&mut names);
        names
    });
    let nr_cpus = with(|e| {
        e.watch = program.watch();
        e.begin();
        random::begin(e);
        e.names = names.unwrap_or_default();
        e.nr_cpus
    });
    let mut tasks: [Option<Task>; MAX_CPUS] = Default::default();
    for (cpu, task) in tasks[..nr_cpus].iter_mut().enumerate() {
        let stack = stacks.0.pop().expect("one for each CPU");
        *task = Some(new_task(program, cpu, stack));
        with(|e| e.current = cpu);
        set_phase(Phase::Starting);
        resume(task.as_mut().expect("just made"));
    }
    with(|e| e.current = 0);
    set_phase(Phase::Running);
    let mut next = select();
    while let Some(cpu) = next {
        let done = resume(tasks[cpu].as_mut().expect("running"));
        set_phase(Phase::Running);
        next = if done { select() } else { with(|e| e.next) };
    }
    for task in tasks.into_iter().flatten() {
        stacks.0.push(abandon(task));
    }
    set_phase(Phase::Idle);
    with(finish);
}

fn new_task(program: &dyn Program, cpu: usize, stack: DefaultStack) -> Task {
    // SAFETY: only the lifetime changes; the coroutine ends before `run` returns, and `run` borrows it.
    let program = unsafe { core::mem::transmute::<&dyn Program, &'static dyn Program>(program) };
    Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
        with(|e| e.cpus[cpu].yielder = yielder);
        program.run(cpu);
    })
}

/// Resumes a task; `true` if it has ended.
fn resume(task: &mut Task) -> bool {
    match catch_unwind(AssertUnwindSafe(|| task.resume(()))) {
        Ok(CoroutineResult::Yield(())) => false,
        Ok(CoroutineResult::Return(())) => true,
        Err(_) => {
            super::panics::note();
            true
        }
    }
}

/// Takes the stack of a task back, whether it has ended or not.
fn abandon(mut task: Task) -> DefaultStack {
    if !task.done() {
        // SAFETY: what lives on the stack is leaked, not dropped: guards and owners whose world is
        // put back or dropped as a whole. `Program` forbids anything that must be dropped.
        unsafe { task.force_reset() };
    }
    task.into_stack()
}

/// Closes an execution: a deadlock, the races of steps that were never made, the counters.
fn finish(e: &mut Engine) {
    e.counters.steps += e.ops as u64;
    e.counters.turns += e.depth as u64;
    if e.astray() {
        e.redundant = true;
        e.failure = None;
        e.ended = false;
        e.counters.redundant += 1;
        return;
    }
    e.counters.longest = e.counters.longest.max(e.ops);
    if e.search == Search::Dpor {
        for cpu in 0..e.nr_cpus {
            if let Some(op) = e.cpus[cpu].pending {
                dpor::races(e, e.depth, cpu, &op);
            }
        }
    }
    e.ended = e.cpus[..e.nr_cpus].iter().all(|c| c.pending.is_none()) && e.failure.is_none();
    if e.redundant {
        e.counters.redundant += 1;
        return;
    }
    if e.failure.is_none() && !e.deadlock_is_an_end && e.cpus[..e.nr_cpus].iter().any(|c| c.pending.is_some())
    {
        let message = super::deadlock::deadlock(e);
        e.fail(FailureKind::Deadlock, message, None);
    }
    if e.failure.is_none() {
        e.counters.complete += 1;
    }
}
