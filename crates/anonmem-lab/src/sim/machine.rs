//! The machine itself: an arena, and what of it is neither memory, MMU, scheduler nor swap device.

use super::{
    arena::Arena,
    chance::running,
    probe::{self, SimProbe},
};
use crate::{explorer::engine::with, snapshot::Region};
use anonmem_hal::{Clock, Machine, Pfn, SourceError, SourceId, Sources, arch::Toy};
use core::panic::Location;
use std::sync::Arc;

/// The simulated machine. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Sim {
    pub(super) arena: Arc<Arena>,
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
        if running() { with(|e| e.injected) } else { 0 }
    }

    /// Runs `f` as CPU number `cpu`, while a world is built or checked.
    pub fn on_cpu<R>(cpu: usize, f: impl FnOnce() -> R) -> R {
        let outer = with(|e| core::mem::replace(&mut e.current, cpu));
        let result = f();
        with(|e| e.current = outer);
        result
    }
}

impl Sim {
    /// Whether the calling code runs as a CPU of an execution that is being explored.
    pub fn is_exploring() -> bool {
        running()
    }
}

impl Machine for Sim {
    type Arch = Toy;
    type Cpus = anonmem_hal::UpTo<8>;
    type ReverseMap = anonmem_hal::reverse_map::Either;
    type Probe = SimProbe;
    const CHECKED: bool = true;

    fn unwinding() -> bool {
        probe::ended();
        false
    }
}

impl Clock for Sim {
    fn now_ns(&self) -> u64 {
        if running() { with(|e| e.ops as u64) } else { 0 }
    }
}

/// Every page of a source starts with the source's number and the offset; the rest is zero.
impl Sources for Sim {
    #[track_caller]
    unsafe fn fill(&self, source: SourceId, offset: u64, dst: Pfn) -> Result<(), SourceError> {
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
