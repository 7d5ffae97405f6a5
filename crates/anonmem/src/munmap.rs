//! Unmapping a range.
//!
//! VMAs that reach over an edge of the range are split there, which can fail. Nothing that follows can. The
//! VMAs leave the tree together, their pages are unmapped, and the VMAs are unlinked from their anon_vmas.
//! Page tables that nobody else uses are freed, the TLBs are flushed, and at last the VMAs are freed.
//!
//! Locks: the mmap lock for writing.
//!
//! Linux: mm/vma.c `do_vmi_munmap`, `vms_gather_munmap_vmas`, `vms_complete_munmap_vmas`.

use crate::{
    error::Error,
    ids::{VmaId, VmaTag},
    mm::{Mm, mmap_lock::MmapWriteGuard},
    rmap::machine::Machine,
    rmap::{Rmap, reverse_map::ReverseMap},
    userfaultfd::events::Changes,
    vma::{flags::VmFlags, free::free_vma, vma::Vma},
    zap::zap_range,
};
use anonmem_frame::Link;
use anonmem_hal::{Arch, Va, VaRange};
use anonmem_pgtable::Teardown;

/// VMAs that were taken out of the tree, the lowest first.
struct Detached {
    first: Link<VmaTag>,
    /// From the start of the first to the end of the last.
    hull: VaRange,
}

/// What becomes of the page tables of a range that is unmapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tables {
    /// Those that nobody else uses are freed.
    Free,
    /// They stay, empty: the caller maps something there at once.
    Keep,
}

/// What the VMAs of a range count.
#[derive(Clone, Copy, Default)]
pub(crate) struct Covered {
    /// Their pages in the range.
    pub(crate) pages: u64,
    /// Those that count towards the commit limit.
    pub(crate) accounted: u64,
}

impl<M: Machine> Mm<'_, M> {
    /// Unmaps the pages of `range`; its end is rounded up. Holes in it do not matter.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.munmap(VaRange { start, end: Va(start.0 + 4096) })?;
    /// assert!(mm.load(start).is_err());
    /// assert_eq!(mm.load(Va(start.0 + 4096))?, 0);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The mmap lock for writing. Sleeps.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the range is empty, does not start at a page or leaves the address space;
    /// [`Error::NotPermitted`] if part of it is sealed; [`Error::OutOfMemory`] or [`Error::Limit`] if a VMA
    /// would have to be split and cannot. Nothing has changed.
    #[doc(alias("__vm_munmap", "do_vmi_munmap"))]
    pub fn munmap(&self, range: VaRange) -> Result<(), Error> {
        let told = self.vm.reclaiming(|| {
            let mut changes = Changes::none(self.vm);
            let guard = self.write();
            changes.unmap(&guard, range)?;
            guard.do_munmap(range)?;
            changes.tell();
            Ok(changes)
        })?;
        told.wait();
        Ok(())
    }
}

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// As [`munmap`](Self::munmap), under the caller's lock.
    #[doc(alias = "do_vmi_align_munmap")]
    pub(crate) fn do_munmap(&self, range: VaRange) -> Result<(), Error> {
        if !range.start.is_page_aligned() {
            return Err(Error::Invalid("the start of a range to unmap is not at a page"));
        }
        let end = range.end.page_up().filter(|&end| end <= M::Arch::USER_END);
        let Some(end) = end else {
            return Err(Error::Invalid("a range to unmap leaves the address space"));
        };
        if end <= range.start {
            return Err(Error::Invalid("an empty range cannot be unmapped"));
        }
        let range = VaRange { start: range.start, end };
        self.check_not_sealed(range)?;
        self.cut_edges(range)?;
        let covered = self.unmap_cut(range);
        self.objects.uncommit(covered.accounted);
        Ok(())
    }

    /// Splits the VMAs that reach over an edge of `range`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Limit`] if there would be too many mappings. Nothing has changed.
    #[doc(alias = "vms_gather_munmap_vmas")]
    pub(crate) fn cut_edges(&self, range: VaRange) -> Result<(), Error> {
        let (objects, tree) = (self.objects, &self.slot().tree);
        let find = |edge: Va| tree.find(objects.nodes(), edge);
        let reaches_over = |(vma, _): &(VaRange, VmaId), edge: Va| vma.start < edge && edge < vma.end;
        let (first, mut was_cut) = (find(range.start), false);
        if let Some((vma, id)) = first.filter(|first| reaches_over(first, range.start)) {
            // Only what punches a hole into a VMA leaves one more than there was.
            if range.end < vma.end {
                self.check_map_count()?;
            }
            self.split_vma(id, range.start)?;
            was_cut = true;
        }
        // The first is often the last, too; but what was cut is no longer what it was.
        let last = first.filter(|(vma, _)| vma.end >= range.end && !was_cut).or_else(|| find(range.end));
        if let Some((_, id)) = last.filter(|last| reaches_over(last, range.end))
            && let Err(e) = self.split_vma(id, range.end)
        {
            if was_cut {
                self.rejoin(range.start);
            }
            return Err(e);
        }
        Ok(())
    }

    /// What is mapped in `range`.
    pub(crate) fn covered(&self, range: VaRange) -> Covered {
        let (objects, tree) = (self.objects, &self.slot().tree);
        let (mut covered, mut vmas) = (Covered::default(), tree.cursor(range));
        while let Some((vma, id)) = vmas.next(tree, objects.nodes()) {
            let pages = vma.intersect(range).map_or(0, |part| part.pages().0);
            covered.pages += pages;
            if objects.vma(id).flags().contains(VmFlags::ACCOUNT) {
                covered.accounted += pages;
            }
        }
        covered
    }

    /// Unmaps all VMAs of `range`, none of which reaches over its edges. What they were promised stays
    /// promised: it is the caller's to take back, or to use for what it maps there.
    #[doc(alias = "vms_complete_munmap_vmas")]
    pub(crate) fn unmap_cut(&self, range: VaRange) -> Covered {
        self.unmap_cut_and(range, Tables::Free)
    }

    /// As [`unmap_cut`](Self::unmap_cut), but says what becomes of the page tables.
    pub(crate) fn unmap_cut_and(&self, range: VaRange, tables: Tables) -> Covered {
        let (objects, slot) = (self.objects, self.slot());
        let Some(detached) = self.detach(range) else { return Covered::default() };
        let mut gather = objects.gather(&slot.space, Teardown::Range);
        self.for_each_detached(&detached, |_, vma| zap_range(objects, slot, self, &mut gather, vma.range()));
        self.for_each_detached(&detached, |id, _| Rmap::<M>::unlink(objects, id));
        if tables == Tables::Free {
            let limits = self.limits_of(detached.hull);
            slot.space.free_tables(&mut gather, &objects.frames, detached.hull, limits);
        }
        gather.finish();
        let mut covered = Covered::default();
        self.for_each_detached(&detached, |id, vma| {
            let (flags, pages) = (vma.flags(), vma.range().pages().0);
            covered.pages += pages;
            covered.accounted += if flags.contains(VmFlags::ACCOUNT) { pages } else { 0 };
            slot.counts.add_vma(flags, -(pages as i64));
            free_vma(objects, id);
        });
        covered
    }

    /// Frees the tables that cover nothing but holes, of those that holes of `range` are in: what a move left
    /// behind, or made in vain. They are empty.
    pub(crate) fn free_unused_tables(&self, range: VaRange) {
        let (objects, slot) = (self.objects, self.slot());
        let mut gather = objects.gather(&slot.space, Teardown::Range);
        let mut rest = range;
        while !rest.is_empty() {
            let above = slot.tree.find(objects.nodes(), rest.start).map(|(above, _)| above);
            let hole = VaRange { start: rest.start, end: above.map_or(rest.end, |a| a.start.min(rest.end)) };
            if let Some(above) = above.filter(|above| above.start <= rest.start) {
                rest.start = above.end.min(rest.end);
                continue;
            }
            slot.space.free_tables(&mut gather, &objects.frames, hole, self.limits_of(hole));
            rest.start = hole.end;
        }
        gather.finish();
    }

    /// What the neighbours of a hole leave: from the end of the one below to the start of the one above.
    fn limits_of(&self, hole: VaRange) -> VaRange {
        let (tree, nodes) = (&self.slot().tree, self.objects.nodes());
        VaRange {
            start: tree.prev(nodes, hole.start).map_or(Va(0), |(below, _)| below.end),
            end: tree.find(nodes, hole.end).map_or(Va(u64::MAX), |(above, _)| above.start),
        }
    }

    /// Takes all VMAs of `range` out of the tree in one step.
    fn detach(&self, range: VaRange) -> Option<Detached> {
        let (objects, tree) = (self.objects, &self.slot().tree);
        let (hull, first) =
            tree.find(objects.nodes(), range.start).filter(|(vma, _)| vma.start < range.end)?;
        anonmem_hal::debug_check!(M, range.covers(hull), "{hull:?} reaches over the edge of {range:?}");
        let mut detached = Detached { first: first.into(), hull };
        // Faults that hold a VMA's lock finish first; that may take a while, so lookups are not kept out yet.
        let mut following = tree.cursor(VaRange { start: hull.end.min(range.end), end: range.end });
        let (mut next, mut last) = (Some((hull, first)), None::<&Vma<M>>);
        while let Some((covers, id)) = next {
            let vma = objects.vma(id);
            let _ = vma.start_write(self);
            vma.set_next_detached(Link::NONE);
            if let Some(last) = last.replace(vma) {
                last.set_next_detached(id.into());
            }
            detached.hull.end = covers.end;
            next = following.next(tree, objects.nodes());
        }
        let mut nodes = tree.prealloc_none(objects.nodes());
        let mut writer = nodes.write();
        self.for_each_detached(&detached, |id, vma| {
            let erased = writer.erase(vma.range());
            anonmem_hal::debug_check_eq!(M, erased, id, "the tree has another VMA there");
        });
        drop(writer);
        self.for_each_detached(&detached, |_, vma| vma.detach(self));
        Some(detached)
    }

    /// Calls `f` for each VMA, which may free it.
    fn for_each_detached(&self, detached: &Detached, mut f: impl FnMut(VmaId, &Vma<M>)) {
        let mut at = detached.first;
        while let Some(id) = at.get() {
            let vma = self.objects.vma(id);
            at = vma.next_detached();
            f(id, vma);
        }
    }
}

#[cfg(test)]
mod tests;
