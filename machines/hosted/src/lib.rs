//! anonmem in an ordinary process: threads as CPUs, a software MMU with a TLB per CPU.
//!
//! [`Hosted`] is a [`Machine`] that can be wrong in the ways hardware is: a translation that nobody
//! flushed stays, accessed and dirty bits appear at any moment, and a freed frame is full of poison. So a
//! memory manager that forgets a flush, loses a reference or reuses a frame too early is caught by the
//! bytes that a program reads.
//!
//! - [`arena`]: physical memory; poison, allocation state, injected allocation failure.
//! - [`sched`]: threads that hold a CPU while they run and give it up while they sleep.
//! - [`mmu`]: walks the page tables in the arena, caches translations, answers flushes.
//! - [`user`]: what a program does: loads, stores, atomic instructions, faults.
//! - [`sources`], [`swap`], [`clock`]: the bytes behind private mappings; swap devices; time.
//! - [`oracle`], [`ops`], [`generate`], [`runner`], [`system`]: random operations on anonmem and on a plain
//!   model of it, side by side; [`calls`] and [`inspect`] serve them.
//!
//! A test makes the machine, takes what it wants to keep a hold on ([`Hosted::cpus`], [`Hosted::sources`],
//! [`Hosted::failures`]), and gives it to the memory manager. Every thread that calls the memory manager
//! holds a CPU: [`sched::Cpus::enter`].

pub mod arena;
pub mod calls;
pub mod clock;
pub mod generate;
pub mod inspect;
pub mod mmu;
pub mod ops;
pub mod oracle;
pub mod runner;
pub mod sched;
pub mod sources;
pub mod swap;
pub mod system;
pub mod user;

pub use arena::{Arena, FailurePlan, Failures};
pub use mmu::{Access, MmuStats, TlbModel};
pub use sched::{CpuGuard, Cpus};
pub use sources::SourceTable;
pub use swap::{Caching, SwapTable};
pub use user::{AddressSpace, Handled, Trap, UserCpu};

use anonmem_hal::{Arch, Machine, NoProbe, Pfn, arch::X86_64};
use std::{marker::PhantomData, sync::Arc, time::Instant};

/// How much a hosted machine checks.
pub trait Config: Send + Sync + 'static {
    /// Lock order, TLB model, poison, allocation state, injected failures. All or nothing: each check
    /// leans on the others.
    const CHECKED: bool;
    /// The number of CPUs.
    const CPUS: usize;
}

/// Everything is checked: for tests.
#[derive(Debug)]
pub enum Checked {}

impl Config for Checked {
    const CHECKED: bool = true;
    const CPUS: usize = 8;
}

/// Nothing is checked and there is no TLB: for measurements.
#[derive(Debug)]
pub enum Fast {}

impl Config for Fast {
    const CHECKED: bool = false;
    const CPUS: usize = 8;
}

/// A machine made of a process: its memory, CPUs and MMU.
pub struct Hosted<C: Config = Checked, A: Arch = X86_64> {
    arena: Arena,
    cpus: Arc<Cpus>,
    tlbs: TlbModel,
    sources: Arc<SourceTable>,
    failures: Arc<Failures>,
    swap: Arc<SwapTable>,
    started: Instant,
    _kind: PhantomData<fn() -> (C, A)>,
}

impl<C: Config, A: Arch> Hosted<C, A> {
    /// A machine with `nr_frames` frames of memory.
    ///
    /// # Panics
    /// If the host cannot reserve that much address space.
    pub fn new(nr_frames: u64) -> Self {
        Self {
            arena: Arena::new(nr_frames, C::CHECKED),
            cpus: Arc::new(Cpus::new(C::CPUS)),
            tlbs: TlbModel::new(C::CPUS),
            sources: Arc::new(SourceTable::default()),
            failures: Arc::new(Failures::default()),
            swap: Arc::new(SwapTable::default()),
            started: Instant::now(),
            _kind: PhantomData,
        }
    }

    /// Its CPUs.
    pub fn cpus(&self) -> &Arc<Cpus> {
        &self.cpus
    }

    /// Its registered sources.
    pub fn sources(&self) -> &Arc<SourceTable> {
        &self.sources
    }

    /// The plan of injected allocation failures.
    pub fn failures(&self) -> &Arc<Failures> {
        &self.failures
    }

    /// Its swap devices.
    pub fn swap(&self) -> &Arc<SwapTable> {
        &self.swap
    }

    /// Its physical memory.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Its translation caches.
    pub fn tlbs(&self) -> &TlbModel {
        &self.tlbs
    }

    /// The first byte of memory is that of this frame: nonzero, so that frame 0 is never valid.
    pub const BASE_PFN: Pfn = arena::BASE_PFN;
}

impl<C: Config, A: Arch> Machine for Hosted<C, A> {
    type Arch = A;
    type Probe = NoProbe;
    const CHECKED: bool = C::CHECKED;

    fn unwinding() -> bool {
        std::thread::panicking()
    }
}
