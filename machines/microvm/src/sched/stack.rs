//! Kernel stacks: in slots of their own with unmapped space below, so that an overflow faults instead
//! of writing into somebody's memory.
//!
//! A slot stays mapped when its task is gone, for the next task, up to [`CACHED`] of them; beyond that,
//! stacks are unmapped and all CPUs flushed.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::task::OutOfMemory;
use crate::arch::lock::SpinLock;
use crate::arch::mem::{PAGE, STACK_AREA};
use crate::arch::tlb;
use crate::boot::paging;
use crate::heap;

const SLOT: u64 = 64 * 1024;
const STACK: u64 = 32 * 1024;
const MAX_SLOTS: u64 = 1 << 16;
const CACHED: usize = 32;
const CANARY: u64 = 0x5ac3_57ac_ca4a_12e9;

struct Slots {
    /// Mapped, not in use.
    cached: Vec<u64>,
    /// Unmapped, used before.
    empty: Vec<u64>,
    next_new: u64,
}

static SLOTS: SpinLock<Slots> = SpinLock::new(Slots { cached: Vec::new(), empty: Vec::new(), next_new: 0 });
static PAGES: AtomicUsize = AtomicUsize::new(0);

/// Prepares the stack area. Once, before the first task and before the first address space.
pub fn init() {
    let mut slots = SLOTS.lock();
    slots.cached.reserve_exact(CACHED + 1);
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
    /// A mapped stack.
    pub(super) fn new() -> Result<KernelStack, OutOfMemory> {
        if let Some(slot) = SLOTS.lock().cached.pop() {
            return Ok(KernelStack { slot });
        }
        let slot = take_empty_slot()?;
        if let Err(error) = map(slot) {
            give_empty_slot(slot);
            return Err(error);
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
        {
            let mut slots = SLOTS.lock();
            if slots.cached.len() < CACHED {
                slots.cached.push(self.slot);
                return;
            }
        }
        unmap(self.slot, STACK / PAGE);
        give_empty_slot(self.slot);
    }
}

fn slot_base(slot: u64) -> u64 {
    STACK_AREA + slot * SLOT
}

fn take_empty_slot() -> Result<u64, OutOfMemory> {
    let mut slots = SLOTS.lock();
    if let Some(slot) = slots.empty.pop() {
        return Ok(slot);
    }
    if slots.next_new == MAX_SLOTS {
        return Err(OutOfMemory);
    }
    slots.next_new += 1;
    Ok(slots.next_new - 1)
}

fn give_empty_slot(slot: u64) {
    SLOTS.lock().empty.push(slot);
}

fn map(slot: u64) -> Result<(), OutOfMemory> {
    let bottom = slot_base(slot) + SLOT - STACK;
    for index in 0..STACK / PAGE {
        let mapped = heap::alloc_page().is_some_and(|page| {
            let done = paging::map_page(bottom + index * PAGE, page);
            if !done {
                heap::free_page(page);
            }
            done
        });
        if !mapped {
            unmap(slot, index);
            return Err(OutOfMemory);
        }
        PAGES.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// Takes the first `count` pages of a stack away: unmap, flush everywhere, then free.
fn unmap(slot: u64, count: u64) {
    let bottom = slot_base(slot) + SLOT - STACK;
    let mut pages = [0; (STACK / PAGE) as usize];
    for index in 0..count {
        pages[index as usize] = paging::unmap_page(bottom + index * PAGE);
    }
    tlb::flush_kernel(bottom, bottom + count * PAGE);
    for page in &pages[..count as usize] {
        heap::free_page(*page);
        PAGES.fetch_sub(1, Relaxed);
    }
}
