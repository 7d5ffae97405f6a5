//! The owner of one count of a swap slot.
//!
//! A swap entry in a page table owns one count, and so does whoever works on a slot. The slots make the
//! count: `claim`, `dup` and `dup_if_cached` of [`swap`](crate::swap). The count goes into an entry, and
//! comes out of it again, through the page-table guard. It ends where it began: `put`.
//!
//! Linux: `swap_map[]`, counted by hand.

use crate::Frames;
use anonmem_hal::{Machine, SwapEntry};
use core::{fmt, marker::PhantomData, mem::ManuallyDrop, ops::Deref};

/// One count of a swap slot.
#[must_use = "a count goes into an entry, or back to its slots"]
pub struct SwapCount<'f, M: Machine> {
    frames: &'f Frames<M>,
    entry: SwapEntry,
}

impl<'f, M: Machine> SwapCount<'f, M> {
    /// The owner of a count that the caller has just added to the slot's word.
    pub(crate) const fn new(frames: &'f Frames<M>, entry: SwapEntry) -> Self {
        Self { frames, entry }
    }

    /// The slot.
    pub const fn entry(&self) -> SwapEntry {
        self.entry
    }

    /// The frames that the slot's word is in.
    pub const fn frames(&self) -> &'f Frames<M> {
        self.frames
    }

    /// Hands the count to a page-table entry, which owns it from now on.
    pub fn into_entry(self) -> SwapEntry {
        ManuallyDrop::new(self).entry
    }

    /// Takes the count back from the entry that owned it.
    ///
    /// # Safety
    /// `entry` came from [`into_entry`](Self::into_entry) of the same `frames`, and the page-table entry that
    /// had it was cleared.
    pub const unsafe fn from_entry(frames: &'f Frames<M>, entry: SwapEntry) -> Self {
        Self { frames, entry }
    }
}

impl<M: Machine> Drop for SwapCount<'_, M> {
    fn drop(&mut self) {
        // The slot stays in use for ever: safe, and a leak.
        anonmem_hal::debug_check!(
            M,
            M::unwinding(),
            "a count of {:?} was dropped instead of put",
            self.entry
        );
    }
}

impl<M: Machine> fmt::Debug for SwapCount<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a count of {:?}", self.entry)
    }
}

/// A look at the count that a locked entry owns.
pub struct SwapCountRef<'e, 'f, M: Machine> {
    count: ManuallyDrop<SwapCount<'f, M>>,
    /// The lock of the entry.
    _entry: PhantomData<&'e ()>,
}

impl<'f, M: Machine> SwapCountRef<'_, 'f, M> {
    /// The owner in a page-table entry, for as long as its lock is held.
    ///
    /// # Safety
    /// A swap entry for `entry` under a page-table lock that is held for `'e` owns a count of its slot.
    pub unsafe fn of_entry(frames: &'f Frames<M>, entry: SwapEntry) -> Self {
        Self { count: ManuallyDrop::new(SwapCount { frames, entry }), _entry: PhantomData }
    }
}

impl<'f, M: Machine> Deref for SwapCountRef<'_, 'f, M> {
    type Target = SwapCount<'f, M>;

    fn deref(&self) -> &SwapCount<'f, M> {
        &self.count
    }
}
