//! Files that are mapped shared: their bytes live in a shared object of the memory manager.
//!
//! An object is as long as its file, in whole pages: an access within a mapping and beyond is a SIGBUS, and
//! when the file is cut, all address spaces give up what they map of the rest. Holes cost nothing until they
//! are written or touched.

use super::file::writer;
use crate::arch::lock::SpinLock;
use crate::machine::{self, Kernel};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use anonmem::{SharedObject, ShmId};
use anonmem_frame::{FolioRef, RawHandle};
use anonmem_hal::{PAGE_SIZE, Pfn, PhysMem};
use anonmem_oslib::errno::{EBUSY, EINVAL, EIO, ENOMEM, ENOSPC};
use anonmem_oslib::vfs::{Body, Inode, SharedStore};
use anonmem_oslib::{Errno, Result};
use core::any::Any;
use core::ops::Range;

/// A file's bytes in shared memory.
pub struct Store {
    object: SharedObject<'static, Kernel>,
}

/// What is to be done about a hole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hole {
    /// A page is made.
    Fill,
    /// It is passed over.
    Skip,
}

/// What the maps show for an object: number of the file and its path.
static NAMES: SpinLock<BTreeMap<u64, (u64, String)>> = SpinLock::new(BTreeMap::new());

impl Store {
    fn new(bytes: u64) -> Result<Store> {
        let made = machine::vm().shm_new_sparse(pages_of(bytes));
        Ok(Store { object: made.map_err(|error| Errno(error.errno()))? })
    }

    /// Makes memory that is no file's, all of it zero, and promises none of it.
    ///
    /// # Errors
    /// `ENOMEM`, `EINVAL` if it is too large.
    pub fn sparse(bytes: u64) -> Result<Store> {
        Store::new(bytes)
    }

    /// The same, and promises all of it.
    ///
    /// # Errors
    /// `ENOMEM`, `EINVAL` if it is too large.
    pub fn promised(bytes: u64) -> Result<Store> {
        let made = machine::vm().shm_new(pages_of(bytes));
        Ok(Store { object: made.map_err(|error| Errno(error.errno()))? })
    }

    /// Lets the maps show a number and a name for it.
    pub fn set_name(&self, ino: u64, name: String) {
        NAMES.lock().insert(number(self.object.id().raw()), (ino, name));
    }

    /// Makes memory that is no file's, all of it zero; the maps show `name`.
    ///
    /// # Errors
    /// `ENOMEM`, `EINVAL` if it is too large.
    pub fn nameless(bytes: u64, name: &str) -> Result<Store> {
        let new = Store::new(bytes)?;
        new.set_name(1, name.into());
        Ok(new)
    }

    /// Gives a page, which stays where it is as long as the reference lives.
    ///
    /// # Errors
    /// `ENOMEM`; `EIO` if it cannot be read from swap.
    pub fn page(&self, index: u64) -> Result<FolioRef<'static, Kernel>> {
        self.object.page_at(index).map_err(|error| or_io(error, ENOMEM))
    }

    /// Lets nobody map it so that it could be written.
    ///
    /// # Errors
    /// `EBUSY` if somebody has.
    pub fn deny_writers(&self) -> Result<()> {
        if self.object.deny_writers() { Ok(()) } else { Err(EBUSY) }
    }

    /// Takes that back.
    pub fn allow_writers(&self) {
        self.object.allow_writers();
    }

    /// Says whether somebody holds a page, beside those who map it.
    pub fn is_held(&self) -> bool {
        self.object.is_held()
    }

    /// Gives how many mappings there are.
    pub fn mappings(&self) -> u32 {
        self.object.mappings()
    }

    /// Gives how many pages are in memory.
    pub fn resident(&self) -> u64 {
        self.object.resident()
    }

    /// Gives how many pages are in swap.
    pub fn swapped(&self) -> u64 {
        self.object.swapped()
    }

    /// Keeps the pages in memory.
    pub fn keep_pages(&self) {
        self.object.keep_pages();
    }

    /// Takes that back.
    pub fn release_pages(&self) {
        self.object.release_pages();
    }

    /// Gives the object.
    pub fn object(&self) -> ShmId {
        self.object.id()
    }

    /// Does `copy` with the bytes of each page of a range: address in the direct map (none for a hole), and
    /// range in the buffer.
    fn each_page(
        &self,
        offset: u64,
        len: usize,
        hole: Hole,
        mut copy: impl FnMut(Option<*mut u8>, core::ops::Range<usize>),
    ) -> Result<()> {
        let vm = machine::vm();
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let (index, within) = (at / PAGE_SIZE as u64, (at % PAGE_SIZE as u64) as usize);
            let n = (PAGE_SIZE - within).min(len - done);
            let page = match hole {
                Hole::Fill => Some(self.object.page_at(index).map_err(|error| or_io(error, ENOSPC))?),
                Hole::Skip => self.object.lookup(index).map_err(|error| or_io(error, ENOMEM))?,
            };
            let bytes = page.as_ref().map(|page| {
                let frame: Pfn = page.pfn();
                vm.machine().direct_map(frame).as_ptr().wrapping_add(within)
            });
            copy(bytes, done..done + n);
            drop(page);
            done += n;
        }
        Ok(())
    }
}

/// Gives `otherwise`, unless a page could not be read from swap.
fn or_io(error: anonmem::Error, otherwise: Errno) -> Errno {
    if error == anonmem::Error::Io { EIO } else { otherwise }
}

fn pages_of(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE as u64)
}

impl Drop for Store {
    fn drop(&mut self) {
        NAMES.lock().remove(&number(self.object.id().raw()));
    }
}

impl SharedStore for Store {
    fn read(&self, offset: u64, to: &mut [u8]) -> Result<()> {
        self.each_page(offset, to.len(), Hole::Skip, |page, range| {
            let to = &mut to[range];
            match page {
                // SAFETY: the page is the object's, and we hold a reference to it; programs may write to it
                // meanwhile, and whatever bytes are there are taken.
                Some(page) => unsafe { core::ptr::copy_nonoverlapping(page, to.as_mut_ptr(), to.len()) },
                None => to.fill(0),
            }
        })
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
        self.each_page(offset, from.len(), Hole::Fill, |page, range| {
            let from = &from[range];
            if let Some(page) = page {
                // SAFETY: as for reading; within the page.
                unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), page, from.len()) };
            }
        })
    }

    fn resize(&self, size: u64) -> Result<()> {
        let within = (size % PAGE_SIZE as u64) as usize;
        if within != 0 && self.object.has_page(size / PAGE_SIZE as u64) {
            self.write(size, &[0; PAGE_SIZE][within..])?;
        }
        self.object.resize(pages_of(size)).map_err(|error| Errno(error.errno()))
    }

    fn punch(&self, hole: Range<u64>) -> Result<()> {
        const PAGE: u64 = PAGE_SIZE as u64;
        let whole = hole.start.div_ceil(PAGE)..hole.end / PAGE;
        let parts = if whole.start > whole.end {
            // All of it is in one page.
            [hole.clone(), 0..0]
        } else {
            [hole.start..whole.start * PAGE, whole.end * PAGE..hole.end]
        };
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            if self.object.has_page(part.start / PAGE) {
                self.write(part.start, &[0; PAGE_SIZE][..(part.end - part.start) as usize])?;
            }
        }
        self.object.punch(whole);
        Ok(())
    }

    fn pages(&self) -> u64 {
        self.object.pages()
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
    // The size stays as it is until the bytes have moved.
    let _writer = writer(inode);
    let (there, size) = {
        let data = data.lock();
        (data.store(), data.size())
    };
    let store = match there {
        Some(store) => store,
        None => {
            let new = Arc::new(Store::new(size)?);
            NAMES.lock().insert(
                number(new.object.id().raw()),
                (inode.ino, String::from_utf8_lossy(path).into_owned()),
            );
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
