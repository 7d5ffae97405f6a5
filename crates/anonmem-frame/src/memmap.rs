//! The array of metadata slots, and the one place that turns an index into a reference.
//!
//! Inside the allocator a frame is its *index*: relative to the first frame, below 2^32 - 1. A *link* is an
//! index plus one, so that 0 is "none" and both links of a list fit one word.

use crate::{meta::Meta, set_aside::set_aside_of};
use anonmem_hal::{Machine, Order, Pfn};
use anonmem_sync::Ordering::Relaxed;
use core::ptr::NonNull;

/// No frame.
pub(crate) const NO_LINK: u32 = 0;

/// The metadata of all frames of one machine.
pub(crate) struct Memmap<M> {
    slots: NonNull<Meta<M>>,
    base: u64,
    nr: u32,
    /// The frames before it are set aside for slabs.
    first_free: u32,
}

// SAFETY: it is a reference to slots that are atomic throughout.
unsafe impl<M> Send for Memmap<M> {}
// SAFETY: as above.
unsafe impl<M> Sync for Memmap<M> {}

impl<M: Machine> Memmap<M> {
    /// The slots of `nr` frames from `base` on.
    ///
    /// # Safety
    /// `slots` points to `nr` zeroed, aligned slots that are used by nobody else while this lives.
    pub(crate) const unsafe fn new(slots: NonNull<Meta<M>>, base: Pfn, nr: u32) -> Self {
        Self { slots, base: base.0, nr, first_free: set_aside_of(base, nr as u64) }
    }

    /// The same, for a loop that is to keep it in registers.
    #[inline(always)]
    pub(crate) const fn here(&self) -> Self {
        Self { slots: self.slots, base: self.base, nr: self.nr, first_free: self.first_free }
    }

    /// Where the slots are.
    #[inline(always)]
    pub(crate) fn address(&self) -> usize {
        self.slots.as_ptr().addr()
    }

    /// The number of frames.
    #[inline(always)]
    pub(crate) const fn nr(&self) -> u32 {
        self.nr
    }

    /// The first frame that is not set aside for slabs.
    #[inline(always)]
    pub(crate) const fn first_free(&self) -> u32 {
        self.first_free
    }

    /// The slot of frame `index`.
    ///
    /// # Panics
    /// If there is no such frame.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn at(&self, index: u32) -> &Meta<M> {
        self.get(index).unwrap_or_else(|| out_of_range(self.base.wrapping_add(u64::from(index))))
    }

    /// The slot of frame `index`, if there is one.
    #[inline(always)]
    pub(crate) fn get(&self, index: u32) -> Option<&Meta<M>> {
        if index >= self.nr {
            return None;
        }
        // SAFETY: below `nr`, so inside the array that `new` was promised.
        let slot = unsafe { self.slots.add(index as usize) };
        // SAFETY: as above; all-zero and every later state are valid slots, shared by atomics only.
        Some(unsafe { slot.as_ref() })
    }

    /// The slots of `len` frames from `index` on.
    ///
    /// # Panics
    /// If one of them is not there.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn run(&self, index: u32, len: u64) -> &[Meta<M>] {
        let end = u64::from(index) + len;
        if end > u64::from(self.nr) {
            out_of_range(self.base.wrapping_add(end));
        }
        // SAFETY: below `nr`, so inside the array that `new` was promised.
        let first = unsafe { self.slots.add(index as usize) };
        // SAFETY: as above, all of them; every state is valid, and they are shared by atomics only.
        unsafe { core::slice::from_raw_parts(first.as_ptr(), len as usize) }
    }

    /// The index of `pfn`, if it is one of ours.
    #[inline(always)]
    pub(crate) fn find(&self, pfn: Pfn) -> Option<u32> {
        let index = pfn.0.wrapping_sub(self.base);
        (index < u64::from(self.nr)).then_some(index as u32)
    }

    /// The index of `pfn`.
    ///
    /// # Panics
    /// If it is not one of ours.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn index(&self, pfn: Pfn) -> u32 {
        self.find(pfn).unwrap_or_else(|| out_of_range(pfn.0))
    }

    /// The frame with this index.
    #[inline(always)]
    pub(crate) const fn pfn(&self, index: u32) -> Pfn {
        Pfn(self.base + index as u64)
    }

    /// The other half of the block that contains the block of `order` at `index`.
    ///
    /// Blocks are aligned in the machine's frame numbers, so that a large folio can be mapped by a large
    /// entry; `None` if that half is not ours.
    #[inline]
    pub(crate) fn buddy_of(&self, index: u32, order: u8) -> Option<u32> {
        let aligned = self.base.wrapping_add(u64::from(index)) ^ 1 << order;
        let buddy = aligned.wrapping_sub(self.base);
        (buddy < u64::from(self.nr)).then_some(buddy as u32)
    }

    /// The first frame of the block of `order` that contains `index`, if that frame is ours.
    pub(crate) fn head_of(&self, index: u32, order: u8) -> Option<u32> {
        let into = self.pfn(index).0 & ((1 << order) - 1);
        index.checked_sub(into as u32)
    }

    /// Whether a block of `order` may start at `index`: aligned, and all of it ours.
    pub(crate) fn is_block(&self, index: u32, order: Order) -> bool {
        self.pfn(index).0.is_multiple_of(order.pages())
            && u64::from(index) + order.pages() <= u64::from(self.nr)
    }
}

impl<M: Machine> Meta<M> {
    /// Makes the slot that of a frame newly allocated: `flags`, `mapping`, and everything else 0.
    ///
    /// `flags` last: what a late look took the frame for holds until it is what it is now.
    #[inline(always)]
    pub(crate) fn reset(&self, flags: u32, mapping: u64) {
        self.aux.store(0, Relaxed);
        self.counts.store(0, Relaxed);
        self.mapping.store(mapping, Relaxed);
        self.private.store(0, Relaxed);
        self.flags.store(flags, Relaxed);
    }

    /// The links (next, previous) of a frame on a free list, under that list's lock.
    #[inline(always)]
    pub(crate) fn links(&self) -> (u32, u32) {
        let word = self.private.peek();
        (word as u32, (word >> 32) as u32)
    }

    /// Sets the links of a frame on a free list.
    #[inline(always)]
    pub(crate) fn set_links(&self, next: u32, prev: u32) {
        self.private.store(u64::from(next) | u64::from(prev) << 32, Relaxed);
    }
}

#[cold]
#[inline(never)]
#[track_caller]
fn out_of_range(pfn: u64) -> ! {
    panic!("frame {pfn:#x} is not managed by this allocator")
}
