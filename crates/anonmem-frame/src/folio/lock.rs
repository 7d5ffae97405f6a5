//! The folio lock, and folios whose counts are frozen.

use super::{Folio, FolioRef};
use crate::{
    Frames,
    handle::RawHandle,
    meta::{Counts, Mapping, Stamp, encode_entry, flags},
};
use anonmem_hal::{Machine, Pfn, SwapEntry};
use anonmem_sync::{BitGuard, BitLock, Ordering, order::FolioLock};
use core::mem::ManuallyDrop;

type Guard<'f, M> = BitGuard<'f, M, FolioLock, { flags::LOCKED }, { flags::WAITERS }>;

/// Holds the folio lock. While it is held, `mapping`, `index` and the swap entry do not change, except by the
/// holder.
#[must_use = "the lock is released when the guard drops"]
pub struct FolioGuard<'f, M: Machine> {
    pub(super) folio: Folio<'f, M>,
    _guard: Guard<'f, M>,
}

impl<'f, M: Machine> FolioGuard<'f, M> {
    pub(super) fn lock(folio: Folio<'f, M>) -> Self {
        let guard = BitLock::of(&folio.meta().flags).lock();
        Self { folio, _guard: guard }
    }

    pub(super) fn try_lock(folio: Folio<'f, M>) -> Option<Self> {
        let guard = BitLock::of(&folio.meta().flags).try_lock()?;
        Some(Self { folio, _guard: guard })
    }

    /// The folio that is locked.
    pub fn folio(&self) -> Folio<'f, M> {
        self.folio
    }

    /// Gives the folio, which is mapped once and exclusive, to another anon_vma and index: it is mapped there
    /// already (UFFDIO_MOVE). A walk that finds it there by what is written now finds the entry, too.
    ///
    /// The caller still holds the lock of the entry's table, and whatever keeps away the walks that do not
    /// hold the folio lock.
    ///
    /// # Panics
    /// If it is no anonymous page.
    #[doc(alias = "folio_move_anon_rmap")]
    pub fn move_mapped(&self, anon_vma: Stamp, index: u64) {
        assert!(matches!(self.folio.mapping(), Mapping::Anon(_)), "a page that is not anonymous moves");
        self.folio.set_mapping(Mapping::Anon(anon_vma), index);
    }

    /// Lets the cached page of an exclusive swap entry go along with the entry to another anon_vma and index
    /// (UFFDIO_MOVE). The caller also holds the lock of the entry's table. A page that was only read belongs
    /// to nothing yet, and learns where it is when it is mapped.
    ///
    /// # Panics
    /// If it is mapped: the page of a mapping moves by [`move_mapped`](Self::move_mapped).
    pub fn move_cached(&self, anon_vma: Stamp, index: u64) {
        assert_eq!(self.folio.counts().maps(), 0, "a cached page that is mapped moves with its mapping");
        match self.folio.mapping() {
            // The last page of a stable node that nobody maps is a page like any other.
            Mapping::Anon(_) | Mapping::Ksm(_) => self.folio.set_mapping(Mapping::Anon(anon_vma), index),
            Mapping::None => {}
            Mapping::Shm(_) => unreachable!("an exclusive swap entry of private memory has a shared page"),
        }
    }

    /// Gives the folio to a stable node: equal ones are to be merged into it. From now on it is nobody's own
    /// again, and is found by what the node says. Its mappers wait meanwhile, as for a folio that moves. A
    /// large one stays as large as it is: nobody splits what a node has.
    ///
    /// # Panics
    /// If it is no anonymous folio.
    #[doc(alias = "folio_set_stable_node")]
    pub fn give_to_node(&self, node: RawHandle) {
        assert!(matches!(self.folio.mapping(), Mapping::Anon(_)), "{:?} is not anonymous", self.folio);
        self.folio.set_mapping(Mapping::Ksm(node), 0);
    }

    /// Takes it away from its stable node again, which is to end: nothing maps the folio, and who brings it
    /// back says what it belongs to.
    ///
    /// # Panics
    /// If it is mapped, or is no stable node's.
    pub fn take_from_node(&self) {
        let idle = self.folio.counts().maps() == 0 && matches!(self.folio.mapping(), Mapping::Ksm(_));
        assert!(idle, "{:?} is not a stable node's to give up", self.folio);
        self.folio.set_mapping(Mapping::None, 0);
    }

    /// Notes which swap slot it is the cached page of. The slot's word is the caller's.
    #[doc(alias = "folio_set_swapcache")]
    pub fn set_swap_entry(&self, entry: SwapEntry) {
        // Release pairs with the Acquire of `swap_entry`.
        self.folio.meta().private.store(encode_entry(entry), Ordering::Release);
    }

    /// Takes the folio out of everybody's reach, if the reference is the only count of it: nobody can get the
    /// folio any more.
    ///
    /// # Errors
    /// The reference, if others have a count, or it is of another folio.
    #[doc(alias = "folio_ref_freeze")]
    pub fn freeze(&self, only: FolioRef<'f, M>) -> Result<FrozenFolio<'f, M>, FolioRef<'f, M>> {
        if only.folio() != self.folio {
            return Err(only);
        }
        // AcqRel pairs with the Releases of everybody who had a count.
        match self.folio.meta().counts.compare_exchange(Counts::REF, 0, Ordering::AcqRel) {
            Ok(_) => {
                only.into_raw();
                Ok(FrozenFolio { frames: self.folio.frames, head: self.folio.head })
            }
            Err(_) => Err(only),
        }
    }
}

/// A folio whose counts are frozen at 0. Dropping it puts the reference that was its only count.
#[must_use = "the folio is freed when it drops, unless it is unfrozen"]
pub struct FrozenFolio<'f, M: Machine> {
    frames: &'f Frames<M>,
    head: Pfn,
}

impl<'f, M: Machine> FrozenFolio<'f, M> {
    /// The first frame.
    pub fn pfn(&self) -> Pfn {
        self.head
    }

    /// Lets go of the folio: the reference that was frozen.
    pub fn unfreeze(self) -> FolioRef<'f, M> {
        let this = ManuallyDrop::new(self);
        this.thaw()
    }

    fn thaw(&self) -> FolioRef<'f, M> {
        // Release pairs with the Acquire of the next `try_get`.
        self.frames.meta(self.head).counts.store(Counts::REF, Ordering::Release);
        FolioRef { frames: self.frames, head: self.head }
    }
}

impl<M: Machine> Drop for FrozenFolio<'_, M> {
    fn drop(&mut self) {
        drop(self.thaw());
    }
}
