//! Entries go to other addresses.
//!
//! Where the old and the new addresses are aligned to what a last-level table covers, the table itself moves,
//! and so does a leaf. Otherwise a leaf becomes a table, and the entries move one by one, under the locks of
//! both tables.
//!
//! Locks: the mmap lock for writing with the VMA write-locked, and the lock of its anon_vma for writing. Both
//! tables of a moving entry, by address. Old translations are flushed before these are let go.
//!
//! Linux: mm/mremap.c `move_page_tables`, `move_ptes`, `move_normal_pmd`.

use crate::{
    error::Error, events::Event, mm::mmap_lock::MmapWriteGuard, rmap::machine::Machine, vma::lock::VmaWrite,
};
use anonmem_hal::{FlushRange, PAGE_SIZE, Va, VaRange};
use anonmem_pgtable::{PteTable, Walked};

type Table<'a, M> = PteTable<'a, M, MmapWriteGuard<'a, M>>;

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Makes the tables that moving the entries of `from` to `to` needs.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; tables that were made stay.
    #[doc(alias = "alloc_new_pmd")]
    pub(super) fn alloc_new_tables(
        &self,
        _write: &VmaWrite<'_, M>,
        from: VaRange,
        to: Va,
    ) -> Result<(), Error> {
        let (frames, space) = (&self.objects.frames, &self.slot().space);
        for (found, part) in space.parts(frames, self, from) {
            // Speculative faults that had checked the VMA before it was write-locked are done when the lock
            // is ours.
            if let Walked::Table(table) = found
                && table.lock().is_empty()
            {
                continue;
            }
            let target = image(from, to, part.start);
            if is_whole(found.range(), part, target) {
                space.prepare_move_table(frames, self, target)?;
            } else {
                // The image of a part of one table is in two at most.
                space.table_alloc(frames, self, target)?;
                space.table_alloc(frames, self, Va(target.0 + part.len() - PAGE_SIZE as u64))?;
            }
        }
        Ok(())
    }

    /// Moves all entries of `from` to the addresses from `to` on. The tables are there
    /// ([`alloc_new_tables`](Self::alloc_new_tables)).
    pub(super) fn move_page_tables(&self, _write: &VmaWrite<'_, M>, from: VaRange, to: Va) {
        let (frames, space) = (&self.objects.frames, &self.slot().space);
        for (found, part) in space.parts(frames, self, from) {
            if let Walked::Table(table) = found
                && table.lock().is_empty()
            {
                continue;
            }
            let target = image(from, to, part.start);
            let whole = is_whole(found.range(), part, target);
            if whole && space.move_table(frames, part.start, target).expect("the tables above are there") {
                self.objects.count(Event::TlbFlush);
                continue;
            }
            if let Some(table) = found.table() {
                self.move_ptes(table, part, target);
            }
        }
    }

    /// Moves the entries of `part`, which is in one table.
    fn move_ptes<'a>(&'a self, table: Table<'a, M>, part: VaRange, target: Va) {
        let space = &self.slot().space;
        let mut rest = part;
        while !rest.is_empty() {
            let to = image(part, target, rest.start);
            let dest = space.walk(&self.objects.frames, self, to).and_then(Walked::table);
            let dest = dest.expect("the table was made");
            let room = dest.range().end.0 - to.0;
            let piece = VaRange { start: rest.start, end: Va(rest.start.0 + room.min(rest.len())) };
            self.move_piece(table, dest, piece, to);
            rest.start = piece.end;
        }
    }

    /// Moves the entries of `piece`, which go from one table to one table.
    fn move_piece<'a>(&'a self, table: Table<'a, M>, dest: Table<'a, M>, piece: VaRange, to: Va) {
        let (mut source, mut dest) = table.lock_two(dest);
        let space = &self.slot().space;
        let moved = source.move_range(piece, dest.as_mut(), to);
        // What reclaim has taken, it may not have flushed yet.
        let flush = if source.is_flush_deferred() { piece } else { moved };
        if !flush.is_empty() {
            space.flush(&self.objects.frames, FlushRange::Range(flush));
            self.objects.count(Event::TlbFlush);
        }
    }
}

/// Where `va` of `from` goes.
fn image(from: VaRange, to: Va, va: Va) -> Va {
    Va(to.0 + (va.0 - from.start.0))
}

/// Whether what covers these addresses can move as a whole.
fn is_whole(covered: VaRange, part: VaRange, target: Va) -> bool {
    part == covered && target.0.is_multiple_of(covered.len())
}
