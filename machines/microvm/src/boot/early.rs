//! Memory before the heap: pages of the kernel's own block, from its start, never given back. What is left
//! goes to the heap as its reserve.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::arch::mem::{PAGE, PhysAddr, direct};

static NEXT: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);

/// Gives the allocator its block.
pub fn init(block: Range<PhysAddr>) {
    NEXT.store(block.start, Relaxed);
    END.store(block.end, Relaxed);
}

/// A zeroed page.
pub fn page() -> PhysAddr {
    pages(1)
}

/// Zeroed contiguous pages.
pub fn pages(count: u64) -> PhysAddr {
    let at = NEXT.fetch_add(count * PAGE, Relaxed);
    assert!(at + count * PAGE <= END.load(Relaxed), "the kernel's block is too small: raise KERNEL_RESERVE");
    // SAFETY: the pages are RAM that belongs to the kernel and were not given out; the boot tables map
    // the block, which is below 4 GiB.
    unsafe { core::ptr::write_bytes(direct(at), 0, (count * PAGE) as usize) };
    at
}

/// Takes all that is left: the allocator is empty afterwards.
pub fn take_rest() -> Range<PhysAddr> {
    let end = END.load(Relaxed);
    NEXT.swap(end, Relaxed)..end
}
