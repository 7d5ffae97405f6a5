//! Slots, and moving pages in and out of them.

use crate::{
    directory::Directory,
    store::{LARGEST, Piece, Store},
};
use alloc::{boxed::Box, collections::TryReserveError, vec, vec::Vec};
use anonmem_hal::{FrameAlloc, IoError, Order, PAGE_SIZE, Pfn, PhysMem};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use spin::Mutex;

/// What a slot holds: a piece and the bytes in use of it. As a number 0 is nothing.
#[derive(Clone, Copy)]
struct Contents {
    piece: Piece,
    len: usize,
}

const LEN_BITS: u32 = 13;

impl Contents {
    fn to_bits(self) -> u64 {
        self.piece.to_bits() << LEN_BITS | self.len as u64
    }

    fn from_bits(bits: u64) -> Option<Self> {
        let len = (bits & ((1 << LEN_BITS) - 1)) as usize;
        (len != 0).then(|| Self { piece: Piece::from_bits(bits >> LEN_BITS), len })
    }
}

struct Tables {
    slots: Directory<u64>,
    store: Store,
}

/// What a CPU compresses with.
struct Workspace {
    table: CompressTable,
    bytes: Box<[u8]>,
}

/// What a device was used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Bytes of all pages that were written so far.
    pub bytes_in: u64,
    /// Bytes that were kept of them.
    pub bytes_kept: u64,
    /// Pages of them that were kept whole.
    pub whole: u64,
    /// Pages that were refused because there was no frame.
    pub refused: u64,
    /// Frames in use now.
    pub frames: u64,
    /// The most frames that were in use.
    pub peak_frames: u64,
}

/// A device.
pub struct Zram {
    tables: Mutex<Tables>,
    /// One per CPU. Never contended where kernel code stays on its CPU.
    workspaces: Box<[Mutex<Workspace>]>,
    bytes_in: AtomicU64,
    bytes_kept: AtomicU64,
    whole: AtomicU64,
    refused: AtomicU64,
    peak_frames: AtomicU64,
}

impl Zram {
    /// A device with `slots` slots for a machine with so many frames and CPUs.
    ///
    /// # Errors
    /// If there is no memory for its tables.
    pub fn new(slots: u64, frames: u64, cpus: usize) -> Result<Self, TryReserveError> {
        let tables = Tables { slots: Directory::new(slots)?, store: Store::new(frames)? };
        let mut workspaces = Vec::new();
        workspaces.try_reserve_exact(cpus)?;
        workspaces.extend((0..cpus).map(|_| {
            let bytes = vec![0; get_maximum_output_size(PAGE_SIZE)].into_boxed_slice();
            Mutex::new(Workspace { table: CompressTable::small(), bytes })
        }));
        Ok(Self {
            tables: Mutex::new(tables),
            workspaces: workspaces.into_boxed_slice(),
            bytes_in: AtomicU64::new(0),
            bytes_kept: AtomicU64::new(0),
            whole: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            peak_frames: AtomicU64::new(0),
        })
    }

    /// Puts the page in `src` into `slot`. Nobody writes to the page meanwhile. `cpu` is the caller's.
    ///
    /// # Errors
    /// [`IoError`] if there is no frame to keep it in: the slot holds nothing then.
    pub fn write(
        &self,
        memory: &impl PhysMem,
        cpu: usize,
        slot: u64,
        src: Pfn,
        frames: &dyn FrameAlloc,
    ) -> Result<(), IoError> {
        let mut workspace = self.workspaces[cpu].lock();
        let Workspace { table, bytes } = &mut *workspace;
        // SAFETY: the frame's bytes, which nobody writes to while the page is on its way out.
        let page = unsafe { core::slice::from_raw_parts(memory.direct_map(src).as_ptr(), PAGE_SIZE) };
        let kept = match compress_into_with_table(page, bytes, table) {
            Ok(len) if len <= LARGEST => &bytes[..len],
            Ok(_) | Err(_) => page,
        };
        let stored = self.store(memory, slot, kept, frames);
        let (counter, by) = match stored {
            Ok(()) => (&self.bytes_kept, kept.len() as u64),
            Err(IoError) => (&self.refused, 1),
        };
        counter.fetch_add(by, Relaxed);
        if stored.is_ok() {
            self.bytes_in.fetch_add(PAGE_SIZE as u64, Relaxed);
            self.whole.fetch_add(u64::from(kept.len() == PAGE_SIZE), Relaxed);
        }
        stored
    }

    fn store(
        &self,
        memory: &impl PhysMem,
        slot: u64,
        kept: &[u8],
        frames: &dyn FrameAlloc,
    ) -> Result<(), IoError> {
        let mut tables = self.tables.lock();
        tables.discard(memory, slot, frames);
        if !tables.slots.reserve(memory, frames, slot) {
            return Err(IoError);
        }
        let piece = tables.store.alloc(memory, frames, kept.len()).ok_or(IoError)?;
        let (place, size) = tables.store.bytes(memory, piece);
        assert!(kept.len() <= size, "a piece is too small");
        // SAFETY: the piece is ours, under the lock, and large enough.
        unsafe { place.copy_from_nonoverlapping(core::ptr::NonNull::from(kept).cast(), kept.len()) };
        let contents = Contents { piece, len: kept.len() };
        *tables.slots.get_mut(memory, slot).ok_or(IoError)? = contents.to_bits();
        self.peak_frames.fetch_max(tables.frames(), Relaxed);
        Ok(())
    }

    /// The same for 2^`order` pages and slots in a row. They are compressed one by one: a page can be had,
    /// and its piece given back, without the others.
    ///
    /// # Errors
    /// [`IoError`] if there is no frame to keep one of them in: none of the slots holds anything then.
    pub fn write_run(
        &self,
        memory: &impl PhysMem,
        cpu: usize,
        slot: u64,
        order: Order,
        src: Pfn,
        frames: &dyn FrameAlloc,
    ) -> Result<(), IoError> {
        for nth in 0..order.pages() {
            if self.write(memory, cpu, slot + nth, src.offset(nth), frames).is_err() {
                (0..nth).for_each(|nth| self.discard(memory, slot + nth, frames));
                return Err(IoError);
            }
        }
        Ok(())
    }

    /// Gets the pages of 2^`order` slots in a row into as many frames from `dst` on, which the caller has.
    ///
    /// # Errors
    /// [`IoError`] if one of the slots holds nothing.
    pub fn read_run(
        &self,
        memory: &impl PhysMem,
        cpu: usize,
        slot: u64,
        order: Order,
        dst: Pfn,
    ) -> Result<(), IoError> {
        (0..order.pages()).try_for_each(|nth| self.read(memory, cpu, slot + nth, dst.offset(nth)))
    }

    /// Gets the page of `slot` into `dst`, which the caller owns.
    ///
    /// # Errors
    /// [`IoError`] if the slot holds nothing.
    pub fn read(&self, memory: &impl PhysMem, cpu: usize, slot: u64, dst: Pfn) -> Result<(), IoError> {
        let mut workspace = self.workspaces[cpu].lock();
        let mut tables = self.tables.lock();
        let bits = tables.slots.get(memory, slot).unwrap_or(0);
        let contents = Contents::from_bits(bits).ok_or(IoError)?;
        let (place, _) = tables.store.bytes(memory, contents.piece);
        // SAFETY: the piece stays as it is under the lock.
        let kept = unsafe { core::slice::from_raw_parts(place.as_ptr(), contents.len) };
        // SAFETY: the caller owns the frame and nobody else sees it yet.
        let page = unsafe { core::slice::from_raw_parts_mut(memory.direct_map(dst).as_ptr(), PAGE_SIZE) };
        if contents.len == PAGE_SIZE {
            page.copy_from_slice(kept);
            return Ok(());
        }
        let compressed = &mut workspace.bytes[..contents.len];
        compressed.copy_from_slice(kept);
        drop(tables);
        match decompress_into(compressed, page) {
            Ok(PAGE_SIZE) => Ok(()),
            Ok(_) | Err(_) => Err(IoError),
        }
    }

    /// Forgets what `slot` holds.
    pub fn discard(&self, memory: &impl PhysMem, slot: u64, frames: &dyn FrameAlloc) {
        self.tables.lock().discard(memory, slot, frames);
    }

    /// Gives back the frames of its tables, after it was swapped off: all slots are empty.
    pub fn clear(&self, frames: &dyn FrameAlloc) {
        let mut tables = self.tables.lock();
        tables.slots.clear(frames);
        tables.store.clear(frames);
    }

    /// What it was used for.
    pub fn usage(&self) -> Usage {
        Usage {
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_kept: self.bytes_kept.load(Relaxed),
            whole: self.whole.load(Relaxed),
            refused: self.refused.load(Relaxed),
            frames: self.tables.lock().frames(),
            peak_frames: self.peak_frames.load(Relaxed),
        }
    }
}

impl Tables {
    fn discard(&mut self, memory: &impl PhysMem, slot: u64, frames: &dyn FrameAlloc) {
        let Some(word) = self.slots.get_mut(memory, slot) else { return };
        if let Some(contents) = Contents::from_bits(core::mem::take(word)) {
            self.store.free(memory, frames, contents.piece);
        }
    }

    fn frames(&self) -> u64 {
        self.store.frames() + self.slots.frames()
    }
}
