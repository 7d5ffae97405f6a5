//! Sets of VMAs as a reverse map: Linux's way.
//!
//! The functions have Linux's names and are in [`anon_vma`](super::anon_vma), [`folio`](super::folio) and
//! [`walk`](super::walk); this page says which of them does what of a [`ReverseMap`].

use crate::{
    ids::{AnonVmaId, MmId, VmaId},
    mm::{mmap_lock::MmapHeld, slot::MmSlot},
    objects::Objects,
    rmap::{
        anon_vma::{
            AnonVmaReadGuard, AnonVmaWriteGuard, anon_vma_clone, anon_vma_fork, anon_vma_prepare,
            anon_vmas_merge, dup_anon_vma, is_singular, unlink_anon_vmas,
        },
        folio::{folio_lock_anon_vma_read, folio_lock_anon_vma_write},
        hit::{Form, RmapHit},
        objects::{AnonVma, AnonVmaChain},
        reverse_map::{Broken, ReverseMap, RmapBytes, Stamp},
        validate_anon_vmas::validate,
        walk::walk,
    },
    vma::vma::Vma,
};
use anonmem_frame::{Folio, FolioGuard, OutOfMemory, RawHandle, Stamp as FolioStamp};
use anonmem_hal::{Machine, reverse_map::AnonVmas};
use core::ops::ControlFlow;

/// A page's stamp is an anon_vma: the set of VMAs that may map it.
impl<M: Machine> ReverseMap<M> for AnonVmas {
    const BYTES: RmapBytes = RmapBytes {
        set: size_of::<AnonVma<M>>() as u64,
        link: size_of::<AnonVmaChain<M>>() as u64,
        member: 0,
    };

    type Locked<'v>
        = AnonVmaReadGuard<'v, M>
    where
        M: 'v;

    type Moving<'v>
        = AnonVmaWriteGuard<'v, M>
    where
        M: 'v;

    #[inline]
    fn stamp(_: &Objects<M>, _: &MmSlot<M>, vma: &Vma<M>) -> Option<Stamp> {
        vma.anon_vma().map(Stamp::of)
    }

    /// The root's: everybody who may map the page descends from it.
    fn shared_stamp(objects: &Objects<M>, stamp: Stamp) -> Stamp {
        let root = objects.anon_vma(AnonVmaId::from_raw(stamp.raw().object())).root();
        root.map_or(stamp, Stamp::of)
    }

    fn is_related(objects: &Objects<M>, theirs: FolioStamp, ours: Stamp) -> bool {
        let root = |of: FolioStamp| {
            let id = objects.anon_vmas.resolve(&objects.frames, of.object())?;
            objects.anon_vma(id).root()
        };
        root(theirs).is_some_and(|theirs| root(ours.raw()) == Some(theirs))
    }

    #[inline]
    fn prepare(objects: &Objects<M>, mm: MmapHeld<'_, M>, id: VmaId) -> Result<Stamp, OutOfMemory> {
        anon_vma_prepare(objects, mm, id).map(Stamp::of)
    }

    /// Each VMA is linked by itself.
    fn fork_mm(_: &Objects<M>, _: MmId, _: MmId) {}

    fn fork(objects: &Objects<M>, child: VmaId, parent: VmaId) -> Result<(), OutOfMemory> {
        anon_vma_fork(objects, child, parent)
    }

    fn split(objects: &Objects<M>, upper: VmaId, lower: VmaId) -> Result<(), OutOfMemory> {
        objects.vma(upper).set_anon_vma(objects.vma(lower).anon_vma());
        anon_vma_clone(objects, upper, lower)
    }

    fn can_grow(objects: &Objects<M>, id: VmaId) -> bool {
        objects.vma(id).anon_vma().is_none() || is_singular(objects, id)
    }

    fn can_merge(objects: &Objects<M>, a: VmaId, b: VmaId) -> bool {
        anon_vmas_merge(objects, a, b)
    }

    fn merge(
        objects: &Objects<M>,
        target: VmaId,
        eaten: impl Iterator<Item = VmaId>,
    ) -> Result<(), OutOfMemory> {
        dup_anon_vma(objects, target, eaten)
    }

    /// The links go along.
    fn prepare_move(_: &Objects<M>, _: VmaId) -> Result<(), OutOfMemory> {
        Ok(())
    }

    fn reshape(objects: &Objects<M>, moved: impl Iterator<Item = VmaId> + Clone, change: impl FnOnce()) {
        let family = moved.clone().find_map(|id| objects.vma(id).anon_vma());
        let lock = family.map(|of| objects.anon_vma_lock_write(of));
        if let Some(lock) = &lock {
            moved.clone().for_each(|id| lock.rekey_begin(id));
        }
        change();
        if let Some(lock) = &lock {
            moved.for_each(|id| lock.rekey_end(id));
        }
    }

    fn unlink(objects: &Objects<M>, id: VmaId) {
        unlink_anon_vmas(objects, id);
    }

    fn exit(objects: &Objects<M>, mm: MmId) {
        objects.mm_slot(mm).tree.for_each(objects.nodes(), |_, id| unlink_anon_vmas(objects, id));
    }

    fn lock<'v>(objects: &'v Objects<M>, folio: Folio<'_, M>) -> Option<AnonVmaReadGuard<'v, M>> {
        folio_lock_anon_vma_read(objects, folio)
    }

    fn lock_to_move<'v>(
        objects: &'v Objects<M>,
        lock: &FolioGuard<'_, M>,
    ) -> Option<AnonVmaWriteGuard<'v, M>> {
        folio_lock_anon_vma_write(objects, lock.folio())
    }

    fn moves_under(locked: &AnonVmaWriteGuard<'_, M>, folio: Folio<'_, M>) -> bool {
        locked.guards(folio)
    }

    #[inline]
    fn walk_where<'a, 'v: 'a, B>(
        locked: &'a AnonVmaReadGuard<'v, M>,
        at: (Folio<'_, M>, u64),
        form: Form,
        wanted: impl FnMut(VmaId) -> bool,
        f: impl FnMut(RmapHit<'a, 'v, M, AnonVmaReadGuard<'v, M>>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        walk(locked, locked, at, form, wanted, f)
    }

    /// The root: every VMA of the family is in its tree.
    fn family(locked: &AnonVmaReadGuard<'_, M>) -> RawHandle {
        let anon_vma = locked.anon_vma();
        locked.objects().anon_vma(anon_vma).root().unwrap_or(anon_vma).raw()
    }

    fn lock_family<'v>(objects: &'v Objects<M>, family: RawHandle) -> Option<AnonVmaReadGuard<'v, M>> {
        let root = objects.anon_vmas.resolve(&objects.frames, family)?;
        let guard = objects.anon_vma(root).lock().read();
        // Asked under the lock: a family that is gone stays gone, and one that has come stays.
        let found = objects.anon_vma(root).root() == Some(root);
        found.then_some(AnonVmaReadGuard { objects, anon_vma: root, _root: guard })
    }

    /// If no VMA has the index of the folio, the anon_vma is not the folio's.
    fn validate_locked(locked: &AnonVmaReadGuard<'_, M>, folio: Folio<'_, M>) -> Result<(), Broken> {
        let (objects, id, index) = (locked.objects(), locked.anon_vma(), folio.index());
        let is_live = objects.anon_vmas.is_live(&objects.frames, id);
        Broken::unless_equal("a locked anon_vma is in use", id.raw().get().into(), 1, u64::from(is_live))?;
        let vma = objects.anon_vma(id).tree().first_overlap(objects, index, index);
        Broken::unless_equal("a VMA of it has the folio's index", index, 1, u64::from(vma.is_some()))
    }

    fn validate(objects: &Objects<M>) -> Result<(), Broken> {
        validate(objects)
    }
}
