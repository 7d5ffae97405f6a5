//! A file's bytes.
//!
//! A file of the archive is not copied: its bytes are read in place until they are written, and then
//! page by page. Pages that were never written read as zero. Once somebody maps the file shared,
//! its bytes move into a [`SharedStore`] of the memory manager, which then is the only copy: what
//! is stored through a mapping and what is written through a descriptor are the same bytes.

use crate::errno::{EFBIG, ENOSPC, EPERM, Result};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes in a page of file data.
pub const PAGE: usize = 4096;
/// The largest offset plus one.
pub const LIMIT: u64 = 1 << 46;

/// Pages of all files that were written, and how many there may be. Linux: the `size=` of tmpfs.
static PAGES: AtomicU64 = AtomicU64::new(0);
static PAGES_MAX: AtomicU64 = AtomicU64::new(u64::MAX);

/// Limits the pages of all files together; what is in the archive does not count.
pub fn set_page_limit(pages: u64) {
    PAGES_MAX.store(pages, Relaxed);
}

/// Gives the pages of all files, and how many there may be.
pub fn page_usage() -> (u64, u64) {
    (PAGES.load(Relaxed), PAGES_MAX.load(Relaxed))
}

/// A page of a file; it counts as long as it lives.
struct Page(Vec<u8>);

impl Page {
    /// Makes a page of zeros; `None` if there are too many, or the heap has no room.
    fn new() -> Option<Page> {
        let may = |n| (n < PAGES_MAX.load(Relaxed)).then_some(n + 1);
        PAGES.fetch_update(Relaxed, Relaxed, may).ok()?;
        let mut page = Page(Vec::new());
        page.0.try_reserve_exact(PAGE).ok()?;
        page.0.resize(PAGE, 0);
        Some(page)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        PAGES.fetch_sub(1, Relaxed);
    }
}

bitflags::bitflags! {
    /// What nobody may do with a file any more. The values are those of Linux's `F_SEAL_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Seals: u32 {
        /// Seal it further.
        const SEAL = 0x01;
        /// Make it shorter.
        const SHRINK = 0x02;
        /// Make it longer.
        const GROW = 0x04;
        /// Write to it.
        const WRITE = 0x08;
        /// Write to it, but by the mappings that there are.
        const FUTURE_WRITE = 0x10;
        /// Make it a program, or none.
        const EXEC = 0x20;
    }
}

impl Default for Seals {
    /// A file with a name cannot be sealed.
    fn default() -> Self {
        Seals::SEAL
    }
}

impl Seals {
    /// Whether nobody may write any more, but by the mappings that there are.
    #[doc(alias = "is_write_sealed")]
    pub fn refuse_writes(self) -> bool {
        self.intersects(Seals::WRITE | Seals::FUTURE_WRITE)
    }

    /// Gives how many of `len` bytes at `offset` may be written to a file of `size` bytes: all of the pages
    /// before the one that would make it longer. Linux: mm/shmem.c `shmem_write_begin`.
    ///
    /// # Errors
    /// `EPERM` if none may be.
    pub fn may_write(self, offset: u64, len: usize, size: u64) -> Result<usize> {
        let fits = offset.saturating_add(len as u64) <= size;
        match self {
            _ if len == 0 => Ok(0),
            seals if seals.refuse_writes() => Err(EPERM),
            seals if fits || !seals.contains(Seals::GROW) => Ok(len),
            _ => match (size / PAGE as u64 * PAGE as u64).checked_sub(offset) {
                Some(before @ 1..) => Ok(before as usize),
                Some(0) | None => Err(EPERM),
            },
        }
    }

    /// Checks that a file of `old` bytes may get `new`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn may_resize(self, old: u64, new: u64) -> Result<()> {
        let refused = match new.cmp(&old) {
            Ordering::Less => self.contains(Seals::SHRINK),
            Ordering::Equal => false,
            Ordering::Greater => self.contains(Seals::GROW),
        };
        if refused { Err(EPERM) } else { Ok(()) }
    }
}

/// Memory that can be mapped shared and holds a file's bytes.
pub trait SharedStore: Send + Sync {
    /// Reads bytes; what was never written is zero.
    fn read(&self, offset: u64, to: &mut [u8]) -> Result<()>;
    /// Writes bytes.
    fn write(&self, offset: u64, from: &[u8]) -> Result<()>;
    /// Makes it hold `size` bytes; what is cut off reads as zero if it grows again. Asked before bytes beyond
    /// the end are written.
    fn resize(&self, size: u64) -> Result<()>;
    /// Makes bytes read as zero, and gives the memory of whole pages back.
    fn punch(&self, hole: Range<u64>) -> Result<()>;
    /// Gives how many pages were ever written or touched and are kept.
    fn pages(&self) -> u64;
    /// Gives the object itself, for the kernel that maps it.
    fn as_any(self: Arc<Self>) -> Arc<dyn core::any::Any + Send + Sync>;
}

/// The bytes of one file.
#[derive(Default)]
pub struct FileData {
    /// Bytes of the archive that hold where no page does.
    base: &'static [u8],
    /// Pages that were written, by number; each of `PAGE` bytes.
    pages: BTreeMap<u64, Page>,
    size: u64,
    store: Option<Arc<dyn SharedStore>>,
    /// What nobody may do any more.
    pub seals: Seals,
}

impl fmt::Debug for FileData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileData").field("size", &self.size).field("pages", &self.pages.len()).finish()
    }
}

impl FileData {
    /// Makes a file of bytes that are referenced in place.
    pub fn in_place(bytes: &'static [u8]) -> Self {
        FileData { base: bytes, size: bytes.len() as u64, ..FileData::default() }
    }

    /// Makes an empty file with these seals.
    pub fn sealed(seals: Seals) -> Self {
        FileData { seals, ..FileData::default() }
    }

    /// Gives the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Gives the memory that the file's own pages take, in units of 512 bytes; what a store has is the
    /// store's to say.
    pub fn blocks(&self) -> u64 {
        (self.pages.len() as u64 + (self.base.len() as u64).div_ceil(PAGE as u64)) * 8
    }

    /// Says whether all bytes still are those of the archive.
    pub fn is_pristine(&self) -> bool {
        self.pages.is_empty() && self.store.is_none() && self.size == self.base.len() as u64 && self.size > 0
    }

    /// Gives the store that holds the bytes, once the file was mapped shared.
    pub fn store(&self) -> Option<Arc<dyn SharedStore>> {
        self.store.clone()
    }

    /// Moves the bytes into `store`.
    ///
    /// # Errors
    /// The store's; the file is then as before.
    pub fn move_to(&mut self, store: Arc<dyn SharedStore>) -> Result<()> {
        let mut page = [0; PAGE];
        let base_pages = (self.base.len() as u64).div_ceil(PAGE as u64);
        for number in (0..base_pages).chain(self.pages.range(base_pages..).map(|(&n, _)| n)) {
            let n = self.read(number * PAGE as u64, &mut page)?;
            store.write(number * PAGE as u64, &page[..n])?;
        }
        self.base = &[];
        self.pages.clear();
        self.store = Some(store);
        Ok(())
    }

    /// Reads at `offset`; gives how many bytes there were.
    ///
    /// # Errors
    /// A store's.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<usize> {
        let n = (to.len() as u64).min(self.size.saturating_sub(offset)) as usize;
        if let Some(store) = &self.store {
            store.read(offset, &mut to[..n])?;
            return Ok(n);
        }
        for (at, piece) in pieces(offset, n) {
            self.read_piece(at, &mut to[piece]);
        }
        Ok(n)
    }

    /// Reads within one page.
    fn read_piece(&self, at: u64, to: &mut [u8]) {
        let within = (at % PAGE as u64) as usize;
        if let Some(page) = self.pages.get(&(at / PAGE as u64)) {
            to.copy_from_slice(&page.0[within..within + to.len()]);
            return;
        }
        let base = self.base.get(at as usize..).unwrap_or(&[]);
        let n = base.len().min(to.len());
        to[..n].copy_from_slice(&base[..n]);
        to[n..].fill(0);
    }

    /// Writes at `offset`, growing the file if it must; gives how many bytes were written.
    ///
    /// # Errors
    /// `ENOSPC` if not even one byte found memory, `EFBIG` beyond the largest offset.
    pub fn write(&mut self, offset: u64, from: &[u8]) -> Result<usize> {
        if from.is_empty() {
            return Ok(0);
        }
        if offset.saturating_add(from.len() as u64) > LIMIT {
            return Err(EFBIG);
        }
        let mut done = 0;
        if let Some(store) = &self.store {
            store.resize(self.size.max(offset + from.len() as u64))?;
            store.write(offset, from)?;
            done = from.len();
        } else {
            for (at, piece) in pieces(offset, from.len()) {
                let Some(page) = self.page_mut(at / PAGE as u64) else {
                    break;
                };
                let within = (at % PAGE as u64) as usize;
                page[within..within + piece.len()].copy_from_slice(&from[piece.clone()]);
                done = piece.end;
            }
        }
        if done == 0 {
            return Err(ENOSPC);
        }
        self.size = self.size.max(offset + done as u64);
        Ok(done)
    }

    /// Gives page `number` for writing; `None` if the heap has no room.
    fn page_mut(&mut self, number: u64) -> Option<&mut Vec<u8>> {
        if !self.pages.contains_key(&number) {
            let mut page = Page::new()?;
            self.read_piece(number * PAGE as u64, &mut page.0);
            self.pages.insert(number, page);
        }
        self.pages.get_mut(&number).map(|page| &mut page.0)
    }

    /// Sets the size. What is cut off reads as zero if the file grows again.
    ///
    /// # Errors
    /// `EFBIG` beyond the largest offset; a store's.
    pub fn truncate(&mut self, size: u64) -> Result<()> {
        if size > LIMIT {
            return Err(EFBIG);
        }
        match &self.store {
            Some(store) => store.resize(size)?,
            None if size < self.size => self.cut(size),
            None => {}
        }
        self.size = size;
        Ok(())
    }

    /// Makes the bytes of `hole` read as zero; the size stays. Whole pages are given back. Only of a file
    /// that no store has.
    ///
    /// # Errors
    /// `ENOSPC` if there is no memory for a page that the archive has part of.
    pub fn punch(&mut self, hole: Range<u64>) -> Result<()> {
        const BYTES: u64 = PAGE as u64;
        let base_pages = (self.base.len() as u64).div_ceil(BYTES);
        // A hole may be longer than any file: what is not there is not looked at.
        let end = hole.end.min(self.size.next_multiple_of(BYTES));
        let mut page = hole.start / BYTES;
        while page * BYTES < end {
            let start = page * BYTES;
            let within = hole.start.saturating_sub(start)..(end - start).min(BYTES);
            if page < base_pages {
                self.page_mut(page).ok_or(ENOSPC)?[within.start as usize..within.end as usize].fill(0);
            } else if within == (0..BYTES) {
                self.pages.remove(&page);
            } else if let Some(page) = self.pages.get_mut(&page) {
                page.0[within.start as usize..within.end as usize].fill(0);
            }
            // What was never written is a hole already.
            let next = self.pages.range(page + 1..).next().map_or(u64::MAX / BYTES, |(&page, _)| page);
            page = if page + 1 < base_pages { page + 1 } else { next };
        }
        Ok(())
    }

    /// Notes that the store was written up to `end`.
    pub fn grew(&mut self, end: u64) {
        self.size = self.size.max(end);
    }

    /// Sets the size of a file whose store was truncated.
    ///
    /// # Errors
    /// `EFBIG` beyond the largest offset.
    pub fn resized(&mut self, size: u64) -> Result<()> {
        if size > LIMIT {
            return Err(EFBIG);
        }
        self.size = size;
        Ok(())
    }

    fn cut(&mut self, size: u64) {
        self.base = &self.base[..self.base.len().min(size as usize)];
        drop(self.pages.split_off(&size.div_ceil(PAGE as u64)));
        if let Some(page) = self.pages.get_mut(&(size / PAGE as u64)) {
            page.0[(size % PAGE as u64) as usize..].fill(0);
        }
    }
}

/// Cuts `len` bytes at `offset` at page boundaries: file offset and range within the buffer.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, core::ops::Range<usize>)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        (done < len).then(|| {
            let at = offset + done as u64;
            let n = (PAGE - (at % PAGE as u64) as usize).min(len - done);
            done += n;
            (at, done - n..done)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use spin::Mutex;
    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    struct Heap(Mutex<Vec<u8>>);

    impl SharedStore for Heap {
        fn read(&self, offset: u64, to: &mut [u8]) -> Result<()> {
            let bytes = self.0.lock();
            for (i, b) in to.iter_mut().enumerate() {
                *b = bytes.get(offset as usize + i).copied().unwrap_or(0);
            }
            Ok(())
        }
        fn write(&self, offset: u64, from: &[u8]) -> Result<()> {
            let mut bytes = self.0.lock();
            let end = offset as usize + from.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[offset as usize..end].copy_from_slice(from);
            Ok(())
        }
        fn resize(&self, size: u64) -> Result<()> {
            self.0.lock().resize(size as usize, 0);
            Ok(())
        }
        fn punch(&self, hole: Range<u64>) -> Result<()> {
            let mut bytes = self.0.lock();
            let end = bytes.len().min(hole.end as usize);
            bytes[end.min(hole.start as usize)..end].fill(0);
            Ok(())
        }
        fn pages(&self) -> u64 {
            self.0.lock().len().div_ceil(PAGE) as u64
        }
        fn as_any(self: Arc<Self>) -> Arc<dyn core::any::Any + Send + Sync> {
            self
        }
    }

    #[test]
    fn a_hole_gives_whole_pages_back_and_may_be_longer_than_the_file() {
        let mut file = FileData::default();
        let bytes = vec![7; 4 * PAGE];
        file.write(0, &bytes).unwrap();
        file.write(40 * PAGE as u64, &bytes[..10]).unwrap();
        assert_eq!(file.blocks(), 5 * 8);
        file.punch(1..3 * PAGE as u64).unwrap();
        assert_eq!(file.blocks(), 3 * 8, "the first page is cut, two are gone");
        file.punch(3 * PAGE as u64 + 1..u64::MAX).unwrap();
        assert_eq!((file.blocks(), file.size()), (2 * 8, 40 * PAGE as u64 + 10));
        file.punch(u64::MAX - 1..u64::MAX).unwrap();
        let mut byte = [0; 2];
        file.read(3 * PAGE as u64, &mut byte).unwrap();
        assert_eq!(byte, [7, 0]);
    }

    /// A file behaves like a vector of bytes, with and without a store, from any archive bytes.
    #[test]
    fn a_file_is_a_vector_of_bytes() {
        let mut seed = 1u64;
        let mut random = move |n: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % n
        };
        for round in 0..300 {
            let base: Vec<u8> = (0..random(3 * PAGE)).map(|i| i as u8 | 1).collect();
            let mut model = base.clone();
            let mut file = FileData::in_place(Box::leak(base.into_boxed_slice()));
            for step in 0..20 {
                let offset = random(4 * PAGE);
                match random(5) {
                    4 => {
                        let hole = offset..offset + random(3 * PAGE) + 1;
                        match file.store() {
                            Some(store) => store.punch(hole.start as u64..hole.end as u64).unwrap(),
                            None => file.punch(hole.start as u64..hole.end as u64).unwrap(),
                        }
                        let end = hole.end.min(model.len());
                        model[hole.start.min(end)..end].fill(0);
                    }
                    0 => {
                        file.truncate(offset as u64).unwrap();
                        model.resize(offset, 0);
                    }
                    1 if round % 2 == 0 && step > 10 && file.store().is_none() => {
                        file.move_to(Arc::new(Heap(Mutex::default()))).unwrap();
                    }
                    _ => {
                        let bytes = vec![step as u8 + 2; random(2 * PAGE) + 1];
                        assert_eq!(file.write(offset as u64, &bytes), Ok(bytes.len()));
                        if model.len() < offset + bytes.len() {
                            model.resize(offset + bytes.len(), 0);
                        }
                        model[offset..offset + bytes.len()].copy_from_slice(&bytes);
                    }
                }
                let mut all = vec![0xff; model.len() + 10];
                assert_eq!(file.read(0, &mut all), Ok(model.len()));
                assert_eq!(&all[..model.len()], &model[..]);
            }
        }
    }
}
