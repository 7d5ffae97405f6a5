//! One shared object.

use crate::ids::ShmTag;
use anonmem_frame::{Field, SlabItem, fields};
use anonmem_hal::Machine;
use anonmem_pgtable::AddressSpace;
use anonmem_sync::{Atomic, Ordering};

/// The count of writers of an object that refuses them.
pub(super) const NO_WRITERS: u32 = u32::MAX;

/// A visit, of who keeps the object for a moment, as `users` counts it.
pub(super) const VISIT: u64 = 1 << 32 | 1;

/// Pages shared by all VMAs that map the object.
pub(crate) struct ShmObject<M: Machine> {
    /// VMAs, handles held by the machine, and visits; in the upper half visits alone, which are no mappings.
    pub(super) users: Atomic<u64, M>,
    /// VMAs that are or may become writable; [`NO_WRITERS`] if there are none and never will be. Counted for
    /// objects whose pages are promised one by one: those that stand for files.
    pub(super) writers: Atomic<u32, M>,
    /// Page `i` is at address `i << PAGE_SHIFT` of this space.
    pub(super) space: AddressSpace<M>,
    /// Its length in pages.
    pub(super) pages: Atomic<u64, M>,
    /// The largest length that it had: there may be page tables up to there.
    pub(super) reach: Atomic<u64, M>,
    /// Whether its pages are promised one by one, as they are made, and not in full; changed by nobody who is
    /// not alone with it.
    pub(super) sparse: Atomic<u32, M>,
    /// Whether its pages stay in memory.
    pub(super) stays: Atomic<u32, M>,
}

impl<M: Machine> SlabItem<M> for ShmObject<M> {
    type Tag = ShmTag;
    const NAME: &'static str = "shm_object";
    const FIELDS: &'static [Field] = fields! {
        users, writers, space, pages, reach, sparse, stays,
    };
    fn new() -> Self {
        Self {
            users: Atomic::new(0),
            writers: Atomic::new(0),
            space: AddressSpace::new(),
            pages: Atomic::new(0),
            reach: Atomic::new(0),
            sparse: Atomic::new(0),
            stays: Atomic::new(0),
        }
    }
}

impl<M: Machine> ShmObject<M> {
    pub(crate) fn users(&self) -> u64 {
        self.users.peek()
    }

    /// How many VMAs are counted that may store.
    pub(crate) fn writers(&self) -> u64 {
        match self.writers.peek() {
            NO_WRITERS => 0,
            writers => writers.into(),
        }
    }

    pub(crate) fn space(&self) -> &AddressSpace<M> {
        &self.space
    }

    /// Whether its pages are promised one by one.
    pub(crate) fn is_sparse(&self) -> bool {
        self.sparse.peek() != 0
    }

    /// Whether its pages stay in memory.
    pub(crate) fn stays(&self) -> bool {
        self.stays.load(Ordering::Relaxed) != 0
    }

    /// The end of what it may have page tables for.
    pub(super) fn reach(&self) -> u64 {
        self.reach.peek()
    }

    /// Its length in pages.
    pub(crate) fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }
}
