//! The machine: docs/porting.md, trait by trait, for one CPU. Swap is a part of memory; the only source is
//! the programs, which are part of the kernel's image.

use crate::cpu;
use anonmem::hal::{
    Clock, CpuId, CpuSet, FlushRange, FrameAlloc, IoError, Machine, Mmu, NoProbe, Order, PAGE_SIZE, Pfn,
    PhysMem, Sched, SourceError, SourceId, Sources, SwapIo, UpTo, Va, arch::X86_64, reverse_map::AnonVmas,
};
use core::{ops::Range, ptr::NonNull};

/// Where the kernel sees physical memory.
const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Pages that swap has room for.
pub const SLOTS: u64 = 512;

/// One CPU and a run of frames.
pub struct Toy {
    memmap: NonNull<u8>,
    frames: Range<u64>,
    swap: u64,
}

// SAFETY: there is one CPU, and nothing interrupts it.
unsafe impl Send for Toy {}
// SAFETY: as above.
unsafe impl Sync for Toy {}

unsafe extern "C" {
    pub static boot_p4: [u64; 512];
}

fn at(address: u64) -> NonNull<u8> {
    NonNull::new((DIRECT_MAP + address) as *mut u8).expect("the direct map is not at 0")
}

fn copy_frames(from: NonNull<u8>, to: NonNull<u8>, order: Order) {
    // SAFETY: both are memory of ours, and different pieces of it.
    unsafe { from.copy_to_nonoverlapping(to, order.bytes()) };
}

impl Toy {
    /// Divides the memory above the image: metadata, swap, frames.
    pub fn new(ram: Range<u64>) -> Self {
        let frames = (ram.end - ram.start) / PAGE_SIZE as u64;
        let swap = (ram.start + frames * 32).next_multiple_of(PAGE_SIZE as u64);
        let first = swap / PAGE_SIZE as u64 + SLOTS;
        // SAFETY: memory that nobody else was given.
        unsafe { at(ram.start).write_bytes(0, (swap - ram.start) as usize) };
        Self { memmap: at(ram.start), frames: first..ram.end / PAGE_SIZE as u64, swap }
    }
}

impl Machine for Toy {
    type Arch = X86_64;
    type Probe = NoProbe;
    type ReverseMap = AnonVmas;
    type Cpus = UpTo<1>;
    const CHECKED: bool = false;
}

// SAFETY: the frames and the metadata are the memory manager's alone, and the direct map never changes.
unsafe impl PhysMem for Toy {
    fn base_pfn(&self) -> Pfn {
        Pfn(self.frames.start)
    }
    fn nr_frames(&self) -> u64 {
        self.frames.end - self.frames.start
    }
    fn memmap(&self) -> NonNull<u8> {
        self.memmap
    }
    fn direct_map(&self, pfn: Pfn) -> NonNull<u8> {
        at(pfn.0.wrapping_mul(PAGE_SIZE as u64))
    }
    unsafe fn zero(&self, pfn: Pfn, order: Order) {
        // SAFETY: the block is the caller's.
        unsafe { self.direct_map(pfn).write_bytes(0, order.bytes()) };
    }
    unsafe fn copy(&self, dst: Pfn, src: Pfn, order: Order) {
        copy_frames(self.direct_map(src), self.direct_map(dst), order);
    }
}

// SAFETY: loading the root again drops all translations of the only CPU.
unsafe impl Mmu for Toy {
    unsafe fn init_root(&self, root: Pfn) {
        // SAFETY: the boot table is below 1 GiB, and its upper half does not change.
        let kernel = unsafe { at((&raw const boot_p4) as u64).cast::<[u64; 512]>().as_ref() };
        // SAFETY: a new table, which nobody uses yet.
        let new = unsafe { self.direct_map(root).cast::<[u64; 512]>().as_mut() };
        new[256..].copy_from_slice(&kernel[256..]);
    }
    fn flush(&self, _cpus: CpuSet<'_>, _root: Pfn, _what: FlushRange) {
        cpu::forget_all();
    }
    fn flush_local(&self, _root: Pfn, va: Va) {
        cpu::forget(va.0);
    }
}

// SAFETY: there is one CPU, and one task.
unsafe impl Sched for Toy {
    fn current_cpu() -> CpuId {
        CpuId(0)
    }
    fn nr_cpus() -> usize {
        1
    }
    fn yield_now() {}
}

impl Clock for Toy {
    fn now_ns(&self) -> u64 {
        // SAFETY: it only reads the time-stamp counter.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
}

impl Sources for Toy {
    unsafe fn fill(&self, _source: SourceId, offset: u64, dst: Pfn) -> Result<(), SourceError> {
        let programs = crate::programs();
        let from = programs.get(offset as usize..offset as usize + PAGE_SIZE).ok_or(SourceError)?;
        copy_frames(NonNull::from(from).cast(), self.direct_map(dst), Order::ZERO);
        Ok(())
    }
}

type Io = Result<(), IoError>;

impl SwapIo for Toy {
    unsafe fn swap_write(&self, _: u8, slot: u64, order: Order, src: Pfn, _: &dyn FrameAlloc) -> Io {
        copy_frames(self.direct_map(src), at(self.swap + (slot << 12)), order);
        Ok(())
    }
    unsafe fn swap_read(&self, _: u8, slot: u64, order: Order, dst: Pfn) -> Io {
        copy_frames(at(self.swap + (slot << 12)), self.direct_map(dst), order);
        Ok(())
    }
}
