//! The memory manager's machine: its frames, page tables and clock; and the memory manager itself.
//!
//! Three parts of [`anonmem_hal::Machine`] are implemented where the work is done, on the floors above:
//! `Sched` by `sched`, `Sources` by `fs::sources`, `SwapIo` by `swap`.

use alloc::boxed::Box;
use core::ptr::NonNull;
use core::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use anonmem_hal::arch::X86_64;
use anonmem_hal::{
    Clock, CpuId, CpuSet, FlushRange, Machine, Mmu, NoProbe, Order, PAGE_SIZE, Pfn, PhysMem, Va,
};

use anonmem_oslib::memory::Layout;

use crate::arch::mem::{PAGE, PhysAddr, direct};
use crate::arch::{percpu, random, time, tlb};
use crate::boot::config::{self, Poison};
use crate::boot::paging;
use crate::heap;

/// The kernel's memory manager.
pub type Vm = anonmem::Vm<Kernel>;
/// An address space of this kernel; a clone is another use of it.
pub type Mm = anonmem::Mm<'static, Kernel>;

/// This machine, as the memory manager holds it.
#[derive(Debug)]
pub struct Kernel {
    base: Pfn,
    frames: u64,
    memmap: NonNull<u8>,
    /// Under `poison=1` a bit per frame, set once it holds the poison; else empty.
    poisoned: Box<[AtomicU64]>,
}

// SAFETY: `memmap` points to memory that belongs to this value alone for as long as the machine runs.
unsafe impl Send for Kernel {}
// SAFETY: as above; the memory manager synchronises its use.
unsafe impl Sync for Kernel {}

/// What a freed frame is filled with under `poison=1`.
const POISON: u64 = 0x5a5a_dead_f4a3_e5a5;

static VM: AtomicPtr<Vm> = AtomicPtr::new(core::ptr::null_mut());
static NR_NODES: AtomicU32 = AtomicU32::new(1);

/// The memory manager. Panics before `boot` made it.
pub fn vm() -> &'static Vm {
    // Acquire pairs with the Release in `init`.
    let vm = VM.load(Acquire);
    assert!(!vm.is_null(), "the memory manager is used before it is made");
    // SAFETY: `init` leaked it.
    unsafe { &*vm }
}

/// Makes the memory manager over the frames of `layout`, and lets the heap draw from it.
pub fn init(layout: &Layout, config: &config::BootConfig) {
    let frames = (layout.frames.end - layout.frames.start) / PAGE;
    let aligned = layout.metadata.start.next_multiple_of(64);
    let memmap = NonNull::new(direct(aligned)).expect("the direct map is not at 0");
    // SAFETY: the range is RAM, in the direct map, given to nobody else, 32 bytes for each frame.
    unsafe { core::ptr::write_bytes(memmap.as_ptr(), 0, (layout.metadata.end - aligned) as usize) };
    let bits = if config.poison == Poison::On { frames.div_ceil(64) } else { 0 };
    let poisoned = (0..bits).map(|_| AtomicU64::new(0)).collect();
    let kernel = Kernel { base: Pfn(layout.frames.start / PAGE), frames, memmap, poisoned };
    let config = anonmem::Config {
        lock_mode: config.lock_mode,
        reverse_map: config.reverse_map,
        nodes: config.nodes,
        folios: config.folios,
        secret: random::random_u64(),
        ..anonmem::Config::default()
    };
    let vm = match Vm::init(Box::leak(Box::new_uninit()), kernel, config) {
        Ok(vm) => vm,
        Err(error) => panic!("the memory manager does not take this memory: {error:?}"),
    };
    // Relaxed: published with the memory manager.
    NR_NODES.store(vm.nr_nodes(), Relaxed);
    // Release pairs with the Acquire in `vm`.
    VM.store(vm, Release);
    // Files may take a half; what else programs cause in the kernel leaves a quarter to their own pages.
    let most = frames as usize / 4 * 3;
    heap::use_frames(heap::Source { alloc: alloc_frames, free: free_frames, most });
}

/// How many nodes memory has.
#[inline]
pub fn nr_nodes() -> u32 {
    NR_NODES.load(Relaxed)
}

/// The node of a CPU: each has as many as the others, or one less.
pub fn node_of_cpu(cpu: usize) -> u32 {
    (cpu * nr_nodes() as usize / percpu::cpu_count()) as u32
}

/// The number of frames that the memory manager has.
pub fn nr_frames() -> u64 {
    vm().machine().nr_frames()
}

/// The number after that of the last frame that the memory manager has.
pub fn end_of_frames() -> u64 {
    vm().machine().base.0 + nr_frames()
}

/// The top-level table of an address space.
pub fn root_of(mm: &Mm) -> PhysAddr {
    mm.root().0 * PAGE
}

/// The bytes of a frame that is about to be a page.
///
/// # Safety
/// Nobody else sees the frame yet, and the slice is gone before somebody does.
pub unsafe fn new_frame<'a>(pfn: Pfn) -> &'a mut [u8] {
    // SAFETY: the frame is in the direct map, and the caller's alone.
    unsafe { core::slice::from_raw_parts_mut(direct(pfn.0 * PAGE), PAGE as usize) }
}

/// This CPU is about to use the address space.
pub fn activate(mm: &Mm, cpu: usize) {
    mm.activate(CpuId(cpu as u32));
}

/// This CPU has left the address space.
pub fn deactivate(mm: &Mm, cpu: usize) {
    mm.deactivate(CpuId(cpu as u32));
}

/// A block of frames for the kernel heap.
fn alloc_frames(order: u32) -> Option<PhysAddr> {
    let block = vm().frames().alloc_kernel(Order::new(order as u8)).ok()?;
    Some(block.into_pfn().0 * PAGE)
}

/// Gives a block back.
fn free_frames(block: PhysAddr, order: u32) {
    // SAFETY: the heap gives back what `alloc_frames` gave it, once.
    drop(unsafe { vm().frames().kernel_frames(Pfn(block / PAGE), Order::new(order as u8)) });
}

impl Kernel {
    fn bytes(&self, pfn: Pfn) -> *mut u8 {
        assert!((self.base.0..self.base.0 + self.frames).contains(&pfn.0), "not a frame: {pfn:?}");
        direct(pfn.0 * PAGE)
    }

    /// The word of `poisoned` for a frame, and its bit.
    fn poison_bit(&self, pfn: Pfn) -> Option<(&AtomicU64, u64)> {
        let index = pfn.0 - self.base.0;
        Some((self.poisoned.get((index / 64) as usize)?, 1 << (index % 64)))
    }

    fn words(&self, pfn: Pfn) -> *mut [u64; PAGE_SIZE / 8] {
        self.bytes(pfn).cast()
    }

    fn fill_with_poison(&self, pfn: Pfn) {
        let Some((word, bit)) = self.poison_bit(pfn) else { return };
        // SAFETY: a frame that is on its way to the allocator: nobody else touches it.
        unsafe { &mut *self.words(pfn) }.fill(POISON);
        word.fetch_or(bit, Relaxed);
    }

    /// A frame that was not freed before holds what the loader left.
    fn check_poison(&self, pfn: Pfn) {
        if self.poison_bit(pfn).is_none_or(|(word, bit)| word.load(Relaxed) & bit == 0) {
            return;
        }
        // SAFETY: the frame is still the allocator's: nobody writes to it.
        let words = unsafe { &*self.words(pfn) };
        // All words without a branch: an emulated processor does several at once, and branches slowly.
        let differs = words.iter().fold(0, |all, word| all | (word ^ POISON));
        if differs != 0 {
            let at = words.iter().position(|word| *word != POISON).unwrap_or(0);
            panic!("free frame {:#x} was written at {:#x}: {:#x}", pfn.0, at * 8, words[at]);
        }
    }
}

impl Machine for Kernel {
    type Arch = X86_64;
    type Cpus = anonmem_hal::UpTo<64>;
    /// Both are in one kernel, so that one file boots either. It costs a branch a call.
    type ReverseMap = anonmem_hal::reverse_map::Either;
    type Probe = NoProbe;
    const CHECKED: bool = cfg!(feature = "lock-order");
}

// SAFETY: the frames are a contiguous block of RAM that `Layout::divide` gives to nobody else, mapped in the
// direct map at their address; `init` zeroed the metadata, 64-aligned and long enough.
unsafe impl PhysMem for Kernel {
    fn base_pfn(&self) -> Pfn {
        self.base
    }

    fn nr_frames(&self) -> u64 {
        self.frames
    }

    fn memmap(&self) -> NonNull<u8> {
        self.memmap
    }

    #[inline]
    fn direct_map(&self, pfn: Pfn) -> NonNull<u8> {
        NonNull::new(self.bytes(pfn)).expect("the direct map is not at 0")
    }

    unsafe fn zero(&self, pfn: Pfn, order: Order) {
        // SAFETY: the caller owns the frames.
        unsafe { core::ptr::write_bytes(self.bytes(pfn), 0, PAGE_SIZE << order.get()) };
    }

    unsafe fn copy(&self, dst: Pfn, src: Pfn, order: Order) {
        // SAFETY: the caller owns `dst` and keeps `src`; they are different frames. Programs may write
        // to `src` meanwhile: the copy is assembly and takes whatever bytes are there.
        unsafe { core::ptr::copy_nonoverlapping(self.bytes(src), self.bytes(dst), PAGE_SIZE << order.get()) };
    }

    fn is_zero(&self, pfn: Pfn) -> bool {
        let words = self.words(pfn).cast::<u64>();
        // Programs may be writing to them.
        (0..PAGE_SIZE / 8).all(|at| {
            // SAFETY: the word lies in a frame of this machine, as `bytes` has checked.
            let word = unsafe { words.add(at) };
            // SAFETY: as above.
            unsafe { word.read_volatile() == 0 }
        })
    }

    unsafe fn allocated(&self, pfn: Pfn, order: Order) {
        (0..order.pages()).for_each(|i| self.check_poison(Pfn(pfn.0 + i)));
    }

    unsafe fn freed(&self, pfn: Pfn, order: Order) {
        (0..order.pages()).for_each(|i| self.fill_with_poison(Pfn(pfn.0 + i)));
    }
}

// SAFETY: a flush waits for the acknowledgement of every CPU that it names; `init_root` copies the kernel's
// half.
unsafe impl Mmu for Kernel {
    unsafe fn init_root(&self, root: Pfn) {
        paging::copy_kernel_half(root.0 * PAGE);
    }

    fn flush(&self, cpus: CpuSet<'_>, root: Pfn, what: FlushRange) {
        let (start, end) = match what {
            FlushRange::Range(range) => (range.start.0, range.end.0),
            FlushRange::All => (0, u64::MAX),
        };
        tlb::flush(cpus.word(0), root.0 * PAGE, start, end);
    }

    fn flush_local(&self, root: Pfn, va: Va) {
        tlb::flush_local(root.0 * PAGE, va.0);
    }
}

impl Clock for Kernel {
    fn now_ns(&self) -> u64 {
        time::now_ns()
    }
}
