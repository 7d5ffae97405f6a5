//! A folio takes another one's place: what its entries, its slot and its state become.
//!
//! ```text
//!   Exclusive/Shared ──try_share, hold──▶ MigrationHold ──arrive──▶ Exclusive/Shared of the new folio
//!                                              │
//!                                              └──release──▶ Exclusive/Shared of the old folio again
//! ```
//!
//! The holds count as mappings of the old folio, so that its word says how many entries still wait. The new
//! folio is locked before anybody can get it, and stays locked until all of them have come.
//!
//! Linux: mm/migrate.c `folio_migrate_mapping`, `folio_migrate_flags`, `remove_migration_pte`.

use super::{
    Exclusive, ExclusiveWhole, Folio, FolioGuard, FolioRef, HoldWhole, MigrationHold, NewFolio, Shared,
    SharedWhole, rmap::add_map, whole::wholes,
};
use crate::meta::{Counts, Kind, TooManySharers, flags};
use anonmem_hal::{Machine, Pfn};
use anonmem_sync::Ordering;
use core::mem::ManuallyDrop;

/// What of a folio's state goes with it.
const CARRIED: u32 = flags::LAZYFREE | flags::REFERENCED | 3 << flags::IDLE_SHIFT;

impl<'f, M: Machine> NewFolio<'f, M> {
    /// Copies `old`, which is locked and which no CPU can write to any more, and takes over what it belongs
    /// to. The lock of the new folio comes with it: nobody else has had it.
    ///
    /// The bytes are complete before the counts say that there is a folio (CVE-2023-52490).
    ///
    /// # Errors
    /// The frames, if they are of another size.
    #[doc(alias = "folio_migrate_mapping")]
    pub fn into_successor(
        self,
        old: &FolioGuard<'f, M>,
    ) -> Result<(FolioRef<'f, M>, FolioGuard<'f, M>), Self> {
        let from = old.folio();
        if self.order() != from.owned_order() || !core::ptr::eq(self.frames, from.frames) {
            return Err(self);
        }
        self.copy_block(from.head, from.owned_order());
        let this = ManuallyDrop::new(self);
        let (frames, head) = (this.frames, this.head);
        let folio = Folio { frames, head };
        let state = from.meta().flags.load(Ordering::Relaxed) & CARRIED;
        if from.owned_order().get() > 0 {
            // No leaf maps it yet. Relaxed: the Release below comes after it.
            wholes(frames, head).store(0, Ordering::Relaxed);
        }
        folio.meta().flags.store(Kind::Folio.bits(from.owned_order()) | state, Ordering::Relaxed);
        folio.set_mapping(from.mapping(), from.index());
        // The counts are 0, so that nobody gets the folio, and its lock is free.
        let lock = FolioGuard::try_lock(folio).expect("a folio that nobody can get is locked");
        // Release pairs with the Acquire of `try_get`, as in `publish`.
        folio.meta().counts.store(Counts::REF, Ordering::Release);
        Ok((FolioRef { frames, head }, lock))
    }
}

impl<M: Machine> FolioGuard<'_, M> {
    /// Whether the references to the folio are `refs`, and nobody has pinned it. Acquire pairs with the
    /// Release of every drop: what others did through theirs is over.
    pub fn is_referenced_only(&self, refs: u64) -> bool {
        let counts = Counts(self.folio().meta().counts.load(Ordering::Acquire));
        counts.refs() == refs && counts.pins() == 0
    }

    /// Whether a page of the folio is exclusive. If all entries that walks found wait, one that they missed,
    /// because its VMA is just going, may still write to it.
    pub fn has_exclusive(&self) -> bool {
        let folio = self.folio();
        (0..folio.owned_order().pages()).any(|nth| folio.frames.page_is_exclusive(folio.head.offset(nth)))
    }
}

impl<'f, M: Machine> MigrationHold<'f, M> {
    /// The page of `new` that this entry is to have.
    fn page_in(&self, new: Folio<'f, M>) -> Pfn {
        let old = self.folio();
        assert!(old.owned_order() == new.owned_order() && old != new, "{new:?} is no successor of {old:?}");
        new.head.offset(self.page.0 - old.head.0)
    }

    /// Gives the entry a mapping of the same page of `new`, which others may have, too. The reference to the
    /// old folio that remains may be put at once: no translation is left.
    ///
    /// # Errors
    /// The hold, if no more mappings of `new` can be counted.
    ///
    /// # Panics
    /// If `new` is of another size.
    #[doc(alias = "remove_migration_pte")]
    pub fn arrive(self, new: &FolioGuard<'f, M>) -> Result<(Shared<'f, M>, FolioRef<'f, M>), Self> {
        let page = self.page_in(new.folio());
        if add_map(new.folio()).is_err() {
            return Err(self);
        }
        Ok((Shared { frames: self.frames, page }, self.unmap()))
    }

    /// The same for an entry that had the page alone: it has the new one alone.
    ///
    /// # Panics
    /// If that page of `new` is exclusive already, or mapped at all and all of the folio; or if `new` is of
    /// another size.
    pub fn arrive_exclusive(self, new: &FolioGuard<'f, M>) -> (Exclusive<'f, M>, FolioRef<'f, M>) {
        let (folio, page) = (new.folio(), self.page_in(new.folio()));
        mark_exclusive(folio, page, 0);
        // Release: as for every mapping that is added.
        folio.meta().counts.fetch_add(Counts::MAP, Ordering::Release);
        (Exclusive { frames: self.frames, page }, self.unmap())
    }

    /// Turns it into the exclusive mapping again that it was made of: the page stays where it is.
    ///
    /// # Panics
    /// If others map the page, as far as its word tells.
    pub fn release_exclusive(self) -> Exclusive<'f, M> {
        let this = ManuallyDrop::new(self);
        mark_exclusive(this.folio(), this.page, 1);
        Exclusive { frames: this.frames, page: this.page }
    }
}

/// Marks a page of `folio` exclusive, which `maps` entries map. Of a page of a larger folio nobody counts
/// them.
fn mark_exclusive<M: Machine>(folio: Folio<'_, M>, page: Pfn, maps: u64) {
    if folio.owned_order().get() == 0 {
        assert_eq!(folio.counts().maps(), maps, "an exclusive mapping of a page that others map");
    }
    let old = folio.frames.meta(page).counts.fetch_or(Counts::EXCLUSIVE, Ordering::Relaxed);
    assert!(!Counts(old).is_exclusive(), "an exclusive mapping of a page that has one");
}

impl<'f, M: Machine> HoldWhole<'f, M> {
    /// Gives the leaf the mappings of all of `new`, which others may have, too. The reference to the old
    /// folio that remains may be put at once.
    ///
    /// # Errors
    /// The hold, if no more mappings of `new` can be counted.
    ///
    /// # Panics
    /// If `new` is of another size.
    #[doc(alias = "remove_migration_pmd")]
    pub fn arrive(self, new: &FolioGuard<'f, M>) -> Result<(SharedWhole<'f, M>, FolioRef<'f, M>), Self> {
        if self.map_all_of(new, 0).is_err() {
            return Err(self);
        }
        Ok((SharedWhole { frames: self.frames, head: new.folio().head }, self.unmap()))
    }

    /// The same for a leaf that had the folio alone: it has the new one alone.
    ///
    /// # Panics
    /// If `new` is mapped already, or is of another size.
    pub fn arrive_exclusive(self, new: &FolioGuard<'f, M>) -> (ExclusiveWhole<'f, M>, FolioRef<'f, M>) {
        assert_eq!(new.folio().counts().maps(), 0, "an exclusive mapping of a folio that is mapped");
        self.map_all_of(new, Counts::EXCLUSIVE).expect("there is room in a folio that nobody maps");
        (ExclusiveWhole { frames: self.frames, head: new.folio().head }, self.unmap())
    }

    /// Turns it into the exclusive mappings again that it was made of: the folio stays where it is.
    ///
    /// # Panics
    /// If others map the folio.
    pub fn release_exclusive(self) -> ExclusiveWhole<'f, M> {
        let this = ManuallyDrop::new(self);
        let folio = this.folio();
        assert_eq!(folio.counts().maps(), folio.nr_pages().0, "an exclusive leaf of a folio that others map");
        mark_exclusive(folio, this.head, 0);
        ExclusiveWhole { frames: this.frames, head: this.head }
    }

    /// Adds the mappings of a leaf to `new`, and `mark` to its word.
    fn map_all_of(&self, new: &FolioGuard<'f, M>, mark: u64) -> Result<(), TooManySharers> {
        let (from, folio) = (self.folio(), new.folio());
        assert!(from.owned_order() == folio.owned_order() && from != folio, "{folio:?} is no successor");
        let by = folio.nr_pages().0 * Counts::MAP + mark;
        // Release: as for every mapping that is added.
        let old = Counts(folio.meta().counts.fetch_add(by, Ordering::Release));
        if !old.has_room() {
            folio.meta().counts.fetch_sub(by, Ordering::Relaxed);
            return Err(TooManySharers);
        }
        // Relaxed: a statistic.
        wholes(folio.frames, folio.head).fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
