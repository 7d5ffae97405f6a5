//! A machine with threads and nothing else, for the tests of this crate.

use anonmem_hal::{
    Clock, CpuId, CpuSet, FlushRange, HeldLocks, Machine, Mmu, NoProbe, Order, Pfn, PhysMem, Sched,
    SourceError, SourceId, Sources, Va, arch::Toy,
};
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};
use std::{
    cell::{Cell, RefCell},
    sync::{Condvar, Mutex},
    thread_local,
};

pub(crate) enum TestMachine {}

thread_local! {
    static HELD: RefCell<HeldLocks> = const { RefCell::new(HeldLocks::NONE) };
    static WAITS: Cell<Waits> = const { Cell::new(Waits { turns: 20, spun: &NOBODYS, slept: &NOBODYS }) };
}
static NOBODYS: AtomicU32 = AtomicU32::new(0);

/// How a thread waits for a lock.
#[derive(Clone, Copy)]
pub(crate) struct Waits {
    /// For how many turns it spins before it sleeps.
    pub(crate) turns: u32,
    /// Counts them.
    pub(crate) spun: &'static AtomicU32,
    /// Counts how often a thread went to sleep.
    pub(crate) slept: &'static AtomicU32,
}

impl Waits {
    /// This thread waits so.
    pub(crate) fn begin(self) {
        WAITS.set(self);
    }
}

static PARKED: Mutex<()> = Mutex::new(());
static WAKE: Condvar = Condvar::new();

impl Machine for TestMachine {
    type Arch = Toy;
    type Cpus = anonmem_hal::UpTo<64>;
    type ReverseMap = anonmem_hal::reverse_map::AnonVmas;
    type Probe = NoProbe;
    const CHECKED: bool = true;
}

// SAFETY: there are no frames.
unsafe impl PhysMem for TestMachine {
    fn base_pfn(&self) -> Pfn {
        match *self {}
    }
    fn nr_frames(&self) -> u64 {
        match *self {}
    }
    fn memmap(&self) -> NonNull<u8> {
        match *self {}
    }
    fn direct_map(&self, _: Pfn) -> NonNull<u8> {
        match *self {}
    }
    unsafe fn zero(&self, _: Pfn, _: Order) {
        match *self {}
    }
    unsafe fn copy(&self, _: Pfn, _: Pfn, _: Order) {
        match *self {}
    }
}

// SAFETY: nothing is translated.
unsafe impl Mmu for TestMachine {
    unsafe fn init_root(&self, _: Pfn) {
        match *self {}
    }
    fn flush(&self, _: CpuSet<'_>, _: Pfn, _: FlushRange) {
        match *self {}
    }
    fn flush_local(&self, _: Pfn, _: Va) {
        match *self {}
    }
}

// SAFETY: a thread is a CPU, and the only one with its number.
unsafe impl Sched for TestMachine {
    fn current_cpu() -> CpuId {
        CpuId(0)
    }
    fn nr_cpus() -> usize {
        1
    }
    fn park(_: usize, keep_waiting: &dyn Fn() -> bool) {
        WAITS.get().slept.fetch_add(1, SeqCst);
        let mut guard = PARKED.lock().unwrap();
        while keep_waiting() {
            guard = WAKE.wait(guard).unwrap();
        }
    }
    fn unpark(_: usize, _: usize) {
        let _guard = PARKED.lock().unwrap();
        WAKE.notify_all();
    }
    fn relax() {
        std::thread::yield_now();
    }
    fn optimistic_spin(keep_waiting: &dyn Fn() -> bool) {
        let Waits { turns, spun, .. } = WAITS.get();
        for _ in 0..turns {
            if !keep_waiting() {
                return;
            }
            spun.fetch_add(1, SeqCst);
            std::thread::yield_now();
        }
    }
    fn yield_now() {
        std::thread::yield_now();
    }
    unsafe fn with_held_locks(f: &mut dyn FnMut(&mut HeldLocks)) {
        HELD.with_borrow_mut(|held| f(held));
    }
}

impl Clock for TestMachine {
    fn now_ns(&self) -> u64 {
        match *self {}
    }
}

impl anonmem_hal::SwapIo for TestMachine {}

impl Sources for TestMachine {
    unsafe fn fill(&self, _: SourceId, _: u64, _: Pfn) -> Result<(), SourceError> {
        match *self {}
    }
    fn dup(&self, _: SourceId) {
        match *self {}
    }
    fn release(&self, _: SourceId) {
        match *self {}
    }
}
