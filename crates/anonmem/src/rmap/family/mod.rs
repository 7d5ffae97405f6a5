//! Families: labels instead of objects.
//!
//! A [family](objects::Family) is all address spaces that are related by fork without exec. Each has a
//! [label](label::Label) in its parent's block. A page carries the family and the label of who made it. Its
//! index is the address where it was first mapped. So its mappers are found among the [members](members)
//! whose labels are in the page's block. Each is [walked](walk) by its tree of VMAs.
//!
//! - *A VMA* costs nothing. Its mark says whether it has had a page; the few that are not where their pages'
//!   indices say have a [record](records).
//! - *fork* is one insertion for the address space, however many VMAs it has.
//! - *The dead* leave at once. A label is a number, so there is nothing to count, and nothing to reuse too
//!   early.
//!
//! docs/reverse-map.md says how each of nine obligations is met, and what the worst cases are.

pub(crate) mod label;
mod mark;
pub(crate) mod members;
pub(crate) mod objects;
mod records;
#[cfg(test)]
mod tests;
mod validate;
pub(crate) mod walk;

use self::{
    mark::{mark, mark_away, mark_like, marked},
    members::{
        FamilyReadGuard, FamilyWriteGuard, enter_by_fork, family_of, leave, lock_read, lock_whole, lock_write,
    },
    records::{Spare, is_home, is_recorded},
};
use crate::{
    ids::{MmId, VmaId},
    mm::{mmap_lock::MmapHeld, slot::MmSlot},
    objects::Objects,
    rmap::{
        hit::{Form, RmapHit},
        objects::AnonVmaChain,
        reverse_map::{Broken, ReverseMap, RmapBytes, Stamp},
    },
    vma::vma::Vma,
};
use anonmem_frame::{Folio, FolioGuard, OutOfMemory, RawHandle};
use anonmem_hal::{Machine, reverse_map::Families};
use core::ops::ControlFlow;

impl<M: Machine> ReverseMap<M> for Families {
    const BYTES: RmapBytes = RmapBytes {
        set: size_of::<objects::Family<M>>() as u64,
        link: size_of::<AnonVmaChain<M>>() as u64,
        member: size_of::<objects::Member<M>>() as u64,
    };

    type Locked<'v>
        = FamilyReadGuard<'v, M>
    where
        M: 'v;

    type Moving<'v>
        = FamilyWriteGuard<'v, M>
    where
        M: 'v;

    #[inline]
    fn stamp(_: &Objects<M>, slot: &MmSlot<M>, vma: &Vma<M>) -> Option<Stamp> {
        // The mark is set after the address space has its place.
        vma.anon_vma()?;
        slot.member.stamp().map(Stamp::from_folio)
    }

    /// The root's: siblings that hold the same swap entry are in no block of ours.
    fn shared_stamp(_: &Objects<M>, stamp: Stamp) -> Stamp {
        Stamp::from_folio(anonmem_frame::Stamp::new(stamp.raw().object(), label::Label::ROOT.bits()))
    }

    fn is_related(_: &Objects<M>, theirs: anonmem_frame::Stamp, ours: Stamp) -> bool {
        theirs.object() == ours.raw().object()
    }

    #[inline]
    fn prepare(objects: &Objects<M>, mm: MmapHeld<'_, M>, id: VmaId) -> Result<Stamp, OutOfMemory> {
        let vma = objects.vma(id);
        if let Some(stamp) = Self::stamp(objects, mm.slot(), vma) {
            return Ok(stamp);
        }
        let family = family_of(objects, vma.mm().expect("a VMA in use has an address space"))?;
        if is_home(vma) {
            vma.try_set_anon_vma(mark(family));
        } else {
            mark_away(objects, id, family)?;
        }
        Ok(Self::stamp(objects, mm.slot(), vma).expect("it was just marked"))
    }

    fn fork_mm(objects: &Objects<M>, child: MmId, parent: MmId) {
        enter_by_fork(objects, child, parent);
    }

    fn fork(objects: &Objects<M>, child: VmaId, parent: VmaId) -> Result<(), OutOfMemory> {
        mark_like(objects, child, objects.vma(parent))
    }

    fn split(objects: &Objects<M>, upper: VmaId, lower: VmaId) -> Result<(), OutOfMemory> {
        mark_like(objects, upper, objects.vma(lower))
    }

    fn can_grow(_: &Objects<M>, _: VmaId) -> bool {
        true
    }

    fn can_merge(_: &Objects<M>, _: VmaId, _: VmaId) -> bool {
        true
    }

    fn merge(
        objects: &Objects<M>,
        target: VmaId,
        mut eaten: impl Iterator<Item = VmaId>,
    ) -> Result<(), OutOfMemory> {
        if objects.vma(target).anon_vma().is_some() {
            return Ok(());
        }
        match eaten.find(|&id| objects.vma(id).anon_vma().is_some()) {
            Some(id) => mark_like(objects, target, objects.vma(id)),
            None => Ok(()),
        }
    }

    fn prepare_move(objects: &Objects<M>, id: VmaId) -> Result<(), OutOfMemory> {
        let vma = objects.vma(id);
        let Some(family) = marked(vma).filter(|_| !is_recorded(vma)) else { return Ok(()) };
        let mut spare = Spare::alloc(objects)?;
        objects.family_lock_write(family).record(id, &mut spare);
        Ok(())
    }

    fn reshape(objects: &Objects<M>, moved: impl Iterator<Item = VmaId> + Clone, change: impl FnOnce()) {
        let lock = moved.clone().find_map(|id| marked(objects.vma(id)));
        let lock = lock.map(|family| objects.family_lock_write(family));
        let Some(lock) = lock else { return change() };
        let recorded = moved.map(|id| objects.vma(id)).filter(|vma| is_recorded(vma));
        recorded.clone().for_each(|vma| lock.remove(vma));
        change();
        for vma in recorded {
            if is_home(vma) {
                lock.forget(vma);
            } else {
                lock.insert(vma);
            }
        }
    }

    fn unlink(objects: &Objects<M>, id: VmaId) {
        let vma = objects.vma(id);
        let Some(family) = marked(vma) else { return };
        // Even if there is no record: who walks through the tables has finished when the lock is ours.
        let lock = objects.family_lock_write(family);
        if is_recorded(vma) {
            lock.remove(vma);
            lock.forget(vma);
        }
        vma.set_anon_vma(None);
    }

    fn exit(objects: &Objects<M>, mm: MmId) {
        leave(objects, mm);
        // Nobody who walks comes by any more.
        objects.mm_slot(mm).tree.for_each(objects.nodes(), |_, id| objects.vma(id).set_anon_vma(None));
    }

    fn lock<'v>(objects: &'v Objects<M>, folio: Folio<'_, M>) -> Option<FamilyReadGuard<'v, M>> {
        lock_read(objects, folio)
    }

    fn lock_to_move<'v>(
        objects: &'v Objects<M>,
        lock: &FolioGuard<'_, M>,
    ) -> Option<FamilyWriteGuard<'v, M>> {
        lock_write(objects, lock.folio())
    }

    fn moves_under(locked: &FamilyWriteGuard<'_, M>, folio: Folio<'_, M>) -> bool {
        locked.guards(folio)
    }

    #[inline]
    fn walk_where<'a, 'v: 'a, B>(
        locked: &'a FamilyReadGuard<'v, M>,
        at: (Folio<'_, M>, u64),
        form: Form,
        wanted: impl FnMut(VmaId) -> bool,
        f: impl FnMut(RmapHit<'a, 'v, M, FamilyReadGuard<'v, M>>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        walk::walk(locked, locked, at, form, wanted, f)
    }

    /// All of it: whoever maps a page has the family's, whatever his label.
    fn family(locked: &FamilyReadGuard<'_, M>) -> RawHandle {
        locked.family.raw()
    }

    fn lock_family<'v>(objects: &'v Objects<M>, family: RawHandle) -> Option<FamilyReadGuard<'v, M>> {
        lock_whole(objects, objects.families.resolve(&objects.frames, family)?)
    }

    fn validate_locked(locked: &FamilyReadGuard<'_, M>, _: Folio<'_, M>) -> Result<(), Broken> {
        let (objects, at) = (locked.objects, locked.family.raw().get().into());
        let is_live = objects.families.is_live(&objects.frames, locked.family);
        Broken::unless_equal("a locked family is in use", at, 1, u64::from(is_live))?;
        let has_members = locked.family().live.get() > 0;
        Broken::unless_equal("somebody is left of it", at, 1, u64::from(has_members))
    }

    fn validate(objects: &Objects<M>) -> Result<(), Broken> {
        validate::validate(objects)
    }
}
