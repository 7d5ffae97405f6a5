//! Physical memory: one anonymous mapping of the host, and a second one for the frame metadata.
//!
//! Programs, the MMU and the kernel may touch the same bytes at once, as on hardware. Every such access
//! goes through relaxed atomic 64-bit words; a part of a word is stored with a compare-exchange, so that
//! neighbours in the word are never lost.
//!
//! A checked arena knows which frames are allocated and fills freed ones with [`POISON`]: an allocation
//! that finds another byte proves a write after free, and a frame that is freed or allocated twice is found
//! at once.

use anonmem_hal::{Order, PAGE_SIZE, Pfn};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::{
    ptr::{self, NonNull},
    sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
};

/// The first frame of every arena.
pub const BASE_PFN: Pfn = Pfn(0x100);
/// Every byte of a free frame.
pub const POISON: u8 = 0xa5;

const POISON_WORD: u64 = u64::from_ne_bytes([POISON; 8]);
const METADATA_BYTES: usize = 32;
const WORDS: usize = PAGE_SIZE / 8;

/// State of a frame in a checked arena. What was never used is still zero, so that memory which a test
/// does not need costs nothing; it is poisoned when it is first allocated.
const NEVER_USED: u8 = 0;
const ALLOCATED: u8 = 1;
const FREE: u8 = 2;

/// A private anonymous mapping of the host.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory; who may access what is the arena's concern.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(len: usize) -> Self {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: no address is asked for, so no existing mapping is touched.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) };
        let start = start.unwrap_or_else(|e| panic!("the host refuses {len} bytes of memory: {e}"));
        Self { start: NonNull::new(start.cast()).expect("the host mapped page 0"), len }
    }

    /// Mapped by large pages where the host can, as a kernel maps its memory (otherwise the host's TLB misses
    /// are measured), and not handed on to children of this process. Refusing is the host's right.
    fn like_a_direct_map(self) -> Self {
        for advice in [Advice::LinuxHugepage, Advice::LinuxDontFork] {
            // SAFETY: the mapping is ours; neither advice changes its bytes.
            let _ = unsafe { madvise(self.start.as_ptr().cast(), self.len, advice) };
        }
        self
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// The memory of a machine.
pub struct Arena {
    frames: Mapping,
    memmap: Mapping,
    nr_frames: u64,
    /// One state per frame; empty in an unchecked arena.
    states: Box<[AtomicU8]>,
    allocated: AtomicU64,
}

impl Arena {
    /// `nr_frames` free frames; `checked` ones are poisoned and their state is known.
    pub(crate) fn new(nr_frames: u64, checked: bool, large_pages: bool) -> Self {
        assert!(nr_frames > 0, "a machine needs memory");
        let n = usize::try_from(nr_frames).expect("more frames than the host can address");
        let mapping = |len| {
            let mapping = Mapping::new(len);
            if large_pages { mapping.like_a_direct_map() } else { mapping }
        };
        Self {
            frames: mapping(n * PAGE_SIZE),
            memmap: mapping(n * METADATA_BYTES),
            nr_frames,
            states: (0..if checked { n } else { 0 }).map(|_| AtomicU8::new(NEVER_USED)).collect(),
            allocated: AtomicU64::new(0),
        }
    }

    /// The number of frames.
    pub(crate) fn nr_frames(&self) -> u64 {
        self.nr_frames
    }

    /// Room for the frames' metadata.
    pub(crate) fn memmap(&self) -> NonNull<u8> {
        self.memmap.start
    }

    /// Zeroes a block that the caller has just allocated.
    #[inline]
    pub(crate) fn zero(&self, pfn: Pfn, order: Order) {
        self.index(pfn.offset(order.pages() - 1));
        let start = self.frame(pfn).as_ptr();
        // SAFETY: both ends of the block exist, and the caller has just allocated it.
        unsafe { ptr::write_bytes(start, 0, order.bytes()) };
    }

    /// Copies a block, word by word: a program may be storing to the source.
    #[inline]
    pub(crate) fn copy(&self, dst: Pfn, src: Pfn, order: Order) {
        self.index(src.offset(order.pages() - 1));
        self.index(dst.offset(order.pages() - 1));
        copy_words(self.frame(dst), self.frame(src), order.bytes() / 8);
    }

    /// The number of frames that are allocated now; 0 in an unchecked arena.
    pub fn allocated_frames(&self) -> u64 {
        self.allocated.load(Relaxed)
    }

    /// Whether `pfn` is one of this memory's frames.
    #[inline]
    pub fn contains(&self, pfn: Pfn) -> bool {
        pfn >= BASE_PFN && pfn.0 - BASE_PFN.0 < self.nr_frames
    }

    /// Panics if `pfn` is not allocated: `who` used a frame that it had lost.
    #[track_caller]
    pub(crate) fn assert_allocated(&self, pfn: Pfn, who: &dyn std::fmt::Display) {
        assert!(self.contains(pfn), "{who} reaches frame {:#x}, which does not exist", pfn.0);
        let state = self.state(pfn);
        assert!(state == ALLOCATED, "{who} reaches frame {:#x}, which is free", pfn.0);
    }

    fn state(&self, pfn: Pfn) -> u8 {
        self.states[self.index(pfn)].load(Relaxed)
    }

    #[inline]
    fn index(&self, pfn: Pfn) -> usize {
        assert!(self.contains(pfn), "frame {:#x} does not exist", pfn.0);
        (pfn.0 - BASE_PFN.0) as usize
    }

    #[inline]
    pub(crate) fn frame(&self, pfn: Pfn) -> NonNull<u8> {
        let offset = self.index(pfn) * PAGE_SIZE;
        // SAFETY: `index` has checked that the frame lies within the mapping.
        unsafe { self.frames.start.add(offset) }
    }

    /// The words of a frame.
    pub(crate) fn words(&self, pfn: Pfn) -> &[AtomicU64; WORDS] {
        // SAFETY: a frame is page aligned, `WORDS` words long, and lives as long as `self`; while it is
        // reached through this function all accesses are atomic.
        unsafe { self.frame(pfn).cast::<[AtomicU64; WORDS]>().as_ref() }
    }

    /// Reads bytes of a frame; each aligned 8-byte word at once.
    ///
    /// # Panics
    /// If they do not all lie in the frame.
    pub fn read(&self, pfn: Pfn, offset: usize, buf: &mut [u8]) {
        let words = self.words(pfn);
        for_each_word(offset, buf.len(), |word, part, at| {
            let bytes = words[word].load(Relaxed).to_ne_bytes();
            buf[at..at + part.len()].copy_from_slice(&bytes[part]);
        });
    }

    /// Writes bytes of a frame; each aligned 8-byte word at once.
    ///
    /// # Panics
    /// If they do not all lie in the frame.
    pub fn write(&self, pfn: Pfn, offset: usize, bytes: &[u8]) {
        let words = self.words(pfn);
        for_each_word(offset, bytes.len(), |word, part, at| {
            let new = &bytes[at..at + part.len()];
            if let Ok(whole) = <[u8; 8]>::try_from(new) {
                words[word].store(u64::from_ne_bytes(whole), Relaxed);
            } else {
                merge(&words[word], |old| old[part.clone()].copy_from_slice(new));
            }
        });
    }

    /// Compares the `new.len()` bytes at `offset` with `current` and, if equal, sets them to `new`: one
    /// atomic step. Returns the bytes that were there.
    ///
    /// # Panics
    /// If they cross an 8-byte word.
    pub(crate) fn compare_exchange<const N: usize>(
        &self,
        pfn: Pfn,
        offset: usize,
        current: [u8; N],
        new: [u8; N],
    ) -> [u8; N] {
        self.update(pfn, offset, |old| if old == current { new } else { old })
    }

    /// Replaces the `N` bytes at `offset` by `f` of them in one atomic step; returns the old ones.
    ///
    /// # Panics
    /// If they cross an 8-byte word.
    pub(crate) fn update<const N: usize>(
        &self,
        pfn: Pfn,
        offset: usize,
        f: impl Fn([u8; N]) -> [u8; N],
    ) -> [u8; N] {
        let first = offset % 8;
        assert!(first + N <= 8, "an atomic access crosses a word");
        let at = |bytes: &[u8; 8]| <[u8; N]>::try_from(&bytes[first..first + N]).expect("N bytes");
        let old = merge(&self.words(pfn)[offset / 8], |bytes| {
            let new = f(at(bytes));
            bytes[first..first + N].copy_from_slice(&new);
        });
        at(&old)
    }

    fn poison(&self, pfn: Pfn) {
        self.words(pfn).iter().for_each(|word| word.store(POISON_WORD, Relaxed));
    }

    /// Checks that a free frame holds what it was left with.
    fn check_untouched(&self, pfn: Pfn, wanted: u64) {
        let words = self.words(pfn);
        if let Some(i) = words.iter().position(|word| word.load(Relaxed) != wanted) {
            let found = words[i].load(Relaxed);
            panic!("frame {:#x} was written while it was free: {found:#018x} at byte {}", pfn.0, i * 8);
        }
    }

    pub(crate) fn mark_allocated(&self, pfn: Pfn, order: Order) {
        self.allocated.fetch_add(order.pages(), Relaxed);
        for pfn in (0..order.pages()).map(|i| pfn.offset(i)) {
            match self.states[self.index(pfn)].swap(ALLOCATED, Relaxed) {
                FREE => self.check_untouched(pfn, POISON_WORD),
                NEVER_USED => {
                    self.check_untouched(pfn, 0);
                    self.poison(pfn);
                }
                _ => panic!("frame {:#x} is allocated twice", pfn.0),
            }
        }
    }

    pub(crate) fn mark_free(&self, pfn: Pfn, order: Order) {
        for pfn in (0..order.pages()).map(|i| pfn.offset(i)) {
            let was = self.states[self.index(pfn)].swap(FREE, Relaxed);
            assert!(was == ALLOCATED, "frame {:#x} is freed twice", pfn.0);
            self.poison(pfn);
        }
        self.allocated.fetch_sub(order.pages(), Relaxed);
    }
}

/// Calls `f(word index, bytes of the word, index in the buffer)` for every word that the range touches.
fn for_each_word(offset: usize, len: usize, mut f: impl FnMut(usize, std::ops::Range<usize>, usize)) {
    assert!(offset + len <= PAGE_SIZE, "an access leaves its frame");
    let mut done = 0;
    while done < len {
        let (word, first) = ((offset + done) / 8, (offset + done) % 8);
        let n = (8 - first).min(len - done);
        f(word, first..first + n, done);
        done += n;
    }
}

/// Changes the bytes of a word by compare-exchange; returns the old ones.
fn merge(word: &AtomicU64, change: impl Fn(&mut [u8; 8])) -> [u8; 8] {
    let old = word.fetch_update(Relaxed, Relaxed, |old| {
        let mut bytes = old.to_ne_bytes();
        change(&mut bytes);
        Some(u64::from_ne_bytes(bytes))
    });
    old.unwrap_or_else(|old| old).to_ne_bytes()
}

/// Copies `words` 64-bit words between frames while programs may be writing to the source.
#[cfg(target_arch = "x86_64")]
fn copy_words(dst: NonNull<u8>, src: NonNull<u8>, words: usize) {
    // SAFETY: the caller names two disjoint blocks of that size; the string move is opaque to the compiler,
    // so that a concurrent store to the source is a race for the bytes only.
    unsafe {
        std::arch::asm!("rep movsb", inout("rcx") words * 8 => _, inout("rdi") dst.as_ptr() => _,
            inout("rsi") src.as_ptr() => _, options(nostack, preserves_flags));
    }
}

/// Copies `words` 64-bit words between frames while programs may be writing to the source.
#[cfg(not(target_arch = "x86_64"))]
fn copy_words(dst: NonNull<u8>, src: NonNull<u8>, words: usize) {
    for i in 0..words {
        // SAFETY: the caller names a block of that many words.
        let src = unsafe { src.cast::<AtomicU64>().add(i).as_ref() };
        // SAFETY: as above.
        let dst = unsafe { dst.cast::<AtomicU64>().add(i).as_ref() };
        dst.store(src.load(Relaxed), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checked, Hosted};
    use anonmem_hal::PhysMem;

    type Machine = Hosted<Checked>;
    const FIRST: Pfn = BASE_PFN;

    fn one_frame() -> Machine {
        let machine = Machine::new(4);
        // SAFETY: the frames are the test's, or it panics first.
        unsafe { machine.allocated(FIRST, Order::ZERO) };
        machine
    }

    #[test]
    fn parts_of_words_leave_their_neighbours_alone() {
        let machine = one_frame();
        // SAFETY: the frames are the test's, or it panics first.
        unsafe { machine.zero(FIRST, Order::ZERO) };
        machine.arena.write(FIRST, 5, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let mut buf = [0xff; 16];
        machine.arena.read(FIRST, 3, &mut buf);
        assert_eq!(buf, [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0]);
    }

    #[test]
    fn a_compare_exchange_reports_what_was_there() {
        let machine = one_frame();
        // SAFETY: the frames are the test's, or it panics first.
        unsafe { machine.zero(FIRST, Order::ZERO) };
        let swap = |old: u32, new: u32| {
            machine.arena.compare_exchange(FIRST, 12, old.to_ne_bytes(), new.to_ne_bytes())
        };
        assert_eq!(swap(0, 7), [0; 4]);
        assert_eq!(swap(0, 8), 7u32.to_ne_bytes());
    }

    #[test]
    #[should_panic(expected = "frame 0x100 was written while it was free")]
    fn a_write_after_free_is_found_at_the_next_allocation() {
        let machine = one_frame();
        // SAFETY: the frames are the test's, or it panics first.
        unsafe { machine.freed(FIRST, Order::ZERO) };
        machine.arena.write(FIRST, 100, &[1]);
        // SAFETY: the frames are the test's, or it panics first.
        unsafe { machine.allocated(FIRST, Order::ZERO) };
    }

    #[test]
    #[should_panic(expected = "frame 0x100 is freed twice")]
    fn a_double_free_is_found() {
        let machine = one_frame();
        // SAFETY: the frames are the test's, or it panics first.
        unsafe { machine.freed(FIRST, Order::ZERO) };
        // SAFETY: the frames are the test's, or it panics first.
        unsafe { machine.freed(FIRST, Order::ZERO) };
    }

    #[test]
    fn a_block_is_copied_whole() {
        let machine = Machine::new(8);
        let (src, dst) = (FIRST, FIRST.offset(4));
        machine.arena.write(src, 0, &[3; PAGE_SIZE]);
        machine.arena.write(src.offset(1), 0, &[4; PAGE_SIZE]);
        // SAFETY: the frames are the test's, or it panics first.
        unsafe { machine.copy(dst, src, Order::new(1)) };
        let mut last = [0];
        machine.arena.read(dst.offset(1), PAGE_SIZE - 1, &mut last);
        assert_eq!(last, [4]);
    }
}
