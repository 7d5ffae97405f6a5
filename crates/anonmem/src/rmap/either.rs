//! One of the two reverse maps, as the configuration says: for machines that test both.

use crate::{
    config::ReverseMapChoice,
    ids::{MmId, VmaId},
    mm::{mmap_lock::MmapHeld, slot::MmSlot},
    objects::Objects,
    rmap::{
        anon_vma::{AnonVmaReadGuard, AnonVmaWriteGuard},
        family::{
            self,
            members::{FamilyReadGuard, FamilyWriteGuard},
        },
        hit::{Form, RmapHit},
        reverse_map::{Broken, ReverseMap, RmapBytes, Stamp},
        walk,
    },
    vma::vma::Vma,
};
use anonmem_frame::{Folio, FolioGuard, OutOfMemory, RawHandle, Stamp as FolioStamp};
use anonmem_hal::{
    Machine,
    reverse_map::{AnonVmas, Either, Families},
};
use core::ops::ControlFlow;

/// What keeps the mappers of a page.
pub enum EitherReadGuard<'v, M: Machine> {
    /// The root of an anon_vma.
    AnonVmas(AnonVmaReadGuard<'v, M>),
    /// The family.
    Families(FamilyReadGuard<'v, M>),
}

/// What keeps walks away.
pub(crate) enum EitherWriteGuard<'v, M: Machine> {
    AnonVmas(AnonVmaWriteGuard<'v, M>),
    Families(FamilyWriteGuard<'v, M>),
}

/// Calls the function of the reverse map that is chosen.
macro_rules! chosen {
    ($objects:expr, $name:ident($($arg:expr),*)) => {
        match $objects.config.reverse_map {
            ReverseMapChoice::AnonVmas => <AnonVmas as ReverseMap<M>>::$name($($arg),*),
            ReverseMapChoice::Families => <Families as ReverseMap<M>>::$name($($arg),*),
        }
    };
    (locked $objects:expr, $guard:ident, $name:ident($($arg:expr),*)) => {
        match $objects.config.reverse_map {
            ReverseMapChoice::AnonVmas => <AnonVmas as ReverseMap<M>>::$name($($arg),*).map($guard::AnonVmas),
            ReverseMapChoice::Families => <Families as ReverseMap<M>>::$name($($arg),*).map($guard::Families),
        }
    };
}

impl<M: Machine> ReverseMap<M> for Either {
    const BYTES: RmapBytes = <AnonVmas as ReverseMap<M>>::BYTES;

    type Locked<'v>
        = EitherReadGuard<'v, M>
    where
        M: 'v;

    type Moving<'v>
        = EitherWriteGuard<'v, M>
    where
        M: 'v;

    #[inline]
    fn stamp(objects: &Objects<M>, slot: &MmSlot<M>, vma: &Vma<M>) -> Option<Stamp> {
        chosen!(objects, stamp(objects, slot, vma))
    }

    fn shared_stamp(objects: &Objects<M>, stamp: Stamp) -> Stamp {
        chosen!(objects, shared_stamp(objects, stamp))
    }

    fn is_related(objects: &Objects<M>, theirs: FolioStamp, ours: Stamp) -> bool {
        chosen!(objects, is_related(objects, theirs, ours))
    }

    fn prepare(objects: &Objects<M>, mm: MmapHeld<'_, M>, id: VmaId) -> Result<Stamp, OutOfMemory> {
        chosen!(objects, prepare(objects, mm, id))
    }

    fn fork_mm(objects: &Objects<M>, child: MmId, parent: MmId) {
        chosen!(objects, fork_mm(objects, child, parent));
    }

    fn fork(objects: &Objects<M>, child: VmaId, parent: VmaId) -> Result<(), OutOfMemory> {
        chosen!(objects, fork(objects, child, parent))
    }

    fn split(objects: &Objects<M>, upper: VmaId, lower: VmaId) -> Result<(), OutOfMemory> {
        chosen!(objects, split(objects, upper, lower))
    }

    fn can_grow(objects: &Objects<M>, id: VmaId) -> bool {
        chosen!(objects, can_grow(objects, id))
    }

    fn can_merge(objects: &Objects<M>, a: VmaId, b: VmaId) -> bool {
        chosen!(objects, can_merge(objects, a, b))
    }

    fn merge(
        objects: &Objects<M>,
        target: VmaId,
        eaten: impl Iterator<Item = VmaId>,
    ) -> Result<(), OutOfMemory> {
        chosen!(objects, merge(objects, target, eaten))
    }

    fn prepare_move(objects: &Objects<M>, id: VmaId) -> Result<(), OutOfMemory> {
        chosen!(objects, prepare_move(objects, id))
    }

    fn reshape(objects: &Objects<M>, moved: impl Iterator<Item = VmaId> + Clone, change: impl FnOnce()) {
        chosen!(objects, reshape(objects, moved, change));
    }

    fn unlink(objects: &Objects<M>, id: VmaId) {
        chosen!(objects, unlink(objects, id));
    }

    fn exit(objects: &Objects<M>, mm: MmId) {
        chosen!(objects, exit(objects, mm));
    }

    fn lock<'v>(objects: &'v Objects<M>, folio: Folio<'_, M>) -> Option<EitherReadGuard<'v, M>> {
        chosen!(locked objects, EitherReadGuard, lock(objects, folio))
    }

    fn lock_to_move<'v>(
        objects: &'v Objects<M>,
        lock: &FolioGuard<'_, M>,
    ) -> Option<EitherWriteGuard<'v, M>> {
        chosen!(locked objects, EitherWriteGuard, lock_to_move(objects, lock))
    }

    fn moves_under(locked: &EitherWriteGuard<'_, M>, folio: Folio<'_, M>) -> bool {
        match locked {
            EitherWriteGuard::AnonVmas(lock) => AnonVmas::moves_under(lock, folio),
            EitherWriteGuard::Families(lock) => Families::moves_under(lock, folio),
        }
    }

    fn walk_where<'a, 'v: 'a, B>(
        locked: &'a EitherReadGuard<'v, M>,
        at: (Folio<'_, M>, u64),
        form: Form,
        wanted: impl FnMut(VmaId) -> bool,
        f: impl FnMut(RmapHit<'a, 'v, M, EitherReadGuard<'v, M>>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match locked {
            EitherReadGuard::AnonVmas(lock) => walk::walk(lock, locked, at, form, wanted, f),
            EitherReadGuard::Families(lock) => family::walk::walk(lock, locked, at, form, wanted, f),
        }
    }

    fn family(locked: &EitherReadGuard<'_, M>) -> RawHandle {
        match locked {
            EitherReadGuard::AnonVmas(lock) => AnonVmas::family(lock),
            EitherReadGuard::Families(lock) => Families::family(lock),
        }
    }

    fn lock_family<'v>(objects: &'v Objects<M>, family: RawHandle) -> Option<EitherReadGuard<'v, M>> {
        chosen!(locked objects, EitherReadGuard, lock_family(objects, family))
    }

    fn validate_locked(locked: &EitherReadGuard<'_, M>, folio: Folio<'_, M>) -> Result<(), Broken> {
        match locked {
            EitherReadGuard::AnonVmas(lock) => AnonVmas::validate_locked(lock, folio),
            EitherReadGuard::Families(lock) => Families::validate_locked(lock, folio),
        }
    }

    fn validate(objects: &Objects<M>) -> Result<(), Broken> {
        chosen!(objects, validate(objects))
    }
}

impl<'v, M: Machine> EitherReadGuard<'v, M> {
    /// The memory manager.
    pub(crate) fn objects(&self) -> &'v Objects<M> {
        match self {
            Self::AnonVmas(lock) => lock.objects(),
            Self::Families(lock) => lock.objects(),
        }
    }
}

impl<'v, M: Machine> EitherWriteGuard<'v, M> {
    /// The memory manager.
    pub(crate) fn objects(&self) -> &'v Objects<M> {
        match self {
            Self::AnonVmas(lock) => lock.objects(),
            Self::Families(lock) => lock.objects(),
        }
    }
}
