//! Whole pages: from the memory manager's frames, or from the reserve.

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use spin::Once;

use super::reserve;
use crate::arch::mem::{PAGE, PhysAddr, direct};

/// The largest block of pages: 2^10, as in the frame allocator.
const MAX_ORDER: u32 = 10;

/// With fewer pages left in the reserve, memory is short: large blocks, and what programs ask for, are
/// refused.
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

/// Whether the heap has more than its share of memory, or lives on its reserve and that is running out:
/// refuse what programs ask for.
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

/// As [`alloc_pages`], but the end of the reserve is for small objects: their users cannot cope with failure,
/// those of large blocks (file contents, buffers) can. What is a little larger than small (a process) comes
/// in between.
pub(super) fn alloc_large(order: u32) -> Option<PhysAddr> {
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
