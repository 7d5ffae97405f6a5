//! The owner of one use of a shared object.
//!
//! A use is a count, and a count has an owner. Whoever only knows an object's name ([`ShmId`]) can map it
//! while somebody uses it. A name takes nothing away from those who do.

use crate::{error::Error, ids::ShmId, rmap::machine::Machine, vm::Vm};
use anonmem_frame::{FolioOwner, FolioRef};
use anonmem_hal::NodePolicy;
use anonmem_sync::Ordering;
use core::{fmt, ops::Range};

/// One use of a shared object: its pages stay while it lives. Dropping the last use frees them; each mapping
/// is a use of its own.
#[must_use = "an object that nobody uses is freed"]
pub struct SharedObject<'v, M: Machine> {
    vm: &'v Vm<M>,
    id: ShmId,
}

impl<'v, M: Machine> SharedObject<'v, M> {
    /// Takes over a use that was just counted.
    pub(super) const fn new(vm: &'v Vm<M>, id: ShmId) -> Self {
        Self { vm, id }
    }

    /// Its name, for [`MapBacking::Shared`](crate::MapBacking::Shared).
    pub const fn id(&self) -> ShmId {
        self.id
    }

    /// The page with this index, brought back from swap if it is there, and allocated if there is none.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Io`] if it cannot be read from its swap device; [`Error::BadAddress`]
    /// beyond the object's end (a SIGBUS); [`Error::Limit`] if the page has as many mappings as can be
    /// counted, or may not be promised.
    #[doc(alias = "shmem_get_folio")]
    pub fn page_at(&self, index: u64) -> Result<FolioRef<'v, M>, Error> {
        // It is used by who has no entry that could say so.
        self.vm.shm_page(self.id, index, NodePolicy::DEFAULT).inspect(FolioRef::set_referenced)
    }

    /// The page with this index, if there is one; brought back from swap if it is there.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Io`] if it cannot be read from its swap device.
    #[doc(alias = "filemap_get_folio")]
    pub fn lookup(&self, index: u64) -> Result<Option<FolioRef<'v, M>>, Error> {
        let page = self.vm.shm_lookup(self.id, index)?;
        Ok(page.inspect(FolioRef::set_referenced))
    }

    /// Whether there is a page with this index, in memory or in swap.
    pub fn has_page(&self, index: u64) -> bool {
        self.vm.shm_has_page(self.id, index)
    }

    /// The number of its pages that are in memory.
    pub fn resident(&self) -> u64 {
        self.vm.shm_all_pages(self.id).present
    }

    /// The number of its pages that are in swap.
    #[doc(alias = "shmem_swap_usage")]
    pub fn swapped(&self) -> u64 {
        self.vm.shm_all_pages(self.id).swapped
    }

    /// The number of its pages, wherever they are.
    #[doc(alias = "shmem_inode_info")]
    pub fn pages(&self) -> u64 {
        self.vm.shm_all_pages(self.id).all()
    }

    /// Keeps its pages in memory from now on. Those that are in swap stay there until they are wanted.
    #[doc(alias("shmem_lock", "mapping_set_unevictable"))]
    pub fn keep_pages(&self) {
        self.vm.shm(self.id).stays.store(1, Ordering::Relaxed);
    }

    /// Takes [`keep_pages`](Self::keep_pages) back: they may leave when memory is short.
    #[doc(alias = "mapping_clear_unevictable")]
    pub fn release_pages(&self) {
        self.vm.shm(self.id).stays.store(0, Ordering::Relaxed);
    }

    /// How many mappings there are of the object, if this is the only use of it that no mapping has.
    #[doc(alias = "shm_nattch")]
    pub fn mappings(&self) -> u32 {
        self.vm.shm_mappings(self.id, 1)
    }

    /// Lets nobody map the object from now on so that it could be written: what does is refused
    /// ([`Error::NotPermitted`]). Returns `false`, and changes nothing, if somebody has mapped it so. Only of
    /// an object that can be resized.
    #[doc(alias = "mapping_deny_writable")]
    pub fn deny_writers(&self) -> bool {
        self.vm.shm_deny_writers(self.id)
    }

    /// Takes [`deny_writers`](Self::deny_writers) back.
    #[doc(alias = "mapping_allow_writable")]
    pub fn allow_writers(&self) {
        self.vm.shm_allow_writers(self.id);
    }

    /// Whether somebody holds a page of the object beside those who map it: a pin, or a reference, which may
    /// be one for a moment.
    pub fn is_held(&self) -> bool {
        self.vm.shm_is_held(self.id)
    }

    /// Makes pages read as zeroes, as far as the object is long. Those that only the object has are freed;
    /// those that somebody maps, or holds, are zeroed in place.
    #[doc(alias("shmem_fallocate", "FALLOC_FL_PUNCH_HOLE"))]
    pub fn punch(&self, pages: Range<u64>) {
        let end = pages.end.min(self.vm.shm(self.id).pages());
        if pages.start < end {
            self.vm.shm_punch(self.id, pages.start, end - pages.start);
        }
    }

    /// Makes the object `pages` pages long. Pages beyond the end leave it, and every mapping of it.
    ///
    /// # Locks
    /// The mmap lock of every address space that maps the object, one at a time, for writing. Sleeps. The
    /// caller sees to it that no other call changes the length, or makes pages beyond it, meanwhile.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the object was promised in full, or would be larger than an address space.
    #[doc(alias = "shmem_setattr")]
    pub fn resize(&self, pages: u64) -> Result<(), Error> {
        self.vm.shm_resize(self.id, pages)
    }
}

impl<M: Machine> Drop for SharedObject<'_, M> {
    fn drop(&mut self) {
        self.vm.shm_put(self.id);
    }
}

impl<M: Machine> fmt::Debug for SharedObject<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shared object {:?}", self.id)
    }
}
