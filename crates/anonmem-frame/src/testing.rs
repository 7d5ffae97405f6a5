//! A machine that is an arena of frames, watches who owns which, and poisons the free ones.

use anonmem_hal::{
    Clock, CpuId, CpuSet, FlushRange, HeldLocks, Machine, Mmu, NoProbe, Order, PAGE_SIZE, Pfn, PhysMem,
    Sched, SourceError, SourceId, Sources, Va, arch::Toy,
};
use core::{
    alloc::Layout,
    cell::{Cell, RefCell},
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
};
use std::{alloc, thread_local, vec::Vec};

/// What every word of a free frame holds.
const POISON: u64 = 0xfeed_dead_beef_f4ee;
/// The number of CPUs.
pub(crate) const CPUS: usize = 4;

/// `CHECKED` is the machine's; without it, nothing is poisoned or watched either.
pub(crate) struct TestMachine<const CHECKED: bool = true> {
    base: u64,
    /// What it claims to have.
    pub(crate) nr: u64,
    /// How far from its array it claims the metadata to be.
    pub(crate) memmap_skew: usize,
    memory: NonNull<u8>,
    memmap: NonNull<u8>,
    owned: Vec<AtomicBool>,
    /// How many allocations are still admitted; negative: all.
    admit: AtomicI64,
    pub(crate) asked: AtomicU64,
}

// SAFETY: the arenas are plain memory that only the trait's methods hand out.
unsafe impl<const CHECKED: bool> Send for TestMachine<CHECKED> {}
// SAFETY: as above.
unsafe impl<const CHECKED: bool> Sync for TestMachine<CHECKED> {}

fn arena(bytes: usize, align: usize) -> (NonNull<u8>, Layout) {
    let layout = Layout::from_size_align(bytes.max(1), align).unwrap();
    // SAFETY: the layout is not empty.
    (NonNull::new(unsafe { alloc::alloc_zeroed(layout) }).expect("memory for a test"), layout)
}

impl<const CHECKED: bool> TestMachine<CHECKED> {
    /// A machine with `nr` frames from `base` on.
    pub(crate) fn new(base: u64, nr: u64) -> Self {
        let machine = Self {
            base,
            nr,
            memmap_skew: 0,
            memory: arena(nr as usize * PAGE_SIZE, PAGE_SIZE).0,
            memmap: arena(nr as usize * 32, 64).0,
            owned: (0..nr).map(|_| AtomicBool::new(false)).collect(),
            admit: AtomicI64::new(-1),
            asked: AtomicU64::new(0),
        };
        (0..nr).for_each(|i| machine.poison(Pfn(base + i), Order::ZERO));
        machine
    }

    /// Admits `n` more allocations and refuses the rest; all if negative.
    pub(crate) fn admit_only(&self, n: i64) {
        self.admit.store(n, Relaxed);
    }

    /// The number of frames that left the allocator and did not come back.
    pub(crate) fn owned(&self) -> u64 {
        self.owned.iter().filter(|o| o.load(Relaxed)).count() as u64
    }

    fn words(&self, pfn: Pfn, order: Order) -> impl Iterator<Item = NonNull<u64>> {
        let start = self.direct_map(pfn).cast::<u64>();
        // SAFETY: the callers pass blocks of this machine.
        (0..order.bytes() / 8).map(move |i| unsafe { start.add(i) })
    }

    fn poison(&self, pfn: Pfn, order: Order) {
        if CHECKED {
            // SAFETY: the frames are free, so they are ours.
            self.words(pfn, order).for_each(|word| unsafe { word.write(POISON) });
        }
    }

    fn own(&self, pfn: Pfn, order: Order, now: bool) {
        let first = (pfn.0 - self.base) as usize;
        for owned in &self.owned[first..first + order.pages() as usize] {
            assert!(owned.swap(now, Relaxed) != now, "{pfn:?} of {order:?}: owned already is {now}");
        }
    }
}

impl<const CHECKED: bool> Drop for TestMachine<CHECKED> {
    fn drop(&mut self) {
        let nr = self.owned.len();
        for (memory, bytes, align) in [(self.memory, nr * PAGE_SIZE, PAGE_SIZE), (self.memmap, nr * 32, 64)] {
            let layout = Layout::from_size_align(bytes.max(1), align).unwrap();
            // SAFETY: allocated in `new` with this layout.
            unsafe { alloc::dealloc(memory.as_ptr(), layout) };
        }
    }
}

thread_local! {
    static HELD: RefCell<HeldLocks> = const { RefCell::new(HeldLocks::NONE) };
    static CPU: Cell<u32> = const { Cell::new(0) };
}

/// Makes this thread run on `cpu` from now on.
pub(crate) fn run_on(cpu: u32) {
    CPU.set(cpu);
}

impl<const CHECKED: bool> Machine for TestMachine<CHECKED> {
    type Arch = Toy;
    type Cpus = anonmem_hal::UpTo<64>;
    type ReverseMap = anonmem_hal::reverse_map::AnonVmas;
    type Probe = NoProbe;
    const CHECKED: bool = CHECKED;
}

// SAFETY: the arenas are allocated for this machine alone, zeroed and aligned.
unsafe impl<const CHECKED: bool> PhysMem for TestMachine<CHECKED> {
    fn base_pfn(&self) -> Pfn {
        Pfn(self.base)
    }
    fn nr_frames(&self) -> u64 {
        self.nr
    }
    fn memmap(&self) -> NonNull<u8> {
        // SAFETY: tests claim no more than the array has.
        unsafe { self.memmap.add(self.memmap_skew) }
    }
    #[inline]
    fn direct_map(&self, pfn: Pfn) -> NonNull<u8> {
        // SAFETY: the callers pass frames of this machine.
        unsafe { self.memory.add((pfn.0 - self.base) as usize * PAGE_SIZE) }
    }
    unsafe fn zero(&self, pfn: Pfn, order: Order) {
        // SAFETY: the caller owns the block.
        unsafe { self.direct_map(pfn).write_bytes(0, order.bytes()) };
    }
    unsafe fn copy(&self, dst: Pfn, src: Pfn, order: Order) {
        // SAFETY: the caller owns both blocks, so they do not overlap.
        unsafe { self.direct_map(dst).copy_from_nonoverlapping(self.direct_map(src), order.bytes()) };
    }
    #[inline]
    fn admit(&self) -> bool {
        if !CHECKED {
            return true;
        }
        self.asked.fetch_add(1, Relaxed);
        self.admit.fetch_update(Relaxed, Relaxed, |n| (n > 0).then_some(n - 1)).is_ok_and(|_| true)
            || self.admit.load(Relaxed) < 0
    }
    #[inline]
    unsafe fn allocated(&self, pfn: Pfn, order: Order) {
        if CHECKED {
            self.own(pfn, order, true);
            // SAFETY: the frames are not handed out yet, so they are ours.
            let intact = self.words(pfn, order).all(|word| unsafe { word.read() } == POISON);
            assert!(intact, "{pfn:?} was written to while it was free");
        }
    }
    #[inline]
    unsafe fn freed(&self, pfn: Pfn, order: Order) {
        if CHECKED {
            self.poison(pfn, order);
            self.own(pfn, order, false);
        }
    }
}

// SAFETY: nothing is translated.
unsafe impl<const CHECKED: bool> Mmu for TestMachine<CHECKED> {
    unsafe fn init_root(&self, _: Pfn) {}
    fn flush(&self, _: CpuSet<'_>, _: Pfn, _: FlushRange) {}
    fn flush_local(&self, _: Pfn, _: Va) {}
}

// SAFETY: a thread is a CPU, and the only one with its number.
unsafe impl<const CHECKED: bool> Sched for TestMachine<CHECKED> {
    #[inline]
    fn current_cpu() -> CpuId {
        CpuId(CPU.get())
    }
    fn nr_cpus() -> usize {
        CPUS
    }
    fn park(_: usize, keep_waiting: &dyn Fn() -> bool) {
        while keep_waiting() {
            std::thread::yield_now();
        }
    }
    fn unpark(_: usize, _: usize) {}
    fn yield_now() {
        std::thread::yield_now();
    }
    fn relax() {
        std::thread::yield_now();
    }
    unsafe fn with_held_locks(f: &mut dyn FnMut(&mut HeldLocks)) {
        HELD.with_borrow_mut(|held| f(held));
    }
}

impl<const CHECKED: bool> Clock for TestMachine<CHECKED> {
    fn now_ns(&self) -> u64 {
        0
    }
}

impl<const CHECKED: bool> anonmem_hal::SwapIo for TestMachine<CHECKED> {}

impl<const CHECKED: bool> Sources for TestMachine<CHECKED> {
    unsafe fn fill(&self, _: SourceId, _: u64, _: Pfn) -> Result<(), SourceError> {
        Err(SourceError)
    }
    fn dup(&self, _: SourceId) {}
    fn release(&self, _: SourceId) {}
}

/// A reproducible stream of numbers (xorshift64*).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % n
    }
}

/// Blocks by their numbers, for tests that want to free them wrongly.
pub(crate) trait ByNumber {
    fn raw_kernel(&self, order: Order) -> Result<Pfn, crate::OutOfMemory>;
    fn raw_table(&self) -> Result<Pfn, crate::OutOfMemory>;
    fn free_kernel(&self, pfn: Pfn, order: Order);
    fn free_table(&self, pfn: Pfn);
}

impl<M: Machine> ByNumber for crate::Frames<M> {
    fn raw_kernel(&self, order: Order) -> Result<Pfn, crate::OutOfMemory> {
        self.alloc_kernel(order).map(crate::OwnedFrames::into_pfn)
    }
    fn raw_table(&self) -> Result<Pfn, crate::OutOfMemory> {
        self.alloc_table().map(crate::OwnedFrames::into_pfn)
    }
    #[track_caller]
    fn free_kernel(&self, pfn: Pfn, order: Order) {
        // SAFETY: what is wrong is found before it does harm.
        drop(unsafe { self.kernel_frames(pfn, order) });
    }
    #[track_caller]
    fn free_table(&self, pfn: Pfn) {
        // SAFETY: as above.
        drop(unsafe { self.table_frame(pfn) });
    }
}
