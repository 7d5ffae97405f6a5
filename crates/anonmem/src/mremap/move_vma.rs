//! A VMA moves to another place, with its pages.
//!
//! First what can fail: the VMA is cut to what moves, and what is at the destination to the destination.
//! Memory is promised; tree nodes, page tables and, for `DONTUNMAP`, a VMA that stays behind are allocated.
//! Then what cannot:
//!
//! ```text
//!   1. what is at the destination is unmapped; its page tables stay
//!   2. the VMA's anon_vma is locked for writing: no rmap walk runs
//!   3.   entries go to their new addresses, each table flushed before its lock is let go
//!   4.   the VMA gets its new range, in the tree and in the interval trees
//!   5. the lock is let go: walks find the pages where they are now
//!   6. the tail is unmapped, tables that are left over are freed, neighbours merge
//! ```
//!
//! A walk that could run between 3 and 4 might visit the destination before a page came, and the source after
//! the page left. It would miss the page (CVE-2022-41222). Without the flush in 3 a page could be freed
//! through its new address and written through its old one (CVE-2018-18281).
//!
//! A page keeps its index and its anon_vma: `pgoff` goes along with the address. Only a VMA without an
//! anon_vma takes the number of its new address, so that it can merge there. No page of such a VMA knows its
//! index.
//!
//! Linux: mm/mremap.c `move_vma`, `copy_vma_and_data`; mm/vma.c `copy_vma`.

use super::RemapFlags;
use crate::{
    error::Error,
    ids::{VmaId, VmaTag},
    mm::mmap_lock::MmapWriteGuard,
    munmap::Tables,
    rmap::machine::Machine,
    rmap::{Rmap, reverse_map::ReverseMap},
    vma::{
        flags::VmFlags,
        lock::VmaWrite,
        tree::Prealloc,
        vma::{Backing, Vma},
    },
};
use anonmem_hal::{Va, VaRange};

/// What a move is about.
struct Move {
    /// What moves.
    from: VaRange,
    /// The rest of the old range, which is unmapped, whatever is there.
    tail: VaRange,
    /// The new range; longer than `from` if the mapping grows.
    to: VaRange,
    left: Left,
}

/// What is left at the old place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Hole,
    /// A mapping like the one that moved, empty.
    Mapping,
}

/// The memory that a move needs.
struct Prepared<'a, M: Machine> {
    /// The VMA that moves, write-locked since before its tables were looked at.
    write: VmaWrite<'a, M>,
    nodes: Prealloc<'a, M, VmaTag>,
    /// The VMA that stays behind.
    fresh: Option<VmaId>,
    /// Promised for the move, on top of what the destination had.
    charged: u64,
}

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Moves the mapping of `old`, as much of it as fits, to `to`, whose length it gets. What moves lies in
    /// one VMA.
    ///
    /// # Locks
    /// The mmap lock for writing; takes the lock of the VMA's anon_vma.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Limit`] if there would be too many mappings or too much would be
    /// promised. Nothing has changed.
    pub(super) fn move_vma(&self, old: VaRange, to: VaRange, flags: RemapFlags) -> Result<(), Error> {
        let middle = Va(old.start.0 + old.len().min(to.len()));
        let work = Move {
            from: VaRange { start: old.start, end: middle },
            tail: VaRange { start: middle, end: old.end },
            to,
            left: if flags.contains(RemapFlags::DONTUNMAP) { Left::Mapping } else { Left::Hole },
        };
        // Linux keeps this distance, for splits at either end and the VMA that is new.
        if self.slot().tree.len() + 3 >= self.objects.max_map_count() {
            return Err(Error::MAX_MAP_COUNT);
        }
        self.cut(&work)?;
        let prepared = self.prepare_move(&work).inspect_err(|_| self.uncut(&work))?;
        self.commit_move(&work, prepared);
        Ok(())
    }

    /// Makes VMAs begin and end where the ranges of the move do.
    fn cut(&self, work: &Move) -> Result<(), Error> {
        let cut = || {
            self.cut_edges(work.from)?;
            if !work.tail.is_empty() {
                self.check_not_sealed(work.tail)?;
                self.cut_edges(work.tail)?;
            }
            self.check_not_sealed(work.to)?;
            self.cut_edges(work.to)
        };
        cut().inspect_err(|_| self.uncut(work))
    }

    fn uncut(&self, work: &Move) {
        for at in [work.to.start, work.to.end, work.from.start, work.tail.start, work.tail.end] {
            self.rejoin(at);
        }
    }

    /// The VMA that contains `start`.
    fn vma_from(&self, start: Va) -> VmaId {
        let found = self.slot().tree.find_containing(self.objects.nodes(), start);
        found.expect("the mapping that moves is there").1
    }

    fn prepare_move<'a>(&'a self, work: &Move) -> Result<Prepared<'a, M>, Error> {
        let (objects, slot) = (self.objects, self.slot());
        let vma = objects.vma(self.vma_from(work.from.start));
        // From here on no fault fills an entry that moves, or adds a table for one.
        let write = vma.start_write(self);
        let charged = promise(work, vma.flags()).saturating_sub(self.covered(work.to).accounted);
        objects.commit(charged)?;
        let prepare = || {
            let insertions = if work.left == Left::Mapping { 2 } else { 1 };
            let nodes = slot.tree.prealloc(objects.nodes(), insertions)?;
            self.alloc_new_tables(&write, work.from, work.to.start)?;
            Rmap::<M>::prepare_move(objects, self.vma_from(work.from.start))?;
            let fresh = match work.left {
                Left::Hole => None,
                Left::Mapping => Some(objects.vmas.alloc(&objects.frames)?),
            };
            Ok((nodes, fresh))
        };
        let prepared: Result<_, Error> = prepare().inspect_err(|_| {
            self.free_unused_tables(work.to);
            objects.uncommit(charged);
        });
        let (nodes, fresh) = prepared?;
        Ok(Prepared { write, nodes, fresh, charged })
    }

    /// Does what was prepared. Nothing can fail.
    fn commit_move(&self, work: &Move, prepared: Prepared<'_, M>) {
        let (objects, slot) = (self.objects, self.slot());
        let (fresh, charged) = (prepared.fresh, prepared.charged);
        let replaced = self.unmap_cut_and(work.to, Tables::Keep);
        let id = self.vma_from(work.from.start);
        if let Some(fresh) = fresh {
            self.leave_behind(id, fresh);
        }
        if !objects.uffd_follows(id) {
            self.unwatch(id);
        }
        let flags = objects.vma(id).flags();
        if flags.contains(VmFlags::SOFT_CLEAN) {
            // What has moved is soft-dirty, because it is new there. Of another VMA nobody asks the entries.
            self.soft_dirty_range(work.from);
        }
        self.relocate(id, work, prepared);
        let grown = work.to.pages().0 as i64 - work.from.pages().0 as i64;
        if grown > 0 {
            self.soft_dirty_vma(id);
        }
        slot.counts.add_vma(flags, grown);
        if let Some(fresh) = fresh {
            slot.counts.add_vma(objects.vma(fresh).flags(), work.from.pages().0 as i64);
        }
        let mut freed = charged + replaced.accounted - promise(work, flags);
        if !work.tail.is_empty() {
            freed += self.unmap_cut(work.tail).accounted;
        }
        objects.uncommit(freed);
        self.free_unused_tables(work.from);
        self.rejoin(work.to.start);
        if fresh.is_some() {
            self.rejoin(work.from.start);
        }
    }

    /// Makes `fresh` a VMA like `id`, without pages and unlocked.
    fn leave_behind(&self, id: VmaId, fresh: VmaId) {
        let (objects, vma) = (self.objects, self.objects.vma(id));
        let flags = vma.flags() - (VmFlags::LOCKED | VmFlags::LOCKONFAULT);
        objects.backing_get(vma.backing(), flags);
        objects.vma(fresh).init(self.id(), vma.range(), vma.pgoff(), flags, vma.backing());
        objects.vma(fresh).watch_as(vma, vma.uffd());
        objects.vma(fresh).attach(self);
    }

    /// Gives VMA `id` its new range, and its pages their new addresses.
    #[doc(alias("copy_vma", "move_page_tables"))]
    fn relocate(&self, id: VmaId, work: &Move, prepared: Prepared<'_, M>) {
        let Prepared { write, mut nodes, fresh, charged: _ } = prepared;
        let (objects, vma) = (self.objects, self.objects.vma(id));
        let gap = objects.guard_below(vma.flags());
        let pgoff = self.new_pgoff(vma, work.to.start);
        self.reshape(id, core::iter::empty(), |reshaping| {
            self.move_page_tables(&write, work.from, work.to.start);
            let mut writer = nodes.write();
            writer.erase(work.from);
            writer.insert_guarded(work.to, id, gap);
            if let Some(fresh) = fresh {
                writer.insert_guarded(work.from, fresh, gap);
            }
            write.set_range(reshaping, work.to, pgoff);
        });
    }

    /// The page index of the VMA's first page once it starts at `start`.
    fn new_pgoff(&self, vma: &Vma<M>, start: Va) -> u64 {
        let has_pages = Rmap::<M>::stamp(self.objects, self.slot(), vma).is_some();
        if vma.backing() == Backing::Anonymous && !has_pages { start.page() } else { vma.pgoff() }
    }
}

/// Pages that must be promised for a move beyond what the VMA has.
fn promise(work: &Move, flags: VmFlags) -> u64 {
    let grown = work.to.pages().0 - work.from.pages().0;
    match (flags.contains(VmFlags::ACCOUNT), work.left) {
        (false, _) => 0,
        (true, Left::Hole) => grown,
        (true, Left::Mapping) => grown + work.from.pages().0,
    }
}
