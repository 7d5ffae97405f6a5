//! The machine: its parts put together, as the traits of `anonmem-hal` want them. `mmu.rs` has the trait of
//! that name.

use crate::{
    arena::{self, Arena},
    failures::Failures,
    sched::{self, Cpus},
    sources::SourceTable,
    swap::SwapTable,
    tlb::TlbModel,
};
use anonmem_hal::{
    Arch, Clock, CpuId, CpuSlots, FrameAlloc, HeldLocks, IoError, Machine, NoProbe, NodePolicy, Order, Pfn,
    PhysMem, Probe, Sched, SourceError, SourceId, Sources, SwapIo, UpTo, arch::X86_64, reverse_map,
};
use std::{
    marker::PhantomData,
    ptr::NonNull,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

/// How much a hosted machine checks.
pub trait Checks: Send + Sync + 'static {
    /// Lock order, TLB model, poison, allocation state, injected failures. All or nothing: each check
    /// leans on the others.
    const CHECKED: bool;
    /// Whether the host backs memory by large pages, as a kernel maps its own. Not where little of it is
    /// touched.
    const LARGE_PAGES: bool = !Self::CHECKED;
    /// The number of CPUs.
    const CPUS: usize;
    /// Room for so many of them.
    type Cpus: CpuSlots;
    /// The reverse map.
    type ReverseMap: 'static;
    /// What observes the accesses of the memory manager.
    type Probe: Probe;
}

/// Everything is checked: for tests.
#[derive(Debug)]
pub enum Checked {}

impl Checks for Checked {
    const CHECKED: bool = true;
    const CPUS: usize = 8;
    type Cpus = UpTo<64>;
    type ReverseMap = reverse_map::Either;
    type Probe = NoProbe;
}

/// Nothing is checked and there is no TLB: for measurements.
#[derive(Debug)]
pub enum Fast {}

impl Checks for Fast {
    const CHECKED: bool = false;
    const CPUS: usize = 8;
    type Cpus = UpTo<64>;
    type ReverseMap = reverse_map::AnonVmas;
    type Probe = NoProbe;
}

/// As [`Fast`], with families of address spaces as the reverse map.
#[derive(Debug)]
pub enum FastFamilies {}

impl Checks for FastFamilies {
    const CHECKED: bool = false;
    const CPUS: usize = 8;
    type Cpus = UpTo<64>;
    type ReverseMap = reverse_map::Families;
    type Probe = NoProbe;
}

/// A machine made of a process: its memory, CPUs and MMU.
pub struct Hosted<C: Checks = Checked, A: Arch = X86_64> {
    pub(crate) arena: Arena,
    cpus: Arc<Cpus>,
    pub(crate) tlbs: TlbModel,
    sources: Arc<SourceTable>,
    failures: Arc<Failures>,
    swap: Arc<SwapTable>,
    started: Instant,
    _kind: PhantomData<fn() -> (C, A)>,
}

impl<C: Checks, A: Arch> Hosted<C, A> {
    /// A machine with `nr_frames` frames of memory.
    ///
    /// # Panics
    /// If the host cannot reserve that much address space.
    pub fn new(nr_frames: u64) -> Self {
        Self {
            arena: Arena::new(nr_frames, C::CHECKED, C::LARGE_PAGES),
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

impl<C: Checks, A: Arch> Machine for Hosted<C, A> {
    type Arch = A;
    type Cpus = C::Cpus;
    type ReverseMap = C::ReverseMap;
    type Probe = C::Probe;
    const CHECKED: bool = C::CHECKED;

    fn unwinding() -> bool {
        std::thread::panicking()
    }
}

// SAFETY: the arena belongs to the one memory manager that takes the machine (it is not `Clone`), its
// frames are one page-aligned mapping that neither moves nor shrinks, and the metadata is a zeroed mapping
// of its own.
unsafe impl<C: Checks, A: Arch> PhysMem for Hosted<C, A> {
    fn base_pfn(&self) -> Pfn {
        Self::BASE_PFN
    }

    fn nr_frames(&self) -> u64 {
        self.arena.nr_frames()
    }

    fn memmap(&self) -> NonNull<u8> {
        self.arena.memmap()
    }

    #[inline]
    fn direct_map(&self, pfn: Pfn) -> NonNull<u8> {
        self.arena.frame(pfn)
    }

    #[inline]
    unsafe fn zero(&self, pfn: Pfn, order: Order) {
        self.arena.zero(pfn, order);
    }

    #[inline]
    unsafe fn copy(&self, dst: Pfn, src: Pfn, order: Order) {
        self.arena.copy(dst, src, order);
    }

    fn read_bytes(&self, pfn: Pfn, offset: usize, to: &mut [u8]) {
        self.arena.read(pfn, offset, to);
    }

    unsafe fn write_bytes(&self, pfn: Pfn, offset: usize, from: &[u8]) {
        self.arena.write(pfn, offset, from);
    }

    fn is_zero(&self, pfn: Pfn) -> bool {
        self.arena.words(pfn).iter().all(|word| word.load(Relaxed) == 0)
    }

    #[inline]
    fn admit(&self) -> bool {
        !C::CHECKED || self.failures.admit()
    }

    #[inline]
    unsafe fn allocated(&self, pfn: Pfn, order: Order) {
        if C::CHECKED {
            self.arena.mark_allocated(pfn, order);
        }
    }

    #[inline]
    unsafe fn freed(&self, pfn: Pfn, order: Order) {
        if C::CHECKED {
            self.arena.mark_free(pfn, order);
        }
    }
}

// SAFETY: a thread is a CPU from `run_on` to its end, and the only one with that number.
unsafe impl<C: Checks, A: Arch> Sched for Hosted<C, A> {
    #[inline]
    fn current_cpu() -> CpuId {
        sched::current_cpu()
    }

    fn nr_cpus() -> usize {
        C::CPUS
    }

    #[inline(always)]
    fn node_policy() -> NodePolicy {
        if C::CHECKED { sched::node_policy() } else { NodePolicy::DEFAULT }
    }

    fn park(key: usize, keep_waiting: &dyn Fn() -> bool) {
        sched::park(key, keep_waiting);
    }

    fn is_dying() -> bool {
        sched::is_dying()
    }

    fn unpark(key: usize, n: usize) {
        sched::unpark(key, n);
    }

    fn relax() {
        sched::relax();
    }

    fn optimistic_spin(keep_waiting: &dyn Fn() -> bool) {
        sched::optimistic_spin(keep_waiting);
    }

    fn yield_now() {
        sched::yield_now();
    }

    fn contended(level: u16, wait: &mut dyn FnMut()) {
        sched::contended(level, wait);
    }

    unsafe fn with_held_locks(f: &mut dyn FnMut(&mut HeldLocks)) {
        sched::with_held_locks(f);
    }
}

impl<C: Checks, A: Arch> Clock for Hosted<C, A> {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).expect("the machine has run for centuries")
    }
}

impl<C: Checks, A: Arch> Sources for Hosted<C, A> {
    unsafe fn fill(&self, source: SourceId, offset: u64, dst: Pfn) -> Result<(), SourceError> {
        let page = self.sources.page(source, offset)?;
        self.arena.write(dst, 0, &page);
        Ok(())
    }

    fn dup(&self, source: SourceId) {
        self.sources.dup(source);
    }

    fn release(&self, source: SourceId) {
        self.sources.release(source);
    }
}

impl<C: Checks, A: Arch> SwapIo for Hosted<C, A> {
    unsafe fn swap_write(
        &self,
        device: u8,
        slot: u64,
        order: Order,
        src: Pfn,
        frames: &dyn FrameAlloc,
    ) -> Result<(), IoError> {
        if let Some(zram) = self.swap().zram() {
            return zram.write_run(self, Self::current_cpu().index(), slot, order, src, frames);
        }
        // A device takes its time: others run meanwhile.
        std::thread::yield_now();
        self.swap().write((device, slot), order, self.arena(), src)
    }

    unsafe fn swap_read(&self, device: u8, slot: u64, order: Order, dst: Pfn) -> Result<(), IoError> {
        if let Some(zram) = self.swap().zram() {
            return zram.read_run(self, Self::current_cpu().index(), slot, order, dst);
        }
        std::thread::yield_now();
        self.swap().read((device, slot), order, self.arena(), dst)
    }

    unsafe fn swap_discard(&self, device: u8, slot: u64, frames: &dyn FrameAlloc) {
        match self.swap().zram() {
            Some(zram) => zram.discard(self, slot, frames),
            None => self.swap().discard((device, slot)),
        }
    }
}
