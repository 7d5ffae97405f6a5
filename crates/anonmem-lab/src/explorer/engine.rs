//! The state of one exploration: the path that is being tried, and the execution that runs.
//!
//! One exploration lives on one OS thread; its CPUs are coroutines of that thread. The probe finds the
//! engine through a thread-local pointer. Every access goes through [`with`], which is never held across a
//! switch or a call into the code under test.

use super::{
    Exploration, Inject, Search,
    ends::Ends,
    failure::{Failure, FailureKind},
    objects::Objects,
    op::{Broken, Footprint, Op},
};
use crate::{
    accesses::Observer,
    limits::{MAX_CPUS, address},
    memory::{
        By, Clock, CpuViews, Model, View,
        c11::ScState,
        frames::{FrameRace, Frames},
    },
    names::Names,
    scenario::Program,
    snapshot::Watch,
    trace::{Event, Recorder},
};
use anonmem_hal::HeldLocks;
use core::{cell::Cell, panic::Location};
use corosensei::Yielder;

/// The most steps of an execution: an event number has 16 bits, and a step may be two events.
const MAX_STEPS: usize = 30_000;

/// Where the engine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Outside an execution, or in its setup or check: accesses pass through.
    Idle,
    /// A CPU runs up to its first operation.
    Starting,
    /// CPUs take turns.
    Running,
    /// The condition of a waiting CPU is being evaluated: accesses pass through and are noted.
    Predicate,
    /// A panic unwinds: the next access ends the execution.
    Unwinding,
    /// One CPU after the other runs to its end: accesses pass through and are listed.
    Observed,
}

/// What a CPU waits for.
#[derive(Clone, Copy)]
pub(crate) enum Waiting {
    Nothing,
    /// The condition of a spin loop; the pointer is valid while the operation is pending.
    Condition(*const dyn Fn() -> bool),
    /// Any change of what it read.
    Change,
    /// To be unparked.
    Unpark,
    /// A step of somebody else after this one, as long as anybody can make one.
    Others(usize),
}

/// What a spin loop has read since its last turn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpinReads {
    reads: [(u32, u32); 7],
    len: u8,
    /// Too many to list.
    overflow: bool,
    /// The last addresses that it read as private ones, and how many reads those were.
    private: [usize; 4],
    nr_private: u32,
}

impl SpinReads {
    #[inline]
    pub(crate) fn clear(&mut self) {
        (self.len, self.overflow, self.nr_private) = (0, false, 0);
    }

    #[inline]
    pub(crate) fn add_private(&mut self, address: usize) {
        self.private[self.nr_private as usize & 3] = address;
        self.nr_private += 1;
    }

    /// The addresses, if only private ones were read: somebody must change one of them, so one is not.
    pub(crate) fn only_private(&self) -> &[usize] {
        let n = if self.len == 0 && !self.overflow { self.nr_private.min(4) } else { 0 };
        &self.private[..n as usize]
    }

    pub(crate) fn add(&mut self, object: u32, version: u32) {
        if let Some(read) = self.reads[..usize::from(self.len)].iter_mut().find(|r| r.0 == object) {
            read.1 = read.1.min(version);
        } else if usize::from(self.len) == self.reads.len() {
            self.overflow = true;
        } else {
            self.reads[usize::from(self.len)] = (object, version);
            self.len += 1;
        }
    }

    /// What the CPU has seen of an object is its newest version now.
    pub(crate) fn renew(&mut self, object: u32, version: u32) {
        self.reads[..usize::from(self.len)].iter_mut().filter(|r| r.0 == object).for_each(|r| r.1 = version);
        self.add(object, version);
    }

    /// The loop depends on something that has no version: it never waits.
    pub(crate) fn add_unknown(&mut self) {
        self.overflow = true;
    }

    pub(crate) fn list(&self) -> Option<&[(u32, u32)]> {
        (!self.overflow && self.len > 0).then(|| &self.reads[..usize::from(self.len)])
    }
}

/// One simulated CPU and the task on it.
pub(crate) struct Cpu {
    pub(crate) pending: Option<Op>,
    pub(crate) waiting: Waiting,
    pub(crate) yielder: *const Yielder<(), ()>,
    pub(crate) views: CpuViews,
    /// What its MMU knows, besides what its code does: what its walks read in tables, and what the senders of
    /// flushes knew. Its code does not know that.
    walker: CpuViews,
    /// Mazurkiewicz clock.
    pub(crate) clock: Clock,
    pub(crate) held: HeldLocks,
    pub(crate) spin: SpinReads,
    /// The locks that it holds together with other readers.
    pub(crate) reading: Vec<usize>,
    /// The key that it is parked on.
    pub(crate) parked: Option<usize>,
    pub(crate) woken: bool,
    pub(crate) priority: u32,
}

impl Cpu {
    pub(crate) fn new() -> Self {
        Self {
            pending: None,
            waiting: Waiting::Nothing,
            yielder: core::ptr::null(),
            views: CpuViews::default(),
            walker: CpuViews::default(),
            clock: Clock::ZERO,
            held: HeldLocks::NONE,
            spin: SpinReads::default(),
            reading: Vec::new(),
            parked: None,
            woken: false,
            priority: 0,
        }
    }

    fn reset(&mut self, index: usize) {
        let mut reading = core::mem::take(&mut self.reading);
        reading.clear();
        *self = Self { reading, ..Self::new() };
        // Event numbers start at 1, so that 0 means "none".
        self.views.now.hb.0[index] = 1;
        self.views.now.seen.0[index] = 1;
    }

    /// The views with which it accesses memory. The MMU comes after what the code did before, and hands
    /// nothing of that on.
    #[inline]
    pub(crate) fn views_of(&mut self, by: By) -> &mut CpuViews {
        match by {
            By::Code => &mut self.views,
            By::Mmu => {
                self.walker.now.join(&self.views.now);
                &mut self.walker
            }
        }
    }

    /// A flush by a CPU that knows `sender` has come to this CPU, which is number `me`: its walks from now on
    /// see what the sender saw. Returns its last event: its accesses through translations are over up to
    /// then. Nothing orders what the code of the two does.
    pub(crate) fn flushed(&mut self, me: usize, sender: &View) -> u16 {
        self.walker.now.join(sender);
        // The number is that of its next event.
        self.views.now.hb.0[me] - 1
    }
}

/// One step of the path.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) cpu: u8,
    pub(crate) op: Op,
    pub(crate) clock: Clock,
    pub(crate) enabled: u16,
    pub(crate) backtrack: u16,
    pub(crate) done: u16,
    pub(crate) sleep: u16,
    /// The first choice made in this step.
    pub(crate) first_choice: usize,
    /// How many operations there were before, private ones included.
    pub(crate) ops: usize,
}

/// One choice among `n`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Choice {
    pub(crate) value: u16,
    pub(crate) n: u16,
}

/// A schedule that leads the way: the CPU of each step, and the choices.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Guide {
    /// The CPU of each step.
    pub cpus: Vec<u8>,
    /// The value of each choice, in order.
    pub choices: Vec<u16>,
}

/// What an exploration counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Executions, complete or not.
    pub executions: u64,
    /// Executions that ran to their end.
    pub complete: u64,
    /// Executions given up because what they would show was seen before.
    pub redundant: u64,
    /// Steps in all.
    pub steps: u64,
    /// Those of them that took turns: the others concern one CPU alone.
    pub turns: u64,
    /// Steps of the longest execution.
    pub longest: usize,
    /// How often everything was begun anew, because an execution taught which steps matter.
    pub restarts: u64,
}

pub(crate) struct Engine {
    pub(crate) search: Search,
    pub(crate) model: Model,
    pub(crate) inject: Inject,
    pub(crate) broken: Broken,
    /// Whether operations on private objects take no turn.
    pub(crate) skip: bool,
    pub(crate) max_steps: usize,
    /// Whether the clocks of steps are needed although the search does not need them.
    pub(crate) sign: bool,
    pub(crate) deadlock_is_an_end: bool,
    pub(crate) nr_cpus: usize,

    pub(crate) nodes: Vec<Node>,
    pub(crate) choices: Vec<Choice>,
    /// Steps that the path prescribes.
    pub(crate) replay: usize,
    pub(crate) guide: Guide,
    pub(crate) rng: super::rng::Rng,
    pub(crate) change_points: Vec<usize>,

    pub(crate) current: usize,
    pub(crate) next: Option<usize>,
    pub(crate) depth: usize,
    /// Operations so far, private ones included.
    pub(crate) ops: usize,
    pub(crate) choice: usize,
    pub(crate) sleep: u16,
    pub(crate) enabled: u16,
    pub(crate) preemptions: u32,
    pub(crate) injected: u32,
    pub(crate) cpus: [Cpu; MAX_CPUS],
    pub(crate) setup_held: HeldLocks,
    pub(crate) objects: Objects,
    /// Mazurkiewicz clock of the waits for any change at all.
    pub(crate) waits_for_all: Clock,
    /// Stands for the order of sequentially consistent events.
    pub(crate) sc_object: u32,
    pub(crate) sc: ScState,
    /// Who touched the contents of which frame.
    pub(crate) frames: Frames,
    /// What the condition that is being evaluated reads first, and how many reads it makes.
    pub(crate) footprint: Footprint,
    pub(crate) reads: u32,
    pub(crate) failure: Option<Failure>,
    pub(crate) redundant: bool,
    /// Whether every CPU came to its end.
    pub(crate) ended: bool,
    pub(crate) counters: Counters,
    pub(crate) recorder: Option<Recorder>,
    /// The names of the world that runs, while it is recorded.
    pub(crate) names: Names,
    /// The list of accesses, while they are being listed.
    pub(crate) observer: Option<Observer>,
    /// The memory whose accesses are noted.
    pub(crate) watch: Watch,
    /// The ends that were right.
    pub(crate) ends: Ends,
    /// What was left out although it could have happened.
    pub(crate) cuts: Vec<&'static str>,
}

impl Engine {
    /// An engine that knows of `objects` who touches them.
    pub(crate) fn new(config: &Exploration, program: &dyn Program, mut objects: Objects) -> Self {
        let nr_cpus = program.nr_cpus();
        assert!((1..=MAX_CPUS).contains(&nr_cpus), "a scenario has 1 to {MAX_CPUS} CPUs");
        let sc_object = objects.id(address::SC);
        Self {
            search: config.search,
            model: config.model,
            inject: config.inject,
            broken: config.broken,
            skip: !config.every_step
                && program.is_in_place()
                && !matches!(config.search, Search::Plain | Search::Guided),
            max_steps: config.max_steps.min(MAX_STEPS),
            sign: config.search == Search::Plain,
            deadlock_is_an_end: config.deadlock_is_an_end,
            nr_cpus,
            nodes: Vec::with_capacity(256),
            choices: Vec::with_capacity(64),
            replay: 0,
            guide: Guide::default(),
            rng: super::rng::Rng::new(config.search.seed()),
            change_points: Vec::new(),
            current: 0,
            next: None,
            depth: 0,
            ops: 0,
            choice: 0,
            sleep: 0,
            enabled: 0,
            preemptions: 0,
            injected: 0,
            cpus: core::array::from_fn(|_| Cpu::new()),
            setup_held: HeldLocks::NONE,
            objects,
            waits_for_all: Clock::ZERO,
            sc_object,
            sc: ScState::default(),
            frames: Frames::default(),
            footprint: Footprint::EMPTY,
            reads: 0,
            failure: None,
            redundant: false,
            ended: true,
            counters: Counters::default(),
            recorder: None,
            names: Names::default(),
            observer: None,
            watch: Watch::NONE,
            ends: Ends::default(),
            cuts: Vec::new(),
        }
    }

    /// Starts an execution: everything as at the beginning, the path kept.
    pub(crate) fn begin(&mut self) {
        self.objects.reset();
        for index in 0..self.nr_cpus {
            self.cpus[index].reset(index);
        }
        self.sc = ScState::default();
        self.waits_for_all = Clock::ZERO;
        self.frames.begin();
        self.current = 0;
        self.next = None;
        self.depth = 0;
        self.ops = 0;
        self.choice = 0;
        self.sleep = 0;
        self.preemptions = 0;
        self.injected = 0;
        self.failure = None;
        self.redundant = false;
        self.counters.executions += 1;
        self.replay = self.nodes.len();
        if let Some(recorder) = &mut self.recorder {
            recorder.events.clear();
        }
    }

    /// Notes a failure of the CPU that runs; the first one counts.
    pub(crate) fn fail(&mut self, kind: FailureKind, message: String, at: Option<&Location<'_>>) {
        if self.failure.is_none() {
            let at = at.map(|l| format!("{}:{}", l.file(), l.line()));
            self.failure = Some(Failure { kind, message, cpu: Some(self.current), at });
        }
        self.next = None;
    }

    /// Chooses one of `n` outcomes: explored, prescribed or drawn.
    pub(crate) fn pick(&mut self, n: usize) -> usize {
        if n <= 1 {
            return 0;
        }
        let index = self.choice;
        self.choice += 1;
        if let Some(choice) = self.choices.get(index) {
            if usize::from(choice.n) != n {
                let message = format!("a choice had {} outcomes, now it has {n}", choice.n);
                self.fail(FailureKind::Nondeterminism, message, None);
                return 0;
            }
            return choice.value.into();
        }
        let value = match self.search {
            Search::Guided => self.guide.choices.get(index).map_or(0, |v| usize::from(*v).min(n - 1)),
            Search::Random { .. } | Search::Pct { .. } => self.rng.choice(n),
            Search::Dpor | Search::Plain | Search::Bounded { .. } => 0,
        };
        self.choices.push(Choice { value: value as u16, n: n as u16 });
        value
    }

    /// The end of an operation's effect: later plain accesses are not covered by what it published.
    #[inline]
    pub(crate) fn tick(&mut self) {
        let index = self.current;
        let now = &mut self.cpus[index].views.now;
        now.hb.0[index] += 1;
        now.seen.0[index] = now.hb.0[index];
    }

    /// What the CPU that runs knows.
    #[inline]
    pub(crate) fn now(&self) -> View {
        self.cpus[self.current].views.now
    }

    /// Counts an operation that takes no turn. `false` if there are too many.
    #[inline]
    pub(crate) fn silent(&mut self) -> bool {
        self.ops += 1;
        self.ops < self.max_steps
    }

    /// An access to an object that concerns the CPU that runs alone: counts it. `false`: it has to ask for a
    /// turn.
    #[inline]
    pub(crate) fn pass(&mut self, address: usize, write: bool, by: By) -> bool {
        let pass = self.skip
            && self.ops + 1 < self.max_steps
            && self.objects.is_private(address, self.current, write);
        if !pass || self.frame_access(address, by, None).is_some() {
            return false;
        }
        self.ops += 1;
        true
    }

    /// Notes an access of the CPU that runs to something inside of a frame.
    #[inline]
    pub(crate) fn frame_access(
        &mut self,
        address: usize,
        by: By,
        at: Option<&'static Location<'static>>,
    ) -> Option<FrameRace> {
        let me = self.current;
        let hb = &self.cpus[me].views_of(by).now.hb;
        self.frames.access(address, (me, by), hb, at)
    }

    /// Whether this execution showed that an object is shared that was taken for private: it does not count,
    /// and everything is explored again.
    pub(crate) fn astray(&self) -> bool {
        self.skip && self.objects.learned && self.broken != Broken::Private || self.objects.learned_rules
    }

    /// Notes that this exploration leaves something out: whatever it comes to, it is bounded.
    #[cold]
    pub(crate) fn cut(&mut self, what: &'static str) {
        if !self.cuts.contains(&what) {
            self.cuts.push(what);
        }
    }

    /// Records a line of the trace, if one is being recorded.
    #[inline]
    pub(crate) fn record(&mut self, make: impl FnOnce(&Self) -> Event) {
        if self.recorder.is_some() {
            let event = make(self);
            if let Some(recorder) = &mut self.recorder {
                recorder.events.push(event);
            }
        }
    }

    /// Moves on to the next path. `false` if there is none.
    pub(crate) fn backtrack(&mut self) -> bool {
        loop {
            let Some(node) = self.nodes.last_mut() else { return false };
            while self.choices.len() > node.first_choice {
                let last = self.choices.last_mut().expect("not empty");
                if last.value + 1 < last.n {
                    last.value += 1;
                    return true;
                }
                self.choices.pop();
            }
            node.done |= 1 << node.cpu;
            let mut rest = node.backtrack & node.enabled & !node.done;
            if self.search == Search::Dpor {
                rest &= !node.sleep;
            }
            if rest != 0 {
                node.cpu = rest.trailing_zeros() as u8;
                return true;
            }
            self.nodes.pop();
        }
    }
}

thread_local! {
    static ENGINE: Cell<*mut Engine> = const { Cell::new(core::ptr::null_mut()) };
    static PHASE: Cell<Phase> = const { Cell::new(Phase::Idle) };
}

/// Where the exploration of this thread is.
#[inline]
pub(crate) fn phase() -> Phase {
    PHASE.get()
}

/// Moves the exploration of this thread to `phase`.
#[inline]
pub(crate) fn set_phase(phase: Phase) {
    PHASE.set(phase);
}

/// Makes `engine` this thread's for the time of `f`.
pub(crate) fn install<R>(engine: &mut Engine, f: impl FnOnce() -> R) -> R {
    let outer = ENGINE.replace(engine);
    let outer_phase = PHASE.replace(Phase::Idle);
    let result = f();
    ENGINE.set(outer);
    PHASE.set(outer_phase);
    result
}

/// Whether this thread explores.
#[inline]
pub(crate) fn installed() -> bool {
    !ENGINE.get().is_null()
}

/// Runs `f` on this thread's engine. `f` neither switches coroutines nor calls code under test.
#[inline]
pub(crate) fn with<R>(f: impl FnOnce(&mut Engine) -> R) -> R {
    let engine = ENGINE.get();
    assert!(!engine.is_null(), "the simulated machine runs only inside an exploration");
    // SAFETY: `install` set the pointer to an engine that it borrows mutably until it resets the pointer;
    // the only accesses in between are these, on one thread, and none is nested in another.
    f(unsafe { &mut *engine })
}
