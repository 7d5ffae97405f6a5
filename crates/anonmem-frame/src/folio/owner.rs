//! What only an owner may do to a folio: change its state.
//!
//! A count keeps the frames a folio. Without one, the bits that are set could be those of a page table by the
//! time that they are set.

use super::{
    Exclusive, ExclusiveRef, ExclusiveWholeRef, Folio, FolioGuard, FolioPin, FolioRef, HoldWholeRef,
    MigrationHoldRef, Shared, SharedRef, SharedWhole, SharedWholeRef, ShmMap,
};
use crate::meta::{encode_entry, flags};
use anonmem_hal::{Machine, SwapEntry};
use anonmem_sync::Ordering;
use core::marker::PhantomData;

mod sealed {
    pub trait Sealed {}
}

/// Whoever has a count of a folio, a look at an entry that has one, or the folio's lock, with which it is not
/// freed.
pub trait FolioOwner<'f, M: Machine>: sealed::Sealed {
    /// The folio.
    #[doc(hidden)]
    fn owned(&self) -> Folio<'f, M>;

    /// Takes the folio lock; sleeps while it is held. A folio that is freed while it is locked is a panic:
    /// let go of the lock before the last count.
    #[doc(alias = "folio_lock")]
    fn lock(&self) -> FolioGuard<'f, M> {
        FolioGuard::lock(self.owned())
    }

    /// Takes the folio lock if it is free; allowed under a page-table lock.
    #[doc(alias = "folio_trylock")]
    #[inline]
    fn try_lock(&self) -> Option<FolioGuard<'f, M>> {
        FolioGuard::try_lock(self.owned())
    }

    /// Sets how many sweeps of reclaim in a row found it unused, up to 3.
    #[inline]
    fn set_idle(&self, sweeps: u32) {
        let set = sweeps.min(3) << flags::IDLE_SHIFT;
        let word = &self.owned().meta().flags;
        word.fetch_and(!(3 << flags::IDLE_SHIFT), Ordering::Relaxed);
        word.fetch_or(set, Ordering::Relaxed);
    }

    /// Keeps something of the page until a sweep comes by again ([`Folio::note`]). One sweep at a time does.
    fn set_note(&self, note: u32) {
        let bits = ((1 << flags::NOTE_BITS) - 1) << flags::NOTE_SHIFT;
        let word = &self.owned().meta().flags;
        word.fetch_and(!bits, Ordering::Relaxed);
        word.fetch_or(note << flags::NOTE_SHIFT & bits, Ordering::Relaxed);
    }

    /// Notes that a page-table scan found it accessed, and took the accessed bit.
    #[inline]
    fn set_referenced(&self) {
        self.owned().meta().flags.fetch_or(flags::REFERENCED, Ordering::Relaxed);
    }

    /// Whether one did since last asked.
    fn test_and_clear_referenced(&self) -> bool {
        let word = &self.owned().meta().flags;
        word.load(Ordering::Relaxed) & flags::REFERENCED != 0
            && word.fetch_and(!flags::REFERENCED, Ordering::Relaxed) & flags::REFERENCED != 0
    }

    /// Whether it may be dropped instead of swapped (`MADV_FREE`) unless written since.
    fn is_lazyfree(&self) -> bool {
        self.owned().is_lazyfree()
    }

    /// Marks it for lazy freeing.
    fn set_lazyfree(&self) {
        self.owned().meta().flags.fetch_or(flags::LAZYFREE, Ordering::Relaxed);
    }

    /// Takes back the mark for lazy freeing: the page was written.
    fn clear_lazyfree(&self) {
        self.owned().meta().flags.fetch_and(!flags::LAZYFREE, Ordering::Relaxed);
    }

    /// Forgets `entry` after its slot's word has let go of the page; not one that the page was given since.
    fn forget_swap_entry(&self, entry: SwapEntry) {
        let _ = self.owned().meta().private.compare_exchange(encode_entry(entry), 0, Ordering::Relaxed);
    }
}

/// A folio that somebody else's count keeps for as long as this borrows it: a pin of a list.
pub struct KeptFolio<'k, 'f, M: Machine> {
    folio: Folio<'f, M>,
    _keeper: PhantomData<&'k ()>,
}

impl<'f, M: Machine> KeptFolio<'_, 'f, M> {
    /// The folio, of which the caller has a count for as long.
    pub(super) const fn new(folio: Folio<'f, M>) -> Self {
        Self { folio, _keeper: PhantomData }
    }

    /// The folio.
    pub const fn folio(&self) -> Folio<'f, M> {
        self.folio
    }
}

macro_rules! owner {
    ($name:ident<$($life:lifetime),*>) => {
        impl<M: Machine> sealed::Sealed for $name<$($life),*, M> {}
        impl<'f, M: Machine> FolioOwner<'f, M> for owner!(@of $name<$($life),*>) {
            #[inline(always)]
            fn owned(&self) -> Folio<'f, M> {
                self.folio()
            }
        }
    };
    (@of $name:ident<'_>) => { $name<'f, M> };
    (@of $name:ident<'_, '_>) => { $name<'_, 'f, M> };
}
owner!(FolioRef<'_>);
owner!(FolioPin<'_>);
owner!(FolioGuard<'_>);
owner!(Exclusive<'_>);
owner!(Shared<'_>);
owner!(ShmMap<'_>);
owner!(ExclusiveRef<'_, '_>);
owner!(SharedRef<'_, '_>);
owner!(MigrationHoldRef<'_, '_>);
owner!(SharedWhole<'_>);
owner!(ExclusiveWholeRef<'_, '_>);
owner!(SharedWholeRef<'_, '_>);
owner!(HoldWholeRef<'_, '_>);
owner!(KeptFolio<'_, '_>);
