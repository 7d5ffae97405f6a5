//! The kernel heap: the global allocator, and single pages for the kernel's own tables and stacks.
//!
//! Up to 2016 bytes come from pages that are cut into objects of one size (`small`); more comes as
//! whole pages. Pages come from the memory manager's frames, so that they are counted there; before it
//! exists, and when it has none left, from a reserve of the kernel's own (`reserve`).
//!
//! Why an allocator of our own: what the kernel uses comes out of the same frames as what programs use, is
//! counted by the memory manager, and goes back; and there is a reserve for the small objects without which
//! the kernel could not end a process when no frame is left. General allocators take a region and keep it.
//!
//! The largest allocation is 4 MiB (order 10). Running out is a panic in Rust's collections, so code that
//! allocates on behalf of programs asks [`is_short`] first and uses `try_reserve` for anything big.
//!
//! Locks: a `SpinLock` per size class and one for the reserve; not for interrupt handlers.

mod pages;
mod reserve;
mod small;

use pages::alloc_large;
pub use pages::{
    HeapCounters, Source, alloc_page, alloc_pages, counters, free_page, free_pages, init, is_short,
    use_frames,
};

use core::alloc::{GlobalAlloc, Layout};

use crate::arch::mem::{PAGE, direct, phys_of};

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
