//! The machine: a port of the memory manager, as short as one can be.
//!
//! What a port must implement is below in full. What it may leave out is left out: sources, a scheduler that
//! sleeps, a kernel's part of page tables. Swap is here because the examples swap.
//!
//! There is no TLB, but an access may be under way: a program that has read an entry has not touched the page
//! yet. `flush` waits for such accesses.

use crate::cpus::{self, CPUS};
use anonmem_hal::{
    Arch, Clock, CpuId, CpuSet, Entry, FlushRange, FrameAlloc, HeldLocks, IoError, Machine, Mmu, NoProbe,
    Order, PAGE_SIZE, Pfn, PhysMem, Present, Pte, Sched, Sources, SwapIo, UpTo, Va, arch::X86_64,
};
use std::{
    collections::BTreeMap,
    ptr::NonNull,
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
    time::Instant,
};

const WORDS: usize = PAGE_SIZE / 8;
/// Frame 0 means "no frame" in many a place, so the memory begins above it.
const FIRST: Pfn = Pfn(16);

#[repr(align(4096))]
struct Page([AtomicU64; WORDS]);

/// The metadata of two frames.
#[repr(align(64))]
struct Metadata(#[expect(dead_code, reason = "the memory manager has it by address")] [AtomicU64; 8]);

type Words = [u64; WORDS];

/// A machine whose memory is a `Vec`.
pub struct VecMachine {
    memory: Vec<Page>,
    metadata: Vec<Metadata>,
    /// Held for reading from the walk of an access to its end.
    accesses: RwLock<()>,
    swapped: Mutex<BTreeMap<(u8, u64), Box<Words>>>,
    started: Instant,
}

impl VecMachine {
    /// A machine with `frames` frames of 4 KiB.
    pub fn new(frames: usize) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            memory: (0..frames).map(|_| Page(std::array::from_fn(|_| zero()))).collect(),
            metadata: (0..frames.div_ceil(2)).map(|_| Metadata(std::array::from_fn(|_| zero()))).collect(),
            accesses: RwLock::new(()),
            swapped: Mutex::new(BTreeMap::new()),
            started: Instant::now(),
        }
    }

    fn words(&self, pfn: Pfn) -> &[AtomicU64; WORDS] {
        &self.memory[(pfn.0 - FIRST.0) as usize].0
    }

    /// The words of a block of frames.
    fn block(&self, pfn: Pfn, order: Order) -> impl Iterator<Item = &AtomicU64> {
        (0..order.pages()).flat_map(move |page| self.words(pfn.offset(page)))
    }

    /// The last-level entry of `va` in the tables below `root`, as software sees it.
    pub fn entry(&self, root: Pfn, va: Va) -> Pte {
        self.table(root, va).map_or(Pte::None, |table| {
            X86_64::decode_pte(self.words(table)[X86_64::index(va, 0)].load(SeqCst))
        })
    }

    /// The last-level table of `va`.
    fn table(&self, root: Pfn, va: Va) -> Option<Pfn> {
        (1..X86_64::LEVELS).rev().try_fold(root, |table, level| {
            let raw = self.words(table)[X86_64::index(va, level)].load(SeqCst);
            match X86_64::decode_entry(raw, level) {
                Entry::Table(next) => Some(next),
                // Leaves are asked for by configuration, which this machine's users leave alone.
                Entry::None | Entry::Leaf(_) | Entry::Migration { .. } => None,
            }
        })
    }

    /// What an MMU does for one access to the word at `va`: finds the page, checks the permission, sets the
    /// accessed and the dirty bit, and runs `f` on the word. `None` is a page fault.
    pub(crate) fn access<R>(
        &self,
        root: Pfn,
        va: Va,
        stores: Stores,
        f: impl FnOnce(&AtomicU64) -> R,
    ) -> Option<R> {
        let _under_way = self.accesses.read().unwrap_or_else(PoisonError::into_inner);
        let entry = &self.words(self.table(root, va)?)[X86_64::index(va, 0)];
        loop {
            let raw = entry.load(SeqCst);
            let Pte::Present(found) = X86_64::decode_pte(raw) else { return None };
            if !found.prot.read || stores == Stores::Yes && !found.prot.write {
                return None;
            }
            let used = Present { young: true, dirty: found.dirty || stores == Stores::Yes, ..found };
            let new = X86_64::encode_pte(Pte::Present(used));
            if raw == new || entry.compare_exchange(raw, new, SeqCst, SeqCst).is_ok() {
                return Some(f(&self.words(found.pfn)[va.page_offset() / 8]));
            }
        }
    }
}

/// Whether an access stores.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stores {
    Yes,
    No,
}

impl Machine for VecMachine {
    type Arch = X86_64;
    type Probe = NoProbe;
    type Cpus = UpTo<CPUS>;
    type ReverseMap = anonmem_hal::reverse_map::AnonVmas;
    const CHECKED: bool = true;

    fn unwinding() -> bool {
        std::thread::panicking()
    }
}

// SAFETY: the memory manager owns the machine, so the frames and their metadata are its own, and live as
// long. They are words that may change, at one address, frame after frame.
unsafe impl PhysMem for VecMachine {
    fn base_pfn(&self) -> Pfn {
        FIRST
    }

    fn nr_frames(&self) -> u64 {
        self.memory.len() as u64
    }

    fn memmap(&self) -> NonNull<u8> {
        NonNull::from(self.metadata.as_slice()).cast()
    }

    fn direct_map(&self, pfn: Pfn) -> NonNull<u8> {
        let frame = (pfn.0 - FIRST.0) as usize;
        NonNull::from(&self.memory[frame..]).cast()
    }

    unsafe fn zero(&self, pfn: Pfn, order: Order) {
        self.block(pfn, order).for_each(|word| word.store(0, Relaxed));
    }

    unsafe fn copy(&self, dst: Pfn, src: Pfn, order: Order) {
        let words = self.block(dst, order).zip(self.block(src, order));
        words.for_each(|(dst, src)| dst.store(src.load(Relaxed), Relaxed));
    }

    // Programs use whole words at the same time, so these do, too.
    fn read_bytes(&self, pfn: Pfn, offset: usize, to: &mut [u8]) {
        for (at, byte) in (offset..).zip(to) {
            *byte = self.words(pfn)[at / 8].load(Relaxed).to_le_bytes()[at % 8];
        }
    }

    unsafe fn write_bytes(&self, pfn: Pfn, offset: usize, from: &[u8]) {
        for (at, byte) in (offset..).zip(from) {
            let shift = at % 8 * 8;
            let changed = |word: u64| Some(word & !(0xff << shift) | u64::from(*byte) << shift);
            self.words(pfn)[at / 8].fetch_update(Relaxed, Relaxed, changed).expect("it always changes");
        }
    }
}

// SAFETY: nothing is cached. An access that read an entry before it changed is over when the lock was had for
// writing; one that begins later reads the entry as it is now.
unsafe impl Mmu for VecMachine {
    fn flush(&self, _cpus: CpuSet<'_>, _root: Pfn, _what: FlushRange) {
        drop(self.accesses.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn flush_local(&self, _root: Pfn, _va: Va) {}
}

// SAFETY: a thread has a number of its own for as long as it lives, and a list of its own.
unsafe impl Sched for VecMachine {
    fn current_cpu() -> CpuId {
        cpus::current()
    }

    fn nr_cpus() -> usize {
        CPUS
    }

    fn yield_now() {
        std::thread::yield_now();
    }

    unsafe fn with_held_locks(f: &mut dyn FnMut(&mut HeldLocks)) {
        cpus::with_held_locks(f);
    }
}

impl Clock for VecMachine {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// There are none.
impl Sources for VecMachine {}

/// Any device has room for any slot.
impl SwapIo for VecMachine {
    unsafe fn swap_write(
        &self,
        device: u8,
        slot: u64,
        order: Order,
        src: Pfn,
        _frames: &dyn FrameAlloc,
    ) -> Result<(), IoError> {
        let mut swapped = self.swapped.lock().map_err(|_| IoError)?;
        for nth in 0..order.pages() {
            let page = self.words(src.offset(nth));
            let words = Box::new(std::array::from_fn(|i| page[i].load(Relaxed)));
            swapped.insert((device, slot + nth), words);
        }
        Ok(())
    }

    unsafe fn swap_read(&self, device: u8, slot: u64, order: Order, dst: Pfn) -> Result<(), IoError> {
        let swapped = self.swapped.lock().map_err(|_| IoError)?;
        for nth in 0..order.pages() {
            let words = swapped.get(&(device, slot + nth)).ok_or(IoError)?;
            let page = self.words(dst.offset(nth));
            page.iter().zip(words.iter()).for_each(|(to, from)| to.store(*from, Relaxed));
        }
        Ok(())
    }

    unsafe fn swap_discard(&self, device: u8, slot: u64, _frames: &dyn FrameAlloc) {
        if let Ok(mut swapped) = self.swapped.lock() {
            swapped.remove(&(device, slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anonmem::{MmapRequest, Prot};

    #[test]
    fn a_flush_waits_for_accesses_under_way() {
        crate::example(|vm, mm| {
            let start = mm.mmap(MmapRequest::anonymous(PAGE_SIZE as u64, Prot::READ))?;
            crate::Program::load(mm, start)?;
            let machine = vm.machine();
            let would_wait =
                machine.access(mm.root(), start, Stores::No, |_| machine.accesses.try_write().is_err());
            assert_eq!(would_wait, Some(true));
            assert_eq!(machine.access(mm.root(), start, Stores::Yes, |_| ()), None, "read-only");
            Ok(())
        });
    }

    #[test]
    fn bytes_lie_in_words() {
        let machine = VecMachine::new(2);
        // SAFETY: nobody else has the machine.
        unsafe { machine.write_bytes(FIRST, 6, &[1, 2, 3]) };
        assert_eq!(machine.words(FIRST)[0].load(Relaxed), 0x0201_0000_0000_0000);
        let mut bytes = [9; 5];
        machine.read_bytes(FIRST, 5, &mut bytes);
        assert_eq!(bytes, [0, 1, 2, 3, 0]);
    }
}
