//! The memory of the simulated machine, and what the machine knows about it.

use super::{chance::running, probe::fill_frame, slots::SwapTable, translations::Tlb};
use crate::{
    explorer::engine::{installed, with},
    limits::MAX_CPUS,
    snapshot::{Region, Touched},
};
use anonmem_hal::{Order, PAGE_SIZE, Pfn};
use core::{cell::UnsafeCell, panic::Location, ptr::NonNull};
use std::alloc::{Layout, alloc_zeroed, dealloc};

/// The number of the first frame: not zero, so that a forgotten frame number shows.
pub(super) const BASE: Pfn = Pfn(16);
pub(super) const POISON: u8 = 0xfb;
/// The most frames of a machine.
pub(super) const MAX_FRAMES: u64 = Touched::MAX as u64;

/// Memory, and what the machine knows about it.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(super) frames: NonNull<u8>,
    pub(super) memmap: NonNull<u8>,
    pub(super) nr_frames: u64,
    state: UnsafeCell<State>,
    touched: Touched,
}

/// What changes while CPUs run, apart from bytes. Plain data: copied back as a whole.
#[derive(Debug)]
pub(super) struct State {
    free: [u64; MAX_FRAMES as usize / 64],
    /// The translations of each CPU.
    pub(super) tlbs: [Tlb; MAX_CPUS],
    sources: i64,
    /// What is on the swap devices.
    pub(super) swap: SwapTable,
}

// SAFETY: an exploration runs on one thread at a time, and so does everything that touches its arena.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    pub(super) fn new(nr_frames: u64) -> Self {
        assert!((1..=MAX_FRAMES).contains(&nr_frames), "1 to {MAX_FRAMES} frames");
        let state = State {
            free: [0; MAX_FRAMES as usize / 64],
            tlbs: [Tlb::EMPTY; MAX_CPUS],
            sources: 0,
            swap: SwapTable::EMPTY,
        };
        Self {
            frames: allocate(Self::layout(nr_frames)),
            memmap: allocate(Self::memmap_layout(nr_frames)),
            nr_frames,
            state: UnsafeCell::new(state),
            touched: Touched::new(),
        }
    }

    fn layout(nr_frames: u64) -> Layout {
        Layout::from_size_align(nr_frames as usize * PAGE_SIZE, PAGE_SIZE).expect("small")
    }

    fn memmap_layout(nr_frames: u64) -> Layout {
        Layout::from_size_align((nr_frames as usize * 32).next_multiple_of(64), 64).expect("small")
    }

    pub(super) fn regions(&self, regions: &mut Vec<Region>) {
        let (frames, memmap) = (Self::layout(self.nr_frames), Self::memmap_layout(self.nr_frames));
        regions.push(Region::in_pages(self.frames.as_ptr(), frames.size(), &self.touched));
        regions.push(Region::new(self.memmap.as_ptr(), memmap.size()));
        regions.push(Region::new(self.state.get().cast(), size_of::<State>()));
    }

    /// Runs `f` on the state.
    pub(super) fn state<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        // SAFETY: one thread, and `f` (all are in this module and in `tlb`) does not come back here.
        f(unsafe { &mut *self.state.get() })
    }

    fn index(&self, pfn: Pfn) -> usize {
        let index = pfn.0.wrapping_sub(BASE.0);
        assert!(index < self.nr_frames, "{pfn:?} is no frame of this machine");
        index as usize
    }

    /// Whether the frame is in the allocator.
    pub(super) fn is_free(&self, pfn: Pfn) -> bool {
        let index = self.index(pfn);
        self.state(|s| s.free[index / 64] >> (index % 64) & 1 == 1)
    }

    /// Whether this machine has the frame.
    pub(super) fn has(&self, pfn: Pfn) -> bool {
        pfn.0.wrapping_sub(BASE.0) < self.nr_frames
    }

    pub(super) fn set_free(&self, pfn: Pfn, order: Order, free: bool) -> bool {
        let first = self.index(pfn);
        self.state(|s| {
            let mut was_free = false;
            for index in first..first + order.pages() as usize {
                let (word, bit) = (&mut s.free[index / 64], 1 << (index % 64));
                was_free |= *word & bit != 0;
                *word = if free { *word | bit } else { *word & !bit };
            }
            was_free
        })
    }

    /// The frame's bytes, which count as changed from now on.
    pub(super) fn bytes(&self, pfn: Pfn) -> NonNull<u8> {
        let index = self.index(pfn);
        self.touched.add(index);
        let offset = index * PAGE_SIZE;
        // SAFETY: `index` checked that the frame is inside the allocation.
        unsafe { self.frames.add(offset) }
    }

    pub(super) fn fill(&self, pfn: Pfn, order: Order, byte: u8, at: &'static Location<'static>) {
        let start = self.bytes(pfn);
        let len = order.bytes();
        let first = self.index(pfn);
        self.index(Pfn(pfn.0 + order.pages() - 1));
        (first..first + order.pages() as usize).for_each(|page| self.touched.add(page));
        (0..order.pages()).for_each(|i| self.filled(pfn.offset(i), at));
        // SAFETY: both ends of the block are frames of this machine.
        unsafe { start.write_bytes(byte, len) };
        overwritten(start, len);
    }

    /// Notes that the frame's contents are overwritten.
    pub(super) fn filled(&self, pfn: Pfn, at: &'static Location<'static>) {
        if !installed() {
            return;
        }
        let (start, len) = (self.frames.as_ptr().addr(), Self::layout(self.nr_frames).size());
        let unheard_of = with(|e| e.frames.register(start, len));
        if running() {
            // What was touched before in this execution is not known: it does not count.
            with(|e| e.objects.learned_rules |= unheard_of);
            fill_frame(start + self.index(pfn) * PAGE_SIZE, at);
        }
    }

    /// Writes words at the start of a frame and zeroes the rest.
    pub(super) fn write_words(&self, pfn: Pfn, words: &[u64], at: &'static Location<'static>) {
        self.fill(pfn, Order::ZERO, 0, at);
        for (i, word) in words.iter().enumerate() {
            self.write(pfn, i * 8, *word);
        }
    }

    /// Some bytes of a frame.
    pub(super) fn part(&self, pfn: Pfn, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset <= PAGE_SIZE && len <= PAGE_SIZE - offset, "an access leaves its frame");
        // SAFETY: the offset is inside the page, or at its end.
        unsafe { self.bytes(pfn).add(offset) }
    }

    /// The word at `offset` of a frame.
    pub(super) fn read(&self, pfn: Pfn, offset: usize) -> u64 {
        assert!(offset + 8 <= PAGE_SIZE && offset.is_multiple_of(8), "a word of a page");
        // SAFETY: the offset is inside the page.
        let at = unsafe { self.bytes(pfn).add(offset) };
        // SAFETY: aligned, inside the frame; all accesses to user bytes are on this thread.
        unsafe { at.cast().read() }
    }

    /// Sets the word at `offset` of a frame.
    pub(super) fn write(&self, pfn: Pfn, offset: usize, value: u64) {
        assert!(offset + 8 <= PAGE_SIZE && offset.is_multiple_of(8), "a word of a page");
        // SAFETY: the offset is inside the page.
        let at = unsafe { self.bytes(pfn).add(offset) };
        // SAFETY: as in `read`.
        unsafe { at.cast().write(value) };
    }

    pub(super) fn count_sources(&self, by: i64) {
        self.state(|s| s.sources += by);
    }

    /// The address that stands for the user bytes of a frame.
    pub(super) fn data_address(&self, pfn: Pfn) -> usize {
        self.bytes(pfn).as_ptr().addr()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.frames.as_ptr(), Self::layout(self.nr_frames)) };
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.memmap.as_ptr(), Self::memmap_layout(self.nr_frames)) };
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: the layout is not empty.
    NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory for the simulated machine")
}

pub(super) fn overwritten(start: NonNull<u8>, len: usize) {
    if running() {
        with(|e| e.objects.overwritten(start.as_ptr().addr(), len));
    }
}
