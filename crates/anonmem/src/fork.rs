//! Duplicating an address space.
//!
//! The child gets copies of the VMAs, linked to all anon_vmas that the parent's are linked to. The child
//! shares the pages: an exclusive page becomes shared, and both entries read-only. A page that may be pinned
//! is copied for the child instead, so that the parent keeps the one that a device is using.
//!
//! All or nothing: if memory runs out, the child is torn down like any address space. Pages that were shared
//! with it are taken back.
//!
//! Locks: the parent's mmap lock for writing, then the child's (nobody knows it yet). Inside them, a
//! page-table lock of the parent and one of the child. No fault of the parent runs while its entries are
//! changed, and the flush comes before the mmap lock is let go.
//!
//! Linux: kernel/fork.c `dup_mmap`; mm/memory.c `copy_page_range`, `copy_present_ptes`. Differs: no
//! shared page tables.

use crate::{
    error::Error,
    events::Event,
    ids::{UffdId, VmaId},
    limits::WriteExec,
    mm::{Mm, mmap_lock::MmapWriteGuard},
    rmap::machine::Machine,
    rmap::{Rmap, reverse_map::ReverseMap},
    userfaultfd::{events::Changes, is_protected},
    vm::Vm,
    vma::{flags::VmFlags, free::free_vma},
};
use anonmem_frame::{DupError, FolioOwner, NewFolio, SlotCountOverflow, Stamp, TooManySharers};
use anonmem_hal::{Arch, FlushRange, Marker, MigrationBits, Present, Protection, Pte, SwapBits, Va, VaRange};
use anonmem_pgtable::{
    Attrs, Deposit, LeafGuard, LeafPlace, Locked, Mapped, MappedLeaf, NotShared, PteGuard, PteTable, Walked,
};
use anonmem_sync::Ordering;

impl<'v, M: Machine> Mm<'v, M> {
    /// Makes a copy of this address space.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.store(start, 7)?;
    /// let child = mm.fork()?;
    /// child.store(start, 8)?;
    /// assert_eq!((mm.load(start)?, child.load(start)?), (7, 8));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock, for writing. Sleeps.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or [`Error::Limit`] if the child's memory may not be promised. Nothing is left
    /// of the attempt.
    #[doc(alias = "dup_mm")]
    pub fn fork(&self) -> Result<Mm<'v, M>, Error> {
        self.vm.reclaiming(|| self.try_fork())
    }

    fn try_fork(&self) -> Result<Mm<'v, M>, Error> {
        let child = self.vm.new_mm()?;
        // Dropped after the locks: what is not told ends in the child.
        let mut changes = Changes::none(self.vm);
        let parent = self.write();
        let copied = {
            // Who pins a page without a lock meanwhile finds out, or is found.
            let _sharing = parent.slot().space.begin_sharing();
            let target = self.vm.mmap_write_lock_nested(child.id);
            dup_mmap(self.vm, &parent, &child, &target, &mut changes)
        };
        // Before any fault of the parent runs again: its entries have lost write permission.
        parent.slot().space.flush(&self.vm.frames, FlushRange::All);
        self.vm.count(Event::TlbFlush);
        if copied.is_ok() {
            changes.tell();
        }
        drop(parent);
        match copied {
            Ok(()) => {
                changes.wait();
                self.vm.count(Event::Fork);
                Ok(child)
            }
            Err(e) => {
                drop(child);
                take_back(self.vm, &self.write());
                Err(e)
            }
        }
    }
}

fn dup_mmap<M: Machine>(
    vm: &Vm<M>,
    parent: &MmapWriteGuard<'_, M>,
    child: &Mm<'_, M>,
    target: &MmapWriteGuard<'_, M>,
    changes: &mut Changes<'_, M>,
) -> Result<(), Error> {
    let (from, to) = (parent.slot(), target.slot());
    for (old, new) in [
        (&from.start_brk, &to.start_brk),
        (&from.brk, &to.brk),
        (&from.mmap_base, &to.mmap_base),
        (&from.locked_limit, &to.locked_limit),
        (&from.stack_limit, &to.stack_limit),
        (&from.data_limit, &to.data_limit),
        (&from.space_limit, &to.space_limit),
    ] {
        new.set(old.get());
    }
    // A child's memory is not locked (mlock(2)), but merged with others' as its parent's.
    to.def_flags.set((VmFlags::from_bits_retain(from.def_flags.get()) & VmFlags::MERGEABLE).bits());
    to.set_merge_domain(from.merge_domain());
    to.write_exec.set(WriteExec::of(from).inherited() as u64);
    to.note_as(from);
    to.thp_disable.store(from.thp_disable.load(Ordering::Relaxed), Ordering::Relaxed);
    // Before its first page.
    Rmap::<M>::fork_mm(vm, target.id(), parent.id());
    let mut vmas = from.tree.cursor(VaRange { start: Va(0), end: M::Arch::USER_END });
    while let Some((_, id)) = vmas.next(&from.tree, vm.nodes()) {
        let flags = vm.vma(id).flags();
        // No fault of this VMA upgrades an entry that was copied.
        let _ = vm.vma(id).start_write(parent);
        if flags.contains(VmFlags::DONTCOPY) {
            continue;
        }
        let uffd = changes.fork(id, child)?;
        let vma = dup_vma(vm, child, target, id, uffd)?;
        // Without an anon_vma there is nothing but zero pages and shared objects, which faults bring back.
        // But what is protected stays so if somebody watches the child.
        let keeps_wp = vm.vma(vma).flags().contains(VmFlags::UFFD_WP);
        let has_pages = Rmap::<M>::stamp(vm, from, vm.vma(id)).is_some() || keeps_wp;
        if has_pages && !flags.contains(VmFlags::WIPEONFORK) {
            Copying { vm, parent, child: target, vma, keeps_wp }.copy_page_range()?;
        }
    }
    Ok(())
}

/// Gives the child a copy of VMA `id`, without pages, that `uffd` watches.
fn dup_vma<M: Machine>(
    vm: &Vm<M>,
    child: &Mm<'_, M>,
    target: &MmapWriteGuard<'_, M>,
    id: VmaId,
    uffd: Option<UffdId>,
) -> Result<VmaId, Error> {
    let (old, slot) = (vm.vma(id), target.slot());
    let (range, pages) = (old.range(), old.range().pages().0);
    // A child's memory is not locked (mlock(2)).
    let flags = old.flags().difference(VmFlags::LOCKED | VmFlags::LOCKONFAULT | VmFlags::UFFD);
    let mut nodes = slot.tree.prealloc(vm.nodes(), 1)?;
    let accounted = if flags.contains(VmFlags::ACCOUNT) { pages } else { 0 };
    vm.commit(accounted)?;
    let new = match vm.vmas.alloc(&vm.frames) {
        Ok(new) => new,
        Err(e) => {
            vm.uncommit(accounted);
            return Err(e.into());
        }
    };
    let backing = old.backing();
    vm.backing_get(backing, flags);
    vm.vma(new).init(child.id, range, old.pgoff(), flags, backing);
    vm.vma(new).watch_as(old, uffd);
    let linked = if flags.contains(VmFlags::WIPEONFORK) { Ok(()) } else { Rmap::<M>::fork(vm, new, id) };
    if let Err(e) = linked {
        // It is linked to nothing.
        free_vma(vm, new);
        vm.uncommit(accounted);
        return Err(e.into());
    }
    let gap = vm.guard_below(flags);
    vm.vma(new).attach(target);
    nodes.write().insert_guarded(range, new, gap);
    slot.counts.add_vma(flags, pages as i64);
    Ok(new)
}

/// A VMA of the parent whose pages are being shared with its copy in the child.
struct Copying<'a, M: Machine> {
    vm: &'a Vm<M>,
    parent: &'a MmapWriteGuard<'a, M>,
    child: &'a MmapWriteGuard<'a, M>,
    /// The child's VMA.
    vma: VmaId,
    /// Whether what a userfaultfd protects is protected in the child, too.
    keeps_wp: bool,
}

type Entries<'a, M> = PteGuard<'a, M, MmapWriteGuard<'a, M>>;
type Table<'a, M> = PteTable<'a, M, MmapWriteGuard<'a, M>>;

impl<'a, M: Machine> Copying<'a, M> {
    /// Shares all pages of the VMA.
    fn copy_page_range(&self) -> Result<(), Error> {
        let (vm, from) = (self.vm, self.parent.slot());
        let mut spare = None;
        for (source, part) in from.space.parts(&vm.frames, self.parent, vm.vma(self.vma).range()) {
            let source = match source {
                Walked::Table(source) => Some(source),
                Walked::Leaf(place) => self.copy_leaf(place, part)?,
            };
            if let Some(source) = source {
                self.copy_table(source, part, &mut spare)?;
            }
        }
        Ok(())
    }

    /// Shares all pages of `part`, which is in one table.
    fn copy_table(
        &self,
        source: Table<'a, M>,
        part: VaRange,
        spare: &mut Option<NewFolio<'a, M>>,
    ) -> Result<(), Error> {
        let (vm, to) = (self.vm, self.child.slot());
        if source.lock().is_empty() {
            return Ok(());
        }
        let target = to.space.table_alloc(&vm.frames, self.child, part.start)?;
        let mut rest = part;
        loop {
            rest.start = self.copy_pte_range(source, target, rest, spare)?;
            if rest.is_empty() {
                return Ok(());
            }
            // Stopped at a page that must be copied: that happens under the locks, getting memory not.
            *spare = Some(vm.alloc_page()?);
        }
    }

    /// Shares the folio of a leaf, by a leaf. What must be copied page by page (the folio may be pinned), and
    /// what is no leaf any more, comes back as a table.
    #[doc(alias = "copy_huge_pmd")]
    #[cold]
    fn copy_leaf(
        &self,
        source: LeafPlace<'a, M, MmapWriteGuard<'a, M>>,
        part: VaRange,
    ) -> Result<Option<Table<'a, M>>, Error> {
        let (vm, to) = (self.vm, self.child.slot());
        let target = to.space.leaf_alloc(&vm.frames, self.child, part.start)?;
        let kept = Deposit::alloc(&vm.frames)?;
        let mut leaf = match source.lock_covered(part) {
            Locked::Leaf(leaf) => leaf,
            Locked::Table(table) => return Ok(Some(table)),
            Locked::None => return Ok(None),
        };
        let Some(vacancy) = target.lock_empty_nested() else {
            unreachable!("a child has nothing yet where its parent has a leaf")
        };
        match leaf.share_with(vacancy, kept) {
            Ok(()) => {
                vm.add_anon(to, part.pages().0 as i64);
                Ok(None)
            }
            Err(DupError::MaybePinned | DupError::TooManySharers) => {
                vm.count(Event::LeafSplit);
                Ok(Some(leaf.split()))
            }
        }
    }

    /// Shares the pages of `part`, which is in one table; stops where it needs a `spare` page, and says
    /// where.
    fn copy_pte_range(
        &self,
        source: Table<'a, M>,
        target: Table<'a, M>,
        part: VaRange,
        spare: &mut Option<NewFolio<'a, M>>,
    ) -> Result<Va, Error> {
        let mut from = source.lock();
        let mut to = target.lock_nested();
        let mut copied = 0;
        let mut va = part.start;
        while va < part.end {
            let (at, stopped) = to.share_range(&mut from, VaRange { start: va, end: part.end });
            copied += VaRange { start: va, end: at }.pages().0 as i64;
            if self.keeps_wp {
                protect_like(&from, &mut to, VaRange { start: va, end: at });
            }
            va = match stopped {
                Ok(()) => at,
                Err(NotShared::NoPage) => {
                    let rest = VaRange { start: at, end: part.end };
                    // What was copied is counted before the child is torn down.
                    let counted = |_: &Error| self.vm.add_anon(self.child.slot(), copied);
                    self.copy_other(&mut from, &mut to, rest).inspect_err(counted)?
                }
                Err(NotShared::Refused(_)) => {
                    va = at;
                    let Some(new) = spare.take() else { break };
                    self.copy_present_page(&from, &mut to, at, new);
                    copied += 1;
                    at.next_page()
                }
            };
        }
        drop(to);
        drop(from);
        self.vm.add_anon(self.child.slot(), copied);
        Ok(va)
    }

    /// Copies what the first entry of `part` has if that is no anonymous page; returns where to go on. What
    /// is empty is passed over.
    fn copy_other(
        &self,
        from: &mut Entries<'a, M>,
        to: &mut Entries<'a, M>,
        part: VaRange,
    ) -> Result<Va, Error> {
        let va = part.start;
        match from.mapped(va) {
            Mapped::None => return Ok(from.next_used(part)),
            Mapped::Zero(present) => {
                to.install_zero(va, present.prot);
                // KSM may have merged what was written into it.
                if M::Arch::SOFT_DIRTY && !present.soft_clean {
                    to.soft_dirty(va);
                }
                if self.keeps_wp {
                    protect_like(from, to, VaRange::page(va));
                }
            }
            Mapped::Swap(..) | Mapped::Migration(..) | Mapped::Marker(_) => {
                self.copy_nonpresent(from, to, va)?
            }
            Mapped::Shm(present) if present.uffd_wp && self.keeps_wp => to.install(va, Marker::UffdWp, ()),
            // The child's faults bring pages of shared objects back.
            Mapped::Shm(_) => {}
            Mapped::Exclusive(..) | Mapped::Shared(..) => unreachable!("pages are shared or copied"),
        }
        Ok(va.next_page())
    }

    /// Shares what is in swap or on its way to another frame, and copies markers. Neither the parent's entry
    /// nor the child's is exclusive any more.
    #[doc(alias = "copy_nonpresent_pte")]
    fn copy_nonpresent(
        &self,
        from: &mut Entries<'a, M>,
        to: &mut Entries<'a, M>,
        va: Va,
    ) -> Result<(), Error> {
        match from.mapped(va) {
            Mapped::Marker(marker @ (Marker::Guard | Marker::Poisoned)) => to.install(va, marker, ()),
            Mapped::Marker(Marker::UffdWp) if self.keeps_wp => to.install(va, Marker::UffdWp, ()),
            // The userfaultfd does not follow into the child.
            Mapped::Marker(Marker::UffdWp) => {}
            Mapped::Swap(owned, bits) => {
                let count = self
                    .vm
                    .swap_dup(&owned)
                    .map_err(|SlotCountOverflow| Error::Limit("processes that share a swapped page"))?;
                to.install(
                    va,
                    count.into_count(),
                    SwapBits { uffd_wp: bits.uffd_wp && self.keeps_wp, ..bits.shared() },
                );
                from.share_soft(va);
                self.vm.add_swap(self.child.slot(), 1);
            }
            Mapped::Migration(owned, bits) => {
                let hold =
                    owned.try_dup().map_err(|TooManySharers| Error::Limit("processes that share a page"))?;
                let uffd_wp = bits.uffd_wp && self.keeps_wp;
                to.install(va, hold, MigrationBits { uffd_wp, young: false, ..bits.shared() });
                from.share_soft(va);
                self.vm.add_anon(self.child.slot(), 1);
            }
            Mapped::None | Mapped::Zero(_) | Mapped::Exclusive(..) | Mapped::Shared(..) | Mapped::Shm(_) => {
                unreachable!("the entry was just looked at, and is locked")
            }
        }
        Ok(())
    }

    /// Gives the child a copy of a page that the parent must keep for itself.
    fn copy_present_page(
        &self,
        from: &Entries<'a, M>,
        to: &mut Entries<'a, M>,
        va: Va,
        new: NewFolio<'a, M>,
    ) {
        let Pte::Present(present) = from.get(va) else { unreachable!("the page was just looked at") };
        let vma = self.vm.vma(self.vma);
        let stamp = Rmap::<M>::stamp(self.vm, self.child.slot(), vma);
        let anon_vma = stamp.expect("the copy of a VMA with pages has an anon_vma");
        new.copy_from(present.pfn);
        let page = new.into_exclusive_anon(anon_vma.raw(), vma.index_of(va));
        to.install(va, page, child_attrs(present, present.prot));
        if self.keeps_wp {
            protect_like(from, to, VaRange::page(va));
        }
        self.vm.count(Event::ForkCopied);
    }
}

/// Protects the child's entries where the parent's are protected.
#[cold]
fn protect_like<'a, M: Machine>(from: &Entries<'a, M>, to: &mut Entries<'a, M>, range: VaRange) {
    for va in range.iter_pages().filter(|&va| is_protected(&from.mapped(va))) {
        to.uffd_wp(va);
    }
}

/// What the entry of the child's copy says: as the parent's, but not yet accessed, of no userfaultfd, and
/// soft-dirty, because the page is new.
fn child_attrs(parent: Present, prot: Protection) -> Attrs {
    Attrs { prot, young: false, uffd_wp: false, soft_clean: false, ..parent.into() }
}

/// After a fork that failed: pages that are the parent's alone again become exclusive again, and writable.
fn take_back<M: Machine>(vm: &Vm<M>, guard: &MmapWriteGuard<'_, M>) {
    let slot = guard.slot();
    slot.tree.for_each(vm.nodes(), |range, id| {
        let vma = vm.vma(id);
        let Some(anon_vma) = Rmap::<M>::stamp(vm, slot, vma) else { return };
        for (found, part) in slot.space.parts(&vm.frames, guard, range) {
            let table = match found.covered(part) {
                Locked::Table(table) => table,
                Locked::Leaf(leaf) => {
                    take_back_leaf(leaf, anon_vma.raw(), vma.protection());
                    continue;
                }
                Locked::None => continue,
            };
            let mut entries = table.lock();
            for va in part.iter_pages() {
                if let Mapped::Shared(page, _) = entries.mapped(va) {
                    let _ = page.try_lock().map(|lock| page.reuse(&lock, anon_vma.raw()));
                }
            }
            // Only what is its own is made writable.
            entries.change_protection_range(part, vma.protection());
        }
    });
}

/// The same for a leaf.
#[cold]
fn take_back_leaf<M: Machine>(
    mut leaf: LeafGuard<'_, M, MmapWriteGuard<'_, M>>,
    anon_vma: Stamp,
    prot: Protection,
) {
    if let MappedLeaf::Shared(folio, _) = leaf.mapped() {
        let _ = folio.try_lock().map(|lock| folio.reuse(&lock, anon_vma));
    }
    leaf.change_protection(prot);
}

#[cfg(test)]
mod tests;
