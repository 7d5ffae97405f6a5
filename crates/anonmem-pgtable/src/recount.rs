//! Counting the tables and entries of an address space again.

use crate::words::{TableWords as _, used_of};
use crate::{deposit, space::AddressSpace, table::entries};
use anonmem_frame::Frames;
use anonmem_hal::{Arch, Entry, Machine, Pfn, Va};
use anonmem_sync::Ordering;
use core::fmt;

/// A table whose count of entries in use, or of tables that it keeps for its leaves, is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Miscounted {
    /// The table.
    pub table: Pfn,
    /// What its count says.
    pub counted: u64,
    /// What is in it.
    pub found: u64,
}

impl fmt::Display for Miscounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, counted, found } = self;
        write!(f, "the table in {table:?} counts {counted} and has {found}")
    }
}

impl core::error::Error for Miscounted {}

impl<M: Machine> AddressSpace<M> {
    /// Counts the tables that are reachable or kept for leaves, and checks every table's count of entries in
    /// use, and that it keeps one table for each of its leaves. At rest.
    ///
    /// # Errors
    /// The first table that is wrong.
    pub fn recount(&self, frames: &Frames<M>) -> Result<u64, Miscounted> {
        let top = M::Arch::LEVELS - 1;
        // Above the user's part, the root holds the kernel's entries, which are nobody's here.
        let user = M::Arch::index(Va(M::Arch::USER_END.0 - 1), top) + 1;
        recount_table(frames, self.root(), top, user)
    }
}

fn recount_table<M: Machine>(
    frames: &Frames<M>,
    table: Pfn,
    level: u32,
    nr_entries: usize,
) -> Result<u64, Miscounted> {
    let (mut tables, mut found, mut leaves) = (1, 0, 0);
    for word in &entries(frames, table)[..nr_entries] {
        let raw = word.load(Ordering::Relaxed);
        if raw == 0 {
            continue;
        }
        found += 1;
        if level == 0 {
            continue;
        }
        match M::Arch::decode_entry(raw, level) {
            Entry::None => {}
            Entry::Table(next) => tables += recount_table(frames, next, level - 1, M::Arch::ENTRIES)?,
            Entry::Leaf(_) | Entry::Migration { .. } => leaves += 1,
        }
    }
    let counted = used_of(frames.table_used(table).peek());
    if counted != found {
        return Err(Miscounted { table, counted, found });
    }
    let kept = deposit::count(frames, table);
    if kept != leaves {
        return Err(Miscounted { table, counted: kept, found: leaves });
    }
    Ok(tables + kept)
}
