//! The words that the frames keep for each page table: its lock, its entries in use, its place on a list.
//!
//! Nobody outside of this crate can reach them: a lock that others took, or a count that others wrote, would
//! free tables in use.

use anonmem_frame::Frames;
use anonmem_hal::{Machine, Pfn};
use anonmem_sync::{Atomic, Level, Plain, RawSpin};

pub(crate) trait TableWords<M: Machine> {
    /// The lock of a table.
    ///
    /// # Panics
    /// If the frame is no page table.
    fn table_lock<L: Level>(&self, table: Pfn) -> &RawSpin<M, L>;
    /// The lock, and what [`table_used`](Self::table_used) gives to whoever has taken it.
    ///
    /// # Panics
    /// If the frame is no page table.
    fn table_lock_used<L: Level>(&self, table: Pfn) -> (&RawSpin<M, L>, &Plain<u64, M>);
    /// The number of entries in use, and above them the mark of who has put off a flush of some; under the
    /// table's lock.
    fn table_used(&self, table: Pfn) -> &Plain<u64, M>;
    /// The next table that waits to be freed.
    fn table_link(&self, table: Pfn) -> &Atomic<u64, M>;
}

/// The number of entries in use that a table's word says.
#[inline(always)]
pub(crate) const fn used_of(word: u64) -> u64 {
    word as u32 as u64
}

impl<M: Machine> TableWords<M> for Frames<M> {
    #[inline(always)]
    #[track_caller]
    fn table_lock<L: Level>(&self, table: Pfn) -> &RawSpin<M, L> {
        // SAFETY: this crate owns the page tables.
        unsafe { self.table_words(table) }.lock()
    }

    #[inline(always)]
    #[track_caller]
    fn table_lock_used<L: Level>(&self, table: Pfn) -> (&RawSpin<M, L>, &Plain<u64, M>) {
        // SAFETY: as above.
        let words = unsafe { self.table_words(table) };
        (words.lock(), words.used())
    }

    #[inline(always)]
    #[track_caller]
    fn table_used(&self, table: Pfn) -> &Plain<u64, M> {
        // SAFETY: as above; the callers hold the table's lock, or the table is theirs alone.
        unsafe { self.table_words(table) }.used()
    }

    #[inline(always)]
    #[track_caller]
    fn table_link(&self, table: Pfn) -> &Atomic<u64, M> {
        // SAFETY: as above; a table is on one list, whose owner asks.
        unsafe { self.table_words(table) }.link()
    }
}
