//! Tables that are kept ready: one for every leaf, to be split into.
//!
//! Splitting a leaf needs a table for its entries. It happens where nothing can fail any more: in the middle
//! of munmap, in a walk of the reverse map. So whoever installs a leaf brings a table along. It stays with
//! the table that the leaf is in, on a list through the tables' metadata, under that table's lock. It counts
//! among the tables of its address space from then on: a split changes no count.
//!
//! Linux: include/linux/pgtable.h `pgtable_trans_huge_deposit`, `pgtable_trans_huge_withdraw`.

use crate::space::AddressSpace;
use crate::words::TableWords as _;
use anonmem_frame::{Frames, OutOfMemory, OwnedFrames};
use anonmem_hal::{Machine, Pfn};
use anonmem_sync::{Ordering, order::Pmd, spin::RawSpinGuard};

/// A table that a leaf needs to be installed. Dropping it frees the table.
#[must_use = "a leaf is installed with it"]
pub struct Deposit<'f, M: Machine>(OwnedFrames<'f, M>);

impl<'f, M: Machine> Deposit<'f, M> {
    /// Allocates one, before any spin lock is taken. Its bytes are whatever they were: a split writes all of
    /// its entries before the table can be found.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    #[doc(alias = "pte_alloc_one")]
    pub fn alloc(frames: &'f Frames<M>) -> Result<Self, OutOfMemory> {
        frames.alloc_table_to_fill().map(Self)
    }
}

/// The list of the table `upper`, whose lock is held.
pub(crate) struct Deposits<'g, 'f, M: Machine> {
    frames: &'f Frames<M>,
    upper: Pfn,
    _lock: &'g RawSpinGuard<'f, M, Pmd>,
}

impl<'g, 'f, M: Machine> Deposits<'g, 'f, M> {
    pub(crate) fn of(frames: &'f Frames<M>, upper: Pfn, lock: &'g RawSpinGuard<'f, M, Pmd>) -> Self {
        Self { frames, upper, _lock: lock }
    }

    /// Takes a table in, which `space` counts from now on.
    pub(crate) fn put(&self, space: &AddressSpace<M>, table: Deposit<'f, M>) {
        assert!(core::ptr::eq(table.0.frames(), self.frames), "a table of another machine's frames");
        space.count_tables(1);
        self.push(table.0.into_pfn());
    }

    /// Gives a table back, which `space` counts no more.
    pub(crate) fn take(&self, space: &AddressSpace<M>) -> Deposit<'f, M> {
        space.forget_tables(1);
        let table = self.pop();
        // SAFETY: the list owned it, and has forgotten it.
        Deposit(unsafe { self.frames.table_frame(table) })
    }

    pub(crate) fn push(&self, table: Pfn) {
        // Relaxed: the lock orders it.
        let head = self.frames.table_link(self.upper);
        self.frames.table_link(table).store(head.load(Ordering::Relaxed), Ordering::Relaxed);
        head.store(table.0, Ordering::Relaxed);
    }

    /// A table for the caller to put into the tree, or into the list of another table.
    pub(crate) fn pop(&self) -> Pfn {
        let head = self.frames.table_link(self.upper);
        let table = Pfn(head.load(Ordering::Relaxed));
        assert!(table.0 != 0, "table {:#x} has a leaf without a table to split it into", self.upper.0);
        let link = self.frames.table_link(table);
        head.store(link.load(Ordering::Relaxed), Ordering::Relaxed);
        link.store(0, Ordering::Relaxed);
        table
    }
}

/// The number of tables that `upper` keeps. At rest.
pub(crate) fn count<M: Machine>(frames: &Frames<M>, upper: Pfn) -> u64 {
    let mut found = 0;
    let mut at = frames.table_link(upper).peek();
    while at != 0 {
        found += 1;
        at = frames.table_link(Pfn(at)).peek();
    }
    found
}
