//! Walking all mappings of a folio: the address spaces that descend from the folio's label, oldest first.
//!
//! Each is asked for the VMAs whose pages have the folio's indices. Those at home are found by address, in
//! the tree of VMAs; the others have records. The tree is read without its lock. What a walker may believe
//! of a VMA that it finds there:
//!
//! - It *has pages* (its mark is set) and is this address space's. So it is unlinked, and its tables go, only
//!   under the family's lock for writing. Until then it is the same VMA: a slot is not reused before.
//! - Its range stands still, because that of a VMA with pages changes under that lock for writing.
//! - It may be out of the tree already, on its way to be unmapped: then it is found or not. Whoever misses
//!   an entry there misses one that goes without him. The folio's counts say that it is still there.
//!
//! A page that one address space has alone is met once. When its entry is locked and the page is exclusive,
//! there is no other entry, and the walk ends.
//!
//! Linux: mm/rmap.c `rmap_walk_anon`. Differs: all of it.

use super::{mark::marked, members::FamilyReadGuard, records::is_recorded};
use crate::{
    ids::{MmId, VmaId},
    mm::slot::MmSlot,
    objects::Objects,
    rmap::hit::{Form, RmapHit, visit_vma},
};
use anonmem_frame::Folio;
use anonmem_hal::{Machine, PAGE_SHIFT, Va, VaRange};
use anonmem_pgtable::StableVma;
use anonmem_sync::spin_until;
use core::ops::ControlFlow;

/// Calls `f` for every entry of `form` that owns a page of `folio`, whose first page has the index `first`,
/// in the VMAs that are `wanted`, until it breaks. `guard` is what the hits are borrowed from, and holds
/// `locked`.
pub(in crate::rmap) fn walk<'a, 'v: 'a, M: Machine, G: StableVma<M>, B>(
    locked: &FamilyReadGuard<'v, M>,
    guard: &'a G,
    (folio, first): (Folio<'_, M>, u64),
    form: Form,
    mut wanted: impl FnMut(VmaId) -> bool,
    mut f: impl FnMut(RmapHit<'a, 'v, M, G>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let objects = locked.objects;
    let members = &locked.family().members;
    let (low, high) = locked.label.block();
    let mut at = members.first_overlap(objects, low, high);
    while let Some(mm) = at {
        let mut is_only = false;
        let mut meet = |hit| {
            is_only |= has_one_mapper(folio, form);
            f(hit)
        };
        visit_member(objects, mm, (folio, first), |vma| match wanted(vma) {
            true => visit_vma(objects, guard, vma, (folio, first), form, &mut meet),
            false => ControlFlow::Continue(()),
        })?;
        if is_only {
            break;
        }
        at = members.next_overlap(objects, mm, low, high);
    }
    ControlFlow::Continue(())
}

/// Whether a page, one of whose entries is locked, has no other: it is exclusive, and sharing it takes the
/// lock.
fn has_one_mapper<M: Machine>(folio: Folio<'_, M>, form: Form) -> bool {
    match form {
        // The pages of a larger folio may be in several tables.
        Form::Present => !folio.is_large() && folio.counts().is_exclusive(),
        Form::Migration => false,
    }
}

/// Calls `f` for the VMAs of one address space that may map the folio.
fn visit_member<M: Machine, B>(
    objects: &Objects<M>,
    mm: MmId,
    (folio, first): (Folio<'_, M>, u64),
    mut f: impl FnMut(VmaId) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let slot = objects.mm_slot(mm);
    let last = first + folio.nr_pages().0 - 1;
    let mut page = first;
    while page <= last
        && let Some((range, id)) = find(objects, slot, Va(page << PAGE_SHIFT))
        && range.start.page() <= last
    {
        if has_pages_at_home(objects, mm, id) {
            f(id)?;
        }
        page = range.end.page();
    }
    let records = &slot.member.records;
    let mut at = records.first_overlap(objects, first, last);
    while let Some(record) = at {
        f(objects.chain(record).vma())?;
        at = records.next_overlap(objects, record, first, last);
    }
    ControlFlow::Continue(())
}

/// The first VMA that ends above `va`. Writers of the tree wait for no lock of ours while they write.
fn find<M: Machine>(objects: &Objects<M>, slot: &MmSlot<M>, va: Va) -> Option<(VaRange, VmaId)> {
    loop {
        match slot.tree.try_find(objects.nodes(), va) {
            Ok(found) => return found,
            Err(_busy) => spin_until::<M>(&|| slot.tree.seq.try_begin().is_some()),
        }
    }
}

/// Whether a VMA that was in the tree of `mm` has pages, and they are where their indices say.
fn has_pages_at_home<M: Machine>(objects: &Objects<M>, mm: MmId, id: VmaId) -> bool {
    let vma = objects.vma(id);
    // The mark first: it says that all else of the VMA is there.
    vma.anon_vma().is_some() && vma.mm() == Some(mm) && !is_recorded(vma)
}

/// The VMA of `mm` at `va`, wherever the indices of its pages say that it is, if its pages are the family's.
pub(crate) fn with_pages_at<M: Machine>(locked: &FamilyReadGuard<'_, M>, mm: MmId, va: Va) -> Option<VmaId> {
    let objects = locked.objects;
    let (range, id) = find(objects, objects.mm_slot(mm), va)?;
    let vma = objects.vma(id);
    let is_ours = marked(vma) == Some(locked.family) && vma.mm() == Some(mm);
    (range.start <= va && is_ours).then_some(id)
}
