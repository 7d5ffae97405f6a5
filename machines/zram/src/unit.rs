//! Units: the sixteen pages of an aligned group of slots, compressed as one.
//!
//! A folio of 64 KiB and more leaves in units. That takes one look at the tables for sixteen pages, and the
//! compressor finds in one page what another one has. What is kept lies in frames of its own, and in one
//! piece for the rest.
//!
//! A page of a unit that is wanted alone costs the unpacking of all. The packer remembers the unit that it
//! unpacked last, so that neighbours are had for a copy. A slot that is given back leaves the unit as large
//! as before, until the last one goes. So a unit of which half is gone is taken apart, if a packer has just
//! unpacked it: a program that reads page after page wastes half of a unit at most.
//!
//! Linux: nothing of the kind is merged; a series of 2024 compresses large folios in zsmalloc.

use crate::{
    directory::Zeroable,
    store::{LARGEST, Piece, Store},
};
use alloc::{boxed::Box, collections::TryReserveError, vec::Vec};
use anonmem_hal::{IoError, PAGE_SIZE, PhysMem};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

/// Pages of a unit.
pub const UNIT_PAGES: u64 = 16;
/// Their bytes.
pub const UNIT_BYTES: usize = UNIT_PAGES as usize * PAGE_SIZE;
/// What is kept of a unit takes half of that at most.
const PACKED_BYTES: usize = UNIT_BYTES / 2;
pub(crate) const PIECES: usize = PACKED_BYTES / PAGE_SIZE;

/// What is kept of a unit; of length 0, nothing.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Unit {
    /// All are frames but the last one.
    pub(crate) pieces: [u64; PIECES],
    /// Which unit it is of all that were ever written.
    pub(crate) number: u64,
    pub(crate) len: u32,
    /// A bit for each page whose slot needs it.
    pub(crate) live: u32,
}

// SAFETY: numbers without padding between them.
unsafe impl Zeroable for Unit {}

impl Unit {
    /// Whether all of its pages are needed.
    pub fn is_whole(&self) -> bool {
        self.live.count_ones() == UNIT_PAGES as u32
    }

    /// Whether half of its pages are gone.
    pub fn is_sparse(&self) -> bool {
        self.live.count_ones() <= UNIT_PAGES as u32 / 2
    }

    /// Whether the two are one, as of two times.
    pub fn is_same(&self, other: &Self) -> bool {
        self.number == other.number
    }

    /// The pages that are needed.
    pub fn pages(&self) -> impl Iterator<Item = u64> {
        let live = self.live;
        (0..UNIT_PAGES).filter(move |nth| live >> nth & 1 == 1)
    }

    /// Where it lies.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece> {
        let used = (self.len as usize).div_ceil(PAGE_SIZE);
        self.pieces.into_iter().take(used).map(Piece::from_bits)
    }
}

impl Unit {
    pub(crate) const NONE: Self = Self { pieces: [0; PIECES], number: 0, len: 0, live: 0 };
}

/// What packs and unpacks units.
pub struct Packer {
    table: CompressTable,
    /// A unit's bytes, compressed, or on the way there.
    packed: Box<[u8]>,
    /// How many there are.
    len: usize,
    /// A unit's bytes.
    plain: Box<[u8]>,
    /// The number of the unit that those are of; 0 for none.
    holds: u64,
}

impl Packer {
    /// About how many bytes one takes.
    pub const BYTES: u64 = (5 * UNIT_BYTES / 2) as u64;

    /// A packer.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new() -> Result<Self, TryReserveError> {
        let zeroes = |len: usize| -> Result<Box<[u8]>, TryReserveError> {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len)?;
            bytes.resize(len, 0);
            Ok(bytes.into_boxed_slice())
        };
        // The compressor asks for room for the worst.
        let (packed, plain) = (zeroes(get_maximum_output_size(UNIT_BYTES))?, zeroes(UNIT_BYTES)?);
        Ok(Self { table: CompressTable::large(), packed, len: 0, plain, holds: 0 })
    }

    /// Compresses a unit; `None` if more than half of it would be left.
    pub fn pack(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        self.len = 0;
        let len = compress_into_with_table(bytes, &mut self.packed, &mut self.table).ok()?;
        (len <= PACKED_BYTES).then(|| &self.packed[..len])
    }

    /// Whether it has the bytes of the unit.
    pub fn has(&self, unit: &Unit) -> bool {
        self.holds == unit.number
    }

    /// Copies what is kept of a unit together, to be unpacked without the lock of the store.
    pub fn gather(&mut self, memory: &impl PhysMem, store: &mut Store, unit: &Unit) -> &[u8] {
        self.len = unit.len as usize;
        for (piece, part) in unit.pieces().zip(self.packed[..self.len].chunks_mut(PAGE_SIZE)) {
            let (place, _) = store.bytes(memory, piece);
            // SAFETY: the piece stays as it is while the store is borrowed, and is that long.
            part.copy_from_slice(unsafe { core::slice::from_raw_parts(place.as_ptr(), part.len()) });
        }
        &self.packed[..self.len]
    }

    /// Unpacks the unit that was gathered, unless its bytes are here.
    ///
    /// # Errors
    /// [`IoError`] if that is no unit.
    pub fn unpack(&mut self, unit: &Unit) -> Result<(), IoError> {
        if self.has(unit) {
            return Ok(());
        }
        self.holds = 0;
        match decompress_into(&self.packed[..self.len], &mut self.plain) {
            Ok(UNIT_BYTES) => self.holds = unit.number,
            Ok(_) | Err(_) => return Err(IoError),
        }
        Ok(())
    }

    /// The `nth` page of the unit that it has.
    pub fn page(&self, nth: u64) -> &[u8] {
        &self.plain[nth as usize * PAGE_SIZE..][..PAGE_SIZE]
    }

    /// The same, compressed if that is worth it.
    pub fn pack_page(&mut self, nth: u64) -> &[u8] {
        let page = &self.plain[nth as usize * PAGE_SIZE..][..PAGE_SIZE];
        match compress_into_with_table(page, &mut self.packed, &mut self.table) {
            Ok(len) if len <= LARGEST => &self.packed[..len],
            Ok(_) | Err(_) => page,
        }
    }
}
