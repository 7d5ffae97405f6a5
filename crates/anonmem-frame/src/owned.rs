//! Blocks of frames that somebody owns who is no folio: page tables and the kernel's own.
//!
//! Whoever holds an [`OwnedFrames`] may free the block, and nobody else: that a number names a frame gives no
//! right to it. Owners that live in words (an entry of a page table, a heap's list) take the type apart and
//! put it together again. That is `unsafe`, because the number must be theirs.

use crate::{
    Frames, OutOfMemory,
    meta::{Kind, flags},
};
use anonmem_hal::{FrameAlloc, Machine, Order, Pfn};
use anonmem_sync::Ordering;
use core::{fmt, mem::ManuallyDrop};

/// A block of frames with one owner. Dropping it frees the block.
#[must_use = "the frames are freed when the owner drops"]
pub struct OwnedFrames<'f, M: Machine> {
    frames: &'f Frames<M>,
    pfn: Pfn,
    order: Order,
    kind: Kind,
}

impl<M: Machine> Frames<M> {
    /// Allocates 2^order frames for the kernel's own use, from the reserve if need be. Not zeroed.
    ///
    /// # Errors
    /// [`OutOfMemory`] if there is no free block of that size.
    pub fn alloc_kernel(&self, order: Order) -> Result<OwnedFrames<'_, M>, OutOfMemory> {
        let pfn = self.alloc_block(order, Kind::Kernel)?;
        Ok(OwnedFrames { frames: self, pfn, order, kind: Kind::Kernel })
    }

    /// Takes back the owner of a block that [`alloc_kernel`](Self::alloc_kernel) gave.
    ///
    /// # Safety
    /// `pfn` came from [`OwnedFrames::into_pfn`] of such an owner of the same frames and order, and is taken
    /// back once.
    pub unsafe fn kernel_frames(&self, pfn: Pfn, order: Order) -> OwnedFrames<'_, M> {
        OwnedFrames { frames: self, pfn, order, kind: Kind::Kernel }
    }

    /// Allocates a page table, all zeroes, from the reserve if need be.
    ///
    /// # Errors
    /// [`OutOfMemory`] if there is no free frame.
    #[doc(alias = "pte_alloc_one")]
    pub fn alloc_table(&self) -> Result<OwnedFrames<'_, M>, OutOfMemory> {
        let pfn = self.alloc_block(Order::ZERO, Kind::Table)?;
        // SAFETY: the frame was just allocated.
        unsafe { self.machine().zero(pfn, Order::ZERO) };
        Ok(OwnedFrames { frames: self, pfn, order: Order::ZERO, kind: Kind::Table })
    }

    /// Allocates a page table as [`alloc_table`](Self::alloc_table) does, for who fills all of it before any
    /// walk can find it: its bytes are whatever they were.
    ///
    /// # Errors
    /// [`OutOfMemory`] if there is no free frame.
    pub fn alloc_table_to_fill(&self) -> Result<OwnedFrames<'_, M>, OutOfMemory> {
        let pfn = self.alloc_block(Order::ZERO, Kind::Table)?;
        Ok(OwnedFrames { frames: self, pfn, order: Order::ZERO, kind: Kind::Table })
    }

    /// Takes back the owner of a page table that nothing refers to any more.
    ///
    /// # Safety
    /// `pfn` came from [`OwnedFrames::into_pfn`] of a table of the same frames, and is taken back once.
    pub unsafe fn table_frame(&self, pfn: Pfn) -> OwnedFrames<'_, M> {
        OwnedFrames { frames: self, pfn, order: Order::ZERO, kind: Kind::Table }
    }

    /// Makes the caller the one who frees the block: a block that is freed twice, perhaps on another CPU,
    /// must not be freed from under its next owner.
    #[track_caller]
    fn reclaim_kind(&self, pfn: Pfn, order: Order, kind: Kind) {
        // Acquire: no more than the lock that the caller frees under gave; it pairs with nothing.
        let (from, to) = (kind.bits(order), kind.bits(order) | flags::FREEING);
        if let Err(flags) = self.meta(pfn).flags.compare_exchange(from, to, Ordering::Acquire) {
            crate::zone::not_allocated(pfn, order, flags)
        }
    }
}

impl<'f, M: Machine> OwnedFrames<'f, M> {
    /// The allocator that the block is from.
    pub const fn frames(&self) -> &'f Frames<M> {
        self.frames
    }

    /// The first frame.
    pub const fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// The size.
    pub const fn order(&self) -> Order {
        self.order
    }

    /// Gives up the type: the block is the number's now.
    pub fn into_pfn(self) -> Pfn {
        ManuallyDrop::new(self).pfn
    }
}

impl<M: Machine> Drop for OwnedFrames<'_, M> {
    #[doc(alias = "pte_free")]
    fn drop(&mut self) {
        self.frames.reclaim_kind(self.pfn, self.order, self.kind);
        self.frames.free_block(self.pfn, self.order);
    }
}

impl<M: Machine> fmt::Debug for OwnedFrames<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "2^{} frames at {:#x} ({:?})", self.order.get(), self.pfn.0, self.kind)
    }
}

/// For swap devices that keep pages in frames.
// SAFETY: the frame is a block of the kernel's own, whose owner is given up.
unsafe impl<M: Machine> FrameAlloc for Frames<M> {
    fn alloc_frame(&self) -> Option<Pfn> {
        self.alloc_kernel(Order::ZERO).ok().map(OwnedFrames::into_pfn)
    }

    unsafe fn free_frame(&self, pfn: Pfn) {
        // SAFETY: the caller's promise.
        drop(unsafe { self.kernel_frames(pfn, Order::ZERO) });
    }
}
