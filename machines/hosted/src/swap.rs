//! Swap devices of a process: pages in the host's memory, with checksums, and errors on demand.
//!
//! What is read must be what was written last: each slot remembers a checksum of its page, taken when it was
//! written.

use crate::{Arena, Config, Hosted};
use anonmem_hal::{Arch, FrameAlloc, IoError, PAGE_SIZE, Pfn, SwapIo};
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

type Page = [u8; PAGE_SIZE];

struct Stored {
    page: Box<Page>,
    checksum: u64,
}

/// All swap devices of a machine. Any number is a device; the memory manager is told how large it is.
#[derive(Default)]
pub struct SwapTable {
    slots: Mutex<HashMap<(u8, u64), Stored>>,
    /// Every n-th read fails; 0 for none.
    fail_reads: AtomicU64,
    /// Every n-th write fails; 0 for none.
    fail_writes: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
}

impl SwapTable {
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

    fn write(&self, at: (u8, u64), arena: &Arena, src: Pfn) -> Result<(), IoError> {
        count_and_fail(&self.writes, &self.fail_writes)?;
        let mut page = Box::new([0; PAGE_SIZE]);
        arena.read(src, 0, &mut page[..]);
        let checksum = checksum(&page);
        self.lock().insert(at, Stored { page, checksum });
        Ok(())
    }

    fn read(&self, at: (u8, u64), arena: &Arena, dst: Pfn) -> Result<(), IoError> {
        count_and_fail(&self.reads, &self.fail_reads)?;
        let slots = self.lock();
        // A reader that was late may ask for a slot that was freed: what it gets is thrown away.
        let Some(stored) = slots.get(&at) else { return Err(IoError) };
        assert_eq!(checksum(&stored.page), stored.checksum, "swap slot {at:?} changed on the device");
        arena.write(dst, 0, &stored.page[..]);
        Ok(())
    }
}

fn count_and_fail(count: &AtomicU64, fail: &AtomicU64) -> Result<(), IoError> {
    let n = count.fetch_add(1, Relaxed) + 1;
    let every = fail.load(Relaxed);
    if every != 0 && n.is_multiple_of(every) { Err(IoError) } else { Ok(()) }
}

fn checksum(page: &Page) -> u64 {
    let mut hasher = DefaultHasher::new();
    page.hash(&mut hasher);
    hasher.finish()
}

impl<C: Config, A: Arch> SwapIo for Hosted<C, A> {
    fn swap_write(&self, device: u8, slot: u64, src: Pfn, _frames: &dyn FrameAlloc) -> Result<(), IoError> {
        // A device takes its time: others run meanwhile.
        std::thread::yield_now();
        self.swap().write((device, slot), self.arena(), src)
    }

    fn swap_read(&self, device: u8, slot: u64, dst: Pfn) -> Result<(), IoError> {
        std::thread::yield_now();
        self.swap().read((device, slot), self.arena(), dst)
    }

    fn swap_discard(&self, device: u8, slot: u64, _frames: &dyn FrameAlloc) {
        self.swap().lock().remove(&(device, slot));
    }
}
