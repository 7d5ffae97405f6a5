//! Files that are mapped shared: their bytes live in a shared object of the memory manager.
//!
//! A store is made for a file's size and some room to grow, because an object's length is fixed; beyond it
//! the file cannot grow any more (`EFBIG`). Differs from Linux: an access within the mapping and beyond the
//! file's end finds zeros up to the end of the store, not SIGBUS.

use crate::arch::lock::SpinLock;
use crate::machine;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use anonmem::ShmId;
use anonmem_frame::RawHandle;
use anonmem_hal::{PAGE_SIZE, Pfn, PhysMem};
use anonmem_oslib::errno::{EFBIG, EINVAL, ENOMEM, ENOSPC};
use anonmem_oslib::vfs::{Body, Inode, SharedStore};
use anonmem_oslib::{Errno, Result};
use core::any::Any;

/// Bytes that a file may grow by after it was mapped.
const ROOM: u64 = 16 << 20;

/// A file's bytes in shared memory.
pub struct Store {
    object: ShmId,
    pages: u64,
}

/// What the maps show for an object: number of the file and its path.
static NAMES: SpinLock<BTreeMap<u64, (u64, String)>> = SpinLock::new(BTreeMap::new());

impl Store {
    fn new(bytes: u64) -> Result<Store> {
        let pages = bytes.saturating_add(ROOM).div_ceil(PAGE_SIZE as u64).min(machine::vm().stats().frames);
        let object = machine::vm().shm_new(pages).map_err(|error| Errno(error.errno()))?;
        Ok(Store { object, pages })
    }

    /// Gives the object.
    pub fn object(&self) -> ShmId {
        self.object
    }

    /// Does `copy` with the bytes of each page of a range: address in the direct map, and range in the buffer.
    fn each_page(
        &self,
        offset: u64,
        len: usize,
        mut copy: impl FnMut(*mut u8, core::ops::Range<usize>),
    ) -> Result<()> {
        let vm = machine::vm();
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let (index, within) = (at / PAGE_SIZE as u64, (at % PAGE_SIZE as u64) as usize);
            if index >= self.pages {
                return Err(EFBIG);
            }
            let n = (PAGE_SIZE - within).min(len - done);
            let page = vm.shm_page(self.object, index).map_err(|_| ENOSPC)?;
            let frame: Pfn = page.pfn();
            let bytes = vm.machine().direct_map(frame).as_ptr().wrapping_add(within);
            copy(bytes, done..done + n);
            drop(page);
            done += n;
        }
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        NAMES.lock().remove(&number(self.object.raw()));
        machine::vm().shm_put(self.object);
    }
}

impl SharedStore for Store {
    fn read(&self, offset: u64, to: &mut [u8]) -> Result<()> {
        self.each_page(offset, to.len(), |page, range| {
            let to = &mut to[range];
            // SAFETY: the page is the object's, and we hold a reference to it; programs may write to it
            // meanwhile, and whatever bytes are there are taken.
            unsafe { core::ptr::copy_nonoverlapping(page, to.as_mut_ptr(), to.len()) };
        })
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.each_page(offset, from.len(), |page, range| {
            let from = &from[range];
            // SAFETY: as for reading; within the page.
            unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), page, from.len()) };
        })
    }

    fn truncate(&self, size: u64) -> Result<()> {
        let first = size.div_ceil(PAGE_SIZE as u64);
        let within = (size % PAGE_SIZE as u64) as usize;
        if within != 0 {
            self.write(size, &[0; PAGE_SIZE][within..])?;
        }
        if first < self.pages {
            machine::vm().shm_punch(self.object, first, self.pages - first);
        }
        Ok(())
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// Gives the number by which an object is told apart in futex keys and names.
pub fn number(object: RawHandle) -> u64 {
    u64::from(object.get())
}

/// Gives the store of a regular file; its bytes move there if this is the first time.
///
/// # Errors
/// `ENOMEM`, `ENOSPC`, `EINVAL` if it is no regular file.
pub fn of_file(inode: &Arc<Inode>, path: &[u8]) -> Result<Arc<Store>> {
    let Body::File(data) = &inode.body else { return Err(EINVAL) };
    let (there, size) = {
        let data = data.lock();
        (data.store(), data.size())
    };
    let store = match there {
        Some(store) => store,
        None => {
            let new = Arc::new(Store::new(size)?);
            NAMES
                .lock()
                .insert(number(new.object.raw()), (inode.ino, String::from_utf8_lossy(path).into_owned()));
            let mut data = data.lock();
            match data.store() {
                // Somebody else was faster; ours goes.
                Some(store) => store,
                None => {
                    data.move_to(new.clone())?;
                    new
                }
            }
        }
    };
    store.as_any().downcast().or(Err(ENOMEM))
}

/// Gives what the maps show for an object: number of the file and its path.
pub fn name(object: u64) -> Option<(u64, String)> {
    NAMES.lock().get(&object).cloned()
}
