//! The owner of one count of a swap slot.
//!
//! A swap entry in a page table owns one count, and so does whoever works on a slot. The slots make the
//! count: `claim`, `dup` and `dup_if_cached` of [`swap`](crate::swap). The count goes into an entry, and
//! comes out of it again, through the page-table guard. It ends where it began: `put`.
//!
//! Linux: `swap_map[]`, counted by hand.

use crate::{Frames, PageSet};
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

/// At most one count of each of 512 slots in a row.
///
/// A folio that leaves whole has one of each of its slots. A folio that is split has those of the slots that
/// it is still the cached folio of.
#[must_use = "each count goes back to its slot"]
pub struct SwapCounts<'f, M: Machine> {
    frames: &'f Frames<M>,
    first: SwapEntry,
    held: PageSet,
}

impl<'f, M: Machine> SwapCounts<'f, M> {
    /// None of the slots from `first` on.
    pub const fn none(frames: &'f Frames<M>, first: SwapEntry) -> Self {
        Self { frames, first, held: PageSet::EMPTY }
    }

    /// The first slot.
    pub const fn first(&self) -> SwapEntry {
        self.first
    }

    /// The frames that the slots' words lie in.
    pub(crate) const fn frames(&self) -> &'f Frames<M> {
        self.frames
    }

    /// How many counts there are.
    pub fn len(&self) -> u64 {
        self.held.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether there is one of the `nth` slot.
    pub const fn has(&self, nth: u64) -> bool {
        self.held.has(nth)
    }

    /// How many there are of `pages` slots from the `nth` on.
    pub fn in_run(&self, nth: u64, pages: u64) -> u64 {
        (nth..nth + pages).filter(|&nth| self.has(nth)).count() as u64
    }

    /// Adds one.
    ///
    /// # Panics
    /// If it is of another run's slot, or there is one of that slot already.
    pub fn push(&mut self, count: SwapCount<'f, M>) {
        let SwapEntry { device, offset } = count.entry();
        let nth = offset.wrapping_sub(self.first.offset);
        assert!(
            device == self.first.device && nth < PageSet::MOST && !self.has(nth),
            "{count:?} in another run"
        );
        assert!(core::ptr::eq(self.frames, count.frames), "a count of another machine's frames");
        count.into_entry();
        self.held.add(nth);
    }

    /// A look at the one of the `nth` slot, if there is.
    pub fn get(&self, nth: u64) -> Option<SwapCountRef<'_, 'f, M>> {
        // SAFETY: this owns a count of the slot for as long as it is borrowed.
        self.has(nth).then(|| unsafe { SwapCountRef::of_entry(self.frames, self.slot(nth)) })
    }

    /// Takes one out; `None` if there is none left.
    pub fn pop(&mut self) -> Option<SwapCount<'f, M>> {
        let nth = self.held.pop()?;
        // The count that `push` took apart.
        Some(SwapCount { frames: self.frames, entry: self.slot(nth) })
    }

    const fn slot(&self, nth: u64) -> SwapEntry {
        SwapEntry { device: self.first.device, offset: self.first.offset + nth }
    }
}

impl<M: Machine> Drop for SwapCounts<'_, M> {
    fn drop(&mut self) {
        // As for a single one: safe, and a leak.
        anonmem_hal::debug_check!(M, self.is_empty() || M::unwinding(), "{self:?} dropped instead of put");
    }
}

impl<M: Machine> fmt::Debug for SwapCounts<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} counts from {:?} on", self.len(), self.first)
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
