//! Making objects, and the pages of an object: what may have to wait for memory.

use super::{ShmUser, offset};
use crate::{error::Error, ids::ShmId, vm::Vm};
use anonmem_frame::FolioRef;
use anonmem_hal::{Machine, Protection};
use anonmem_pgtable::{Attrs, Mapped};
use anonmem_sync::Ordering;

impl<M: Machine> Vm<M> {
    /// Makes an object of `pages` pages, with one user; they are promised, not allocated.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Limit`] beyond the commit limit, [`Error::Invalid`] if it is larger than the page-table format can name.
    #[doc(alias = "shmem_zero_setup")]
    pub fn shm_new(&self, pages: u64) -> Result<ShmId, Error> {
        self.reclaiming(|| self.shm_make(pages))
    }

    /// The page with index `index` of an object that the caller uses, allocating it if there is none.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::BadAddress`] beyond the object's end (a SIGBUS); [`Error::Limit`] if the page
    /// has as many mappings as can be counted.
    #[doc(alias = "shmem_get_folio")]
    pub fn shm_page(&self, id: ShmId, index: u64) -> Result<FolioRef<'_, M>, Error> {
        let object = self.shm(id);
        if index >= object.pages.load(Ordering::Relaxed) {
            return Err(Error::BadAddress);
        }
        let va = offset(index);
        if let Some(page) = self.shm_find(object, va) {
            return Ok(page);
        }
        let new = self.alloc_page()?;
        new.zero();
        let table = object.space.walk_alloc(&self.frames, &ShmUser, va)?;
        let mut entries = table.lock();
        if let Mapped::Shm(present) = entries.mapped(va) {
            // Somebody was faster; `new` is freed.
            return Ok(self.frames.try_get(present.pfn).expect("the object's entry owns the page"));
        }
        let page = new.into_shm(id.raw(), index);
        let map = page.map_shm(0).map_err(|_| Error::Limit("mappings of a page"))?;
        entries.install(va, map, Attrs { prot: Protection::RW, young: false, dirty: false, uffd_wp: false });
        Ok(page)
    }
}
