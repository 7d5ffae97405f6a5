//! VMAs that are not where the indices of their pages say.
//!
//! A page's index is its address where it was first mapped. Mostly it is there still, and a walk finds the
//! VMA by that address: the VMA is *at home*, and nothing is kept for it. A VMA that moved has a *record*; so
//! has one whose pages count from the beginning of a file. Records are nodes of a tree that each address
//! space has, by the indices of the pages. There are at most as many as VMAs, whatever moved how often.
//!
//! A VMA with a record is found by it and not by its address. A VMA without pages has none. A record is
//! allocated before a move begins, and freed when a move has brought the VMA home.
//!
//! The nodes are those that link a VMA to an anon_vma in the other reverse map; here they name none.
//!
//! Locks: the family's, for writing to change, for reading to look.

use super::members::FamilyWriteGuard;
use crate::{
    ids::{ChainId, ChainTag, VmaId},
    objects::Objects,
    rmap::interval_tree::IntervalTree,
    vma::vma::Vma,
};
use anonmem_frame::{Link, OutOfMemory};
use anonmem_hal::Machine;

/// Whether the pages of a VMA are at the addresses that their indices say.
pub(super) fn is_home<M: Machine>(vma: &Vma<M>) -> bool {
    vma.pgoff() == vma.start().page()
}

/// Whether a VMA is found by its record. It has pages.
pub(super) fn is_recorded<M: Machine>(vma: &Vma<M>) -> bool {
    vma.chains() != Link::NONE
}

/// A record that nobody has yet.
pub(super) struct Spare<'v, M: Machine> {
    objects: &'v Objects<M>,
    record: Option<ChainId>,
}

impl<'v, M: Machine> Spare<'v, M> {
    /// # Errors
    /// [`OutOfMemory`].
    pub(super) fn alloc(objects: &'v Objects<M>) -> Result<Self, OutOfMemory> {
        let record = objects.chains.alloc(&objects.frames)?;
        Ok(Self { objects, record: Some(record) })
    }
}

impl<M: Machine> Drop for Spare<'_, M> {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.objects.chains.free(&self.objects.frames, record);
        }
    }
}

impl<M: Machine> FamilyWriteGuard<'_, M> {
    /// Records a VMA, which has no record.
    pub(super) fn record(&self, id: VmaId, spare: &mut Spare<'_, M>) {
        let record = spare.record.take().expect("a record was allocated");
        let vma = self.objects.vma(id);
        self.objects.chain(record).record(id);
        vma.set_chains(record.into());
        self.insert(vma);
    }

    /// Puts the record of a VMA, which has one, where its pages' indices are now.
    pub(super) fn insert(&self, vma: &Vma<M>) {
        let (records, record) = self.record_of(vma);
        records.insert(self.objects, record);
    }

    /// Takes it out, so that the VMA's range may change.
    pub(super) fn remove(&self, vma: &Vma<M>) {
        let (records, record) = self.record_of(vma);
        records.remove(self.objects, record);
    }

    /// Ends that a VMA, whose record was taken out, has one.
    pub(super) fn forget(&self, vma: &Vma<M>) {
        let (_, record) = self.record_of(vma);
        vma.set_chains(Link::NONE);
        self.objects.chains.free(&self.objects.frames, record);
    }

    fn record_of(&self, vma: &Vma<M>) -> (&IntervalTree<M, ChainTag>, ChainId) {
        let mm = vma.mm().expect("a VMA in use has an address space");
        let record = vma.chains().get().expect("a VMA that is recorded");
        (&self.objects.mm_slot(mm).member.records, record)
    }
}
