//! Owners as bits and bits as owners: the one place.

use anonmem_frame::{
    DupError, Exclusive, ExclusiveRef, Folio, FolioRef, Frames, MapRun, Mapping, MigrationHold,
    MigrationHoldRef, Shared, SharedRef, ShmMap, SwapCount, SwapCountRef,
};
use anonmem_hal::{
    Arch, EntryBits, Machine, Marker, MigrationBits, Pfn, Present, Protection, Pte, SoftLeaf, SwapBits,
};

/// What an entry says beside the page it maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attrs {
    /// The hardware's permissions.
    pub prot: Protection,
    /// Born accessed, because a fault is about to access it.
    pub young: bool,
    /// Born dirty, because a fault is about to write it.
    pub dirty: bool,
    /// Write-protected on behalf of userfaultfd.
    pub uffd_wp: bool,
    /// As [`Present::soft_clean`]: whoever says so allows no stores.
    pub soft_clean: bool,
}

impl From<Present> for Attrs {
    fn from(p: Present) -> Self {
        let Present { prot, young, dirty, uffd_wp, soft_clean, pfn: _, special: _ } = p;
        Self { prot, young, dirty, uffd_wp, soft_clean }
    }
}

impl Attrs {
    /// What an entry says that comes from another form, in a VMA that allows `vma`.
    pub const fn of(bits: EntryBits, vma: Protection) -> Self {
        let EntryBits { young, dirty, uffd_wp, soft_clean, .. } = bits;
        Self { prot: bits.prot(vma), young, dirty, uffd_wp, soft_clean }
    }

    /// The present entry that says so of `pfn`.
    #[inline(always)]
    pub(crate) fn of_page<M: Machine>(self, pfn: Pfn) -> Present {
        let Self { prot, young, dirty, uffd_wp, soft_clean } = self;
        anonmem_hal::debug_check!(M, !(soft_clean && prot.write), "the first write would not be noticed");
        Present { pfn, prot, young, dirty, special: false, uffd_wp, soft_clean }
    }

    /// The same without permission to write, and written by nobody yet.
    #[must_use]
    pub const fn soft_clean(self) -> Self {
        Self { prot: self.prot.write_protected(), soft_clean: true, ..self }
    }
}

/// Only the owners below go into entries.
mod sealed {
    pub trait Sealed {}
}

/// What an entry can own: a mapping, a count of a swap slot, a hold on a page that migrates; a marker owns
/// nothing and says all.
pub trait EntryOwner: sealed::Sealed {
    /// What an entry says beside what it owns.
    type Says;
    /// The entry that owns it.
    fn into_pte(self, says: Self::Says) -> Pte;
    /// The address of the frames that the owner is of; `None` if it owns nothing of any.
    #[doc(hidden)]
    fn home(&self) -> Option<*const ()>;
}

/// The address of frames, for comparison.
#[inline(always)]
pub(crate) fn address_of<M: Machine>(frames: &Frames<M>) -> *const () {
    core::ptr::from_ref(frames).cast()
}

impl<M: Machine> sealed::Sealed for SwapCount<'_, M> {}
impl<M: Machine> EntryOwner for SwapCount<'_, M> {
    type Says = SwapBits;
    #[inline]
    fn into_pte(self, bits: SwapBits) -> Pte {
        Pte::Soft(SoftLeaf::Swap { entry: self.into_entry(), bits })
    }
    #[inline]
    fn home(&self) -> Option<*const ()> {
        Some(address_of(self.frames()))
    }
}

impl<M: Machine> sealed::Sealed for MigrationHold<'_, M> {}
impl<M: Machine> EntryOwner for MigrationHold<'_, M> {
    type Says = MigrationBits;
    #[inline]
    fn into_pte(self, bits: MigrationBits) -> Pte {
        Pte::Soft(SoftLeaf::Migration { pfn: self.into_entry(), bits })
    }
    #[inline]
    fn home(&self) -> Option<*const ()> {
        Some(address_of(self.frames()))
    }
}

impl sealed::Sealed for Marker {}
impl EntryOwner for Marker {
    type Says = ();
    #[inline]
    fn into_pte(self, (): ()) -> Pte {
        Pte::Soft(SoftLeaf::Marker(self))
    }
    #[inline]
    fn home(&self) -> Option<*const ()> {
        None
    }
}

/// A mapping whose entry was cleared.
pub trait Unmap<'f, M: Machine>: sealed::Sealed {
    /// Uncounts it; the reference that remains is to be put after the flush.
    fn unmap(self) -> FolioRef<'f, M>;
    /// Uncounts it where no TLB has a translation of it; `None` if others have the page.
    fn unmap_untranslated(self) -> Option<FolioRef<'f, M>>;
}

/// A mapping of one page, whose entry was cleared.
pub trait UnmapPage<'f, M: Machine>: Unmap<'f, M> + Sized {
    /// [`Unmap::unmap`] if the page is a folio of its own; else the mapping again.
    ///
    /// # Errors
    /// The mapping.
    fn unmap_one_page(self) -> Result<FolioRef<'f, M>, Self>;
    /// [`Unmap::unmap_untranslated`] if the page is a folio of its own; else the mapping again.
    ///
    /// # Errors
    /// The mapping.
    fn unmap_untranslated_one_page(self) -> Result<Option<FolioRef<'f, M>>, Self>;
}

macro_rules! unmap {
    ($name:ident) => {
        impl<'f, M: Machine> Unmap<'f, M> for $name<'f, M> {
            #[inline(always)]
            fn unmap(self) -> FolioRef<'f, M> {
                $name::unmap(self)
            }
            #[inline(always)]
            fn unmap_untranslated(self) -> Option<FolioRef<'f, M>> {
                $name::unmap_untranslated(self)
            }
        }
    };
}
unmap!(Exclusive);
unmap!(Shared);
unmap!(ShmMap);
unmap!(MigrationHold);

impl<M: Machine> sealed::Sealed for MapRun<'_, M> {}
unmap!(MapRun);

macro_rules! map_owner {
    ($name:ident, $may_write:literal) => {
        impl<'f, M: Machine> UnmapPage<'f, M> for $name<'f, M> {
            #[inline(always)]
            fn unmap_one_page(self) -> Result<FolioRef<'f, M>, Self> {
                $name::unmap_one_page(self)
            }
            #[inline(always)]
            fn unmap_untranslated_one_page(self) -> Result<Option<FolioRef<'f, M>>, Self> {
                $name::unmap_untranslated_one_page(self)
            }
        }

        impl<M: Machine> sealed::Sealed for $name<'_, M> {}
        impl<M: Machine> EntryOwner for $name<'_, M> {
            type Says = Attrs;
            #[inline(always)]
            fn into_pte(self, attrs: Attrs) -> Pte {
                assert!($may_write || !attrs.prot.write, "a shared page mapped writable");
                Pte::Present(attrs.of_page::<M>(self.into_entry()))
            }
            #[inline(always)]
            fn home(&self) -> Option<*const ()> {
                Some(address_of(self.frames()))
            }
        }
    };
}
map_owner!(Exclusive, true);
map_owner!(Shared, false);
map_owner!(ShmMap, true);

/// What a cleared entry was, with what it owned.
#[must_use = "what the entry owned has to go somewhere"]
pub enum Cleared<'f, M: Machine> {
    /// Nothing.
    None,
    /// The zero page; it owned nothing.
    Zero(Present),
    /// An exclusive page.
    Exclusive(Exclusive<'f, M>, Present),
    /// A page that may be shared.
    Shared(Shared<'f, M>, Present),
    /// A page of a shared object.
    Shm(ShmMap<'f, M>, Present),
    /// A page in a swap slot.
    Swap(SwapCount<'f, M>, SwapBits),
    /// A page on its way to another frame.
    Migration(MigrationHold<'f, M>, MigrationBits),
    /// A marker; it owned nothing.
    Marker(Marker),
}

impl<'f, M: Machine> Cleared<'f, M> {
    /// Takes back what the entry with the bits `raw` owned.
    ///
    /// # Safety
    /// The entry held `raw`, is part of a live table of `frames`, and was cleared by the caller.
    #[inline(always)]
    pub(crate) unsafe fn from_bits(frames: &'f Frames<M>, raw: u64) -> Self {
        let present = match M::Arch::decode_pte(raw) {
            Pte::None => return Self::None,
            Pte::Soft(leaf) => {
                // SAFETY: the caller's promise.
                return unsafe { Self::from_soft(frames, leaf) };
            }
            Pte::Present(p) if p.special => return Self::Zero(p),
            Pte::Present(p) => p,
        };
        match kind_of(frames, present.pfn) {
            Owned::Exclusive => {
                // SAFETY: the entry owned a mapping of this kind and no longer exists.
                Self::Exclusive(unsafe { Exclusive::from_entry(frames, present.pfn) }, present)
            }
            // SAFETY: as above.
            Owned::Shared => Self::Shared(unsafe { Shared::from_entry(frames, present.pfn) }, present),
            // SAFETY: as above.
            Owned::Shm => Self::Shm(unsafe { ShmMap::from_entry(frames, present.pfn) }, present),
        }
    }

    /// Uncounts the mapping that it was; the reference is to be put after the flush.
    ///
    /// # Errors
    /// What it was, if no page was mapped.
    #[inline]
    pub fn unmap(self) -> Result<FolioRef<'f, M>, Self> {
        match self {
            Self::Exclusive(map, _) => Ok(map.unmap()),
            Self::Shared(map, _) => Ok(map.unmap()),
            Self::Shm(map, _) => Ok(map.unmap()),
            Self::Migration(hold, _) => Ok(hold.unmap()),
            Self::None | Self::Zero(_) | Self::Swap(..) | Self::Marker(_) => Err(self),
        }
    }

    /// What a software entry owned.
    ///
    /// # Safety
    /// As for [`from_bits`](Self::from_bits).
    #[cold]
    unsafe fn from_soft(frames: &'f Frames<M>, leaf: SoftLeaf) -> Self {
        match leaf {
            SoftLeaf::Swap { entry, bits } => {
                // SAFETY: a swap entry owns a count of its slot, and this one no longer exists.
                Self::Swap(unsafe { SwapCount::from_entry(frames, entry) }, bits)
            }
            SoftLeaf::Migration { pfn, bits } => {
                // SAFETY: a migration entry owns a hold on its page, and this one no longer exists.
                Self::Migration(unsafe { MigrationHold::from_entry(frames, pfn) }, bits)
            }
            SoftLeaf::Marker(marker) => Self::Marker(marker),
        }
    }
}

/// A look at what a locked entry is and owns.
pub enum Mapped<'e, 'f, M: Machine> {
    /// Nothing.
    None,
    /// The zero page.
    Zero(Present),
    /// An exclusive page.
    Exclusive(ExclusiveRef<'e, 'f, M>, Present),
    /// A page that may be shared.
    Shared(SharedRef<'e, 'f, M>, Present),
    /// A page of a shared object.
    Shm(Present),
    /// A page in a swap slot.
    Swap(SwapCountRef<'e, 'f, M>, SwapBits),
    /// A page on its way to another frame.
    Migration(MigrationHoldRef<'e, 'f, M>, MigrationBits),
    /// A marker; it owns nothing.
    Marker(Marker),
}

impl<'f, M: Machine> Mapped<'_, 'f, M> {
    /// The view of an entry that holds `raw`.
    ///
    /// # Safety
    /// The entry is part of a live table of `frames` and its lock is held for `'e`.
    #[inline(always)]
    pub(crate) unsafe fn of_bits(frames: &'f Frames<M>, raw: u64) -> Self {
        let present = match M::Arch::decode_pte(raw) {
            Pte::None => return Self::None,
            Pte::Soft(leaf) => {
                // SAFETY: the caller's promise.
                return unsafe { Self::of_soft(frames, leaf) };
            }
            Pte::Present(p) if p.special => return Self::Zero(p),
            Pte::Present(p) => p,
        };
        match kind_of(frames, present.pfn) {
            Owned::Exclusive => {
                // SAFETY: the entry owns an exclusive mapping and cannot change while it is locked.
                Self::Exclusive(unsafe { ExclusiveRef::of_entry(frames, present.pfn) }, present)
            }
            // SAFETY: as above, shared.
            Owned::Shared => Self::Shared(unsafe { SharedRef::of_entry(frames, present.pfn) }, present),
            Owned::Shm => Self::Shm(present),
        }
    }

    /// The view of a software entry.
    ///
    /// # Safety
    /// As for [`of_bits`](Self::of_bits).
    #[cold]
    unsafe fn of_soft(frames: &'f Frames<M>, leaf: SoftLeaf) -> Self {
        match leaf {
            SoftLeaf::Swap { entry, bits } => {
                // SAFETY: a swap entry owns a count of its slot, and cannot change while it is locked.
                Self::Swap(unsafe { SwapCountRef::of_entry(frames, entry) }, bits)
            }
            SoftLeaf::Migration { pfn, bits } => {
                // SAFETY: as above, a hold on its page.
                Self::Migration(unsafe { MigrationHoldRef::of_entry(frames, pfn) }, bits)
            }
            SoftLeaf::Marker(marker) => Self::Marker(marker),
        }
    }
}

enum Owned {
    Exclusive,
    Shared,
    Shm,
}

/// The kind of mapping that an entry for `page` owns: the exclusive bit is changed only under the lock of
/// the only entry, and a folio never changes between anonymous and shared object.
#[inline(always)]
fn kind_of<M: Machine>(frames: &Frames<M>, page: Pfn) -> Owned {
    if frames.page_is_exclusive(page) {
        return Owned::Exclusive;
    }
    let folio = frames.folio_of_owned(page);
    if folio.is_anon() { Owned::Shared } else { kind_of_other(folio) }
}

/// The same for what is not anonymous.
#[cold]
fn kind_of_other<M: Machine>(folio: Folio<'_, M>) -> Owned {
    match folio.mapping() {
        Mapping::Anon(_) | Mapping::Ksm(_) => Owned::Shared,
        Mapping::Shm(_) => Owned::Shm,
        Mapping::None => panic!("an entry maps {folio:?}, which belongs to nothing"),
    }
}

/// Why a page is not shared with a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotShared {
    /// There is no anonymous page.
    NoPage,
    /// There is one, and it cannot be shared: copy it.
    Refused(DupError),
}
