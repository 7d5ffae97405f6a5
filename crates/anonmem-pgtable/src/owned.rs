//! Owners as bits and bits as owners: the one place.

use crate::guard::NotShared;
use anonmem_frame::{
    DupError, Exclusive, ExclusiveRef, Folio, FolioRef, Frames, Mapping, Shared, SharedRef, ShmMap,
    TooManySharers,
};
use anonmem_hal::{Arch, Machine, Pfn, Present, Pte, SoftLeaf};

/// A mapping that an entry can own.
pub trait MapOwner {
    /// Whether an entry that owns it may be writable.
    const MAY_WRITE: bool;
    /// Gives the mapping to an entry for the page returned.
    fn into_entry(self) -> Pfn;
}

/// A mapping whose entry was cleared.
pub trait Unmap<'f, M: Machine> {
    /// Uncounts it; the reference that remains is to be put after the flush.
    fn unmap(self) -> FolioRef<'f, M>;
    /// Uncounts it where no TLB has a translation of it; `None` if others have the page.
    fn unmap_untranslated(self) -> Option<FolioRef<'f, M>>;
}

macro_rules! map_owner {
    ($name:ident, $may_write:literal) => {
        impl<M: Machine> MapOwner for $name<'_, M> {
            const MAY_WRITE: bool = $may_write;
            #[inline(always)]
            fn into_entry(self) -> Pfn {
                $name::into_entry(self)
            }
        }

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
    /// A software entry.
    Soft(SoftLeaf),
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
            Pte::Soft(leaf) => return Self::Soft(leaf),
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

    /// Uncounts the mapping; the reference is to be put after the flush. `None` if there was no page.
    #[inline]
    pub fn unmap(self) -> Option<FolioRef<'f, M>> {
        match self {
            Self::None | Self::Zero(_) | Self::Soft(_) => None,
            Self::Exclusive(map, _) => Some(map.unmap()),
            Self::Shared(map, _) => Some(map.unmap()),
            Self::Shm(map, _) => Some(map.unmap()),
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
    /// A software entry.
    Soft(SoftLeaf),
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
            Pte::Soft(leaf) => return Self::Soft(leaf),
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
}

/// Adds a mapping to the anonymous page of an entry that holds `raw`, for another entry to own: what [`Mapped`] and `try_dup`
/// say, without what fork does not ask.
///
/// # Errors
/// Why the page is not shared.
///
/// # Safety
/// The entry is part of a live table of `frames` and its lock is held.
#[inline(always)]
pub(crate) unsafe fn share_page<M: Machine>(frames: &Frames<M>, raw: u64) -> Result<(), NotShared> {
    let page = M::Arch::pte_page(raw).ok_or(NotShared::NoPage)?;
    let shared = match kind_of(frames, page) {
        Owned::Exclusive => {
            // SAFETY: the entry owns an exclusive mapping and cannot change while it is locked.
            let page = unsafe { ExclusiveRef::of_entry(frames, page) };
            page.try_dup().map_err(NotShared::Refused)?
        }
        Owned::Shared => {
            // SAFETY: as above, shared.
            let page = unsafe { SharedRef::of_entry(frames, page) };
            page.try_dup().map_err(|TooManySharers| NotShared::Refused(DupError::TooManySharers))?
        }
        Owned::Shm => return Err(NotShared::NoPage),
    };
    shared.into_entry();
    Ok(())
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
    let folio = frames.folio(page).expect("an entry maps a frame that is no folio");
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
