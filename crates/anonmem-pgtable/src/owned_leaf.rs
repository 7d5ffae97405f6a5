//! Owners of whole folios as bits of leaves, and leaves as owners: the one place.

use crate::owned::{Attrs, address_of};
use anonmem_frame::{
    ExclusiveWhole, ExclusiveWholeRef, Frames, HoldWhole, HoldWholeRef, MapRun, Mapping, SharedWhole,
    SharedWholeRef,
};
use anonmem_hal::{Entry, Machine, MigrationBits, Order, Pfn, Present};

/// Only the owners below go into leaves.
mod sealed {
    pub trait Sealed {}
}

/// What an entry above the last level can own: the mappings of a whole folio, or a hold on one that migrates.
pub trait LeafOwner: sealed::Sealed {
    /// What an entry says beside what it owns.
    type Says;
    /// The entry that owns it.
    #[doc(hidden)]
    fn into_entry(self, says: Self::Says) -> Entry;
    /// The size of the folio.
    #[doc(hidden)]
    fn order(&self) -> Order;
    /// The address of the frames that the owner is of.
    #[doc(hidden)]
    fn home(&self) -> *const ();
}

macro_rules! leaf_owner {
    ($name:ident, $says:ty, |$pfn:ident, $bits:ident| $entry:expr) => {
        impl<M: Machine> sealed::Sealed for $name<'_, M> {}
        impl<M: Machine> LeafOwner for $name<'_, M> {
            type Says = $says;
            fn into_entry(self, $bits: $says) -> Entry {
                let $pfn = $name::into_entry(self);
                $entry
            }
            fn order(&self) -> Order {
                self.folio().order()
            }
            fn home(&self) -> *const () {
                address_of(self.frames())
            }
        }
    };
}
leaf_owner!(ExclusiveWhole, Attrs, |pfn, attrs| leaf::<M>(pfn, attrs));
leaf_owner!(SharedWhole, Attrs, |pfn, attrs| {
    assert!(!attrs.prot.write, "a shared folio mapped writable");
    leaf::<M>(pfn, attrs)
});
leaf_owner!(HoldWhole, MigrationBits, |pfn, bits| Entry::Migration { pfn, bits });

fn leaf<M: Machine>(pfn: Pfn, attrs: Attrs) -> Entry {
    Entry::Leaf(attrs.of_page::<M>(pfn))
}

/// What a cleared leaf was, with what it owned.
#[must_use = "what the leaf owned has to go somewhere"]
pub enum ClearedLeaf<'f, M: Machine> {
    /// An exclusive folio.
    Exclusive(ExclusiveWhole<'f, M>, Present),
    /// A folio that may be shared.
    Shared(SharedWhole<'f, M>, Present),
    /// A folio on its way to other frames.
    Migration(HoldWhole<'f, M>, MigrationBits),
}

impl<'f, M: Machine> ClearedLeaf<'f, M> {
    /// Takes back what `entry` owned.
    ///
    /// # Safety
    /// The entry is part of a live table of `frames`, and was cleared, or replaced, by the caller.
    pub(crate) unsafe fn from_entry(frames: &'f Frames<M>, entry: Entry) -> Self {
        match kind_of(frames, entry) {
            Owned::Exclusive(leaf) => {
                // SAFETY: the leaf owned mappings of this kind and no longer exists.
                Self::Exclusive(unsafe { ExclusiveWhole::from_entry(frames, leaf.pfn) }, leaf)
            }
            // SAFETY: as above.
            Owned::Shared(leaf) => Self::Shared(unsafe { SharedWhole::from_entry(frames, leaf.pfn) }, leaf),
            Owned::Migration(pfn, bits) => {
                // SAFETY: as above.
                Self::Migration(unsafe { HoldWhole::from_entry(frames, pfn) }, bits)
            }
        }
    }

    /// The mappings as a run, to be given to a gather with the leaf's range.
    pub fn into_run(self) -> MapRun<'f, M> {
        match self {
            Self::Exclusive(map, _) => map.into(),
            Self::Shared(map, _) => map.into(),
            Self::Migration(hold, _) => hold.into(),
        }
    }

    /// Hands what it owned to as many entries of single pages.
    pub(crate) fn into_page_entries(self) {
        match self {
            Self::Exclusive(map, _) => map.into_page_entries(),
            Self::Shared(map, _) => map.into_page_entries(),
            Self::Migration(hold, _) => hold.into_page_entries(),
        };
    }
}

/// A look at what a locked leaf says and owns.
pub enum MappedLeaf<'e, 'f, M: Machine> {
    /// An exclusive folio.
    Exclusive(ExclusiveWholeRef<'e, 'f, M>, Present),
    /// A folio that may be shared.
    Shared(SharedWholeRef<'e, 'f, M>, Present),
    /// A folio on its way to other frames.
    Migration(HoldWholeRef<'e, 'f, M>, MigrationBits),
}

impl<'f, M: Machine> MappedLeaf<'_, 'f, M> {
    /// The view of `entry`.
    ///
    /// # Safety
    /// The entry is part of a live table of `frames` and its lock is held for `'e`.
    pub(crate) unsafe fn of_entry(frames: &'f Frames<M>, entry: Entry) -> Self {
        match kind_of(frames, entry) {
            Owned::Exclusive(leaf) => {
                // SAFETY: the leaf owns exclusive mappings and cannot change while it is locked.
                Self::Exclusive(unsafe { ExclusiveWholeRef::of_entry(frames, leaf.pfn) }, leaf)
            }
            Owned::Shared(leaf) => {
                // SAFETY: as above, shared.
                Self::Shared(unsafe { SharedWholeRef::of_entry(frames, leaf.pfn) }, leaf)
            }
            Owned::Migration(pfn, bits) => {
                // SAFETY: as above, a hold on its folio.
                Self::Migration(unsafe { HoldWholeRef::of_entry(frames, pfn) }, bits)
            }
        }
    }
}

enum Owned {
    Exclusive(Present),
    Shared(Present),
    Migration(Pfn, MigrationBits),
}

/// What kind of mappings a leaf owns: the exclusive bit of its first page says it of all, and is changed only
/// under the lock of the only leaf.
fn kind_of<M: Machine>(frames: &Frames<M>, entry: Entry) -> Owned {
    let leaf = match entry {
        Entry::Leaf(leaf) => leaf,
        Entry::Migration { pfn, bits } => return Owned::Migration(pfn, bits),
        Entry::None | Entry::Table(_) => panic!("{entry:?} is taken for a leaf"),
    };
    if frames.page_is_exclusive(leaf.pfn) {
        return Owned::Exclusive(leaf);
    }
    let folio = frames.folio(leaf.pfn).expect("a leaf maps a frame that is no folio");
    match folio.mapping() {
        Mapping::Anon(_) | Mapping::Ksm(_) => Owned::Shared(leaf),
        Mapping::Shm(_) | Mapping::None => panic!("a leaf maps {folio:?}, which is not anonymous"),
    }
}
