//! Consent to merging, given and taken back.
//!
//! A program says it of mappings (`MADV_MERGEABLE`), or of all that it has and will have
//! (`PR_SET_MEMORY_MERGE`). Who takes it back gets pages of his own at once. Every merged page is copied, and
//! so is every page that became the zero page. The consent goes first. The scanner asks for it under the
//! page-table lock that the copying takes next, so that nothing is merged behind it. If there is no memory
//! for the copies, the call says so: what was not copied is still merged, and right. Calling again goes on
//! from there.
//!
//! Linux: mm/ksm.c `ksm_madvise`, `unmerge_ksm_pages`, `break_ksm`, `ksm_enable_merge_any`,
//! `ksm_disable_merge_any`. Differs: zero pages that a child has from fork are not told from others.

use crate::{
    error::Error,
    fault::{
        handle_mm_fault,
        vm_fault::{FaultAccess, FaultGuard, FaultResult, VmFault, Waits},
    },
    ids::VmaId,
    mm::{Mm, mmap_lock::MmapWriteGuard, slot::MmSlot},
    rmap::machine::Machine,
    vm::Vm,
    vma::flags::VmFlags,
};
use anonmem_frame::Mapping;
use anonmem_hal::{Arch, Va, VaRange};
use anonmem_pgtable::{LeafGuard, Locked, Mapped, MappedLeaf, PteTable, StableVma, Walked};

/// Whether all of a program's memory may be merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MergeAny {
    /// Only what the program says so of.
    #[default]
    No,
    /// All that it has, and will have.
    Yes,
}

impl<M: Machine> Mm<'_, M> {
    /// Whether all of its memory may be merged.
    #[doc(alias = "PR_GET_MEMORY_MERGE")]
    pub fn merge_any(&self) -> MergeAny {
        let _guard = self.read();
        let flags = VmFlags::from_bits_retain(self.slot().def_flags.get());
        if flags.contains(VmFlags::MERGEABLE) { MergeAny::Yes } else { MergeAny::No }
    }

    /// Lets all of its memory be merged, that of its children included, or ends that: then every page is its
    /// own again.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|vm, mm| {
    /// mm.set_merge_any(MergeAny::Yes)?;
    /// let start = mm.mmap(MmapRequest::anonymous(2 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.store(start, 7)?;
    /// mm.store(Va(start.0 + 4096), 7)?;
    /// while vm.ksm_stats().full_scans < 2 {
    ///     vm.ksm_scan(100)?;
    /// }
    /// assert_eq!(vm.stats().user, 1);
    /// mm.set_merge_any(MergeAny::No)?;
    /// assert_eq!((vm.stats().user, mm.merge_any()), (2, MergeAny::No));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock for writing. Sleeps.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::NodesFull`] if not every page could be copied: nothing will be
    /// merged any more, and what was not copied is as before. Call it again. [`Error::Limit`] and
    /// [`Error::Invalid`] as for `madvise`.
    #[doc(alias = "PR_SET_MEMORY_MERGE")]
    pub fn set_merge_any(&self, any: MergeAny) -> Result<(), Error> {
        self.vm.reclaiming(|| {
            let guard = self.write();
            let slot = guard.slot();
            slot.def_flags.update(|bits| with_consent(VmFlags::from_bits_retain(bits), any).bits());
            // The consent of all goes first: what cannot be copied keeps nothing else merging.
            let mut at = Va(0);
            while let Some((range, id)) = slot.tree.find(self.vm.nodes(), at) {
                at = range.end;
                let flags = self.vm.vma(id).flags();
                if flags.may_be_mergeable() {
                    // A whole mapping needs no split.
                    guard.modify_vma(id, range, with_consent(flags, any))?;
                }
            }
            match any {
                MergeAny::Yes => Ok(()),
                MergeAny::No => self.break_merged_under(&guard),
            }
        })
    }

    /// Copies all that is merged, and leaves the consent as it is.
    fn break_all(&self) -> Result<(), Error> {
        self.vm.reclaiming(|| self.break_merged_under(&self.read()))
    }

    /// Copies all that is merged, under the mmap lock.
    fn break_merged_under<G: FaultGuard<M>>(&self, guard: &G) -> Result<(), Error> {
        let slot = self.slot();
        let mut vmas = slot.tree.cursor(VaRange { start: Va(0), end: M::Arch::USER_END });
        while let Some((range, id)) = vmas.next(&slot.tree, self.vm.nodes()) {
            if self.vm.vma(id).flags().may_be_mergeable() {
                break_merged(self.vm, slot, guard, id, range)?;
            }
        }
        Ok(())
    }

    /// Takes the consent for `part` of VMA `id` back, or gives it.
    ///
    /// # Errors
    /// Those of [`modify_vma`](MmapWriteGuard::modify_vma), [`Error::Limit`] and [`Error::Invalid`]: nothing
    /// has changed. [`Error::OutOfMemory`] or [`Error::NodesFull`] if what is merged cannot be copied: the
    /// consent is taken back.
    #[doc(alias = "ksm_madvise")]
    pub(crate) fn advise_merging(
        &self,
        guard: &MmapWriteGuard<'_, M>,
        id: VmaId,
        part: VaRange,
        any: MergeAny,
    ) -> Result<(), Error> {
        let flags = self.vm.vma(id).flags();
        if !flags.may_be_mergeable() {
            return Ok(());
        }
        let id = guard.modify_vma(id, part, with_consent(flags, any))?;
        match any {
            MergeAny::Yes => Ok(()),
            MergeAny::No => break_merged(self.vm, guard.slot(), guard, id, part),
        }
    }
}

impl<M: Machine> Vm<M> {
    /// Copies every merged page for each of its mappers and gives the scanner's memory back. The programs'
    /// consent stays: a scan begins anew.
    ///
    /// # Locks
    /// The caller holds none. Takes the scanner's lock, then mmap locks. Sleeps.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::NodesFull`] if there is no memory for the copies: what was not
    /// copied is merged as before.
    #[doc(alias = "unmerge_and_remove_all_rmap_items")]
    pub fn ksm_unmerge_all(&self) -> Result<(), Error> {
        let _scanning = self.ksm.lock.write();
        let mut result = Ok(());
        self.mms.for_each_live(&self.frames, |id, _| {
            if result.is_ok()
                && let Some(mm) = self.try_user(id)
            {
                result = mm.break_all();
            }
        });
        result?;
        // A page that somebody still looks at keeps its node, and its node the table.
        let left: u64 = (0..self.ksm.buckets()).map(|bucket| self.ksm.prune(self, bucket)).sum();
        if left == 0 {
            self.ksm.release(&self.frames);
        }
        Ok(())
    }
}

fn with_consent(mut flags: VmFlags, any: MergeAny) -> VmFlags {
    flags.set(VmFlags::MERGEABLE, any == MergeAny::Yes);
    flags
}

/// Copies what is merged in `range` of VMA `id`.
///
/// # Errors
/// [`Error::OutOfMemory`], [`Error::NodesFull`]: what lies before has been copied.
#[doc(alias = "unmerge_ksm_pages")]
fn break_merged<M: Machine, G: FaultGuard<M>>(
    vm: &Vm<M>,
    slot: &MmSlot<M>,
    guard: &G,
    id: VmaId,
    range: VaRange,
) -> Result<(), Error> {
    for (found, part) in slot.space.parts(&vm.frames, guard, range) {
        let mut found = Some(found);
        // The fault makes a table of a leaf; or waits, if it may be merged just now.
        while found.is_some_and(is_merged_leaf) && unshare(vm, slot, guard, id, part.start)? {
            found = slot.space.walk(&vm.frames, guard, part.start);
        }
        let table = match found {
            Some(Walked::Table(table)) => table,
            Some(Walked::Leaf(place)) => match place.lock() {
                Locked::Table(table) => table,
                Locked::Leaf(_) | Locked::None => continue,
            },
            None => continue,
        };
        let mut rest = part;
        while let Some(va) = next_merged(table, rest) {
            // Looked at again: it may be waiting for a page that is being merged.
            rest.start = if unshare(vm, slot, guard, id, va)? { va } else { va.next_page() };
        }
    }
    Ok(())
}

/// Copies a page that is merged, or waits; returns whether it is to be looked at again.
fn unshare<M: Machine, G: FaultGuard<M>>(
    vm: &Vm<M>,
    slot: &MmSlot<M>,
    guard: &G,
    id: VmaId,
    va: Va,
) -> Result<bool, Error> {
    let fault = VmFault::new(vm, slot, guard, id, va, FaultAccess::Unshare, Waits::Never);
    match handle_mm_fault(&fault) {
        FaultResult::Done | FaultResult::Reload | FaultResult::Refused(_) => Ok(true),
        FaultResult::Oom => Err(Error::OutOfMemory),
        FaultResult::NodesFull(nodes) => Err(Error::NodesFull(nodes)),
        // Of an entry that has changed meanwhile, and is nobody's merged page any more.
        FaultResult::Userfault(_) | FaultResult::Segv | FaultResult::Bus | FaultResult::Lost => Ok(false),
    }
}

/// Whether it is a leaf whose folio is merged, or may be so soon.
fn is_merged_leaf<M: Machine, G: StableVma<M>>(found: Walked<'_, M, G>) -> bool {
    let Walked::Leaf(place) = found else { return false };
    let Locked::Leaf(leaf) = place.lock() else { return false };
    is_merged(&leaf) || matches!(leaf.mapped(), MappedLeaf::Migration(..))
}

/// Whether the folio of a leaf is merged.
pub(super) fn is_merged<M: Machine, G: StableVma<M>>(leaf: &LeafGuard<'_, M, G>) -> bool {
    match leaf.mapped() {
        MappedLeaf::Shared(folio, _) => matches!(folio.folio().mapping(), Mapping::Ksm(_)),
        MappedLeaf::Migration(..) | MappedLeaf::Exclusive(..) => false,
    }
}

/// The first page of `range` that is merged, or may be so soon.
fn next_merged<M: Machine, G: StableVma<M>>(table: PteTable<'_, M, G>, range: VaRange) -> Option<Va> {
    let entries = table.lock();
    let mut va = entries.next_used(range);
    while va < range.end {
        let merged = match entries.mapped(va) {
            Mapped::Shared(page, _) => matches!(page.folio().mapping(), Mapping::Ksm(_)),
            Mapped::Zero(present) => present.dirty,
            Mapped::Migration(..) => true,
            Mapped::None | Mapped::Exclusive(..) | Mapped::Shm(_) | Mapped::Swap(..) | Mapped::Marker(_) => {
                false
            }
        };
        if merged {
            return Some(va);
        }
        va = entries.next_used(VaRange { start: va.next_page(), end: range.end });
    }
    None
}
