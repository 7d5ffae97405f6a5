//! Making objects, and the pages of an object: what may have to wait for memory.

use super::{Promise, ShmUser, offset, owned::SharedObject};
use crate::{error::Error, ids::ShmId, rmap::machine::Machine, vm::Vm};
use anonmem_frame::{FolioRef, NewFolio};
use anonmem_hal::{NodePolicy, Protection};
use anonmem_pgtable::{Attrs, Mapped};
use anonmem_sync::Ordering;

/// What came of adding a page to an object.
enum Inserted<'v, M: Machine> {
    New(FolioRef<'v, M>),
    /// The object had one.
    Found(FolioRef<'v, M>),
}

impl<M: Machine> Vm<M> {
    /// Makes an object of `pages` pages; they are promised, not allocated.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|vm, mm| {
    /// let object = vm.shm_new(4)?;
    /// let backing = MapBacking::Shared { object: object.id(), first: 0 };
    /// let request = MmapRequest { backing, ..MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE) };
    /// let (one, two) = (mm.mmap(request)?, mm.mmap(request)?);
    /// mm.store(one, 7)?;
    /// assert_eq!(mm.load(two)?, 7);
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Limit`] beyond the commit limit, [`Error::Invalid`] if it is larger
    /// than the page-table format can name.
    #[doc(alias = "shmem_zero_setup")]
    pub fn shm_new(&self, pages: u64) -> Result<SharedObject<'_, M>, Error> {
        let made = self.reclaiming(|| self.shm_make(pages, Promise::InFull))?;
        Ok(SharedObject::new(self, made))
    }

    /// Makes an object of `pages` pages that can be resized ([`SharedObject::resize`]): a file's. Each page
    /// is promised when it is made.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Invalid`] if it is larger than the page-table format can name. No
    /// [`Error::Limit`]: nothing is promised yet.
    pub fn shm_new_sparse(&self, pages: u64) -> Result<SharedObject<'_, M>, Error> {
        let made = self.reclaiming(|| self.shm_make(pages, Promise::PageByPage))?;
        Ok(SharedObject::new(self, made))
    }

    /// The page with index `index` of an object that the caller uses, allocating it if there is none.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::BadAddress`] beyond the object's end (a SIGBUS); [`Error::Limit`] if
    /// the page has as many mappings as can be counted, or may not be promised.
    #[doc(alias = "shmem_get_folio")]
    pub(crate) fn shm_page(
        &self,
        id: ShmId,
        index: u64,
        policy: NodePolicy,
    ) -> Result<FolioRef<'_, M>, Error> {
        let object = self.shm(id);
        if index >= object.pages.load(Ordering::Relaxed) {
            return Err(Error::BadAddress);
        }
        let va = offset(index);
        if let Some(page) = self.shm_find(object, va) {
            return Ok(page);
        }
        let promised = u64::from(object.is_sparse());
        self.commit(promised)?;
        self.shm_add(id, index, policy).inspect_err(|_| self.uncommit(promised))
    }

    /// Makes the page with index `index`, which is promised.
    fn shm_add(&self, id: ShmId, index: u64, policy: NodePolicy) -> Result<FolioRef<'_, M>, Error> {
        let new = self.alloc_page_placed(policy, index)?;
        new.zero();
        match self.shm_insert(id, index, new) {
            // Somebody was faster; `new` is freed, and its promise taken back.
            Ok(Inserted::Found(page)) => {
                self.uncommit(u64::from(self.shm(id).is_sparse()));
                Ok(page)
            }
            Ok(Inserted::New(page)) => Ok(page),
            Err(e) => Err(e),
        }
    }

    /// Makes `new`, which is filled and promised, the page with index `index`, unless there is one.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Limit`].
    #[doc(alias = "shmem_add_to_page_cache")]
    fn shm_insert<'v>(
        &'v self,
        id: ShmId,
        index: u64,
        new: NewFolio<'v, M>,
    ) -> Result<Inserted<'v, M>, Error> {
        let (object, va) = (self.shm(id), offset(index));
        let user = ShmUser(object);
        let table = object.space.table_alloc(&self.frames, &user, va)?;
        let mut entries = table.lock();
        if let Mapped::Shm(present) = entries.mapped(va) {
            let page = self.frames.try_get(present.pfn).expect("the object's entry owns the page");
            return Ok(Inserted::Found(page));
        }
        let page = new.into_shm(id.raw(), index);
        let map = page.map_shm(0).map_err(|_| Error::Limit("mappings of a page"))?;
        entries.install(va, map, Attrs { prot: Protection::RW, young: false, dirty: false, uffd_wp: false });
        Ok(Inserted::New(page))
    }

    /// Makes `new`, which is filled, the page with index `index` of an object that the caller uses.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is one; [`Error::BadAddress`] beyond the object's end;
    /// [`Error::OutOfMemory`]; [`Error::Limit`] if it may not be promised.
    #[doc(alias = "shmem_mfill_atomic_pte")]
    pub(crate) fn shm_fill<'v>(
        &'v self,
        id: ShmId,
        index: u64,
        new: NewFolio<'v, M>,
    ) -> Result<FolioRef<'v, M>, Error> {
        let object = self.shm(id);
        if index >= object.pages.load(Ordering::Relaxed) {
            return Err(Error::BadAddress);
        }
        let promised = u64::from(object.is_sparse());
        self.commit(promised)?;
        match self.shm_insert(id, index, new) {
            Ok(Inserted::New(page)) => return Ok(page),
            Ok(Inserted::Found(_)) => self.uncommit(promised),
            Err(e) => {
                self.uncommit(promised);
                return Err(e);
            }
        }
        Err(Error::Exists)
    }
}
