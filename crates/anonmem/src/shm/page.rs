//! Making objects, and the pages of an object: what may have to wait for memory.

use super::{OBJECT_ENTRY, Promise, ShmUser, object::VISIT, offset, owned::SharedObject};
use crate::{error::Error, ids::ShmId, rmap::machine::Machine, vm::Vm};
use anonmem_frame::{FolioRef, NewFolio, RawHandle};
use anonmem_hal::NodePolicy;
use anonmem_pgtable::Mapped;
use anonmem_sync::Ordering;

/// What came of adding a page to an object.
enum Inserted<'v, M: Machine> {
    New(FolioRef<'v, M>),
    /// The object had one, be it in swap.
    Found,
}

/// Keeps an object for a moment: it is no mapping, and nobody counts it as one.
#[must_use = "an object that nobody uses is freed"]
pub(crate) struct Visit<'v, M: Machine> {
    vm: &'v Vm<M>,
    pub(crate) id: ShmId,
}

impl<M: Machine> Drop for Visit<'_, M> {
    fn drop(&mut self) {
        self.vm.shm_put_uses(self.id, VISIT);
    }
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

    /// Keeps the object with this name for a moment, if somebody uses it.
    pub(crate) fn shm_visit(&self, name: RawHandle) -> Option<Visit<'_, M>> {
        let id = self.shm_objects.resolve(&self.frames, name)?;
        self.shm_try_visit(id).then(|| Visit { vm: self, id })
    }

    /// The page with index `index` of an object that the caller uses, allocating it if there is none.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Io`] if it is in swap, and cannot be read; [`Error::BadAddress`]
    /// beyond the object's end (a SIGBUS); [`Error::Limit`] if the page has as many mappings as can be
    /// counted, or may not be promised.
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
        loop {
            if let Some(page) = self.shm_find_page(id, index, policy)? {
                return Ok(page);
            }
            let promised = u64::from(object.is_sparse());
            self.commit(promised)?;
            match self.shm_add(id, index, policy) {
                Ok(Inserted::New(page)) => return Ok(page),
                // Somebody was faster.
                Ok(Inserted::Found) => self.uncommit(promised),
                Err(error) => {
                    self.uncommit(promised);
                    return Err(error);
                }
            }
        }
    }

    /// Makes the page with index `index`, which is promised.
    fn shm_add(&self, id: ShmId, index: u64, policy: NodePolicy) -> Result<Inserted<'_, M>, Error> {
        let new = self.alloc_page_placed(policy, index)?;
        new.zero();
        self.shm_insert(id, index, new)
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
        if !matches!(entries.mapped(va), Mapped::None) {
            return Ok(Inserted::Found);
        }
        let page = new.into_shm(id.raw(), index);
        let map = page.map_shm(0).map_err(|_| Error::Limit("mappings of a page"))?;
        entries.install(va, map, OBJECT_ENTRY);
        Ok(Inserted::New(page))
    }

    /// Makes `new`, which is filled, the page with index `index` of an object that the caller uses.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is one, be it in swap; [`Error::BadAddress`] beyond the object's end;
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
            Ok(Inserted::Found) => self.uncommit(promised),
            Err(e) => {
                self.uncommit(promised);
                return Err(e);
            }
        }
        Err(Error::Exists)
    }
}
