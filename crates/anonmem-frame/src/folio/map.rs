//! Mappings of folios that are there already: a page that was swapped in, a page of a shared object.
//!
//! Linux: mm/rmap.c `folio_add_anon_rmap_pte`, `folio_add_file_rmap_pte`.

use super::{Exclusive, FolioGuard, FolioRef, Shared, ShmMap, rmap::add_map};
use crate::{
    handle::RawHandle,
    meta::{Counts, Mapping, Stamp, TooManySharers},
};
use anonmem_hal::{Machine, Order};
use anonmem_sync::Ordering;

impl<'f, M: Machine> FolioGuard<'f, M> {
    /// Maps a page that was swapped in and that nobody else has: exclusive from the start, and found through
    /// `anon_vma` alone.
    ///
    /// # Panics
    /// If it is mapped already.
    #[doc(alias = "folio_add_anon_rmap_pte")]
    pub fn map_exclusive(&self, anon_vma: Stamp, index: u64) -> Exclusive<'f, M> {
        let folio = self.folio;
        assert_eq!(folio.counts().maps(), 0, "an exclusive mapping of a page that is mapped");
        folio.set_mapping(Mapping::Anon(anon_vma), index);
        // Release: as for every mapping that is added.
        folio.meta().counts.fetch_add(Counts::MAP + Counts::EXCLUSIVE, Ordering::Release);
        Exclusive { frames: folio.frames, page: folio.head }
    }

    /// Maps a page that was swapped in and that others may have, in memory or in their swap entries. If
    /// nobody maps it just now, it belongs to `root`, the oldest anon_vma of the family, which finds all of
    /// them. What it said before may have been of others, who are gone (KSM).
    ///
    /// The caller has made sure that a page which is mapped belongs to the same family and index.
    ///
    /// # Errors
    /// [`TooManySharers`].
    pub fn map_shared(&self, root: Stamp, index: u64) -> Result<Shared<'f, M>, TooManySharers> {
        let folio = self.folio;
        if folio.counts().maps() == 0 {
            folio.set_mapping(Mapping::Anon(root), index);
        }
        add_map(folio)?;
        Ok(Shared { frames: folio.frames, page: folio.head })
    }
}

impl<'f, M: Machine> FolioGuard<'f, M> {
    /// Maps the `nth` page of a folio that was swapped in, whose entry had it alone. The folio is found
    /// through `stamp` and has `index`, if it was just read; else as before.
    ///
    /// # Panics
    /// If the folio is smaller, or that page is exclusive already.
    #[doc(alias = "folio_add_anon_rmap_ptes")]
    pub fn map_nth_exclusive(&self, nth: u64, stamp: Stamp, index: u64) -> Exclusive<'f, M> {
        let folio = self.folio;
        self.belong(nth, stamp, index);
        let page = folio.head.offset(nth);
        let before = Counts(folio.frames.meta(page).counts.fetch_or(Counts::EXCLUSIVE, Ordering::Relaxed));
        assert!(!before.is_exclusive(), "an exclusive mapping of a page that has one");
        // Release: as for every mapping that is added.
        folio.meta().counts.fetch_add(Counts::MAP, Ordering::Release);
        Exclusive { frames: folio.frames, page }
    }

    /// The same for a page that others may have.
    ///
    /// # Errors
    /// [`TooManySharers`].
    ///
    /// # Panics
    /// If the folio is smaller.
    pub fn map_nth_shared(
        &self,
        nth: u64,
        stamp: Stamp,
        index: u64,
    ) -> Result<Shared<'f, M>, TooManySharers> {
        let folio = self.folio;
        self.belong(nth, stamp, index);
        add_map(folio)?;
        Ok(Shared { frames: folio.frames, page: folio.head.offset(nth) })
    }

    fn belong(&self, nth: u64, stamp: Stamp, index: u64) {
        let folio = self.folio;
        assert!(nth < folio.owned_order().pages(), "page {nth} of {folio:?}");
        if matches!(folio.mapping(), Mapping::None) {
            folio.set_mapping(Mapping::Anon(stamp), index);
        }
        anonmem_hal::debug_check_eq!(M, folio.index(), index);
    }
}

impl<'f, M: Machine> FolioGuard<'f, M> {
    /// Makes a page that was swapped in the object's page with this index, mapped once: by the object's own
    /// entry, which is about to own the mapping.
    ///
    /// # Panics
    /// If it is mapped, belongs to something else, or is a large folio.
    #[doc(alias = "shmem_swapin_folio")]
    pub fn map_of_object(&self, object: RawHandle, index: u64) -> ShmMap<'f, M> {
        let folio = self.folio;
        let free = [Mapping::None, Mapping::Shm(object)].contains(&folio.mapping())
            && folio.counts().maps() == 0
            && folio.owned_order() == Order::ZERO;
        assert!(free, "{folio:?} comes back to an object that it is none of");
        folio.set_mapping(Mapping::Shm(object), index);
        // Release: as for every mapping that is added.
        folio.meta().counts.fetch_add(Counts::MAP, Ordering::Release);
        ShmMap { frames: folio.frames, page: folio.head }
    }
}

impl<'f, M: Machine> FolioRef<'f, M> {
    /// Adds a mapping of a shared object's page, the `nth` of its folio, for an entry to own.
    ///
    /// # Errors
    /// [`TooManySharers`] before the count would overflow.
    ///
    /// # Panics
    /// If the folio is smaller, or is no shared object's.
    pub fn map_shm(&self, nth: u64) -> Result<ShmMap<'f, M>, TooManySharers> {
        let folio = self.folio();
        assert!(matches!(folio.mapping(), Mapping::Shm(_)), "{folio:?} belongs to no object");
        assert!(nth < folio.owned_order().pages(), "page {nth} of {folio:?}");
        add_map(folio)?;
        Ok(ShmMap { frames: self.frames, page: self.head.offset(nth) })
    }
}
