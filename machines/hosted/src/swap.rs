//! Swap devices of a process: pages in the host's memory or in a file, with checksums, and errors on demand;
//! or in compressed memory, without them.
//!
//! What is read must be what was written last: each slot remembers a checksum of its page, taken when it was
//! written.

use crate::arena::Arena;
use anonmem_hal::{FrameAlloc, IoError, Order, PAGE_SIZE, Pfn};
use anonmem_zram::Zram;
use rustix::fs::OFlags;
use std::{
    collections::HashMap,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// A page where direct I/O may read and write it.
#[repr(C, align(4096))]
struct Page([u8; PAGE_SIZE]);

struct Stored {
    /// `None` if it is in the file.
    page: Option<Box<Page>>,
    checksum: u64,
}

/// Where pages are kept, if not one by one in the host's memory.
enum Store {
    File(File),
    Zram(Box<Zram>),
}

/// Each device has room for so many slots in the file, which has holes.
const MOST_SLOTS: u64 = 1 << 24;

/// Whether the host's cache lies between a file and its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caching {
    /// It does not (`O_DIRECT`).
    Direct,
    /// It does: the file system can do nothing else.
    Cached,
}

/// All swap devices of a machine. Any number is a device; the memory manager is told how large it is.
#[derive(Default)]
pub struct SwapTable {
    slots: Mutex<HashMap<(u8, u64), Stored>>,
    store: OnceLock<Store>,
    /// Every n-th read fails; 0 for none.
    fail_reads: AtomicU64,
    /// Every n-th write fails; 0 for none.
    fail_writes: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
}

impl SwapTable {
    /// Keeps pages in the file at `path` from now on, with direct I/O where that can be.
    ///
    /// # Errors
    /// What the host says of the file.
    ///
    /// # Panics
    /// If it was decided before where pages are kept.
    pub fn keep_in_file(&self, path: &Path) -> io::Result<Caching> {
        let open = |flags: OFlags| {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            options.custom_flags(flags.bits().cast_signed()).open(path)
        };
        let (file, caching) = match open(OFlags::DIRECT) {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => (open(OFlags::empty())?, Caching::Cached),
            file => (file?, Caching::Direct),
        };
        assert!(self.store.set(Store::File(file)).is_ok(), "pages are kept somewhere already");
        Ok(caching)
    }

    /// Keeps the `slots` pages of device 0 in compressed memory from now on, in frames of the memory manager.
    ///
    /// # Panics
    /// If it was decided before where pages are kept, or the host has no memory for its tables.
    pub fn keep_compressed(&self, slots: u64, nr_frames: u64, nr_cpus: usize) {
        // SAFETY: the machine that has this gives it its own memory, and the frames of its memory manager.
        let zram = unsafe { Zram::new(slots, nr_frames, nr_cpus) }.expect("memory for the tables");
        assert!(self.store.set(Store::Zram(Box::new(zram))).is_ok(), "pages are kept somewhere already");
    }

    /// Gives back the frames of compressed memory's tables, once no page is kept there.
    ///
    /// # Safety
    /// `frames` are those of the memory manager that has this machine.
    pub unsafe fn clear(&self, frames: &dyn FrameAlloc) {
        if let Some(zram) = self.zram() {
            zram.clear(frames);
        }
    }

    pub(crate) fn zram(&self) -> Option<&Zram> {
        match self.store.get()? {
            Store::Zram(zram) => Some(zram),
            Store::File(_) => None,
        }
    }

    fn file(&self) -> Option<&File> {
        match self.store.get()? {
            Store::File(file) => Some(file),
            Store::Zram(_) => None,
        }
    }

    /// Makes every `n`-th read fail from now on, 0 for none.
    pub fn fail_every_read(&self, n: u64) {
        self.fail_reads.store(n, Relaxed);
    }

    /// Makes every `n`-th write fail from now on, 0 for none.
    pub fn fail_every_write(&self, n: u64) {
        self.fail_writes.store(n, Relaxed);
    }

    /// Pages that the devices hold.
    pub fn stored(&self) -> usize {
        self.lock().len()
    }

    /// Reads and writes so far.
    pub fn transfers(&self) -> (u64, u64) {
        (self.reads.load(Relaxed), self.writes.load(Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u8, u64), Stored>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a page.
    pub(crate) fn discard(&self, at: (u8, u64)) {
        self.lock().remove(&at);
    }

    /// Writes pages to slots in a row: one request to the file.
    pub(crate) fn write(
        &self,
        (device, slot): (u8, u64),
        order: Order,
        arena: &Arena,
        src: Pfn,
    ) -> Result<(), IoError> {
        count_and_fail(&self.writes, &self.fail_writes)?;
        let mut pages = blank(order);
        for (page, nth) in pages.iter_mut().zip(0..) {
            arena.read(src.offset(nth), 0, &mut page.0);
        }
        if let Some(file) = self.file() {
            file.write_all_at(bytes(&mut pages), offset((device, slot))).map_err(|_| IoError)?;
        }
        let in_memory = self.file().is_none();
        let mut slots = self.lock();
        for (page, at) in pages.into_iter().zip(slot..) {
            let checksum = checksum(&page);
            let page = in_memory.then(|| Box::new(page));
            slots.insert((device, at), Stored { page, checksum });
        }
        Ok(())
    }

    /// Reads slots in a row: one request to the file.
    pub(crate) fn read(
        &self,
        (device, slot): (u8, u64),
        order: Order,
        arena: &Arena,
        dst: Pfn,
    ) -> Result<(), IoError> {
        count_and_fail(&self.reads, &self.fail_reads)?;
        let mut pages = blank(order);
        let mut wanted = Vec::new();
        {
            let slots = self.lock();
            for (page, at) in pages.iter_mut().zip(slot..) {
                // A reader that was late may ask for a slot that was freed: what it gets is thrown away.
                let stored = slots.get(&(device, at)).ok_or(IoError)?;
                if let Some(kept) = &stored.page {
                    page.0 = kept.0;
                }
                wanted.push(stored.checksum);
            }
        }
        if let Some(file) = self.file() {
            file.read_exact_at(bytes(&mut pages), offset((device, slot))).map_err(|_| IoError)?;
        }
        for ((page, wanted), nth) in pages.iter().zip(wanted).zip(0..) {
            let at = (device, slot + nth);
            // A slot that was freed meanwhile may hold another page by now.
            let is_current = self.lock().get(&at).is_some_and(|stored| stored.checksum == wanted);
            assert!(!is_current || checksum(page) == wanted, "swap slot {at:?} changed on the device");
            arena.write(dst.offset(nth), 0, &page.0);
        }
        Ok(())
    }
}

/// Pages for a transfer.
fn blank(order: Order) -> Vec<Page> {
    (0..order.pages()).map(|_| Page([0; PAGE_SIZE])).collect()
}

/// Their bytes.
fn bytes(pages: &mut [Page]) -> &mut [u8] {
    // SAFETY: a page is `PAGE_SIZE` bytes and has no others, and the slice has so many of them in a row.
    unsafe { core::slice::from_raw_parts_mut(pages.as_mut_ptr().cast(), pages.len() * PAGE_SIZE) }
}

/// Where a slot is in the file.
fn offset((device, slot): (u8, u64)) -> u64 {
    assert!(slot < MOST_SLOTS, "slot {slot} of a device in a file");
    (u64::from(device) * MOST_SLOTS + slot) * PAGE_SIZE as u64
}

fn count_and_fail(count: &AtomicU64, fail: &AtomicU64) -> Result<(), IoError> {
    let n = count.fetch_add(1, Relaxed) + 1;
    let every = fail.load(Relaxed);
    if every != 0 && n.is_multiple_of(every) { Err(IoError) } else { Ok(()) }
}

fn checksum(page: &Page) -> u64 {
    let mut hasher = DefaultHasher::new();
    page.0.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checked, Hosted};
    use anonmem_hal::{CpuId, SwapIo, arch::X86_64};

    struct NoFrames;

    // SAFETY: it gives none.
    unsafe impl FrameAlloc for NoFrames {
        fn alloc_frame(&self) -> Option<Pfn> {
            None
        }
        unsafe fn free_frame(&self, _: Pfn) {}
    }

    #[test]
    fn a_file_keeps_pages_and_says_which_were_changed() {
        let path = std::env::temp_dir().join(format!("anonmem-swap-{}", std::process::id()));
        let machine = Hosted::<Checked, X86_64>::new(16);
        let caching = machine.swap().keep_in_file(&path).unwrap();
        let frame = Hosted::<Checked, X86_64>::BASE_PFN;
        machine.cpus().clone().run_on(CpuId(0), || {
            for (device, byte) in [(0, 7), (1, 9)] {
                machine.arena().write(frame, 0, &[byte; PAGE_SIZE]);
                // SAFETY: the test has the machine to itself.
                unsafe { machine.swap_write(device, 3, Order::ZERO, frame, &NoFrames) }.unwrap();
            }
            let mut bytes = [0; PAGE_SIZE];
            // SAFETY: the test has the machine to itself.
            let read = |device, slot| unsafe { machine.swap_read(device, slot, Order::ZERO, frame) };
            read(0, 3).unwrap();
            machine.arena().read(frame, 0, &mut bytes);
            assert_eq!(bytes, [7; PAGE_SIZE], "{caching:?}");
            assert_eq!((read(0, 4), machine.swap().stored()), (Err(IoError), 2));
            File::options().write(true).open(&path).unwrap().write_all_at(&[1], offset((1, 3))).unwrap();
            let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(1, 3)));
            assert!(read.is_err(), "the page was changed on the device");
        });
        std::fs::remove_file(path).unwrap();
    }
}
