//! MOVE of large folios: whole where both windows allow it, split where they do not.
//!
//! ```text
//!   all pages of the folio, exclusive and in order, from its first on
//!     ├─ behind a leaf, to an aligned place without a table ─▶ the leaf goes (`whole_leaf`)
//!     └─ to as many empty entries of one table ──────────────▶ all entries, one flush (`whole_folio`)
//!   anything else ───────────────────────────────────────────▶ the folio is split, and its pages go
//! ```
//!
//! A whole folio goes with one look for pins, one flush and one stamp. Its index is that of its first page,
//! so that a folio of which a part goes elsewhere has to be split.
//!
//! The folio lock may only be tried: whoever splits needs the only reference, and this has one. Two that
//! split and move one folio would wait for each other's reference for ever.
//!
//! Locks, and their order: as in `move_pages`; for a leaf those of the tables above instead of both tables'.
//!
//! Linux: mm/userfaultfd.c `move_pages_ptes` (splits every large folio), mm/huge_memory.c
//! `move_pages_huge_pmd`.

use super::{
    copy::Halt,
    move_pages::{Both, Mover, Moving, Step, Table},
};
use crate::{
    config::MoveLocks,
    error::Error,
    events::Event,
    fault::vm_fault::FaultGuard,
    rmap::{Rmap, machine::Machine, reverse_map::ReverseMap},
};
use anonmem_frame::{FolioGuard, FolioOwner, FolioRef, Mapping, SplitRefused};
use anonmem_hal::{Arch, MigrationKind, Order, PAGE_SIZE, Pfn, Va, VaRange};
use anonmem_pgtable::{LeafPlace, LeafStays, Locked, MappedLeaf, Walked};
use anonmem_sync::yield_now;

/// What came of moving a folio whole.
enum Whole {
    /// It has moved.
    Moved,
    /// It is not there whole, or there is no room for all of it.
    Split,
}

impl<'a, M: Machine, G: FaultGuard<M>> Mover<'a, M, G> {
    /// Moves the large folio of which `page` is mapped at `src`, if all of it is there and can go; else
    /// splits it, and the caller looks again.
    pub(super) fn move_large(
        &self,
        (reference, page): (FolioRef<'a, M>, Pfn),
        tables: (Table<'a, M, G>, Table<'a, M, G>),
        (src, dst): (Va, Va),
        most: u64,
    ) -> Result<Step, Halt> {
        let Some(lock) = reference.try_lock() else { return Ok(self.give_way(reference)) };
        let folio = lock.folio();
        let pages = folio.order().pages();
        if pages == 1 {
            return Ok(Step::Again);
        }
        if matches!(folio.mapping(), Mapping::Ksm(_)) {
            // Others have it, as of any page that is not exclusive.
            return Err(Error::Busy.into());
        }
        // Some of its slots may have it still, because it has come back in part: then its pages go alone.
        if folio.pfn() == page && pages <= most && folio.swap_entry().is_none() {
            let window = VaRange { start: src, end: src.page_after(pages) };
            let Some(walks) = self.keep_walks_away(&lock) else { return Ok(Step::Again) };
            let whole = self.whole_folio(&lock, Both::lock(tables.0, tables.1), window, dst)?;
            drop(walks);
            if let Whole::Moved = whole {
                self.vm.events.add(Event::UffdMove, pages);
                return Ok(Step::Moved(pages));
            }
        }
        match self.vm.split_folio(&lock, &reference, Order::ZERO) {
            Ok(()) | Err(SplitRefused::NotLarge) => Ok(Step::Again),
            Err(SplitRefused::Pinned) => Err(self.pinned()),
            Err(SplitRefused::Busy | SplitRefused::Merged) => Err(Error::Busy.into()),
        }
    }

    /// Somebody else has the folio's lock, and may need our reference to go: lets go of it.
    fn give_way(&self, reference: FolioRef<'a, M>) -> Step {
        drop(reference);
        yield_now::<M>();
        Step::Again
    }

    /// What keeps walks without the folio lock away, if that is not the folio lock; `None` if the folio is
    /// not mapped any more.
    fn keep_walks_away(&self, lock: &FolioGuard<'a, M>) -> Option<Option<Moving<'a, M>>> {
        match self.vm.config.move_locks {
            MoveLocks::Folio => Some(None),
            MoveLocks::AnonVma => Rmap::<M>::lock_to_move(self.vm, lock).map(Some),
        }
    }

    /// Moves the entries of `window`, which are to map all of the folio, to as many empty ones from `dst` on.
    fn whole_folio(
        &self,
        lock: &FolioGuard<'a, M>,
        mut both: Both<'a, M, G>,
        window: VaRange,
        dst: Va,
    ) -> Result<Whole, Halt> {
        let target = VaRange { start: dst, end: Va(dst.0 + window.len()) };
        if !target.iter_pages().all(|va| both.dst().is_none(va)) {
            return Ok(Whole::Split);
        }
        let Some(taken) = both.src.take_folio(window) else { return Ok(Whole::Split) };
        // Another one may be mapped there by now.
        if taken.folio() != lock.folio() {
            taken.put_back(&mut both.src, window.start);
            return Ok(Whole::Split);
        }
        if !taken.may_move() {
            taken.put_back(&mut both.src, window.start);
            return Err(self.pinned());
        }
        self.flush(window);
        taken.install(both.dst(), dst, self.to.protection());
        lock.move_mapped(self.stamp.raw(), self.to.index_of(dst));
        Ok(Whole::Moved)
    }

    /// Moves the leaf at `src` to `dst`, if there is one, both are aligned to what a leaf maps, and no table
    /// is at the destination. `None`: the pages go one by one, or in runs.
    pub(super) fn whole_leaf(&self, src: Va, dst: Va, most: u64) -> Result<Option<Step>, Halt> {
        let pages = M::Arch::LEAF_ORDER.pages();
        let aligned = |va: Va| va.0.is_multiple_of(pages * PAGE_SIZE as u64);
        if most < pages || !aligned(src) || !aligned(dst) {
            return Ok(None);
        }
        let (frames, space) = (&self.vm.frames, &self.slot.space);
        let Some(Walked::Leaf(place)) = space.walk(frames, self.src, src) else { return Ok(None) };
        if space.walk(frames, self.dst, dst).is_some() {
            return Ok(None);
        }
        let to = space.leaf_alloc(frames, self.dst, dst)?;
        let Some(reference) = self.leaf_to_move(place)? else { return Ok(Some(Step::Again)) };
        let Some(lock) = reference.try_lock() else { return Ok(Some(self.give_way(reference))) };
        let Some(_walks) = self.keep_walks_away(&lock) else { return Ok(Some(Step::Again)) };
        let arrived = || lock.move_mapped(self.stamp.raw(), self.to.index_of(dst));
        match place.move_exclusive(to, &lock, self.to.protection(), arrived) {
            Ok(()) => {
                self.vm.events.add(Event::UffdMove, pages);
                self.vm.count(Event::TlbFlush);
                Ok(Some(Step::Moved(pages)))
            }
            Err(LeafStays::Changed) => Ok(Some(Step::Again)),
            Err(LeafStays::Occupied) => Ok(None),
            Err(LeafStays::Pinned) => Err(self.pinned()),
        }
    }

    /// A reference to the folio of a leaf, if that may move; `None` if it changes just now.
    fn leaf_to_move(&self, place: LeafPlace<'a, M, G>) -> Result<Option<FolioRef<'a, M>>, Halt> {
        let leaf = match place.lock() {
            Locked::Leaf(leaf) => leaf,
            Locked::Table(_) | Locked::None => return Ok(None),
        };
        match leaf.mapped() {
            // A hint that saves taking locks; what decides comes after the leaf is cleared.
            MappedLeaf::Exclusive(folio, _) if folio.folio().maybe_pinned() => Err(self.pinned()),
            MappedLeaf::Exclusive(folio, _) => Ok(Some(folio.get())),
            MappedLeaf::Shared(..) => Err(Error::Busy.into()),
            MappedLeaf::Migration(_, bits) if bits.kind == MigrationKind::Read => Err(Error::Busy.into()),
            MappedLeaf::Migration(..) => {
                drop(leaf);
                yield_now::<M>();
                Ok(None)
            }
        }
    }
}
