//! When two VMAs may become one, and how they do.
//!
//! A merge makes one VMA, the *target*, cover more: a hole that is to be mapped, neighbours that go away, or
//! a part of one. Its attributes stay what they are. `*` is the range that is to be mapped or changed. `P`
//! and `N` are what is before and after it, and `X` is the VMA that is there:
//!
//! ```text
//!   PPPP****NNNN ─▶ PPPPPPPPPPPP   both sides: P covers all           (cases 1, 6)
//!   PPPP****     ─▶ PPPPPPPP       P covers the range                 (cases 2, 7)
//!   PPPP****XXXX ─▶ PPPPPPPPXXXX   P takes the first part of X        (case 4)
//!       ****NNNN ─▶     NNNNNNNN   N covers the range                 (cases 3, 8)
//!   XXXX****NNNN ─▶ XXXXNNNNNNNN   N takes the last part of X         (case 5)
//! ```
//!
//! The target is soft-dirty if anything of what it covers then was.
//!
//! A merge never fails, it is left out. It may need memory for one thing only: to link the target to the
//! anon_vmas of what the target takes over.
//!
//! Locks: the mmap lock for writing; the lock of the anon_vma while keys of its interval tree change. What
//! the target takes over is linked to it before it is unlinked from what goes away, so that rmap walks always
//! find it.
//!
//! Linux: mm/vma.c `vma_merge_new_range`, `vma_merge_existing_range`, `can_vma_merge_before`,
//! `is_mergeable_anon_vma`, `anon_vma_compatible`, `dup_anon_vma`, `commit_merge`.

use super::{compatible::backing_continues, reshape::Reshaping};
use crate::{
    events::Event,
    ids::{UffdId, VmaId},
    mm::{mmap_lock::MmapWriteGuard, slot::MmSlot},
    objects::Objects,
    rmap::machine::Machine,
    rmap::{Rmap, reverse_map::ReverseMap},
    vma::{
        flags::VmFlags,
        free::free_vma,
        lock::VmaWrite,
        vma::{Backing, Vma},
    },
};
use anonmem_hal::{PAGE_SHIFT, Va, VaRange};

/// A mapping that is to be made where nothing is mapped.
pub(crate) struct NewArea {
    pub(crate) range: VaRange,
    /// As [`Vma::pgoff`].
    pub(crate) pgoff: u64,
    pub(crate) flags: VmFlags,
    pub(crate) backing: Backing,
}

impl NewArea {
    /// What is mapped anew is registered with no userfaultfd, so its attributes tell it from what is.
    fn follows<M: Machine>(&self, low: &Vma<M>) -> bool {
        low.flags().merges_with(self.flags)
            && low.backing() == self.backing
            && low.pgoff() + low.range().pages().0 == self.pgoff
    }

    fn precedes<M: Machine>(&self, high: &Vma<M>) -> bool {
        high.flags().merges_with(self.flags)
            && high.backing() == self.backing
            && self.pgoff + self.range.pages().0 == high.pgoff()
    }
}

/// A merge that is possible: `target` will cover `range`, at the cost of `eaten`.
struct Merge {
    target: VmaId,
    range: VaRange,
    /// VMAs of the range, which lose all or some of theirs.
    eaten: [Option<VmaId>; 2],
}

impl<M: Machine> MmapWriteGuard<'_, M> {
    /// Lets a neighbour of `area` cover it too, if one can; returns that VMA.
    #[doc(alias = "vma_merge_new_range")]
    pub(crate) fn merge_new(&self, area: &NewArea) -> Option<VmaId> {
        let (objects, slot) = (self.objects, self.slot());
        let fits = |near: VmaId| Rmap::<M>::can_grow(objects, near);
        let prev =
            below(objects, slot, area.range.start).filter(|&p| area.follows(objects.vma(p)) && fits(p));
        let next = above(objects, slot, area.range.end).filter(|&n| area.precedes(objects.vma(n)) && fits(n));
        let merge = |target: VmaId, eaten: Option<VmaId>| {
            let range =
                hull(hull(objects.vma(target).range(), area.range), range_of(objects, eaten, area.range));
            let merged = self.commit_merge(&Merge { target, range, eaten: [eaten, None] });
            merged.inspect(|&merged| self.soft_dirty_vma(merged))
        };
        if let (Some(prev), Some(next)) = (prev, next)
            && Rmap::<M>::can_merge(objects, prev, next)
            && let Some(merged) = merge(prev, Some(next))
        {
            return Some(merged);
        }
        prev.and_then(|prev| merge(prev, None)).or_else(|| next.and_then(|next| merge(next, None)))
    }

    /// Lets a neighbour take over `range`, which is all of VMA `id`, its first or its last part, and is to
    /// have the attributes `flags` and the userfaultfd `uffd`; returns the VMA that covers it then. `None` if
    /// no neighbour can, or if the range is in the middle.
    #[doc(alias = "vma_merge_existing_range")]
    pub(crate) fn merge_existing(
        &self,
        id: VmaId,
        range: VaRange,
        (flags, uffd): (VmFlags, Option<UffdId>),
    ) -> Option<VmaId> {
        let (objects, slot, vma) = (self.objects, self.slot(), self.objects.vma(id));
        let (at_start, at_end) = (range.start == vma.start(), range.end == vma.end());
        let fits = |near: VmaId, low: &Vma<M>, high: &Vma<M>| {
            objects.vma(near).flags().merges_with(flags)
                && objects.vma(near).uffd() == uffd
                && backing_continues(low, high)
                && Rmap::<M>::can_merge(objects, near, id)
        };
        let prev = if at_start { below(objects, slot, range.start) } else { None };
        let prev = prev.filter(|&p| fits(p, objects.vma(p), vma));
        let next = if at_end { above(objects, slot, range.end) } else { None };
        let next = next.filter(|&n| fits(n, vma, objects.vma(n)));
        let merge = |target: VmaId, eaten: Option<VmaId>| {
            let range = hull(hull(objects.vma(target).range(), range), range_of(objects, eaten, range));
            self.commit_merge(&Merge { target, range, eaten: [Some(id), eaten] })
        };
        if let (Some(prev), Some(next)) = (prev, next)
            && Rmap::<M>::can_merge(objects, prev, next)
            && let Some(merged) = merge(prev, Some(next))
        {
            return Some(merged);
        }
        prev.and_then(|prev| merge(prev, None)).or_else(|| next.and_then(|next| merge(next, None)))
    }

    /// Makes VMAs that were split at `at` one again, after the operation that they were split for has failed.
    pub(crate) fn rejoin(&self, at: Va) {
        if let Some(high) = above(self.objects, self.slot(), at) {
            let vma = self.objects.vma(high);
            self.merge_existing(high, vma.range(), (vma.flags(), vma.uffd()));
        }
    }

    fn commit_merge(&self, merge: &Merge) -> Option<VmaId> {
        let objects = self.objects;
        let target = objects.vma(merge.target);
        let write = target.start_write(self);
        for id in merge.eaten.into_iter().flatten() {
            let _ = objects.vma(id).start_write(self);
        }
        Rmap::<M>::merge(objects, merge.target, merge.eaten.into_iter().flatten()).ok()?;
        let soft_clean = |id: VmaId| objects.vma(id).flags().contains(VmFlags::SOFT_CLEAN);
        let soft_dirty = !merge.eaten.into_iter().flatten().all(soft_clean);
        // Those that keep a part; what goes away altogether stays in the interval trees until it is unlinked.
        let rests = merge.eaten.map(|id| id.and_then(|id| Some((id, rest_of(objects, id, merge.range)?))));
        let shrinking = rests.iter().flatten().map(|&(id, _)| id);
        // A leaf lies within one VMA.
        for (id, rest) in rests.iter().flatten() {
            let at = if rest.start == objects.vma(*id).start() { rest.end } else { rest.start };
            self.slot().space.split_leaf_at(&objects.frames, self, at);
        }
        self.reshape(merge.target, shrinking, |reshaping| {
            let mut nodes = self.slot().tree.prealloc_none(objects.nodes());
            let mut writer = nodes.write();
            for (id, rest) in merge.eaten.iter().zip(rests) {
                match (*id, rest) {
                    (_, Some((id, rest))) => {
                        writer.resize(objects.vma(id).range(), rest);
                        set_range(objects.vma(id), &objects.vma(id).start_write(self), reshaping, rest);
                    }
                    (Some(id), None) => drop(writer.erase(objects.vma(id).range())),
                    (None, None) => {}
                }
            }
            writer.resize(target.range(), merge.range);
            set_range(target, &write, reshaping, merge.range);
        });
        for id in merge.eaten.iter().zip(rests).filter_map(|(id, rest)| id.filter(|_| rest.is_none())) {
            objects.vma(id).detach(self);
            Rmap::<M>::unlink(objects, id);
            free_vma(objects, id);
        }
        if soft_dirty {
            self.soft_dirty_vma(merge.target);
        }
        objects.count(Event::VmaMerge);
        Some(merge.target)
    }

    /// Something is mapped anew in VMA `id`, which counts as written from now on, all of it.
    pub(crate) fn soft_dirty_vma(&self, id: VmaId) {
        let vma = self.objects.vma(id);
        if vma.flags().contains(VmFlags::SOFT_CLEAN) {
            vma.start_write(self).set_flags(vma.flags() - VmFlags::SOFT_CLEAN, vma.uffd());
        }
    }
}

/// The VMA that ends at `va`.
fn below<M: Machine>(objects: &Objects<M>, slot: &MmSlot<M>, va: Va) -> Option<VmaId> {
    slot.tree.prev(objects.nodes(), va).filter(|(range, _)| range.end == va).map(|(_, id)| id)
}

/// The VMA that starts at `va`.
fn above<M: Machine>(objects: &Objects<M>, slot: &MmSlot<M>, va: Va) -> Option<VmaId> {
    slot.tree.find(objects.nodes(), va).filter(|(range, _)| range.start == va).map(|(_, id)| id)
}

fn hull(a: VaRange, b: VaRange) -> VaRange {
    VaRange { start: a.start.min(b.start), end: a.end.max(b.end) }
}

fn range_of<M: Machine>(objects: &Objects<M>, id: Option<VmaId>, otherwise: VaRange) -> VaRange {
    id.map_or(otherwise, |id| objects.vma(id).range())
}

/// What is left of a VMA that loses what it has of `taken`; `None` if nothing is.
fn rest_of<M: Machine>(objects: &Objects<M>, id: VmaId, taken: VaRange) -> Option<VaRange> {
    let range = objects.vma(id).range();
    if range.start < taken.start {
        Some(VaRange { start: range.start, end: taken.start })
    } else if taken.end < range.end {
        Some(VaRange { start: taken.end, end: range.end })
    } else {
        None
    }
}

/// Gives a VMA another range; each address keeps its page index.
fn set_range<M: Machine>(vma: &Vma<M>, write: &VmaWrite<'_, M>, reshaping: &Reshaping, new: VaRange) {
    let moved = (new.start.0 as i64 - vma.start().0 as i64) >> PAGE_SHIFT;
    write.set_range(reshaping, new, vma.pgoff().wrapping_add_signed(moved));
}
