//! The frames of the simulated machine.
//!
//! A small arena. Free frames are poisoned; the allocator's reports are checked: a frame is not freed twice,
//! and not while a TLB still translates to it.

use super::{
    Sim,
    broken::broken,
    misfortune,
    probe::{fill_frame, inside_frame, running},
    swap::SwapTable,
    tlb::Tlb,
};
use crate::{
    explorer::{
        engine::{Engine, installed, with},
        failure::FailureKind,
        op::Kind,
        step::turn,
    },
    limits::MAX_CPUS,
    memory::By,
    snapshot::{Region, Touched},
    trace::{Action, Event},
};
use anonmem_hal::{Order, PAGE_SIZE, Pfn, PhysMem};
use core::{cell::UnsafeCell, panic::Location, ptr::NonNull, sync::atomic::Ordering};
use std::alloc::{Layout, alloc_zeroed, dealloc};

/// The number of the first frame: not zero, so that a forgotten frame number shows.
const BASE: Pfn = Pfn(16);
const POISON: u8 = 0xfb;
/// The most frames of a machine.
pub(super) const MAX_FRAMES: u64 = Touched::MAX as u64;

/// Memory, and what the machine knows about it.
#[derive(Debug)]
pub(crate) struct Arena {
    frames: NonNull<u8>,
    memmap: NonNull<u8>,
    nr_frames: u64,
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

    fn set_free(&self, pfn: Pfn, order: Order, free: bool) -> bool {
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
    fn bytes(&self, pfn: Pfn) -> NonNull<u8> {
        let index = self.index(pfn);
        self.touched.add(index);
        let offset = index * PAGE_SIZE;
        // SAFETY: `index` checked that the frame is inside the allocation.
        unsafe { self.frames.add(offset) }
    }

    fn fill(&self, pfn: Pfn, order: Order, byte: u8, at: &'static Location<'static>) {
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
    fn filled(&self, pfn: Pfn, at: &'static Location<'static>) {
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

fn overwritten(start: NonNull<u8>, len: usize) {
    if running() {
        with(|e| e.objects.overwritten(start.as_ptr().addr(), len));
    }
}

// SAFETY: the arena is this machine's alone and does not move; frames are adjacent; `memmap` has 32 zeroed
// bytes a frame, aligned to 64.
unsafe impl PhysMem for Sim {
    fn base_pfn(&self) -> Pfn {
        BASE
    }

    fn nr_frames(&self) -> u64 {
        self.arena.nr_frames
    }

    fn memmap(&self) -> NonNull<u8> {
        self.arena.memmap
    }

    #[inline]
    fn direct_map(&self, pfn: Pfn) -> NonNull<u8> {
        self.arena.bytes(pfn)
    }

    #[track_caller]
    fn zero(&self, pfn: Pfn, order: Order) {
        self.arena.fill(pfn, order, 0, Location::caller());
    }

    /// One step: programs may be writing to `src`, before or after.
    #[track_caller]
    fn copy(&self, dst: Pfn, src: Pfn, order: Order) {
        let at = Location::caller();
        for i in 0..order.pages() {
            let (from, to) = (src.offset(i), dst.offset(i));
            let address = self.arena.data_address(from);
            if running() {
                turn(Kind::Load, address, Ordering::Relaxed, None, at);
                inside_frame(address, By::Code, at);
                with(|e| {
                    let word = format!("is copied to frame {}", to.0);
                    e.record(|e| Event::new(e, Some(address), "", Action::Word(word), at));
                });
            }
            self.arena.filled(to, at);
            if running() {
                with(Engine::tick);
            }
            let (from, to) = (self.arena.bytes(from), self.arena.bytes(to));
            // SAFETY: two frames of the arena; `copy_from` allows them to be the same.
            unsafe { to.copy_from(from, PAGE_SIZE) };
            overwritten(to, PAGE_SIZE);
        }
    }

    /// One step, as [`copy`](Self::copy).
    #[track_caller]
    fn is_zero(&self, pfn: Pfn) -> bool {
        let (at, address) = (Location::caller(), self.arena.data_address(pfn));
        if running() {
            turn(Kind::Load, address, Ordering::Relaxed, None, at);
            inside_frame(address, By::Code, at);
            with(|e| {
                let word = "is looked at: all zeroes?".into();
                e.record(|e| Event::new(e, Some(address), "", Action::Word(word), at));
                e.tick();
            });
        }
        (0..PAGE_SIZE / 8).all(|i| self.arena.read(pfn, i * 8) == 0)
    }

    fn admit(&self) -> bool {
        !(running() && with(|e| e.inject.allocation) && misfortune("no frame to be had"))
    }

    #[track_caller]
    fn allocated(&self, pfn: Pfn, order: Order) {
        self.arena.set_free(pfn, order, false);
    }

    #[track_caller]
    fn freed(&self, pfn: Pfn, order: Order) {
        let at = Location::caller();
        if self.arena.set_free(pfn, order, true) {
            broken(FailureKind::Frame, format!("frame {} is freed twice", pfn.0), at);
        }
        let block = pfn.0..pfn.0 + order.pages();
        let stale = self.arena.state(|s| {
            let mut entries = s.tlbs.iter().enumerate();
            entries.find_map(|(cpu, tlb)| tlb.translation_to(&block).map(|va| (cpu, va)))
        });
        if let Some((cpu, va)) = stale {
            let message = format!("frame {} is freed while CPU{cpu} still translates {va:?} to it", pfn.0);
            broken(FailureKind::StaleTranslation, message, at);
        }
        self.arena.fill(pfn, order, POISON, at);
    }
}
