//! The kernel heap: the global allocator, and single pages for the kernel's own tables and stacks.
//!
//! Up to 2016 bytes come from pages that are cut into objects of one size (`small`); more comes as
//! whole pages. Pages come from the memory manager's frames, so that they are counted there; before it
//! exists, and when it has none left, from a reserve of the kernel's own (`reserve`).
//!
//! Why an allocator of our own: what the kernel uses comes out of the same frames as what programs use, is counted
//! by the memory manager, and goes back; and there is a reserve for the small objects without which the kernel could
//! not end a process when no frame is left. General allocators take a region and keep it.
//!
//! The largest allocation is 4 MiB (order 10). Running out is a panic in Rust's collections, so code that
//! allocates on behalf of programs asks [`is_short`] first and uses `try_reserve` for anything big.
//!
//! Locks: a `SpinLock` per size class and one for the reserve; not for interrupt handlers.

mod reserve;
mod small;

use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use spin::Once;

use crate::arch::mem::{PAGE, PhysAddr, direct, phys_of};

/// The largest block of pages: 2^10, as in the frame allocator.
const MAX_ORDER: u32 = 10;
/// With fewer pages left in the reserve, memory is short: large blocks, and what programs ask for, are refused.
const SHORT_PAGES: usize = 512;
/// With fewer pages left in the reserve, whole pages are refused as well: what is left is for small objects.
const LAST_PAGES: usize = 128;

/// Where pages come from once there is a memory manager. The heap lies below it, so it is handed in.
#[derive(Clone, Copy)]
pub struct Source {
    /// A block of 2^order pages.
    pub alloc: fn(order: u32) -> Option<PhysAddr>,
    /// Takes a block back.
    pub free: fn(block: PhysAddr, order: u32),
    /// With more pages of it in use, memory is short.
    pub most: usize,
}

static SOURCE: Once<Source> = Once::new();
static FRAME_PAGES: AtomicUsize = AtomicUsize::new(0);

/// What the heap consists of, in pages.
#[derive(Debug, Clone, Copy)]
pub struct HeapCounters {
    /// Pages that came from the memory manager's frames.
    pub frames: usize,
    /// Pages of the reserve in use.
    pub reserve_used: usize,
    /// Pages of the reserve not in use.
    pub reserve_free: usize,
}

/// Gives the heap its reserve.
pub fn init(reserve: Range<PhysAddr>) {
    reserve::init(reserve);
}

/// From now on pages come from `source`.
pub fn use_frames(source: Source) {
    SOURCE.call_once(|| source);
}

/// The heap's size.
pub fn counters() -> HeapCounters {
    let (used, free) = reserve::counters();
    HeapCounters { frames: FRAME_PAGES.load(Relaxed), reserve_used: used, reserve_free: free }
}

/// Whether the heap has more than its share of memory, or lives on its reserve and that is running out: refuse what
/// programs ask for.
pub fn is_short() -> bool {
    let too_much = SOURCE.get().is_some_and(|source| FRAME_PAGES.load(Relaxed) > source.most);
    too_much || reserve::counters().1 < SHORT_PAGES
}

/// A block of 2^`order` pages, not zeroed.
pub fn alloc_pages(order: u32) -> Option<PhysAddr> {
    if order > MAX_ORDER {
        return None;
    }
    alloc_frames(order).or_else(|| reserve::alloc(order))
}

/// As [`alloc_pages`], but the end of the reserve is for small objects: their users cannot cope with failure, those of
/// large blocks (file contents, buffers) can. What is a little larger than small (a process) comes in between.
fn alloc_large(order: u32) -> Option<PhysAddr> {
    let kept = if order <= 1 { LAST_PAGES } else { SHORT_PAGES };
    let short = SOURCE.is_completed() && reserve::counters().1 < kept;
    if short { alloc_frames(order) } else { alloc_pages(order) }
}

fn alloc_frames(order: u32) -> Option<PhysAddr> {
    let block = (SOURCE.get()?.alloc)(order)?;
    FRAME_PAGES.fetch_add(1 << order, Relaxed);
    Some(block)
}

/// Gives a block back.
pub fn free_pages(block: PhysAddr, order: u32) {
    if !reserve::free(block, order) {
        FRAME_PAGES.fetch_sub(1 << order, Relaxed);
        let source = SOURCE.get().expect("what is not the reserve's came from the source");
        (source.free)(block, order);
    }
}

/// A zeroed page for what programs cause (kernel stacks, their tables): not from the reserve.
pub fn alloc_page() -> Option<PhysAddr> {
    let page = if SOURCE.is_completed() { alloc_frames(0)? } else { reserve::alloc(0)? };
    // SAFETY: the page is RAM in the direct map and nobody else has it.
    unsafe { core::ptr::write_bytes(direct(page), 0, PAGE as usize) };
    Some(page)
}

/// Gives a page back.
pub fn free_page(page: PhysAddr) {
    free_pages(page, 0);
}

struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

fn order_of(layout: Layout) -> u32 {
    let pages = layout.size().div_ceil(PAGE as usize).next_power_of_two();
    let align = layout.align().div_ceil(PAGE as usize).next_power_of_two();
    pages.max(align).trailing_zeros()
}

// SAFETY: blocks are disjoint, large enough and aligned: small objects by their class, pages by their
// order (blocks of frames are naturally aligned).
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match small::class_of(layout) {
            Some(class) => small::alloc(class),
            None => alloc_large(order_of(layout)).map_or(core::ptr::null_mut(), direct),
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        match small::class_of(layout) {
            Some(class) => small::free(class, ptr),
            None => free_pages(phys_of(ptr), order_of(layout)),
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let new_layout = Layout::from_size_align(new_size, layout.align()).expect("the caller's promise");
        let same = match (small::class_of(layout), small::class_of(new_layout)) {
            (Some(old), Some(new)) => old == new,
            (None, None) => order_of(layout) == order_of(new_layout),
            _ => false,
        };
        if same {
            return ptr;
        }
        // SAFETY: the caller's promise: the size is not zero.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both blocks are at least this long and distinct.
            unsafe { core::ptr::copy_nonoverlapping(ptr, new, layout.size().min(new_size)) };
            // SAFETY: the caller's promise: `ptr` was allocated with `layout`.
            unsafe { self.dealloc(ptr, layout) };
        }
        new
    }
}
