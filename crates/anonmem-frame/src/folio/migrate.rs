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

use super::{Exclusive, Folio, FolioGuard, FolioRef, MigrationHold, NewFolio, Shared, rmap::add_map};
use crate::meta::{Counts, Kind, flags};
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
        let this = ManuallyDrop::new(self);
        let (frames, head) = (this.frames, this.head);
        frames.machine().copy(head, from.head, from.owned_order());
        let folio = Folio { frames, head };
        let state = from.meta().flags.load(Ordering::Relaxed) & CARRIED;
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
    /// If `new` is mapped already, or is of another size.
    pub fn arrive_exclusive(self, new: &FolioGuard<'f, M>) -> (Exclusive<'f, M>, FolioRef<'f, M>) {
        let (folio, page) = (new.folio(), self.page_in(new.folio()));
        assert_eq!(folio.counts().maps(), 0, "an exclusive mapping of a page that is mapped");
        anonmem_hal::debug_check_eq!(M, folio.head, page);
        // Release: as for every mapping that is added.
        folio.meta().counts.fetch_add(Counts::MAP + Counts::EXCLUSIVE, Ordering::Release);
        (Exclusive { frames: self.frames, page }, self.unmap())
    }

    /// Turns it into the exclusive mapping again that it was made of: the page stays where it is.
    ///
    /// # Panics
    /// If others map the page.
    pub fn release_exclusive(self) -> Exclusive<'f, M> {
        let folio = self.folio();
        assert_eq!(folio.counts().maps(), 1, "an exclusive mapping of a page that others map");
        let this = ManuallyDrop::new(self);
        this.frames.meta(this.page).counts.fetch_or(Counts::EXCLUSIVE, Ordering::Relaxed);
        Exclusive { frames: this.frames, page: this.page }
    }
}
