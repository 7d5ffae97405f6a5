//! The simulated machine: the production code runs on it unchanged, and the explorer decides what happens.
//!
//! [`Sim`] is a [`Machine`] whose probe hands every shared access to the explorer of the thread. Its CPUs
//! are coroutines; its frames are a small arena ([`phys`]); each CPU has a TLB whose entries stay until they
//! are flushed ([`tlb`]); sleeping and waking are steps ([`sched`]); so are transfers of swap devices
//! ([`swap`]).
//!
//! The environment's choices ([`choose`]) are explored like schedules.

mod broken;
pub mod phys;
pub mod probe;
pub mod sched;
pub mod swap;
pub mod tlb;

pub use probe::SimProbe;
pub use tlb::{Access, Trap};

use crate::explorer::{engine::with, step::choice_turn};
use crate::snapshot::Region;
use anonmem_hal::{Clock, Machine, Pfn, SourceError, SourceId, Sources, arch::Toy};
use core::panic::Location;
use phys::Arena;
use std::sync::Arc;

/// The simulated machine. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Sim {
    arena: Arc<Arena>,
}

impl Sim {
    /// A machine with `nr_frames` frames.
    pub fn new(nr_frames: u64) -> Self {
        Self { arena: Arc::new(Arena::new(nr_frames)) }
    }

    /// The memory that CPUs may change: for [`crate::Scenario::restored_by_copy`].
    pub fn regions(&self, regions: &mut Vec<Region>) {
        self.arena.regions(regions);
    }

    /// The word at `offset` of a frame, for displays.
    pub fn word(&self, pfn: Pfn, offset: usize) -> u64 {
        self.arena.read(pfn, offset)
    }

    /// How often the environment misbehaved so far in this execution.
    pub fn misfortunes(&self) -> u32 {
        if probe::running() { with(|e| e.injected) } else { 0 }
    }

    /// Runs `f` as CPU number `cpu`, while a world is built or checked.
    pub fn on_cpu<R>(cpu: usize, f: impl FnOnce() -> R) -> R {
        let outer = with(|e| core::mem::replace(&mut e.current, cpu));
        let result = f();
        with(|e| e.current = outer);
        result
    }
}

impl Machine for Sim {
    type Arch = Toy;
    type Cpus = anonmem_hal::UpTo<8>;
    type Probe = SimProbe;
    const CHECKED: bool = true;

    fn unwinding() -> bool {
        probe::ended();
        false
    }
}

impl Clock for Sim {
    fn now_ns(&self) -> u64 {
        if probe::running() { with(|e| e.ops as u64) } else { 0 }
    }
}

/// Every page of a source starts with the source's number and the offset; the rest is zero.
impl Sources for Sim {
    #[track_caller]
    fn fill(&self, source: SourceId, offset: u64, dst: Pfn) -> Result<(), SourceError> {
        self.arena.write_words(dst, &[source.0.get(), offset], Location::caller());
        Ok(())
    }

    fn dup(&self, _: SourceId) {
        self.arena.count_sources(1);
    }

    fn release(&self, _: SourceId) {
        self.arena.count_sources(-1);
    }
}

/// Chooses one of `n` outcomes; the search explores all. `label` shows in the trace.
#[track_caller]
pub fn choose(n: usize, label: &str) -> usize {
    if n < 2 || !probe::running() {
        return 0;
    }
    let at = Location::caller();
    choice_turn(at);
    with(|e| {
        let value = e.pick(n);
        e.record(|e| {
            let word = format!("{label}: {value} of {n}");
            crate::trace::Event::new(e, None, "", crate::trace::Action::Word(word), at)
        });
        value
    })
}

/// Chooses one of `n` outcomes, all but the first of which use up the execution's allowance of misfortune.
pub(crate) fn inject(n: usize) -> usize {
    with(|e| {
        if e.injected >= e.inject.at_most {
            return 0;
        }
        let value = e.pick(n);
        e.injected += u32::from(value != 0);
        value
    })
}

/// As [`inject`], as a step of its own that shows in the trace when it happens.
#[track_caller]
pub(crate) fn misfortune(label: &str) -> bool {
    if !probe::running() || with(|e| e.injected >= e.inject.at_most) {
        return false;
    }
    let at = Location::caller();
    choice_turn(at);
    let happens = inject(2) == 1;
    if happens {
        with(|e| {
            e.record(|e| crate::trace::Event::new(e, None, "", crate::trace::Action::Word(label.into()), at));
        });
    }
    happens
}
