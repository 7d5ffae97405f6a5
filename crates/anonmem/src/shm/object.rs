//! One shared object.

use crate::ids::ShmTag;
use anonmem_frame::{Field, SlabItem};
use anonmem_hal::Machine;
use anonmem_pgtable::AddressSpace;
use anonmem_sync::{Atomic, Ordering};
use core::mem::offset_of;

/// Pages shared by all VMAs that map the object.
pub(crate) struct ShmObject<M> {
    /// VMAs, and handles held by the machine.
    pub(super) users: Atomic<u32, M>,
    /// Page `i` is at address `i << PAGE_SHIFT` of this space.
    pub(super) space: AddressSpace<M>,
    /// Its length in pages: what was promised for it.
    pub(super) pages: Atomic<u64, M>,
}

impl<M: Machine> SlabItem<M> for ShmObject<M> {
    type Tag = ShmTag;
    const NAME: &'static str = "shm_object";
    const FIELDS: &'static [Field] = &[
        Field::new("users", offset_of!(Self, users)),
        Field::new("space", offset_of!(Self, space)),
        Field::new("pages", offset_of!(Self, pages)),
    ];
    fn new() -> Self {
        Self { users: Atomic::new(0), space: AddressSpace::new(), pages: Atomic::new(0) }
    }
}

impl<M: Machine> ShmObject<M> {
    pub(crate) fn users(&self) -> u32 {
        self.users.peek()
    }

    pub(crate) fn space(&self) -> &AddressSpace<M> {
        &self.space
    }

    /// Its length in pages.
    pub(crate) fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }
}
