//! What the rest of the memory manager asks of a reverse map.
//!
//! A page carries a *stamp*, from which all entries that may map it are found. A back end says what a stamp
//! is, how VMAs come to be found by it, and which lock keeps them. Sets of VMAs
//! ([`AnonVmas`](anonmem_hal::reverse_map::AnonVmas)) are one back end, families of address spaces
//! ([`Families`](anonmem_hal::reverse_map::Families)) the other. Nothing outside this folder names what
//! belongs to one back end; [`Rmap`](super::Rmap) is the one that a machine chose.
//!
//! The contract, whatever the back end:
//!
//! - A walk under [`lock`](ReverseMap::lock) meets every entry that maps the folio for the whole walk, and an
//!   entry that moves meanwhile at least once. An entry that munmap is about to clear it may pass over.
//! - A page that may be shared has a stamp by which all of its mappers are found
//!   ([`shared_stamp`](ReverseMap::shared_stamp)), in parents, children and siblings. A page of one mapper
//!   may have a younger one.
//! - Everything that can fail does so before anything has changed.

use crate::{
    ids::{MmId, VmaId},
    mm::{mmap_lock::MmapHeld, slot::MmSlot},
    objects::Objects,
    rmap::hit::{Form, RmapHit},
    vma::vma::Vma,
};
use anonmem_frame::{Folio, FolioGuard, Handle, OutOfMemory, RawHandle, Stamp as FolioStamp};
use anonmem_hal::Machine;
use anonmem_pgtable::StableVma;
use core::ops::ControlFlow;

/// What a page carries: a name that the reverse map gives, and gives a meaning to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp(FolioStamp);

impl Stamp {
    /// That of pages that an object of the reverse map leads to.
    #[inline]
    pub(super) fn of<T>(object: Handle<T>) -> Self {
        Self(object.raw().into())
    }

    /// That which a folio keeps.
    #[inline]
    pub(super) fn from_folio(stamp: FolioStamp) -> Self {
        Self(stamp)
    }

    /// As a folio keeps it.
    #[inline]
    pub(crate) fn raw(self) -> FolioStamp {
        self.0
    }
}

/// A rule of the reverse map that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Broken {
    /// The rule.
    pub(crate) rule: &'static str,
    /// Where: an address or a handle, as the rule says.
    pub(crate) at: u64,
    /// What was recounted.
    pub(crate) expected: u64,
    /// What is recorded.
    pub(crate) found: u64,
}

impl Broken {
    /// Says that `rule` does not hold, unless both are the same.
    pub(super) fn unless_equal(rule: &'static str, at: u64, expected: u64, found: u64) -> Result<(), Self> {
        if expected == found { Ok(()) } else { Err(Self { rule, at, expected, found }) }
    }
}

/// Bytes of what a reverse map is made of, without what slabs add.
#[derive(Clone, Copy, Debug)]
pub struct RmapBytes {
    /// A set: an anon_vma, or a family.
    pub set: u64,
    /// A link between a VMA and an anon_vma, or a record of a VMA.
    pub link: u64,
    /// What an address space has in its slot for it.
    pub member: u64,
}

/// A way from a page to the entries that map it.
pub(crate) trait ReverseMap<M: Machine> {
    /// What it is made of.
    const BYTES: RmapBytes;

    /// The lock under which the mappers of a page stand still; entries may be looked at and cleared under it,
    /// never filled.
    type Locked<'v>: StableVma<M>
    where
        M: 'v;

    /// The lock under which no walk of a page runs that does not hold the folio's lock.
    type Moving<'v>
    where
        M: 'v;

    /// The stamp that new pages of a VMA of `slot` get, if it is ready for pages.
    fn stamp(objects: &Objects<M>, slot: &MmSlot<M>, vma: &Vma<M>) -> Option<Stamp>;

    /// The stamp for a page that others map, or may map, too, and that this VMA brings back.
    fn shared_stamp(objects: &Objects<M>, stamp: Stamp) -> Stamp;

    /// Whether pages that are stamped so, one of which is mapped just now, may be this VMA's, too, whose own
    /// pages get `ours`.
    fn is_related(objects: &Objects<M>, theirs: FolioStamp, ours: Stamp) -> bool;

    /// Makes a VMA ready for pages.
    ///
    /// # Locks
    /// The mmap lock, for reading or writing; two may race.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    fn prepare(objects: &Objects<M>, mm: MmapHeld<'_, M>, id: VmaId) -> Result<Stamp, OutOfMemory>;

    /// Lets the address space `child`, which has nothing yet, have pages of its parent's.
    ///
    /// # Locks
    /// Both mmap locks, for writing.
    fn fork_mm(objects: &Objects<M>, child: MmId, parent: MmId);

    /// Lets the pages of `parent` be found in `child`, its copy in another address space that is in no tree
    /// yet.
    ///
    /// # Errors
    /// [`OutOfMemory`]: the child is as it was.
    fn fork(objects: &Objects<M>, child: VmaId, parent: VmaId) -> Result<(), OutOfMemory>;

    /// Lets the pages of `lower` be found in `upper` as well, which is to take its upper part and is in no
    /// tree yet.
    ///
    /// # Errors
    /// [`OutOfMemory`]: the upper one is as it was.
    fn split(objects: &Objects<M>, upper: VmaId, lower: VmaId) -> Result<(), OutOfMemory>;

    /// Whether a VMA may cover more addresses, which have no page yet.
    fn can_grow(objects: &Objects<M>, id: VmaId) -> bool;

    /// Whether two VMAs may become one.
    fn can_merge(objects: &Objects<M>, a: VmaId, b: VmaId) -> bool;

    /// Lets the pages of `eaten`, each of which [`can_merge`](Self::can_merge), be found in `target`.
    ///
    /// # Errors
    /// [`OutOfMemory`]: the target is as it was.
    fn merge(
        objects: &Objects<M>,
        target: VmaId,
        eaten: impl Iterator<Item = VmaId>,
    ) -> Result<(), OutOfMemory>;

    /// Lets the pages of a VMA be found wherever [`reshape`](Self::reshape) moves them.
    ///
    /// # Locks
    /// The mmap lock for writing.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    fn prepare_move(objects: &Objects<M>, id: VmaId) -> Result<(), OutOfMemory>;

    /// Runs `change`, which gives the VMAs of `moved`, all of one family, new ranges: a walk sees them before
    /// it or after it.
    ///
    /// # Locks
    /// The mmap lock for writing.
    fn reshape(objects: &Objects<M>, moved: impl Iterator<Item = VmaId> + Clone, change: impl FnOnce());

    /// Ends that a VMA is found. It has no page any more.
    fn unlink(objects: &Objects<M>, id: VmaId);

    /// Ends that any VMA of an address space is found. It has no page any more.
    ///
    /// # Locks
    /// The mmap lock for writing.
    fn exit(objects: &Objects<M>, mm: MmId);

    /// Locks what maps a folio; `None` if the folio is not anonymous or not mapped.
    ///
    /// # Locks
    /// The caller has a reference to the folio, and may or may not hold its lock. Sleeps.
    fn lock<'v>(objects: &'v Objects<M>, folio: Folio<'_, M>) -> Option<Self::Locked<'v>>;

    /// Locks out the walks of a folio that do not hold its lock, which the caller does; `None` if the folio
    /// is not anonymous or not mapped.
    ///
    /// # Locks
    /// Sleeps.
    fn lock_to_move<'v>(objects: &'v Objects<M>, lock: &FolioGuard<'_, M>) -> Option<Self::Moving<'v>>;

    /// Whether that lock is the one of this folio, too, which is locked and mapped.
    fn moves_under(locked: &Self::Moving<'_>, folio: Folio<'_, M>) -> bool;

    /// Calls `f` for every entry of `form` that owns a page of `folio`, until it breaks.
    ///
    /// # Locks
    /// `locked` is that of the folio. Takes one page-table lock at a time.
    #[inline]
    fn walk<'a, 'v: 'a, B>(
        locked: &'a Self::Locked<'v>,
        folio: Folio<'_, M>,
        form: Form,
        f: impl FnMut(RmapHit<'a, 'v, M, Self::Locked<'v>>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        Self::walk_at(locked, (folio, folio.index()), form, f)
    }

    /// The same for a folio whose first page has a given index among what `locked` keeps: one page may have
    /// several such places (KSM).
    ///
    /// # Locks
    /// Takes one page-table lock at a time.
    #[inline]
    fn walk_at<'a, 'v: 'a, B>(
        locked: &'a Self::Locked<'v>,
        at: (Folio<'_, M>, u64),
        form: Form,
        f: impl FnMut(RmapHit<'a, 'v, M, Self::Locked<'v>>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        Self::walk_where(locked, at, form, |_| true, f)
    }

    /// The same in the VMAs that are `wanted` alone. It is asked of each that may map a page of the folio.
    ///
    /// # Locks
    /// Takes one page-table lock at a time.
    fn walk_where<'a, 'v: 'a, B>(
        locked: &'a Self::Locked<'v>,
        at: (Folio<'_, M>, u64),
        form: Form,
        wanted: impl FnMut(VmaId) -> bool,
        f: impl FnMut(RmapHit<'a, 'v, M, Self::Locked<'v>>) -> ControlFlow<B>,
    ) -> ControlFlow<B>;

    /// A name for all that may ever map a page that is locked: those who do, and whoever descends from them.
    /// It keeps nothing, and may name others later; then a walk finds no entry of the page.
    fn family(locked: &Self::Locked<'_>) -> RawHandle;

    /// Locks what [`family`](Self::family) named; `None` if nobody is left of it.
    ///
    /// # Locks
    /// Sleeps.
    fn lock_family<'v>(objects: &'v Objects<M>, family: RawHandle) -> Option<Self::Locked<'v>>;

    /// Checks that what is locked is in use, and may be what maps the folio. It always is, if the folio was
    /// mapped under the lock.
    ///
    /// # Errors
    /// The rule that does not hold.
    fn validate_locked(locked: &Self::Locked<'_>, folio: Folio<'_, M>) -> Result<(), Broken>;

    /// Checks, at rest, all that is to hold of it.
    ///
    /// # Errors
    /// The first rule that does not hold.
    fn validate(objects: &Objects<M>) -> Result<(), Broken>;
}
