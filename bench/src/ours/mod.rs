//! Our side: the library on a hosted machine that checks nothing.
//!
//! What is measured is the call of the memory manager. There is no exception, no system call and no TLB; page
//! tables are memory, and folios are really zeroed and copied.

mod faults;

pub use faults::FaultCounts;

use crate::{PAGE, REGION, host::cpus};
use anonmem::{Config, FaultAccess, FaultOutcome, LockMode, MapBacking, MapFlags, Mm, MmapRequest, Prot, Vm};
use anonmem_frame::OwnedFrames;
use anonmem_hal::{CpuId, Order, Pfn, PhysMem, Va, VaRange};
use anonmem_hosted::{CpuGuard, Hosted};
use std::hint::black_box;

/// What the machine checks, and its reverse map.
#[cfg(not(feature = "rmap-family"))]
pub type Kind = anonmem_hosted::Fast;
/// The same with families of address spaces.
#[cfg(feature = "rmap-family")]
pub type Kind = anonmem_hosted::FastFamilies;

/// The name of the reverse map.
pub const REVERSE_MAP: &str = if cfg!(feature = "rmap-family") { "family" } else { "anon_vma" };

/// The machine.
pub type Machine = Hosted<Kind>;

/// Frames of the machine: room for a region, its copy, page tables and metadata, with as much again to spare.
const FRAMES: u64 = (4 * REGION / PAGE) as u64;

/// A memory manager and its machine.
pub struct World {
    /// The memory manager.
    pub vm: Box<Vm<Machine>>,
}

impl World {
    /// One whose memory has been touched.
    pub fn new() -> Self {
        Self::with(FRAMES, LockMode::Mmap)
    }

    /// One of the same size whose faults hold what `lock_mode` says.
    pub fn in_mode(lock_mode: LockMode) -> Self {
        Self::with(FRAMES, lock_mode)
    }

    /// One with so many frames.
    ///
    /// # Panics
    /// If the host has not that much memory.
    pub fn with(frames: u64, lock_mode: LockMode) -> Self {
        let machine = Machine::new(frames);
        for i in 0..frames {
            machine.arena().write(Machine::BASE_PFN.offset(i), 0, &[1; 8]);
        }
        let config = Config { lock_mode, max_map_count: u32::MAX, ..Config::default() };
        Self { vm: Box::new(Vm::new(machine, config).expect("the machine has memory")) }
    }

    /// Touches all memory of the machine, so that it is there.
    pub fn warm(&self) {
        let machine = self.vm.machine();
        let mut bytes = [0; 8];
        for i in 0..machine.nr_frames() {
            machine.arena().read(Machine::BASE_PFN.offset(i), 0, &mut bytes);
        }
        black_box(bytes);
    }

    /// Makes this thread run on the simulated CPU `cpu` until the guard drops.
    pub fn enter(&self, cpu: u32) -> CpuGuard {
        self.vm.machine().cpus().enter(CpuId(cpu))
    }

    /// The same, pinned to the host's CPU of that index.
    pub fn enter_pinned(&self, cpu: u32, host: &[usize]) -> CpuGuard {
        let _ = cpus::pin(host[cpu as usize % host.len()]);
        self.enter(cpu)
    }

    /// A new address space.
    ///
    /// # Panics
    /// Without memory.
    pub fn new_mm(&self) -> Mm<'_, Machine> {
        self.vm.new_mm().expect("memory for an address space")
    }

    /// Frames of our own, `len` bytes of them.
    ///
    /// # Panics
    /// Without memory.
    pub fn block(&self, len: usize) -> Block<'_> {
        let order = Order::new(10);
        let frames = self.vm.frames();
        let block = |_| frames.alloc_kernel(order).expect("a free block");
        Block { order, blocks: (0..len.div_ceil(order.bytes())).map(block).collect() }
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// Memory that nobody maps.
pub struct Block<'a> {
    order: Order,
    blocks: Vec<OwnedFrames<'a, Machine>>,
}

impl Block<'_> {
    /// Its frames.
    pub fn frames(&self) -> impl Iterator<Item = Pfn> {
        let pages = self.order.pages();
        self.blocks.iter().flat_map(move |block| (0..pages).map(move |i| block.pfn().offset(i)))
    }
}

/// The lowest address that rows map at: a multiple of what two levels of tables cover, so that page tables
/// are the region's own.
const FIXED: u64 = 1 << 39;

/// The `len` bytes at the `n`-th of the fixed places.
pub fn region(n: u64, len: usize) -> VaRange {
    let start = Va(FIXED + (n << 32));
    VaRange { start, end: Va(start.0 + len as u64) }
}

/// Maps `len` bytes at the `n`-th of the fixed places, readable and writable.
///
/// # Panics
/// Without memory.
pub fn map_region(mm: &Mm<'_, Machine>, n: u64, len: usize) -> VaRange {
    let range = region(n, len);
    map(mm, range.start, len, MapFlags::FIXED);
    range
}

/// Maps `len` bytes anywhere, readable and writable.
///
/// # Panics
/// Without memory.
pub fn map_anywhere(mm: &Mm<'_, Machine>, len: usize) -> Va {
    map(mm, Va(0), len, MapFlags::empty())
}

fn map(mm: &Mm<'_, Machine>, addr: Va, len: usize, flags: MapFlags) -> Va {
    let prot = Prot::READ | Prot::WRITE;
    let request = MmapRequest { addr, len: len as u64, prot, flags, backing: MapBacking::Anonymous };
    mm.mmap(request).expect("a mapping")
}

/// Faults every page of `range`.
///
/// # Panics
/// If a fault is not resolved.
pub fn fault_all(mm: &Mm<'_, Machine>, range: VaRange, access: FaultAccess) {
    for va in range.iter_pages() {
        let outcome = mm.handle_fault(va, access);
        assert!(outcome == FaultOutcome::Done, "a fault of the bench ended with {outcome:?}");
    }
}

/// As [`fault_all`], where each fault brings a whole folio: one fault for every aligned `pages` pages.
///
/// # Panics
/// If a fault is not resolved.
pub fn fault_folios(mm: &Mm<'_, Machine>, range: VaRange, pages: u64, access: FaultAccess) {
    let mut va = range.start;
    while va < range.end {
        let outcome = mm.handle_fault(va, access);
        assert!(outcome == FaultOutcome::Done, "a fault of the bench ended with {outcome:?}");
        va = va.page_after(pages);
    }
}

/// Whether every page of `range` is there, and nobody else has it: a fault that was left out would not have
/// trapped.
pub fn has_all(mm: &Mm<'_, Machine>, range: VaRange) -> bool {
    let (mut all, mut seen) = (true, 0);
    mm.for_each_page(range, &mut |_, page| {
        all &= page.present() && page.exclusive;
        seen += 1;
    });
    all && seen == range.pages().0
}

/// An address space that runs on a CPU: flushes reach it.
pub struct Active<'a, 'v>(&'a Mm<'v, Machine>, CpuId);

impl<'a, 'v> Active<'a, 'v> {
    /// Notes that `cpu` runs `mm`.
    pub fn on(mm: &'a Mm<'v, Machine>, cpu: u32) -> Self {
        mm.activate(CpuId(cpu));
        Self(mm, CpuId(cpu))
    }
}

impl Drop for Active<'_, '_> {
    fn drop(&mut self) {
        self.0.deactivate(self.1);
    }
}
