//! The mark of a VMA that has had a page: the field that names an anon_vma in the other reverse map.

use super::records::{Spare, is_home};
use crate::{
    ids::{AnonVmaId, FamilyId, VmaId},
    objects::Objects,
    vma::vma::Vma,
};
use anonmem_frame::{Handle, OutOfMemory};
use anonmem_hal::Machine;

/// The mark of a VMA of `family`.
pub(super) fn mark(family: FamilyId) -> AnonVmaId {
    Handle::from_raw(family.raw())
}

/// The family that a VMA with pages is of.
pub(super) fn marked<M: Machine>(vma: &Vma<M>) -> Option<FamilyId> {
    vma.anon_vma().map(|mark| Handle::from_raw(mark.raw()))
}

/// Marks a VMA that is in no tree yet, or loses no page by it, as one that has what `like` has; records it if
/// it is not at home.
pub(super) fn mark_like<M: Machine>(
    objects: &Objects<M>,
    id: VmaId,
    like: &Vma<M>,
) -> Result<(), OutOfMemory> {
    let (vma, Some(family)) = (objects.vma(id), marked(like)) else { return Ok(()) };
    if is_home(vma) {
        vma.set_anon_vma(Some(mark(family)));
        return Ok(());
    }
    mark_away(objects, id, family)
}

/// Marks and records a VMA that is not at home, unless another fault of it has done so meanwhile.
pub(super) fn mark_away<M: Machine>(
    objects: &Objects<M>,
    id: VmaId,
    family: FamilyId,
) -> Result<(), OutOfMemory> {
    let vma = objects.vma(id);
    let mut spare = Spare::alloc(objects)?;
    let lock = objects.family_lock_write(family);
    if vma.anon_vma().is_none() {
        lock.record(id, &mut spare);
        vma.set_anon_vma(Some(mark(family)));
    }
    Ok(())
}
