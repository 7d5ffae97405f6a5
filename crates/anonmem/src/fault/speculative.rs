//! Faults that hold no VMA lock at all.
//!
//! What a fault needs to know of its VMA is read once, with the version of the VMA's write lock
//! ([`Speculation`]). Page tables are walked in an RCU section, so a table that is unlinked meanwhile stays a
//! table. The page is made. Then, under the page-table lock and before the entry is filled, two things are
//! asked again. Is the version the same, and is this still the table for the address?
//!
//! Why that is enough. Whoever changes the VMA write-locks it first, which changes the version, and
//! afterwards takes the lock of every page table in it. If our check comes first, our entry is there when the
//! writer takes the page-table lock. The writer then clears, moves or write-protects the entry like any
//! other. If the writer's section under the page-table lock came first, our taking the same lock makes its
//! new version visible, and we refuse. In particular, when the page is installed the VMA is linked to the
//! anon_vma that was read. So every rmap walk for the page reaches it. That the address still lies in the VMA
//! is implied, and asserted only there.
//!
//! Refused, to the VMA's lock, is a fault without a VMA (a stack may grow), or whose VMA is being changed.
//! Refused, too, is a fault that lacks an anon_vma or a table, and one for a page of a source or a shared
//! object. So is whatever would have to wait: for a swap device, for memory, for a folio's lock.
//!
//! Linux: the series "Speculative page faults" (v9, 2018), never merged. Differs: the version is that of the
//! per-VMA lock.

use crate::{
    fault::vm_fault::FaultGuard,
    ids::{MmId, VmaId},
    mm::{mmap_lock::MmapHeld, slot::MmSlot},
    rmap::machine::Machine,
    vm::Vm,
    vma::{refusal::Refusal, vma::Vma},
};
use anonmem_hal::Va;
use anonmem_sync::{Ordering, RcuGuard, fence};

/// A VMA as it was read, and the version that must still hold when a page is installed.
pub(crate) struct Speculation<'a, M: Machine> {
    slot: &'a MmSlot<M>,
    vma: &'a Vma<M>,
    version: u64,
    /// Keeps the page tables that are walked.
    _rcu: RcuGuard<'a, M>,
}

impl<M: Machine> Speculation<'_, M> {
    /// The address space that the VMA was found in.
    pub(crate) fn slot(&self) -> &MmSlot<M> {
        self.slot
    }
}

impl<M: Machine> FaultGuard<M> for Speculation<'_, M> {
    fn mmap(&self) -> Option<MmapHeld<'_, M>> {
        None
    }

    fn adds_tables(&self) -> Result<(), Refusal> {
        Err(Refusal::NoTable)
    }

    fn sleeps(&self, why: Refusal) -> Result<(), Refusal> {
        Err(why)
    }

    fn still_holds(&self) -> Result<(), Refusal> {
        if self.vma.lock.version() == self.version { Ok(()) } else { Err(Refusal::Changed) }
    }

    /// A writer may have locked the VMA since the version was asked, and changes it while it waits for the
    /// page-table lock. That the VMA covered the address was asked by [`read_whole`](Self::read_whole).
    fn check_covers(&self, _vma: &Vma<M>, _va: Va) {}
}

impl<'a, M: Machine> Speculation<'a, M> {
    /// Reads the VMA of `slot` that covers `va`, without any lock.
    pub(super) fn begin(
        vm: &'a Vm<M>,
        slot: &'a MmSlot<M>,
        mm: MmId,
        va: Va,
    ) -> Result<(Self, VmaId), Refusal> {
        let rcu = vm.rcu.read_lock();
        let last = &vm.cpus.this().last;
        let (id, vma) = vm.find_vma_unlocked(slot, mm, va, last)?;
        let version = vma.lock.version();
        // At that version it was `mm`'s, and attached: whoever takes it elsewhere changes the version.
        if last.is_known_unlocked(version) {
            return Ok((Self { slot, vma, version, _rcu: rcu }, id));
        }
        let version = Self::unlocked_version(slot, mm, vma)?;
        last.note_unlocked(version);
        Ok((Self { slot, vma, version, _rcu: rcu }, id))
    }

    /// The version of a VMA of `slot` that no writer has.
    #[inline(never)]
    fn unlocked_version(slot: &MmSlot<M>, mm: MmId, vma: &Vma<M>) -> Result<u64, Refusal> {
        // The sequence first. Races with munmap: a section that had locked the VMA before the version was
        // read, and ends before the sequence is, would look like one of long ago, though the VMA was still
        // attached when that was asked.
        let seq = slot.lock_seq();
        let version = vma.lock.version();
        if vma.mm() != Some(mm) || !vma.lock.is_attached() {
            return Err(Refusal::Recycled);
        }
        if vma.lock.was_write_locked_since(seq) {
            return Err(Refusal::WriteLocked);
        }
        Ok(version)
    }

    /// Whether what was read of the VMA since [`begin`](Self::begin) is of one piece.
    pub(super) fn read_whole(&self, va: Va) -> Result<(), Refusal> {
        if !self.vma.range().contains(va) {
            return Err(Refusal::Recycled);
        }
        // Pairs with the Release fence of the writer's new version: if we saw anything that it wrote, we
        // see the version too.
        fence::<M>(Ordering::Acquire);
        self.still_holds()
    }
}
