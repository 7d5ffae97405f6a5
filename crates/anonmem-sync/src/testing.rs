//! A machine with threads and nothing else, for the tests of this crate.

use anonmem_hal::{
    Clock, CpuId, CpuSet, FlushRange, HeldLocks, Machine, Mmu, NoProbe, Order, Pfn, PhysMem, Sched,
    SourceError, SourceId, Sources, Va, arch::Toy,
};
use core::ptr::NonNull;
use std::{cell::RefCell, sync::Condvar, sync::Mutex, thread_local};

pub(crate) enum TestMachine {}

thread_local!(static HELD: RefCell<HeldLocks> = const { RefCell::new(HeldLocks::NONE) });
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
    fn flush(&self, _: CpuSet, _: Pfn, _: FlushRange) {
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
