//! From a folio to the lock of its anon_vma: finding and locking what may be unmapped, freed and reused.
//!
//! Nothing keeps a folio's anon_vma but the VMAs that map it. So the handle in the mapping word may name a
//! slot that was freed, and reused for another family, before its lock is taken. The slot is type-stable, so
//! locking it is harmless; and after locking, everything is asked again, in this order:
//!
//! 1. *Is the folio mapped?* Acquire. If not, whatever the mapping word says is history.
//! 2. *Does the mapping word still say the same?* If the folio is mapped because somebody mapped it anew, (1)
//!    has seen that mapping. So (2) sees the word that was written before the mapping.
//! 3. *Is the root still the one that was locked?* The slot may have been freed and reused twice, with the
//!    folio following it back.
//!
//! If all three hold, a mapping existed while the lock was held. `unlink_anon_vmas` of the VMA that has it
//! takes the lock for writing after unmapping, so the anon_vma lives until the lock is dropped.
//!
//! The order of (1) and (2) matters only without the folio lock. With that lock nobody can give the folio
//! another anon_vma, and either order will do. `folio_referenced` comes without.
//!
//! Linux: mm/rmap.c `folio_lock_anon_vma_read`, `folio_get_anon_vma`. Differs: step 3; a
//! waiter needs no reference, because the slot and its lock are type-stable for ever.

use crate::{
    ids::AnonVmaId,
    objects::Objects,
    rmap::{
        anon_vma::{AnonVmaReadGuard, AnonVmaWriteGuard},
        objects::AnonVma,
    },
};
use anonmem_frame::{Folio, MappingWord};
use anonmem_hal::Machine;

/// What came of looking again.
enum Recheck {
    /// The anon_vma is the folio's and lives while the lock is held.
    Right,
    /// The folio is not mapped: there is nothing to walk.
    Unmapped,
    /// Something changed: start over.
    Changed,
}

/// Locks the root of the folio's anon_vma for reading; `None` if the folio is not anonymous or not mapped.
///
/// # Locks
/// The caller has a reference to the folio, and may or may not hold its lock. Sleeps.
pub(super) fn folio_lock_anon_vma_read<'v, M: Machine>(
    objects: &'v Objects<M>,
    folio: Folio<'_, M>,
) -> Option<AnonVmaReadGuard<'v, M>> {
    let (anon_vma, _root) = lock_and_recheck(objects, folio, |root| objects.anon_vma(root).lock().read())?;
    Some(AnonVmaReadGuard { objects, anon_vma, _root })
}

/// The same for writing: no walk runs that does not hold the folio's lock.
///
/// # Locks
/// As [`folio_lock_anon_vma_read`]. Sleeps.
pub(super) fn folio_lock_anon_vma_write<'v, M: Machine>(
    objects: &'v Objects<M>,
    folio: Folio<'_, M>,
) -> Option<AnonVmaWriteGuard<'v, M>> {
    let (anon_vma, lock) = lock_and_recheck(objects, folio, |root| objects.anon_vma(root).lock().write())?;
    Some(AnonVmaWriteGuard::of(objects, anon_vma, lock))
}

/// Locks the root of the folio's anon_vma, and asks again whether it is that; also says which anon_vma.
#[inline]
fn lock_and_recheck<M: Machine, L>(
    objects: &Objects<M>,
    folio: Folio<'_, M>,
    lock: impl Fn(AnonVmaId) -> L,
) -> Option<(AnonVmaId, L)> {
    loop {
        let word = folio.mapping_word();
        let (id, anon_vma) = objects.anon_vmas.find(&objects.frames, word.stamp()?.object())?;
        if !folio.is_mapped() {
            return None;
        }
        let Some(root) = anon_vma.root() else { continue };
        // What the slot is by the time that the lock is ours is asked below.
        let guard = lock(root);
        match recheck(folio, word, anon_vma, root) {
            Recheck::Right => return Some((id, guard)),
            Recheck::Unmapped => return None,
            // What was locked is let go of.
            Recheck::Changed => {}
        }
    }
}

fn recheck<M: Machine>(
    folio: Folio<'_, M>,
    word: MappingWord,
    anon_vma: &AnonVma<M>,
    root: AnonVmaId,
) -> Recheck {
    if !folio.is_mapped() {
        Recheck::Unmapped
    } else if folio.mapping_word() != word || anon_vma.root() != Some(root) {
        Recheck::Changed
    } else {
        Recheck::Right
    }
}
