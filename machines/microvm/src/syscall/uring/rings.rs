//! The memory that a ring and its program share.
//!
//! It is a shared object of the memory manager that the program maps. The kernel has a reference to each of
//! its pages, which therefore stay: what the program does to its mapping (unmap, fork, `MADV_REMOVE`) changes
//! what the program sees, never what the kernel reads and writes.
//!
//! Nothing that is read here is believed: every index is cut to the ring's own size by whoever uses it.

use crate::arch::mem::{PAGE, direct};
use crate::fs::store::Store;
use crate::machine::{self, Kernel};
use alloc::vec::Vec;
use anonmem_frame::FolioRef;
use anonmem_hal::PAGE_SHIFT;
use anonmem_oslib::Result;
use anonmem_oslib::errno::ENOMEM;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Pages of all rings.
static PAGES: AtomicU64 = AtomicU64::new(0);

/// A share of the pages that all rings may have: an eighth of memory, because they never leave.
struct Share(u64);

impl Share {
    fn take(pages: u64) -> Result<Share> {
        let most = machine::nr_frames() / 8;
        let more = |used: u64| used.checked_add(pages).filter(|&sum| sum <= most);
        PAGES.fetch_update(Relaxed, Relaxed, more).map_err(|_| ENOMEM)?;
        Ok(Share(pages))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        PAGES.fetch_sub(self.0, Relaxed);
    }
}

/// Some pages that a program maps, too.
pub(super) struct Shared {
    pages: Vec<FolioRef<'static, Kernel>>,
    store: Store,
    _share: Share,
}

impl Shared {
    /// So many bytes, all of them zero.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(bytes: u32) -> Result<Shared> {
        let count = u64::from(bytes).div_ceil(PAGE);
        let share = Share::take(count)?;
        let store = Store::nameless(u64::from(bytes), "anon_inode:[io_uring]")?;
        let mut pages = Vec::new();
        pages.try_reserve_exact(count as usize).map_err(|_| ENOMEM)?;
        for index in 0..count {
            pages.push(store.page(index)?);
        }
        Ok(Shared { pages, store, _share: share })
    }

    /// What a program maps.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The address of `len` bytes that are all of one page.
    fn at(&self, offset: u32, len: usize) -> *mut u8 {
        let (page, within) = ((u64::from(offset) / PAGE) as usize, u64::from(offset) % PAGE);
        assert!(within + len as u64 <= PAGE, "beyond a page of a ring");
        direct((self.pages[page].pfn().0 << PAGE_SHIFT) + within)
    }

    /// A word.
    pub(super) fn word(&self, offset: u32) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "a word of a ring that is not aligned");
        // SAFETY: aligned and within a page that we have a reference to; the program uses it atomically, or
        // gets what it deserves.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    /// Copies an entry out.
    pub(super) fn read<const N: usize>(&self, offset: u32) -> [u8; N] {
        // SAFETY: within a page that we have a reference to; the program may write to it meanwhile, and
        // whatever bytes are there are taken.
        unsafe { self.at(offset, N).cast::<[u8; N]>().read_volatile() }
    }

    /// Copies an entry in.
    pub(super) fn write<const N: usize>(&self, offset: u32, entry: [u8; N]) {
        // SAFETY: as for reading.
        unsafe { self.at(offset, N).cast::<[u8; N]>().write_volatile(entry) };
    }
}
