//! What was put into a slot comes out of it, and all frames come back.

use crate::Zram;
use anonmem_hal::{FrameAlloc, IoError, Order, PAGE_SIZE, Pfn, PhysMem};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{alloc::Layout, sync::Mutex, vec::Vec};

/// Memory of a few frames, of which [`FRAMES`] can be allocated; the rest are the tests' pages.
struct Memory {
    base: NonNull<u8>,
    free: Mutex<Vec<Pfn>>,
    /// The fewest that were free at once.
    least_free: AtomicU64,
}

const FRAMES: u64 = 1 << 12;
/// Two units: what is written, and what is read.
const PAGES: u64 = 32;

// SAFETY: the memory is this value's, and each test uses it from one thread.
unsafe impl PhysMem for Memory {
    fn base_pfn(&self) -> Pfn {
        Pfn(0)
    }
    fn nr_frames(&self) -> u64 {
        FRAMES + PAGES
    }
    fn memmap(&self) -> NonNull<u8> {
        unreachable!("a device needs no metadata")
    }
    fn direct_map(&self, pfn: Pfn) -> NonNull<u8> {
        assert!(pfn.0 < FRAMES + PAGES);
        // SAFETY: in the block.
        unsafe { self.base.add(pfn.0 as usize * PAGE_SIZE) }
    }
    unsafe fn zero(&self, pfn: Pfn, _: Order) {
        // SAFETY: one frame.
        unsafe { self.direct_map(pfn).write_bytes(0, PAGE_SIZE) };
    }
    unsafe fn copy(&self, _: Pfn, _: Pfn, _: Order) {
        unreachable!("pages are copied as bytes")
    }
}

// SAFETY: a frame is on the list, or given out.
unsafe impl FrameAlloc for Memory {
    fn alloc_frame(&self) -> Option<Pfn> {
        let frame = self.free.lock().unwrap().pop();
        self.least_free.fetch_min(self.free(), Relaxed);
        frame
    }
    unsafe fn free_frame(&self, pfn: Pfn) {
        self.free.lock().unwrap().push(pfn);
    }
}

impl Memory {
    fn layout() -> Layout {
        Layout::from_size_align((FRAMES + PAGES) as usize * PAGE_SIZE, PAGE_SIZE).unwrap()
    }

    fn new() -> Self {
        // SAFETY: the size is not 0.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(Self::layout()) }).unwrap();
        Self { base, free: Mutex::new((0..FRAMES).map(Pfn).collect()), least_free: AtomicU64::new(FRAMES) }
    }

    fn free(&self) -> u64 {
        self.free.lock().unwrap().len() as u64
    }

    /// The most frames that were taken at once.
    fn most_taken(&self) -> u64 {
        FRAMES - self.least_free.load(Relaxed)
    }

    /// A copy of one of the tests' pages.
    fn page(&self, index: u64) -> Vec<u8> {
        let place = self.direct_map(Pfn(FRAMES + index));
        // SAFETY: the test's own page.
        unsafe { core::slice::from_raw_parts(place.as_ptr(), PAGE_SIZE) }.to_vec()
    }

    /// Fills the first of the tests' pages so that it compresses more or less well: `noise` of 64 bytes are
    /// random.
    fn fill(&self, seed: u64, noise: usize) {
        let place = self.direct_map(Pfn(FRAMES));
        // SAFETY: the test's own page.
        let page = unsafe { core::slice::from_raw_parts_mut(place.as_ptr(), PAGE_SIZE) };
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for (i, byte) in page.iter_mut().enumerate() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = if i % 64 < noise { state as u8 } else { seed as u8 };
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated so in `new`.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), Self::layout()) };
    }
}

fn device() -> Zram {
    // SAFETY: each test has one memory, and its pages to itself.
    unsafe { Zram::new(2048, FRAMES, 1) }.unwrap()
}

/// Fills the first unit of the tests' pages: `noise` of 64 bytes of each page are random.
fn fill_unit(memory: &Memory, seed: u64, noise: usize) {
    for nth in (0..16).rev() {
        memory.fill(seed + nth, noise);
        let page = memory.page(0);
        // SAFETY: the test's own page.
        unsafe { memory.direct_map(Pfn(FRAMES + nth)).copy_from(NonNull::from(&page[..]).cast(), PAGE_SIZE) };
    }
}

const UNIT: Order = Order::new(4);

#[test]
fn units_of_every_kind_come_back_whole_and_page_by_page() {
    let (memory, zram) = (Memory::new(), device());
    for noise in [0, 1, 8, 20, 31, 40, 64] {
        fill_unit(&memory, noise as u64 * 100, noise);
        zram.write_run(&memory, 0, 64, UNIT, Pfn(FRAMES), &memory).unwrap();
        zram.read_run(&memory, 0, 64, UNIT, Pfn(FRAMES + 16)).unwrap();
        assert!((0..16).all(|nth| memory.page(nth) == memory.page(16 + nth)), "whole: {noise}");
        for nth in [3, 0, 15, 3] {
            zram.read(&memory, 0, 64 + nth, Pfn(FRAMES + 16)).unwrap();
            assert!(memory.page(nth) == memory.page(16), "page {nth}: {noise}");
        }
    }
    // Another unit in the same slots: what was unpacked last is no longer theirs.
    fill_unit(&memory, 9999, 2);
    zram.write_run(&memory, 0, 64, UNIT, Pfn(FRAMES), &memory).unwrap();
    zram.read(&memory, 0, 64, Pfn(FRAMES + 16)).unwrap();
    assert!(memory.page(0) == memory.page(16));
    (64..80).for_each(|slot| zram.discard(&memory, slot, &memory));
    assert_eq!(zram.read(&memory, 0, 64, Pfn(FRAMES + 16)), Err(IoError));
    zram.clear(&memory);
    assert_eq!((memory.free(), zram.usage().frames), (FRAMES, 0));
}

#[test]
fn a_unit_takes_less_than_its_pages_would() {
    let kept = |order: Order| {
        let (memory, zram) = (Memory::new(), device());
        fill_unit(&memory, 1, 4);
        let first = memory.page(0);
        for page in (0..16).map(|nth| memory.direct_map(Pfn(FRAMES + nth))) {
            // SAFETY: the test's own page. Half of them are the same as the first one's.
            unsafe { page.copy_from(NonNull::from(&first[..]).cast(), PAGE_SIZE / 2) };
        }
        for slot in (0..16).step_by(order.pages() as usize) {
            zram.write_run(&memory, 0, slot, order, Pfn(FRAMES + slot), &memory).unwrap();
        }
        let usage = zram.usage();
        assert_eq!(usage.bytes_in, 16 * PAGE_SIZE as u64);
        (0..16).for_each(|slot| zram.discard(&memory, slot, &memory));
        zram.clear(&memory);
        usage.bytes_kept
    };
    assert!(kept(UNIT) < kept(Order::ZERO), "{} and {}", kept(UNIT), kept(Order::ZERO));
}

#[test]
fn a_unit_whose_pages_go_one_by_one_gives_its_memory_back() {
    let (memory, zram) = (Memory::new(), device());
    fill_unit(&memory, 5, 20);
    zram.write_run(&memory, 0, 16, UNIT, Pfn(FRAMES), &memory).unwrap();
    let whole = zram.usage().frames;
    for nth in 0..15 {
        zram.read(&memory, 0, 16 + nth, Pfn(FRAMES + 16)).unwrap();
        assert!(memory.page(nth) == memory.page(16), "page {nth}");
        let before = memory.free();
        zram.discard(&memory, 16 + nth, &memory);
        assert!(memory.free() >= before, "nothing is compressed by whoever discards");
        if nth == 11 {
            // Somebody has time.
            zram.write(&memory, 0, 0, Pfn(FRAMES + 16), &memory).unwrap();
            zram.discard(&memory, 0, &memory);
        }
    }
    // The pages that were left had pieces of their own before the last of the unit's was given back.
    assert_eq!(zram.usage().peak_frames, memory.most_taken(), "the most frames at once");
    assert!(zram.usage().frames < whole, "one page of sixteen is left");
    zram.read(&memory, 0, 31, Pfn(FRAMES + 16)).unwrap();
    assert!(memory.page(15) == memory.page(16));
    zram.discard(&memory, 31, &memory);
    zram.clear(&memory);
    assert_eq!(memory.free(), FRAMES);
}

/// What is taken apart to save memory does not take the frames that a page needs.
#[test]
fn a_page_is_kept_before_units_are_taken_apart() {
    let (memory, zram) = (Memory::new(), device());
    fill_unit(&memory, 5, 20);
    zram.write_run(&memory, 0, 16, UNIT, Pfn(FRAMES), &memory).unwrap();
    // Its table is there.
    zram.write(&memory, 0, 0, Pfn(FRAMES), &memory).unwrap();
    zram.discard(&memory, 0, &memory);
    for nth in 0..11 {
        zram.read(&memory, 0, 16 + nth, Pfn(FRAMES + 16)).unwrap();
        zram.discard(&memory, 16 + nth, &memory);
    }
    let kept = memory.free.lock().unwrap().split_off(1);
    // It does not compress, and needs the last frame.
    memory.fill(99, 64);
    zram.write(&memory, 0, 0, Pfn(FRAMES), &memory).unwrap();
    memory.free.lock().unwrap().extend(kept);
    // What found no memory is taken apart by a later write.
    let before = zram.usage().frames;
    zram.write(&memory, 0, 1, Pfn(FRAMES + 1), &memory).unwrap();
    zram.discard(&memory, 1, &memory);
    assert!(zram.usage().frames <= before, "{} and {before}", zram.usage().frames);
    for nth in 11..16 {
        zram.read(&memory, 0, 16 + nth, Pfn(FRAMES + 16)).unwrap();
        assert!(memory.page(nth) == memory.page(16), "page {nth}");
        zram.discard(&memory, 16 + nth, &memory);
    }
    zram.discard(&memory, 0, &memory);
    zram.clear(&memory);
    assert_eq!(memory.free(), FRAMES);
}

#[test]
fn a_unit_is_refused_as_a_whole() {
    let (memory, zram) = (Memory::new(), device());
    fill_unit(&memory, 7, 20);
    let kept = memory.free.lock().unwrap().split_off(5);
    assert_eq!(zram.write_run(&memory, 0, 0, UNIT, Pfn(FRAMES), &memory), Err(IoError));
    assert_eq!(zram.usage().refused, 16, "all of its pages");
    assert!((0..16).all(|slot| zram.read(&memory, 0, slot, Pfn(FRAMES + 16)).is_err()));
    zram.clear(&memory);
    assert_eq!(memory.free(), 5, "nothing is left of it");
    memory.free.lock().unwrap().extend(kept);
}

#[test]
fn units_and_pages_share_slots_at_random() {
    let (memory, zram) = (Memory::new(), device());
    let mut random = 7_u64;
    let mut seeds = std::vec![None; 64];
    for round in 0..6000_u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (slot, noise) = ((random >> 33) % 64, (random >> 45) as usize % 40);
        match (random >> 20) % 8 {
            0 => {
                let first = slot - slot % 16;
                fill_unit(&memory, round * 100, noise);
                zram.write_run(&memory, 0, first, UNIT, Pfn(FRAMES), &memory).unwrap();
                (0..16).for_each(|nth| seeds[(first + nth) as usize] = Some((round * 100 + nth, noise)));
            }
            1 => {
                memory.fill(round * 100, noise);
                zram.write(&memory, 0, slot, Pfn(FRAMES), &memory).unwrap();
                seeds[slot as usize] = Some((round * 100, noise));
            }
            2 => {
                zram.discard(&memory, slot, &memory);
                seeds[slot as usize] = None;
            }
            _ => {
                let read = zram.read(&memory, 0, slot, Pfn(FRAMES + 16));
                assert_eq!(read.is_ok(), seeds[slot as usize].is_some());
                if let Some((seed, noise)) = seeds[slot as usize] {
                    memory.fill(seed, noise);
                    assert!(memory.page(0) == memory.page(16), "slot {slot} in round {round}");
                }
            }
        }
    }
    (0..64).for_each(|slot| zram.discard(&memory, slot, &memory));
    zram.clear(&memory);
    assert_eq!(memory.free(), FRAMES);
}

#[test]
fn pages_of_every_kind_come_back() {
    let (memory, zram) = (Memory::new(), device());
    for noise in 0..=64 {
        memory.fill(noise as u64, noise);
        zram.write(&memory, 0, 700, Pfn(FRAMES), &memory).unwrap();
        // SAFETY: the frame is the test's.
        unsafe { memory.zero(Pfn(FRAMES + 1), Order::ZERO) };
        zram.read(&memory, 0, 700, Pfn(FRAMES + 1)).unwrap();
        assert!(memory.page(0) == memory.page(1), "{noise} of 64 bytes are random");
    }
    let usage = zram.usage();
    assert_eq!((usage.bytes_in, usage.refused), (65 * PAGE_SIZE as u64, 0));
    assert!(usage.whole > 10 && usage.bytes_kept < usage.bytes_in);
    zram.discard(&memory, 700, &memory);
    assert_eq!(zram.read(&memory, 0, 700, Pfn(FRAMES + 1)), Err(IoError));
    zram.clear(&memory);
    assert_eq!((memory.free(), zram.usage().frames), (FRAMES, 0));
}

#[test]
fn many_pages_share_frames_and_slots_are_reused() {
    let (memory, zram) = (Memory::new(), device());
    let mut random = 1_u64;
    let mut seeds = std::vec![None; 200];
    for round in 0..20_000_u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let slot = (random >> 33) % 200;
        match (random >> 20) % 3 {
            0 => {
                zram.discard(&memory, slot, &memory);
                seeds[slot as usize] = None;
            }
            1 => {
                memory.fill(round, (random >> 45) as usize % 16);
                zram.write(&memory, 0, slot, Pfn(FRAMES), &memory).unwrap();
                seeds[slot as usize] = Some((round, (random >> 45) as usize % 16));
            }
            _ => {
                let read = zram.read(&memory, 0, slot, Pfn(FRAMES + 1));
                assert_eq!(read.is_ok(), seeds[slot as usize].is_some());
                if let Some((seed, noise)) = seeds[slot as usize] {
                    memory.fill(seed, noise);
                    assert!(memory.page(0) == memory.page(1), "slot {slot} in round {round}");
                }
            }
        }
    }
    (0..200).for_each(|slot| zram.discard(&memory, slot, &memory));
    zram.clear(&memory);
    assert_eq!(memory.free(), FRAMES);
}

#[test]
fn without_a_frame_a_page_is_refused_and_nothing_is_lost() {
    let (memory, zram) = (Memory::new(), device());
    let kept = memory.free.lock().unwrap().split_off(64);
    let mut stored = 0;
    loop {
        memory.fill(stored, 64);
        if zram.write(&memory, 0, stored, Pfn(FRAMES), &memory).is_err() {
            break;
        }
        stored += 1;
    }
    assert_eq!(memory.free(), 0);
    assert!(stored > 60, "{stored} of 64");
    assert_eq!(zram.usage().refused, 1);
    for slot in 0..stored {
        zram.read(&memory, 0, slot, Pfn(FRAMES + 1)).unwrap();
        memory.fill(slot, 64);
        assert!(memory.page(0) == memory.page(1));
        zram.discard(&memory, slot, &memory);
    }
    zram.clear(&memory);
    assert_eq!(memory.free(), 64);
    memory.free.lock().unwrap().extend(kept);
}
