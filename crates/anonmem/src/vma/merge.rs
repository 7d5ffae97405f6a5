//! When two VMAs may become one, and how they do.
//!
//! A merge makes one VMA, the *target*, cover more: a hole that is to be mapped, neighbours that go away, or a part of
//! one. Its attributes stay what they are. With `P` and `N` for what is before and after the range `*` that is
//! to be mapped or changed, and `X` for the VMA that is there:
//!
//! ```text
//!   PPPP****NNNN ─▶ PPPPPPPPPPPP   both sides: P covers all           (cases 1, 6)
//!   PPPP****     ─▶ PPPPPPPP       P covers the range                 (cases 2, 7)
//!   PPPP****XXXX ─▶ PPPPPPPPXXXX   P takes the first part of X        (case 4)
//!       ****NNNN ─▶     NNNNNNNN   N covers the range                 (cases 3, 8)
//!   XXXX****NNNN ─▶ XXXXNNNNNNNN   N takes the last part of X         (case 5)
//! ```
//!
//! A merge never fails, it is left out: the only thing that it may need memory for is to link the target to the
//! anon_vmas of what it takes over.
//!
//! Locks: the mmap lock for writing; the lock of the anon_vma while keys of its interval tree change. What the target
//! takes over is linked to it before it is unlinked from what goes away, so that rmap walks always find it.
//!
//! Linux: mm/vma.c `vma_merge_new_range`, `vma_merge_existing_range`, `can_vma_merge_before`, `is_mergeable_anon_vma`,
//! `anon_vma_compatible`, `dup_anon_vma`, `commit_merge`.

use super::{Backing, VmFlags, Vma, lock::VmaWrite};
use crate::ids::VmaId;
use crate::{
    events::Event,
    exit::free_vma,
    mm::{Mm, MmSlot, MmapWriteGuard},
    rmap::anon_vma::{anon_vma_clone, unlink_anon_vmas},
    vm::Vm,
};
use anonmem_frame::Link;
use anonmem_hal::{Machine, PAGE_SHIFT, Va, VaRange};

/// Whether `low` and `high`, which touch, are alike but for their access rights: then mprotect may make them mergeable,
/// and it is worth while to give both the same anon_vma.
pub(crate) fn anon_vma_compatible<M: Machine>(low: &Vma<M>, high: &Vma<M>) -> bool {
    let alike = |vma: &Vma<M>| vma.flags().difference(VmFlags::ACCESS);
    low.end() == high.start() && alike(low) == alike(high) && backing_continues(low, high)
}

/// Whether the pages of `high` follow those of `low` in what backs them.
fn backing_continues<M: Machine>(low: &Vma<M>, high: &Vma<M>) -> bool {
    low.backing() == high.backing() && low.pgoff() + low.range().pages().0 == high.pgoff()
}

/// A mapping that is to be made where nothing is mapped.
pub(crate) struct NewArea {
    pub(crate) range: VaRange,
    /// As [`Vma::pgoff`].
    pub(crate) pgoff: u64,
    pub(crate) flags: VmFlags,
    pub(crate) backing: Backing,
}

impl NewArea {
    fn follows<M: Machine>(&self, low: &Vma<M>) -> bool {
        low.flags() == self.flags
            && low.backing() == self.backing
            && low.pgoff() + low.range().pages().0 == self.pgoff
    }

    fn precedes<M: Machine>(&self, high: &Vma<M>) -> bool {
        high.flags() == self.flags
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

impl<M: Machine> Mm<'_, M> {
    /// Lets a neighbour of `area` cover it too, if one can; returns that VMA.
    #[doc(alias = "vma_merge_new_range")]
    pub(crate) fn merge_new(&self, guard: &MmapWriteGuard<'_, M>, area: &NewArea) -> Option<VmaId> {
        let (vm, slot) = (self.vm, guard.slot());
        let fits = |near: VmaId| vm.vma(near).anon_vma().is_none() || is_singular(vm, near);
        let prev = below(vm, slot, area.range.start).filter(|&p| area.follows(vm.vma(p)) && fits(p));
        let next = above(vm, slot, area.range.end).filter(|&n| area.precedes(vm.vma(n)) && fits(n));
        let merge = |target: VmaId, eaten: Option<VmaId>| {
            let range = hull(hull(vm.vma(target).range(), area.range), range_of(vm, eaten, area.range));
            self.commit_merge(guard, &Merge { target, range, eaten: [eaten, None] })
        };
        if let (Some(prev), Some(next)) = (prev, next)
            && anon_vmas_merge(vm, prev, next)
            && let Some(merged) = merge(prev, Some(next))
        {
            return Some(merged);
        }
        prev.and_then(|prev| merge(prev, None)).or_else(|| next.and_then(|next| merge(next, None)))
    }

    /// Lets a neighbour take over `range`, which is all of VMA `id`, its first or its last part, and is to have the
    /// attributes `flags`; returns the VMA that covers it then. `None` if no neighbour can, or if the range is
    /// in the middle.
    #[doc(alias = "vma_merge_existing_range")]
    pub(crate) fn merge_existing(
        &self,
        guard: &MmapWriteGuard<'_, M>,
        id: VmaId,
        range: VaRange,
        flags: VmFlags,
    ) -> Option<VmaId> {
        let (vm, slot, vma) = (self.vm, guard.slot(), self.vm.vma(id));
        let (at_start, at_end) = (range.start == vma.start(), range.end == vma.end());
        let fits = |near: VmaId, low: &Vma<M>, high: &Vma<M>| {
            vm.vma(near).flags() == flags && backing_continues(low, high) && anon_vmas_merge(vm, near, id)
        };
        let prev = if at_start { below(vm, slot, range.start) } else { None };
        let prev = prev.filter(|&p| fits(p, vm.vma(p), vma));
        let next = if at_end { above(vm, slot, range.end) } else { None };
        let next = next.filter(|&n| fits(n, vma, vm.vma(n)));
        let merge = |target: VmaId, eaten: Option<VmaId>| {
            let range = hull(hull(vm.vma(target).range(), range), range_of(vm, eaten, range));
            self.commit_merge(guard, &Merge { target, range, eaten: [Some(id), eaten] })
        };
        if let (Some(prev), Some(next)) = (prev, next)
            && anon_vmas_merge(vm, prev, next)
            && let Some(merged) = merge(prev, Some(next))
        {
            return Some(merged);
        }
        prev.and_then(|prev| merge(prev, None)).or_else(|| next.and_then(|next| merge(next, None)))
    }

    /// Makes VMAs that were split at `at` one again, after the operation that they were split for has failed.
    pub(crate) fn rejoin(&self, guard: &MmapWriteGuard<'_, M>, at: Va) {
        if let Some(high) = above(self.vm, guard.slot(), at) {
            let vma = self.vm.vma(high);
            self.merge_existing(guard, high, vma.range(), vma.flags());
        }
    }

    fn commit_merge(&self, guard: &MmapWriteGuard<'_, M>, merge: &Merge) -> Option<VmaId> {
        let vm = self.vm;
        let target = vm.vma(merge.target);
        let write = target.start_write(guard);
        for id in merge.eaten.into_iter().flatten() {
            let _ = vm.vma(id).start_write(guard);
        }
        dup_anon_vma(vm, merge)?;
        let lock = target.anon_vma().map(|anon_vma| vm.anon_vma_lock_write(anon_vma));
        // Those that keep a part; what goes away altogether stays in the interval trees until it is unlinked.
        let rests = merge.eaten.map(|id| id.and_then(|id| Some((id, rest_of(vm, id, merge.range)?))));
        let moved = || rests.iter().flatten().map(|&(id, _)| id).chain([merge.target]);
        if let Some(lock) = &lock {
            moved().for_each(|id| lock.rekey_begin(id));
        }
        {
            let mut nodes = guard.slot().tree.prealloc_none(vm.nodes());
            let mut writer = nodes.write();
            for (id, rest) in merge.eaten.iter().zip(rests) {
                match (*id, rest) {
                    (_, Some((id, rest))) => {
                        writer.resize(vm.vma(id).range(), rest);
                        set_range(vm.vma(id), &vm.vma(id).start_write(guard), rest);
                    }
                    (Some(id), None) => drop(writer.erase(vm.vma(id).range())),
                    (None, None) => {}
                }
            }
            writer.resize(target.range(), merge.range);
            set_range(target, &write, merge.range);
        }
        if let Some(lock) = &lock {
            moved().for_each(|id| lock.rekey_end(id));
        }
        drop(lock);
        for id in merge.eaten.iter().zip(rests).filter_map(|(id, rest)| id.filter(|_| rest.is_none())) {
            vm.vma(id).detach(guard);
            unlink_anon_vmas(vm, id);
            free_vma(vm, id);
        }
        vm.count(Event::VmaMerge);
        Some(merge.target)
    }
}

/// Links the target to the anon_vmas of what it takes over, if it has none of its own; `None` if there is no memory.
///
/// All that have an anon_vma have the same one.
fn dup_anon_vma<M: Machine>(vm: &Vm<M>, merge: &Merge) -> Option<()> {
    let target = vm.vma(merge.target);
    if target.anon_vma().is_some() {
        return Some(());
    }
    let sources = merge.eaten.into_iter().flatten();
    let Some(source) = sources.filter(|&id| vm.vma(id).anon_vma().is_some()).last() else { return Some(()) };
    target.set_anon_vma(vm.vma(source).anon_vma());
    anon_vma_clone(vm, merge.target, source).ok()
}

/// Whether two VMAs may become one as far as their anon_vmas go: they have the same one, or one of them has none, and
/// the other's came to it by no fork. (A VMA that came by fork is linked to its ancestors' anon_vmas as well; to link
/// another one to all of those would make the walks of all their pages longer.)
#[doc(alias = "is_mergeable_anon_vma")]
fn anon_vmas_merge<M: Machine>(vm: &Vm<M>, a: VmaId, b: VmaId) -> bool {
    match (vm.vma(a).anon_vma(), vm.vma(b).anon_vma()) {
        (None, None) => true,
        (Some(of_a), Some(of_b)) => of_a == of_b,
        (Some(_), None) => is_singular(vm, a),
        (None, Some(_)) => is_singular(vm, b),
    }
}

/// Whether a VMA is linked to one anon_vma only.
#[doc(alias = "list_is_singular")]
fn is_singular<M: Machine>(vm: &Vm<M>, id: VmaId) -> bool {
    let first = vm.vma(id).chains().get();
    first.is_some_and(|chain| vm.chain(chain).next() == Link::NONE)
}

/// The VMA that ends at `va`.
fn below<M: Machine>(vm: &Vm<M>, slot: &MmSlot<M>, va: Va) -> Option<VmaId> {
    slot.tree.prev(vm.nodes(), va).filter(|(range, _)| range.end == va).map(|(_, id)| id)
}

/// The VMA that starts at `va`.
fn above<M: Machine>(vm: &Vm<M>, slot: &MmSlot<M>, va: Va) -> Option<VmaId> {
    slot.tree.find(vm.nodes(), va).filter(|(range, _)| range.start == va).map(|(_, id)| id)
}

fn hull(a: VaRange, b: VaRange) -> VaRange {
    VaRange { start: a.start.min(b.start), end: a.end.max(b.end) }
}

fn range_of<M: Machine>(vm: &Vm<M>, id: Option<VmaId>, otherwise: VaRange) -> VaRange {
    id.map_or(otherwise, |id| vm.vma(id).range())
}

/// What is left of a VMA that loses what it has of `taken`; `None` if nothing is.
fn rest_of<M: Machine>(vm: &Vm<M>, id: VmaId, taken: VaRange) -> Option<VaRange> {
    let range = vm.vma(id).range();
    if range.start < taken.start {
        Some(VaRange { start: range.start, end: taken.start })
    } else if taken.end < range.end {
        Some(VaRange { start: taken.end, end: range.end })
    } else {
        None
    }
}

/// Gives a VMA another range; each address keeps its page index.
fn set_range<M: Machine>(vma: &Vma<M>, write: &VmaWrite<'_, M>, new: VaRange) {
    let moved = (new.start.0 as i64 - vma.start().0 as i64) >> PAGE_SHIFT;
    write.set_range(new, vma.pgoff().wrapping_add_signed(moved));
}
