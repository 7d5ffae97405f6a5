//! Accessed and soft-dirty bits are cleared from outside: what a program uses, or writes, from then on can be
//! told.
//!
//! Accessed bits: the mmap lock for reading; a page-table lock for one table at a time. Nothing is flushed: a
//! CPU that has a translation sets the bit again when it walks next.
//!
//! A page is soft-dirty unless its entry and its mapping both say that it is not. An entry says so by its
//! *soft-clean* bit, a mapping by `VmFlags::SOFT_CLEAN`; both are set here and nowhere else. So what makes an
//! entry or a mapping has nothing to do, and the fault path is as it was without the bit.
//!
//! ```text
//!   clear_refs        soft-clean, no stores, flush           every entry in use, every leaf
//!   write fault       the bit goes, stores are allowed       as if the page were copied on write
//!   other forms       the bit goes along                     swap, migration, split, fork (`EntryBits`)
//!   new at its place  the bit goes                           mremap, UFFDIO_MOVE, a copy
//! ```
//!
//! A soft-clean entry never allows stores, in whichever form: that is the whole protocol. The entry changes
//! in one step, and all CPUs have forgotten what it allowed before the call returns. So a store after it
//! traps, and one that is found unnoticed came before. A page that may be pinned stays soft-dirty: whoever
//! pins writes without the entry. Pins are asked after the entries have changed. So who pins without a lock
//! and is missed sees that his entry has changed (`pin_protocol.rs`).
//!
//! Where a mapping is soft-clean, pages of zeroes are not given back (`reclaim/untouched.rs`): zeroes may
//! have been written.
//!
//! A page may be called soft-dirty though nobody wrote it. It came for a write beside it, as part of a large
//! folio. It is of a folio that a leaf maps, or whose table became a leaf. Its mapping grew, or became one
//! with a new one. It is pinned, or has moved.
//!
//! None is called clean that was written, with three exceptions, which are Linux's. A page that was dropped
//! is none any more. A page of a shared object whose entry reclaim has taken is as one that was not mapped
//! yet. What a pin wrote before it was let go, it wrote.
//!
//! Locks: for soft-dirty bits the mmap lock for writing; a page-table lock for one table at a time.
//!
//! Linux: fs/proc/task_mmu.c `clear_refs_write`, `clear_soft_dirty`. Differs: a page keeps its bit when KSM
//! merges it; whatever mremap moves is soft-dirty, also where it moves a table.

use crate::{
    events::Event,
    mm::{
        Mm,
        mmap_lock::{MmapReadGuard, MmapWriteGuard},
    },
    rmap::machine::Machine,
    vma::{flags::VmFlags, vma::Backing},
};
use anonmem_frame::{FolioOwner, pin_protocol::before_looking_for_pins};
use anonmem_hal::{Arch, FlushRange, VaRange};
use anonmem_pgtable::{LeafGuard, Locked, Mapped, MappedLeaf, PteGuard, StableVma};

/// What is cleared. The numbers are Linux's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ClearRefs {
    /// The accessed bits of all pages.
    All = 1,
    /// Those of private anonymous mappings.
    Anonymous = 2,
    /// Those of mappings of sources and of shared objects.
    Mapped = 3,
    /// The soft-dirty bits of all pages. Where entries have no room for them ([`Arch::SOFT_DIRTY`]) there are
    /// none, and nothing happens.
    SoftDirty = 4,
    /// The most pages that were mapped at a time: it is what is mapped now.
    Peak = 5,
}

impl ClearRefs {
    /// What the number says that is written to /proc/PID/clear_refs; `None` if it is unknown.
    pub fn from_number(number: u32) -> Option<Self> {
        let all = [Self::All, Self::Anonymous, Self::Mapped, Self::SoftDirty, Self::Peak];
        all.into_iter().find(|&what| what as u32 == number)
    }

    fn concerns(self, backing: Backing) -> bool {
        match (self, backing) {
            (Self::All, _) | (Self::Anonymous, Backing::Anonymous) => true,
            (Self::Mapped, Backing::Source(_) | Backing::Shared(_)) => true,
            (Self::Anonymous, Backing::Source(_) | Backing::Shared(_)) => false,
            (Self::Mapped, Backing::Anonymous) | (Self::SoftDirty | Self::Peak, _) => false,
        }
    }
}

impl<M: Machine> Mm<'_, M> {
    /// Clears what `what` says.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.store(start, 7)?;
    /// mm.clear_refs(ClearRefs::SoftDirty);
    /// assert!(!mm.pagemap(start).soft_dirty);
    /// mm.store(start, 8)?;
    /// assert!(mm.pagemap(start).soft_dirty);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock for reading; for soft-dirty bits, for writing. Sleeps.
    #[doc(alias = "clear_refs_write")]
    pub fn clear_refs(&self, what: ClearRefs) {
        if what == ClearRefs::SoftDirty {
            if M::Arch::SOFT_DIRTY {
                self.clear_soft_dirty();
            }
            return;
        }
        let guard = self.read();
        let slot = guard.slot();
        if what == ClearRefs::Peak {
            // Relaxed: the count says nothing of anything else. The peak is never told as less than what is
            // mapped.
            self.vm.forget_peak(slot);
            return;
        }
        slot.tree.for_each(self.vm.nodes(), |range, id| {
            if what.concerns(self.vm.vma(id).backing()) {
                guard.clear_young(range);
            }
        });
    }

    fn clear_soft_dirty(&self) {
        let guard = self.write();
        let slot = guard.slot();
        slot.tree.for_each(self.vm.nodes(), |range, id| {
            let vma = self.vm.vma(id);
            // First: who fills an entry by then says what the mapping does.
            vma.start_write(&guard).set_flags(vma.flags() | VmFlags::SOFT_CLEAN, vma.uffd());
            guard.soft_clean_range(range);
        });
        // All: what reclaim and migration have taken, they may not have flushed yet.
        slot.space.flush(&self.vm.frames, FlushRange::All);
        self.vm.count(Event::TlbFlush);
    }
}

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Lets the next write to every page of `range` be noticed. The caller owes the TLB a flush.
    #[doc(alias = "clear_refs_pte_range")]
    fn soft_clean_range(&self, range: VaRange) {
        for (found, part) in self.slot().space.parts(&self.objects.frames, self, range) {
            match found.covered(part) {
                Locked::Table(table) => soft_clean_table(&mut table.lock(), part),
                Locked::Leaf(mut leaf) => soft_clean_leaf(&mut leaf),
                Locked::None => {}
            }
        }
    }

    /// Says that every page of `range` was written.
    #[doc(alias = "move_soft_dirty_pte")]
    pub(crate) fn soft_dirty_range(&self, range: VaRange) {
        for (found, part) in self.slot().space.parts(&self.objects.frames, self, range) {
            match found.covered(part) {
                Locked::Table(table) => {
                    let mut entries = table.lock();
                    let mut va = entries.next_used(part);
                    while va < part.end {
                        entries.soft_dirty(va);
                        va = entries.next_used(VaRange { start: va.next_page(), end: part.end });
                    }
                }
                Locked::Leaf(mut leaf) => leaf.soft_dirty(),
                Locked::None => {}
            }
        }
    }
}

fn soft_clean_table<M: Machine, G: StableVma<M>>(entries: &mut PteGuard<'_, M, G>, part: VaRange) {
    let first = entries.next_used(part);
    let mut va = first;
    while va < part.end {
        entries.soft_clean(va);
        va = entries.next_used(VaRange { start: va.next_page(), end: part.end });
    }
    before_looking_for_pins::<M>();
    va = first;
    while va < part.end {
        if matches!(entries.mapped(va), Mapped::Exclusive(page, _) if page.folio().maybe_pinned()) {
            entries.soft_dirty(va);
        }
        va = entries.next_used(VaRange { start: va.next_page(), end: part.end });
    }
}

fn soft_clean_leaf<M: Machine, G: StableVma<M>>(leaf: &mut LeafGuard<'_, M, G>) {
    leaf.soft_clean();
    before_looking_for_pins::<M>();
    if matches!(leaf.mapped(), MappedLeaf::Exclusive(folio, _) if folio.folio().maybe_pinned()) {
        leaf.soft_dirty();
    }
}

/// Whether every page of a mapping of these attributes is soft-dirty.
pub(crate) fn is_soft_dirty_vma<M: Machine>(flags: VmFlags) -> bool {
    M::Arch::SOFT_DIRTY && !flags.contains(VmFlags::SOFT_CLEAN)
}

/// Whether an entry says that its page is soft-dirty. What is no page is not.
#[doc(alias("pte_soft_dirty", "pte_swp_soft_dirty"))]
pub(crate) fn is_soft_dirty<M: Machine>(mapped: &Mapped<'_, '_, M>) -> bool {
    let soft_clean = match mapped {
        Mapped::None | Mapped::Marker(_) => true,
        Mapped::Zero(present)
        | Mapped::Exclusive(_, present)
        | Mapped::Shared(_, present)
        | Mapped::Shm(present) => present.soft_clean,
        Mapped::Swap(_, bits) => bits.soft_clean,
        Mapped::Migration(_, bits) => bits.soft_clean,
    };
    M::Arch::SOFT_DIRTY && !soft_clean
}

/// The same for a leaf.
#[doc(alias = "pmd_soft_dirty")]
pub(crate) fn is_soft_dirty_leaf<M: Machine>(mapped: &MappedLeaf<'_, '_, M>) -> bool {
    let soft_clean = match mapped {
        MappedLeaf::Exclusive(_, leaf) | MappedLeaf::Shared(_, leaf) => leaf.soft_clean,
        MappedLeaf::Migration(_, bits) => bits.soft_clean,
    };
    M::Arch::SOFT_DIRTY && !soft_clean
}

impl<M: Machine> MmapReadGuard<'_, M> {
    fn clear_young(&self, range: VaRange) {
        for (table, part) in self.slot().space.tables(&self.objects.frames, self, range) {
            let mut entries = table.lock();
            if entries.is_empty() {
                continue;
            }
            for va in part.iter_pages() {
                // What a walk has noted at the folio was an accessed bit, too.
                match entries.mapped(va) {
                    Mapped::Exclusive(page, _) => _ = page.test_and_clear_referenced(),
                    Mapped::Shared(page, _) => _ = page.test_and_clear_referenced(),
                    Mapped::Shm(_) => {}
                    Mapped::None
                    | Mapped::Zero(_)
                    | Mapped::Swap(..)
                    | Mapped::Migration(..)
                    | Mapped::Marker(_) => continue,
                }
                entries.test_and_clear_young(va);
            }
        }
    }
}

#[cfg(test)]
mod tests;
