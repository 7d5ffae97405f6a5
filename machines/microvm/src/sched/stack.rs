//! Kernel stacks: in slots of their own with unmapped space below, so that an overflow faults instead
//! of writing into somebody's memory.
//!
//! A slot stays mapped when its task is gone, for the next task. When there are [`CACHED`] of them, some are
//! unmapped together: the flush of all CPUs is what costs.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::task::{OutOfMemory, Task, try_current_task};
use crate::arch::lock::SpinLock;
use crate::arch::mem::{PAGE, PhysAddr, STACK_AREA};
use crate::arch::tlb;
use crate::boot::paging;
use crate::heap;
use crate::machine;

const SLOT: u64 = 64 * 1024;
const STACK: u64 = 32 * 1024;
const MAX_SLOTS: u64 = 1 << 16;
const WORDS: usize = (MAX_SLOTS / 64) as usize;
const PAGES_EACH: u64 = STACK / PAGE;
/// With as many unused stacks, [`BATCH`] of them are unmapped.
const CACHED: usize = 64;
const BATCH: usize = 32;
const CANARY: u64 = 0x5ac3_57ac_ca4a_12e9;

struct Slots {
    /// Mapped, not in use.
    cached: Vec<u64>,
    /// Unmapped, used before: a bit for each. Room for them is there from the start, because they come back
    /// when memory is full.
    empty: [u64; WORDS],
    next_new: u64,
}

static SLOTS: SpinLock<Slots> = SpinLock::new(Slots { cached: Vec::new(), empty: [0; WORDS], next_new: 0 });
static PAGES: AtomicUsize = AtomicUsize::new(0);

/// Prepares the stack area. Once, before the first task and before the first address space.
pub fn init() {
    let mut slots = SLOTS.lock();
    slots.cached.reserve_exact(CACHED);
}

/// The number of pages in kernel stacks.
pub fn pages() -> usize {
    PAGES.load(Relaxed)
}

/// Whether `va` is in the guard space of a kernel stack.
pub fn is_guard(va: u64) -> bool {
    (STACK_AREA..STACK_AREA + SLOT * MAX_SLOTS).contains(&va) && (va - STACK_AREA) % SLOT < SLOT - STACK
}

/// A kernel stack, owned.
pub(super) struct KernelStack {
    slot: u64,
}

impl KernelStack {
    /// A mapped stack. Sleeps if memory is short.
    pub(super) fn new() -> Result<KernelStack, OutOfMemory> {
        if let Some(slot) = SLOTS.lock().cached.pop() {
            return Ok(KernelStack { slot });
        }
        let slot = take_empty_slot()?;
        let mut mapped = 0;
        // Pages of programs leave for a stack as they leave for one another; not for who is about to end.
        while let Err(error) = map(slot, &mut mapped) {
            if current_is_ending() || !machine::vm().reclaim_some() {
                unmap_part(slot, mapped);
                return Err(error);
            }
        }
        let stack = KernelStack { slot };
        // SAFETY: the lowest word of a stack that is mapped and that nobody uses yet.
        unsafe { stack.lowest_word().write(CANARY) };
        Ok(stack)
    }

    /// The first address above the stack.
    pub(super) fn top(&self) -> u64 {
        slot_base(self.slot) + SLOT
    }

    fn lowest_word(&self) -> *mut u64 {
        (self.top() - STACK) as *mut u64
    }

    /// Panics if the stack was used to its last word: the next step would have been the guard.
    pub(super) fn check(&self) {
        // SAFETY: the stack is mapped while it is owned.
        let word = unsafe { self.lowest_word().read_volatile() };
        assert!(word == CANARY, "kernel stack overflow (the lowest word changed)");
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        let mut surplus = [0; BATCH];
        {
            let mut slots = SLOTS.lock();
            slots.cached.push(self.slot);
            if slots.cached.len() < CACHED {
                return;
            }
            for slot in &mut surplus {
                *slot = slots.cached.pop().expect("the cache is larger than a batch");
            }
        }
        unmap(&surplus);
    }
}

fn slot_base(slot: u64) -> u64 {
    STACK_AREA + slot * SLOT
}

fn take_empty_slot() -> Result<u64, OutOfMemory> {
    let mut slots = SLOTS.lock();
    let words = slots.next_new.div_ceil(64) as usize;
    if let Some((index, word)) = slots.empty[..words].iter_mut().enumerate().find(|(_, word)| **word != 0) {
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        return Ok(index as u64 * 64 + u64::from(bit));
    }
    if slots.next_new == MAX_SLOTS {
        return Err(OutOfMemory);
    }
    slots.next_new += 1;
    Ok(slots.next_new - 1)
}

fn give_empty_slot(slot: u64) {
    SLOTS.lock().empty[(slot / 64) as usize] |= 1 << (slot % 64);
}

fn bottom(slot: u64) -> u64 {
    slot_base(slot) + SLOT - STACK
}

fn current_is_ending() -> bool {
    try_current_task().and_then(Task::thread).is_some_and(|thread| thread.is_ending())
}

/// Maps what is not mapped yet: the first `mapped` pages are, and stay if there are no more.
fn map(slot: u64, mapped: &mut u64) -> Result<(), OutOfMemory> {
    while *mapped < PAGES_EACH {
        let done = heap::alloc_page().is_some_and(|page| {
            let done = paging::map_page(bottom(slot) + *mapped * PAGE, page, &mut heap::alloc_page);
            if !done {
                heap::free_page(page);
            }
            done
        });
        if !done {
            return Err(OutOfMemory);
        }
        *mapped += 1;
        PAGES.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// Takes the first `mapped` pages of a stack away that did not get all. Nobody has touched them, but a CPU
/// may have translated their addresses all the same.
fn unmap_part(slot: u64, mapped: u64) {
    let mut pages = [0; PAGES_EACH as usize];
    for (index, page) in (0..mapped).zip(&mut pages) {
        *page = paging::unmap_page(bottom(slot) + index * PAGE);
    }
    if mapped > 0 {
        tlb::flush_kernel(bottom(slot), bottom(slot) + STACK);
    }
    pages[..mapped as usize].iter().for_each(|page| free(*page));
    give_empty_slot(slot);
}

/// Takes the pages of unused stacks away: unmap all, flush everywhere once, then free.
fn unmap(stacks: &[u64; BATCH]) {
    let mut pages = [[0; PAGES_EACH as usize]; BATCH];
    for (slot, pages) in stacks.iter().zip(&mut pages) {
        for (index, page) in pages.iter_mut().enumerate() {
            *page = paging::unmap_page(bottom(*slot) + index as u64 * PAGE);
        }
    }
    tlb::flush_kernel(STACK_AREA, STACK_AREA + MAX_SLOTS * SLOT);
    pages.iter().flatten().for_each(|page| free(*page));
    stacks.iter().for_each(|slot| give_empty_slot(*slot));
}

fn free(page: PhysAddr) {
    heap::free_page(page);
    PAGES.fetch_sub(1, Relaxed);
}
