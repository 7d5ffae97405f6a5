//! Migration: a folio goes to other frames, and all of its entries follow. The one way to exchange a page
//! under its mappings; evacuation, compaction and collapse stand on it.
//!
//! ```text
//!   the mover                                        everybody else
//!   ─────────                                        ──────────────
//!   tries the folio lock
//!   entries: present ──▶ migration entry             a fault on one waits, and holds no count meanwhile
//!   one flush for the batch                          no CPU can use the old frame any more
//!   asks the counts: its own reference, the          whoever got the page before has a reference or a pin:
//!     swap cache's, and nothing else                   then the page stays
//!   copies, publishes the new folio, locked          found through the swap cache: waits for the lock
//!   the slot's word: old ──▶ new                     who waited for the old one's lock asks the word again
//!   entries: migration entry ──▶ present
//!   unlocks both, puts the old one
//! ```
//!
//! A large folio goes whole, to a folio of its size. Its entries change one by one, under the lock of their
//! table, once for each address space. A leaf becomes a migration entry above the last level, and a leaf
//! again. Where there is no block of that size, whoever empties frames splits the folio, and its pages go.
//!
//! A migration entry stands only while its folio is locked. Fork may copy one into an address space that the
//! walk has passed. A walk is therefore repeated until it finds nothing, and [`migration_entry_wait`] has the
//! last word. A fault that gets the folio lock has met an entry that was left behind, and puts its page back.
//! What was left behind is shared, so that page and successor are copies of one another from then on, as
//! after copy-on-write.
//!
//! [`migration_entry_wait`]: crate::fault
//!
//! Linux: mm/migrate.c `migrate_pages_batch`, `migrate_folio_unmap`, `migrate_folio_move`,
//! `remove_migration_ptes`; mm/rmap.c `try_to_migrate_one`. Differs: fork copies migration entries, and a
//! walk that it ran behind is repeated.

mod batch;
mod compact;
mod entries;
mod evacuate;
mod failed;
mod fragmentation;
mod shared;
mod stays;

#[doc(hidden)]
pub use entries::leave_behind;
pub use evacuate::{Effort, Evacuation, Kept};
pub use failed::{Failure, FrameFate};
pub use fragmentation::{Compacted, Fragmentation, FreeBlocks};
pub use stays::{Stays, Went};

pub(crate) use batch::MigrationBatch;
pub(crate) use entries::{
    Says, Waiting, arrive_whole, follow, follow_large, put_back, restore, try_to_migrate,
};

use self::shared::SharedRun;
use crate::{rmap::machine::Machine, vm::Vm};
use anonmem_frame::{FolioRef, NewFolio};
use anonmem_hal::Order;

impl<M: Machine> Vm<M> {
    /// Moves a folio to other frames, whoever maps it, and lets its own go. A large one moves whole.
    ///
    /// # Locks
    /// The caller holds no folio, anon_vma or spin lock. Sleeps.
    ///
    /// # Errors
    /// Why the page stays: everything is as it was.
    ///
    /// # Panics
    /// If the page is of another memory manager.
    #[doc(alias = "migrate_pages")]
    pub fn migrate_folio<'v>(&'v self, page: FolioRef<'v, M>) -> Result<Went, Stays> {
        self.assert_has(&page);
        let target = match page.folio().owned_order() {
            Order::ZERO => self.alloc_page(),
            order => self.frames.alloc(order),
        };
        self.migrate_to(page, target.map_err(|_| Stays::NoMemory)?)
    }

    /// The same, to frames of a node.
    ///
    /// # Locks
    /// As [`migrate_folio`](Self::migrate_folio).
    ///
    /// # Errors
    /// Why the page stays: everything is as it was.
    pub(crate) fn migrate_folio_to<'v>(&'v self, page: FolioRef<'v, M>, node: u32) -> Result<Went, Stays> {
        let target = self.alloc_on(node, page.folio().owned_order()).map_err(|_| Stays::NoMemory)?;
        self.migrate_to(page, target)
    }

    #[cold]
    fn migrate_shared<'v>(&'v self, run: &SharedRun, target: NewFolio<'v, M>) -> Result<Went, Stays> {
        let to = target.pfn();
        let (mut target, mut result) = (Some(target), Ok(Went::Away));
        self.move_shared(run, || target.take(), |moved| result = moved.map(|()| Went::To(to)));
        match result {
            Ok(_) => self.note_moved(Order::ZERO),
            Err(stays) => self.note_stays(Order::ZERO, stays),
        }
        result
    }

    fn migrate_to<'v>(&'v self, page: FolioRef<'v, M>, target: NewFolio<'v, M>) -> Result<Went, Stays> {
        if let Some(run) = self.shared_run(page.pfn()..page.pfn().offset(1)) {
            // The mover takes a count of its own.
            drop(page);
            return self.migrate_shared(&run, target);
        }
        let mut batch = MigrationBatch::new(self);
        let mut result = batch.add(page, target).map(|()| Went::Away).map_err(|(stays, _)| stays);
        batch.finish(|landed, _pages| result = landed);
        result
    }
}

#[cfg(test)]
mod tests;
