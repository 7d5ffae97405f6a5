//! A leaf whose folio goes to other frames: it becomes a migration entry, and a leaf again.
//!
//! The entry is never empty. It traps while its pins are asked, and says what it owns again before its lock
//! goes. So nobody who walks without the lock takes it for a hole.
//!
//! Linux: mm/huge_memory.c `set_pmd_migration_entry`, `remove_migration_pmd`.

use crate::{
    leaf::LeafGuard,
    owned::Attrs,
    owned_leaf::{ClearedLeaf, LeafOwner, MappedLeaf},
    space::StableVma,
};
use anonmem_frame::{ExclusiveWhole, HoldWhole, SharedWhole};
use anonmem_hal::{Arch, EntryBits, Machine, MigrationBits, Sharing};
use anonmem_sync::Ordering;
use core::fmt;

/// The folio may be pinned: its leaf is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeafPinned;

impl fmt::Display for LeafPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the folio of the leaf may be pinned")
    }
}

impl core::error::Error for LeafPinned {}

/// What a migration entry above the last level becomes.
#[must_use = "the mappings belong into the leaf"]
#[derive(Debug)]
pub enum Arrived<'f, M: Machine> {
    /// A leaf of a folio that it has alone.
    Exclusive(ExclusiveWhole<'f, M>),
    /// A leaf of a folio that others may have, too.
    Shared(SharedWhole<'f, M>),
}

impl<'a, M: Machine, G: StableVma<M>> LeafGuard<'a, M, G> {
    /// Makes the leaf a migration entry that owns a hold on its folio. No translation of it is left.
    ///
    /// # Errors
    /// [`LeafPinned`].
    ///
    /// # Panics
    /// If it is a migration entry already.
    #[doc(alias = "set_pmd_migration_entry")]
    pub fn begin_migration(&mut self) -> Result<(), LeafPinned> {
        assert!(!matches!(self.mapped(), MappedLeaf::Migration(..)), "a leaf that migrates is to migrate");
        let entry = self.make_trap();
        // SAFETY: the entry is part of a live table, under its lock, and one of the stores below replaces it.
        let (folio, said, sharing) = match unsafe { ClearedLeaf::from_entry(self.frames(), entry) } {
            ClearedLeaf::Exclusive(whole, said) => match whole.try_share() {
                Ok(folio) => (folio, said, Sharing::Exclusive),
                Err(whole) => {
                    self.put(whole, said.into());
                    return Err(LeafPinned);
                }
            },
            ClearedLeaf::Shared(folio, said) => (folio, said, Sharing::Shared),
            ClearedLeaf::Migration(..) => unreachable!("it was a leaf, and is locked"),
        };
        self.put(folio.hold(), EntryBits::of_present(said, sharing).to_migration());
        Ok(())
    }

    /// Makes a migration entry a leaf again: `arrive` turns what it owned into what the leaf owns, and says
    /// what the leaf says.
    ///
    /// # Panics
    /// If it is a leaf already.
    #[doc(alias = "remove_migration_pmd")]
    pub fn end_migration<'b>(
        &mut self,
        arrive: impl FnOnce(HoldWhole<'a, M>, MigrationBits) -> (Arrived<'b, M>, Attrs),
    ) where
        M: 'b,
    {
        assert!(
            matches!(self.mapped(), MappedLeaf::Migration(..)),
            "the end of a migration of what is there"
        );
        let unowned = Unowned(self);
        let leaf = &mut *unowned.0;
        // SAFETY: as in `begin_migration`; if none of the stores below comes, `Unowned` empties the entry.
        let ClearedLeaf::Migration(hold, bits) =
            (unsafe { ClearedLeaf::from_entry(leaf.frames(), leaf.get()) })
        else {
            unreachable!("it was a migration entry, and is locked")
        };
        match arrive(hold, bits) {
            (Arrived::Exclusive(folio), says) => leaf.put(folio, says),
            (Arrived::Shared(folio), says) => leaf.put(folio, says),
        }
        core::mem::forget(unowned);
    }

    /// Replaces what it says, which no CPU uses: what that owned has become `owner`'s.
    fn put<O: LeafOwner>(&mut self, owner: O, says: O::Says) {
        let entry = self.place().entry_of(owner, says);
        // Release: the pages' contents come before their mapping. A plain store: the hardware sets no bits of
        // what traps.
        self.place().word.store(M::Arch::encode_entry(entry, 1), Ordering::Release);
    }
}

/// An entry whose owner somebody else has. Empties the entry if it drops: then a panic has dropped the owner,
/// and the entry is not to own the same once more.
struct Unowned<'g, 'a, M: Machine, G: StableVma<M>>(&'g mut LeafGuard<'a, M, G>);

impl<M: Machine, G: StableVma<M>> Drop for Unowned<'_, '_, M, G> {
    fn drop(&mut self) {
        drop(self.0.empty());
    }
}
