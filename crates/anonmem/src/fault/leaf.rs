//! Faults on leaves: one entry above the last level that maps a whole folio.
//!
//! A leaf is resolved as a whole where that is possible. It becomes accessed, dirty and writable as one, and
//! its only owner takes all of its folio for its own. A write to a folio that others have, too, resolves a
//! part of it. So the leaf becomes a table, which cannot fail, and the fault looks again: the rest is the
//! business of the paths for pages.
//!
//! Locks: the leaf's table's, taken here. What the walk saw of the leaf is asked again under it. To make a
//! table a leaf (`collapse_to_leaf`) takes the mmap lock, the VMA's and the rmap lock for writing, and a try
//! of the folio's. The caller holds none.
//!
//! Linux: mm/huge_memory.c `do_huge_pmd_wp_page`, `huge_pmd_set_accessed`; mm/khugepaged.c
//! `collapse_pte_mapped_thp`.

use crate::{
    events::Event,
    fault::vm_fault::{FaultAccess, FaultGuard, FaultResult, VmFault, Waits},
    migrate::arrive_whole,
    mm::Mm,
    rmap::machine::Machine,
    rmap::{Rmap, reverse_map::ReverseMap},
    thp::stats::FolioEvent,
    vma::{flags::VmFlags, refusal::Refusal},
};
use anonmem_frame::{FolioOwner, SharedWholeRef};
use anonmem_hal::{Arch, Present, Va, VaRange};
use anonmem_pgtable::{Deposit, LeafGuard, LeafPlace, Locked, Mapped, MappedLeaf, Walked, Writes};
use anonmem_sync::yield_now;

/// What a leaf that traps needs.
enum Verdict {
    /// Nothing but its bits: the access is allowed.
    Bits(Writes),
    /// To become writable, or exclusive: the folio is the leaf's alone.
    Reuse,
    /// To become a table: others have the folio.
    Split,
    /// To be waited for.
    Migrates,
}

/// Fills the window of the fault's address with a folio of zeroes, mapped by one leaf. Returns the window if
/// it did. It does not where the VMA does not cover the window, where a table or a leaf is, or where there is
/// no such block of frames: memory for it is never made.
///
/// The caller has asked policy, and whether the window's pages may come at once. What the VMA covers stays
/// under the fault's guard; that the window is empty is looked at again under the lock.
#[doc(alias = "__do_huge_pmd_anonymous_page")]
pub(super) fn map_new_leaf<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
) -> Result<Option<VaRange>, FaultResult> {
    let (frames, space, vma) = (&fault.vm.frames, &fault.slot.space, fault.vma);
    fault.guard.adds_tables()?;
    let (order, size) = (M::Arch::LEAF_ORDER, M::Arch::LEAF_ORDER.bytes() as u64);
    let start = fault.va.align_down(size);
    let Some(window) = VaRange::of(start, size).filter(|&window| vma.range().covers(window)) else {
        return Ok(None);
    };
    let anon_vma = fault.anon_vma()?;
    let Ok(new) = fault.alloc_block(order) else { return Ok(None) };
    new.zero();
    // Without a frame for a table the folio goes back: a smaller one leaves room for it.
    let Ok(kept) = Deposit::alloc(frames) else { return Ok(None) };
    let Ok(place) = space.leaf_alloc(frames, fault.guard, start) else { return Ok(None) };
    let Some(vacancy) = place.lock_empty() else {
        fault.vm.count_folio(order, FolioEvent::FaultRaced);
        return Err(FaultResult::Reload);
    };
    fault.guard.still_holds()?;
    let folio = new.into_exclusive_anon_whole(anon_vma.raw(), vma.index_of(start));
    drop(vacancy.fill(folio, fault.attrs(), kept));
    fault.vm.add_anon(fault.slot, window.pages().0 as i64);
    fault.vm.count_folio(order, FolioEvent::FaultAlloc);
    fault.vm.count(Event::LeafFault);
    Ok(Some(window))
}

impl<M: Machine> Mm<'_, M> {
    /// Fills the window of `va` by one leaf, whatever policy says: for tests and cases.
    #[doc(hidden)]
    pub fn fault_leaf(&self, va: Va) -> bool {
        let guard = self.read();
        let (_, id) = guard.slot().tree.find_containing(self.vm.nodes(), va).expect("a mapping");
        let fault = VmFault::new(self.vm, guard.slot(), &guard, id, va, FaultAccess::Write, Waits::Kernel);
        matches!(map_new_leaf(&fault), Ok(Some(_)))
    }
}

impl<M: Machine> Mm<'_, M> {
    /// A leaf that left has come back as a run: it becomes a leaf again, if nothing speaks against it.
    #[cold]
    pub(super) fn leaf_is_back(&self, va: Va) {
        let size = M::Arch::LEAF_ORDER.bytes() as u64;
        let Some(window) = VaRange::of(va.align_down(size), size) else { return };
        if self.collapse_to_leaf(window).is_some() {
            self.vm.count(Event::LeafSwapIn);
        }
    }

    /// Makes the table of a window a leaf, if it maps one folio that this address space has alone.
    #[doc(alias = "collapse_pte_mapped_thp")]
    pub(crate) fn collapse_to_leaf(&self, window: VaRange) -> Option<()> {
        let (vm, order) = (self.vm, M::Arch::LEAF_ORDER);
        let kept = Deposit::alloc(&vm.frames).ok()?;
        let guard = self.write();
        let slot = guard.slot();
        let (range, id) = slot.tree.find_containing(vm.nodes(), window.start)?;
        if !range.covers(window) || vm.vma(id).flags().intersects(VmFlags::SHARED | VmFlags::UFFD) {
            return None;
        }
        let page = {
            let Some(Walked::Table(table)) = slot.space.walk(&vm.frames, &guard, window.start) else {
                return None;
            };
            match table.lock().mapped(window.start) {
                Mapped::Exclusive(page, _) if page.folio().owned_order() == order => page.get(),
                Mapped::None | Mapped::Zero(_) | Mapped::Exclusive(..) | Mapped::Shared(..) => return None,
                Mapped::Shm(_) | Mapped::Swap(..) | Mapped::Migration(..) | Mapped::Marker(_) => return None,
            }
        };
        // Faults under the VMA's lock are over, and those without a lock do not commit.
        let _ = vm.vma(id).start_write(&guard);
        let lock = page.try_lock()?;
        // No walk of the reverse map looks at the table, whoever holds the folio's lock or not.
        let walks = Rmap::<M>::lock_to_move(vm, &lock)?;
        let tables = (&vm.frames, &vm.rcu, &vm.dead_tables);
        let vma = vm.vma(id).protection();
        let done = slot.space.collapse_table(tables, &guard, (window.start, lock.folio()), vma, kept);
        drop(walks);
        drop(lock);
        done.ok()?;
        vm.count_folio(order, FolioEvent::CollapsedInPlace);
        Some(())
    }
}

/// Resolves a fault at a leaf.
#[cold]
pub(super) fn do_leaf<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    place: LeafPlace<'a, M, G>,
) -> Result<FaultResult, FaultResult> {
    let Locked::Leaf(mut leaf) = place.lock() else { return Err(FaultResult::Reload) };
    fault.guard.still_holds()?;
    match judge(fault, &leaf) {
        Verdict::Bits(dirty) => {
            leaf.upgrade(dirty);
            drop(leaf);
            // The leaf allows the access, so it trapped because of a translation that is older than it.
            fault.vm.machine().flush_local(fault.slot.space.root(), fault.va);
            fault.vm.count(Event::FaultSpurious);
            Ok(FaultResult::Done)
        }
        Verdict::Reuse => {
            let writes = fault.writes();
            leaf.upgrade(writes);
            match (writes, fault.access) {
                // It is forced: it leaves the leaf read-only, and is a write all the same.
                (Writes::No, FaultAccess::Write) => leaf.soft_dirty(),
                (Writes::Yes | Writes::No, _) => {}
            }
            // CPUs that keep the read-only translation trap, and find this leaf.
            fault.vm.count(Event::FaultCowReuse);
            Ok(FaultResult::Done)
        }
        Verdict::Split => {
            leaf.split();
            fault.vm.count(Event::LeafSplit);
            Err(FaultResult::Reload)
        }
        Verdict::Migrates => leaf_migration_entry_wait(fault, leaf),
    }
}

/// The folio is on its way to other frames: as for a page that migrates. If its lock is free, the entry was
/// left behind, and gets its folio back.
#[doc(alias = "pmd_migration_entry_wait")]
fn leaf_migration_entry_wait<'a, M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'a, M, G>,
    mut leaf: LeafGuard<'a, M, G>,
) -> Result<FaultResult, FaultResult> {
    fault.guard.sleeps(Refusal::WouldSleep)?;
    let lock = match leaf.mapped() {
        MappedLeaf::Migration(hold, _) => hold.try_lock(),
        MappedLeaf::Exclusive(..) | MappedLeaf::Shared(..) => return Err(FaultResult::Reload),
    };
    let Some(lock) = lock else {
        drop(leaf);
        yield_now::<M>();
        return Err(FaultResult::Reload);
    };
    leaf.end_migration(|hold, bits| arrive_whole(hold, bits, fault.flags.protection(), None));
    fault.vm.count(Event::MigrateLeftBehind);
    // The lock first: the mapping is all that keeps the folio, and may go once its table is not locked.
    drop(lock);
    drop(leaf);
    Err(FaultResult::Reload)
}

#[doc(alias = "do_huge_pmd_wp_page")]
fn judge<'a, M: Machine, G: FaultGuard<M>>(fault: &VmFault<'a, M, G>, leaf: &LeafGuard<'a, M, G>) -> Verdict {
    let breaks_sharing = |leaf: Present| match fault.access {
        FaultAccess::Write => !leaf.prot.write,
        FaultAccess::Unshare => true,
        FaultAccess::Read | FaultAccess::Exec => false,
    };
    match leaf.mapped() {
        MappedLeaf::Migration(..) => Verdict::Migrates,
        // Neither is protected by a userfaultfd: that makes a leaf a table.
        MappedLeaf::Exclusive(_, leaf) if breaks_sharing(leaf) => Verdict::Reuse,
        MappedLeaf::Shared(folio, leaf) if breaks_sharing(leaf) => {
            if wp_can_reuse_whole(fault, &folio) {
                Verdict::Reuse
            } else {
                Verdict::Split
            }
        }
        MappedLeaf::Exclusive(..) => Verdict::Bits(match fault.access {
            FaultAccess::Write => Writes::Yes,
            FaultAccess::Read | FaultAccess::Exec | FaultAccess::Unshare => Writes::No,
        }),
        MappedLeaf::Shared(..) => Verdict::Bits(Writes::No),
    }
}

/// Makes the folio exclusive if this leaf is all that is left of its sharers. As for a page, the folio lock
/// may only be tried; if it is taken, copying is always right.
#[doc(alias = "wp_can_reuse_anon_folio")]
fn wp_can_reuse_whole<M: Machine, G: FaultGuard<M>>(
    fault: &VmFault<'_, M, G>,
    folio: &SharedWholeRef<'_, '_, M>,
) -> bool {
    let (Some(anon_vma), Some(lock)) = (fault.anon_vma, folio.try_lock()) else { return false };
    let reused = folio.reuse(&lock, anon_vma.raw()).is_ok();
    if reused {
        fault.vm.count_folio(M::Arch::LEAF_ORDER, FolioEvent::ReuseRun);
    }
    reused
}

#[cfg(test)]
mod tests;
