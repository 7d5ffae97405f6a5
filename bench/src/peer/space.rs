//! An address space: areas, page tables, a lock around both.
//!
//! Memory is allocated at the first fault, or when it is mapped if the area says so; freed when it is
//! unmapped.

use super::frames::{self, Handler, Lent};
use crate::{PAGE, ours::World};
use anonmem_hal::{Va, VaRange};
use memory_addr::{AddrRange, VirtAddr};
use memory_set::{MappingBackend, MemoryArea, MemorySet};
use page_table_multiarch::{
    MappingFlags, PageSize, PagingError, PagingHandler, PagingResult, x86_64::X64PageTable,
};
use std::sync::{Mutex, MutexGuard, PoisonError};

type PageTable = X64PageTable<Handler>;

/// Readable and writable by programs.
pub const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::USER);
/// Readable by programs.
pub const R: MappingFlags = MappingFlags::READ.union(MappingFlags::USER);

/// When an area gets its memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// When it is mapped.
    Now,
    /// Page by page, at the first fault.
    Lazily,
}

/// Anonymous memory, as `memory_set` wants it described.
#[derive(Clone)]
struct Anonymous(Filled);

impl MappingBackend for Anonymous {
    type Addr = VirtAddr;
    type Flags = MappingFlags;
    type PageTable = PageTable;

    fn map(&self, start: VirtAddr, size: usize, flags: MappingFlags, table: &mut PageTable) -> bool {
        if self.0 == Filled::Lazily {
            return true;
        }
        let mut cursor = table.cursor();
        (0..size).step_by(PAGE).all(|offset| {
            let frame = frames::alloc_zeroed();
            frame.is_some_and(|frame| cursor.map(start + offset, frame, PageSize::Size4K, flags).is_ok())
        })
    }

    fn unmap(&self, start: VirtAddr, size: usize, table: &mut PageTable) -> bool {
        let mut cursor = table.cursor();
        (0..size).step_by(PAGE).all(|offset| match cursor.unmap(start + offset) {
            Ok((frame, ..)) => {
                Handler::dealloc_frame(frame);
                true
            }
            // Never touched.
            Err(e) => e == PagingError::NotMapped,
        })
    }

    fn protect(&self, start: VirtAddr, size: usize, flags: MappingFlags, table: &mut PageTable) -> bool {
        table.cursor().protect_region(start, size, flags).is_ok()
    }
}

struct Inner {
    areas: MemorySet<Anonymous>,
    table: PageTable,
}

/// An address space of the peer.
pub struct Space<'w> {
    inner: Mutex<Inner>,
    /// Dropped last: the tables go back to the world.
    _lent: Lent<'w>,
}

impl<'w> Space<'w> {
    /// An empty one, whose memory is `world`'s.
    ///
    /// # Panics
    /// Without memory.
    pub fn new(world: &'w World) -> Self {
        let lent = Lent::by(world);
        let table = PageTable::try_new().expect("memory for a page table");
        Self { inner: Mutex::new(Inner { areas: MemorySet::new(), table }), _lent: lent }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps `range`, readable and writable.
    ///
    /// # Panics
    /// Without memory, or if something is there.
    pub fn map(&self, range: VaRange, filled: Filled) {
        let inner = &mut *self.lock();
        let area = MemoryArea::new(addr(range.start), range.len() as usize, RW, Anonymous(filled));
        inner.areas.map(area, &mut inner.table, false).expect("a mapping");
    }

    /// Maps `len` bytes somewhere from `hint` on, lazily.
    ///
    /// # Panics
    /// If there is no room.
    pub fn map_anywhere(&self, hint: Va, len: usize) -> VaRange {
        let inner = &mut *self.lock();
        let all = AddrRange::new(VirtAddr::from(PAGE), VirtAddr::from(1 << 47));
        let start = inner.areas.find_free_area(addr(hint), len, all, PAGE).expect("room");
        let area = MemoryArea::new(start, len, RW, Anonymous(Filled::Lazily));
        inner.areas.map(area, &mut inner.table, false).expect("a mapping");
        let start = Va(start.as_usize() as u64);
        VaRange { start, end: Va(start.0 + len as u64) }
    }

    /// Unmaps `range` and frees its memory.
    ///
    /// # Panics
    /// If a page table is not as it should be.
    pub fn unmap(&self, range: VaRange) {
        let inner = &mut *self.lock();
        let done = inner.areas.unmap(addr(range.start), range.len() as usize, &mut inner.table);
        done.expect("a mapping that goes");
    }

    /// Changes what may be done with `range`.
    ///
    /// # Panics
    /// If a page table is not as it should be.
    pub fn protect(&self, range: VaRange, flags: MappingFlags) {
        let inner = &mut *self.lock();
        let (start, len) = (addr(range.start), range.len() as usize);
        inner.areas.protect(start, len, |_| Some(flags), &mut inner.table).expect("a mapping to change");
    }

    /// A first write to `va`: finds the area, checks it, gives the page memory.
    ///
    /// # Panics
    /// If `va` is not mapped for writing, or without memory.
    #[inline]
    pub fn fault_write(&self, va: Va) {
        let inner = &mut *self.lock();
        let va = addr(va);
        let area = inner.areas.find(va).expect("a mapping");
        assert!(area.flags().contains(MappingFlags::WRITE), "a mapping for writing");
        let filled = fill(&mut inner.table, va, area.flags());
        filled.expect("memory for a page");
    }

    /// Whether `va` is mapped.
    #[inline]
    pub fn contains(&self, va: Va) -> bool {
        self.lock().areas.find(addr(va)).is_some()
    }
}

fn fill(table: &mut PageTable, va: VirtAddr, flags: MappingFlags) -> PagingResult {
    let frame = frames::alloc_zeroed().ok_or(PagingError::NoMemory)?;
    table.cursor().map(va, frame, PageSize::Size4K, flags)
}

fn addr(va: Va) -> VirtAddr {
    VirtAddr::from(va.0 as usize)
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        let inner = &mut *self.lock();
        inner.areas.clear(&mut inner.table).expect("mappings that go");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anonmem::LockMode;

    #[test]
    fn a_space_of_the_peer_gives_all_frames_back() {
        let world = World::with(4096, LockMode::Mmap);
        let _cpu = world.enter(0);
        let free = || world.vm.frames().usage().free;
        let before = free();
        {
            let space = Space::new(&world);
            let range = space.map_anywhere(Va(1 << 39), 64 * PAGE);
            range.iter_pages().for_each(|va| space.fault_write(va));
            assert!(space.contains(range.start) && !space.contains(range.end));
            assert!(free().0 <= before.0 - 64, "pages and tables");
            space.protect(range, R);
            space.unmap(range);
            space.map(range, Filled::Now);
        }
        assert_eq!(free(), before);
    }
}
