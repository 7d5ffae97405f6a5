//! Slots, and moving pages in and out of them.

use crate::{
    directory::Directory,
    store::{LARGEST, Store},
    tables::{Contents, Tables},
    unit::{Packer, UNIT_BYTES, UNIT_PAGES, Unit},
};
use alloc::{boxed::Box, collections::TryReserveError, vec, vec::Vec};
use anonmem_hal::{FrameAlloc, IoError, Order, PAGE_SIZE, Pfn, PhysMem};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use spin::Mutex;

/// What a CPU compresses with.
struct Workspace {
    table: CompressTable,
    bytes: Box<[u8]>,
}

/// The share of memory that packers may take.
const PACKERS_SHARE: u64 = 64;

/// Units that wait to be taken apart. One that finds no place stays as it is.
const SPARSE: usize = 8;

/// What a device was used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Bytes of all pages that were written so far.
    pub bytes_in: u64,
    /// Bytes that were kept of them.
    pub bytes_kept: u64,
    /// Pages of them that were kept whole.
    pub whole: u64,
    /// Pages that were refused, because there was no frame for one of those that were written with them.
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
    /// As many, unless memory is too small for so many.
    packers: Box<[Mutex<Packer>]>,
    /// Units of which half is gone, each with its first slot: whoever writes next takes them apart.
    sparse: Mutex<[Option<(u64, Unit)>; SPARSE]>,
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
    ///
    /// # Safety
    /// Whoever calls the methods of this value gives them the memory and the frames of one machine, the
    /// same in every call. A page that is put in is written by nobody meanwhile. What a page is gotten
    /// into, nobody else sees.
    pub unsafe fn new(slots: u64, frames: u64, cpus: usize) -> Result<Self, TryReserveError> {
        let units = Directory::new(slots / UNIT_PAGES)?;
        let tables = Tables { slots: Directory::new(slots)?, store: Store::new(frames)?, units, written: 0 };
        let mut workspaces = Vec::new();
        workspaces.try_reserve_exact(cpus)?;
        workspaces.extend((0..cpus).map(|_| {
            let bytes = vec![0; get_maximum_output_size(PAGE_SIZE)].into_boxed_slice();
            Mutex::new(Workspace { table: CompressTable::small(), bytes })
        }));
        let most = (frames / PACKERS_SHARE * PAGE_SIZE as u64 / Packer::BYTES) as usize;
        let mut packers = Vec::new();
        packers.try_reserve_exact(most.min(cpus))?;
        for _ in 0..most.min(cpus) {
            packers.push(Mutex::new(Packer::new()?));
        }
        Ok(Self {
            tables: Mutex::new(tables),
            workspaces: workspaces.into_boxed_slice(),
            packers: packers.into_boxed_slice(),
            sparse: Mutex::new([None; SPARSE]),
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
        self.write_page(memory, cpu, slot, src, frames).inspect_err(|IoError| self.refuse(1))?;
        self.take_sparse_apart(memory, frames);
        Ok(())
    }

    fn refuse(&self, pages: u64) {
        self.refused.fetch_add(pages, Relaxed);
    }

    fn write_page(
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
        self.store(memory, slot, kept, frames)?;
        self.bytes_kept.fetch_add(kept.len() as u64, Relaxed);
        self.bytes_in.fetch_add(PAGE_SIZE as u64, Relaxed);
        self.whole.fetch_add(u64::from(kept.len() == PAGE_SIZE), Relaxed);
        Ok(())
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
        let piece = tables.store.put(memory, frames, kept).ok_or(IoError)?;
        *tables.slots.get_mut(memory, slot).ok_or(IoError)? = Contents::Own(piece, kept.len()).to_bits();
        self.peak_frames.fetch_max(tables.frames(), Relaxed);
        Ok(())
    }

    /// The same for 2^`order` pages and slots in a row, both aligned to their number. Of 64 KiB and more,
    /// units are compressed as one ([`unit`](crate::unit)); the rest goes page by page.
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
        let pages = UNIT_PAGES.min(order.pages());
        for at in (0..order.pages()).step_by(pages as usize) {
            if self.write_part(memory, cpu, slot + at, pages, src.offset(at), frames).is_err() {
                (0..at).for_each(|nth| self.discard(memory, slot + nth, frames));
                self.refuse(order.pages());
                return Err(IoError);
            }
        }
        self.take_sparse_apart(memory, frames);
        Ok(())
    }

    /// The same for a unit, or for so many pages that are less.
    fn write_part(
        &self,
        memory: &impl PhysMem,
        cpu: usize,
        slot: u64,
        pages: u64,
        src: Pfn,
        frames: &dyn FrameAlloc,
    ) -> Result<(), IoError> {
        if pages == UNIT_PAGES && self.write_unit(memory, cpu, slot, src, frames)? {
            return Ok(());
        }
        for nth in 0..pages {
            if self.write_page(memory, cpu, slot + nth, src.offset(nth), frames).is_err() {
                (0..nth).for_each(|nth| self.discard(memory, slot + nth, frames));
                return Err(IoError);
            }
        }
        Ok(())
    }

    /// Packs the pages from `src` on and keeps them as one; `false` if they do not compress to half, or there
    /// is nothing to pack with.
    ///
    /// # Errors
    /// [`IoError`] if there is no frame to keep them in.
    fn write_unit(
        &self,
        memory: &impl PhysMem,
        cpu: usize,
        slot: u64,
        src: Pfn,
        frames: &dyn FrameAlloc,
    ) -> Result<bool, IoError> {
        let Some(mut packer) = self.packer(cpu) else { return Ok(false) };
        // SAFETY: the frames' bytes, which nobody writes to while the pages are on their way out.
        let bytes = unsafe { core::slice::from_raw_parts(memory.direct_map(src).as_ptr(), UNIT_BYTES) };
        let Some(packed) = packer.pack(bytes) else { return Ok(false) };
        let mut tables = self.tables.lock();
        tables.put_unit(memory, slot, packed, frames)?;
        self.bytes_kept.fetch_add(packed.len() as u64, Relaxed);
        self.bytes_in.fetch_add(UNIT_BYTES as u64, Relaxed);
        self.peak_frames.fetch_max(tables.frames(), Relaxed);
        Ok(true)
    }

    fn packer(&self, cpu: usize) -> Option<spin::MutexGuard<'_, Packer>> {
        Some(self.packers.get(cpu.checked_rem(self.packers.len())?)?.lock())
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
        let pages = UNIT_PAGES.min(order.pages());
        for at in (0..order.pages()).step_by(pages as usize) {
            let (slot, dst) = (slot + at, dst.offset(at));
            if pages < UNIT_PAGES || !self.read_unit(memory, cpu, slot, dst)? {
                (0..pages).try_for_each(|nth| self.read(memory, cpu, slot + nth, dst.offset(nth)))?;
            }
        }
        Ok(())
    }

    /// Gets the pages of a group of slots, if one unit has them all.
    fn read_unit(&self, memory: &impl PhysMem, cpu: usize, slot: u64, dst: Pfn) -> Result<bool, IoError> {
        let Some(mut packer) = self.packer(cpu) else { return Ok(false) };
        let mut tables = self.tables.lock();
        let Some(unit) = tables.unit_of(memory, slot).filter(Unit::is_whole) else { return Ok(false) };
        let packed = packer.gather(memory, &mut tables.store, &unit);
        drop(tables);
        // SAFETY: the caller owns the frames and nobody else sees them yet.
        let bytes = unsafe { core::slice::from_raw_parts_mut(memory.direct_map(dst).as_ptr(), UNIT_BYTES) };
        match decompress_into(packed, bytes) {
            Ok(UNIT_BYTES) => Ok(true),
            Ok(_) | Err(_) => Err(IoError),
        }
    }

    /// Gets the page of `slot` into `dst`, which the caller owns.
    ///
    /// # Errors
    /// [`IoError`] if the slot holds nothing.
    pub fn read(&self, memory: &impl PhysMem, cpu: usize, slot: u64, dst: Pfn) -> Result<(), IoError> {
        // SAFETY: the caller owns the frame and nobody else sees it yet.
        let page = unsafe { core::slice::from_raw_parts_mut(memory.direct_map(dst).as_ptr(), PAGE_SIZE) };
        // Another reader may be taking the unit apart: then the page has a piece of its own.
        if self.read_of_unit(memory, cpu, slot, page)? {
            return Ok(());
        }
        let mut workspace = self.workspaces[cpu].lock();
        let mut tables = self.tables.lock();
        let Contents::Own(piece, len) = tables.contents(memory, slot).ok_or(IoError)? else {
            return Err(IoError);
        };
        let (place, _) = tables.store.bytes(memory, piece);
        // SAFETY: the piece stays as it is under the lock.
        let kept = unsafe { core::slice::from_raw_parts(place.as_ptr(), len) };
        if len == PAGE_SIZE {
            page.copy_from_slice(kept);
            return Ok(());
        }
        let compressed = &mut workspace.bytes[..len];
        compressed.copy_from_slice(kept);
        drop(tables);
        match decompress_into(compressed, page) {
            Ok(PAGE_SIZE) => Ok(()),
            Ok(_) | Err(_) => Err(IoError),
        }
    }

    /// Gets the page of `slot`, if a unit has it.
    fn read_of_unit(
        &self,
        memory: &impl PhysMem,
        cpu: usize,
        slot: u64,
        page: &mut [u8],
    ) -> Result<bool, IoError> {
        if !matches!(self.tables.lock().contents(memory, slot), Some(Contents::InUnit)) {
            return Ok(false);
        }
        let mut packer = self.packer(cpu).ok_or(IoError)?;
        let mut tables = self.tables.lock();
        let Some(unit) = tables.unit_of(memory, slot) else { return Ok(false) };
        if !packer.has(&unit) {
            packer.gather(memory, &mut tables.store, &unit);
        }
        drop(tables);
        packer.unpack(&unit)?;
        page.copy_from_slice(packer.page(slot % UNIT_PAGES));
        Ok(true)
    }

    /// Takes the units apart that wait for it. After a write, because that is what the memory is for.
    fn take_sparse_apart(&self, memory: &impl PhysMem, frames: &dyn FrameAlloc) {
        let next = || self.sparse.lock().iter_mut().find_map(Option::take);
        while let Some((first, unit)) = next() {
            if !self.take_apart(memory, first, unit, frames) {
                self.note_sparse(first, unit);
                return;
            }
        }
    }

    /// Notes a unit of which half is gone, or more of it than when it was noted.
    fn note_sparse(&self, first: u64, unit: Unit) {
        let mut sparse = self.sparse.lock();
        let same = |place: &Option<(u64, Unit)>| place.is_some_and(|(_, noted)| noted.is_same(&unit));
        let at = sparse.iter().position(same).or_else(|| sparse.iter().position(Option::is_none));
        if let Some(at) = at {
            sparse[at] = Some((first, unit));
        }
    }

    /// Gives the pages that are left of a unit, whose first slot is `first`, pieces of their own, if somebody
    /// has unpacked it. What finds no memory stays; returns whether there was enough.
    #[cold]
    fn take_apart(&self, memory: &impl PhysMem, first: u64, unit: Unit, frames: &dyn FrameAlloc) -> bool {
        let mut packers = self.packers.iter().filter_map(Mutex::try_lock);
        let Some(mut packer) = packers.find(|packer| packer.has(&unit)) else { return true };
        for nth in unit.pages() {
            let kept = packer.pack_page(nth);
            let mut tables = self.tables.lock();
            // The slot may have been given back meanwhile, and be another's.
            if !tables.unit_of(memory, first + nth).is_some_and(|now| now.is_same(&unit)) {
                continue;
            }
            let Some(piece) = tables.store.put(memory, frames, kept) else { return false };
            self.peak_frames.fetch_max(tables.frames(), Relaxed);
            tables.discard(memory, first + nth, frames);
            if let Some(word) = tables.slots.get_mut(memory, first + nth) {
                *word = Contents::Own(piece, kept.len()).to_bits();
            }
        }
        true
    }

    /// Forgets what `slot` holds. A unit of which half is gone is taken apart by the next write, so that its
    /// other pages can be given back one by one. Not at once: whoever discards may hold a page-table lock,
    /// and pages would be compressed under it.
    pub fn discard(&self, memory: &impl PhysMem, slot: u64, frames: &dyn FrameAlloc) {
        let left = self.tables.lock().discard(memory, slot, frames);
        if let Some(unit) = left.filter(Unit::is_sparse) {
            self.note_sparse(slot - slot % UNIT_PAGES, unit);
        }
    }

    /// Gives back the frames of its tables, after it was swapped off: all slots are empty.
    pub fn clear(&self, frames: &dyn FrameAlloc) {
        *self.sparse.lock() = [None; SPARSE];
        let mut tables = self.tables.lock();
        tables.slots.clear(frames);
        tables.units.clear(frames);
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
