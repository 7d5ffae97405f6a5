//! What families are made of: the family, and what an address space has to be a member of one.

use crate::{
    ids::{ChainTag, FamilyId, FamilyTag, MmTag},
    rmap::{
        family::label::Label,
        interval_tree::{IntervalLinks, IntervalTree},
    },
};
use anonmem_frame::{Field, Handle, SlabItem, Stamp, fields};
use anonmem_hal::Machine;
use anonmem_sync::{Atomic, Ordering, Plain, RwSem, order::AnonVmaRoot};

/// All address spaces that are related by fork without exec.
pub(crate) struct Family<M: Machine> {
    pub(super) lock: RwSem<M, AnonVmaRoot, ()>,
    /// Those that live, by label, and the older first if they have the same. Under the lock.
    pub(super) members: IntervalTree<M, MmTag>,
    /// Their number. Under the lock.
    pub(super) live: Plain<u64, M>,
}

impl<M: Machine> SlabItem<M> for Family<M> {
    type Tag = FamilyTag;
    const NAME: &'static str = "family";
    const FIELDS: &'static [Field] = fields! { lock, members, live, };
    fn new() -> Self {
        Self { lock: RwSem::new(()), members: IntervalTree::new(), live: Plain::new(0) }
    }
}

/// An address space as a member of a family; part of its slot.
pub(crate) struct Member<M: Machine> {
    /// What new pages are stamped with: the family and the own label, as [`Stamp::bits`]; 0 before the first
    /// page, and after the last. It changes once in a life.
    stamp: Atomic<u64, M>,
    /// The place in the family. Under its lock.
    pub(super) links: IntervalLinks<M, MmTag>,
    /// The number that the search for one of the next child's begins at. Under the family's lock.
    pub(super) next_child: Plain<u64, M>,
    /// VMAs whose pages are not at the addresses that their indices say, by index. Under the family's lock.
    pub(super) records: IntervalTree<M, ChainTag>,
}

impl<M: Machine> Member<M> {
    /// A member of no family.
    pub(crate) const fn new() -> Self {
        Self {
            stamp: Atomic::new(0),
            links: IntervalLinks::new(),
            next_child: Plain::new(0),
            records: IntervalTree::new(),
        }
    }

    /// What new pages are stamped with, if it is in a family.
    #[inline]
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        // Acquire pairs with the Release of `try_enter`: the family is seen as it was made.
        Stamp::from_bits(self.stamp.load(Ordering::Acquire))
    }

    /// The family and the label.
    pub(super) fn place(&self) -> Option<(FamilyId, Label)> {
        let stamp = self.stamp()?;
        Some((Handle::from_raw(stamp.object()), Label::from_bits(stamp.label())))
    }

    /// Gives it a place, unless it has one; returns whether it did.
    pub(super) fn try_enter(&self, family: FamilyId, label: Label) -> bool {
        let stamp = Stamp::new(family.raw(), label.bits());
        // Release pairs with the Acquire of `stamp`, by which whoever has lost learns the place, too.
        self.stamp.compare_exchange(0, stamp.bits(), Ordering::Release).is_ok()
    }

    /// Ends that it is a member.
    pub(super) fn leave(&self) {
        self.stamp.store(0, Ordering::Relaxed);
    }
}
