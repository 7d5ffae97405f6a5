//! Pieces of frames, in classes of size.
//!
//! A block is a frame that is cut into pieces of one size, at most 64. Blocks with free pieces are in a list
//! per class; a block without a piece in use gives its frame back. What is known of a block is kept outside
//! of its frame, so that pieces of half a frame and of a whole one fit.

use crate::directory::{Directory, Zeroable};
use alloc::collections::TryReserveError;
use anonmem_hal::{FrameAlloc, PAGE_SIZE, Pfn, PhysMem};
use core::ptr::NonNull;

/// The sizes of pieces. Between half a frame and a frame there is none: the rest would be of no use.
const SIZES: [usize; 13] = [64, 128, 192, 256, 336, 448, 576, 672, 816, 1024, 1360, LARGEST, PAGE_SIZE];
const CLASSES: usize = SIZES.len();
/// The largest piece but a whole frame.
pub const LARGEST: usize = 2048;

/// One frame that is cut into pieces.
#[derive(Clone, Copy)]
#[repr(C)]
struct Block {
    pfn: u64,
    /// A bit for each piece in use.
    used: u64,
    /// Neighbours in the list of its class, or of blocks without a frame; plus one, 0 for none.
    next: u32,
    prev: u32,
    class: u32,
    unused: u32,
}

// SAFETY: numbers without padding between them.
unsafe impl Zeroable for Block {}

/// A piece in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    block: u32,
    index: u32,
}

impl Piece {
    /// As a number below 2^38.
    pub fn to_bits(self) -> u64 {
        u64::from(self.block) << 6 | u64::from(self.index)
    }

    /// Back from the number.
    pub fn from_bits(bits: u64) -> Self {
        Self { block: (bits >> 6) as u32, index: (bits & 63) as u32 }
    }
}

/// All blocks.
pub struct Store {
    blocks: Directory<Block>,
    /// Blocks that there are records of.
    records: u32,
    /// The first record without a frame.
    vacant: u32,
    /// The first block of each class that has a free piece.
    partial: [u32; CLASSES],
    /// Frames cut into pieces.
    frames: u64,
}

fn class_of(len: usize) -> usize {
    SIZES.iter().position(|&size| len <= size).unwrap_or(CLASSES - 1)
}

/// The bits of a block all of whose pieces are in use.
fn full(class: usize) -> u64 {
    u64::MAX >> (64 - PAGE_SIZE / SIZES[class])
}

impl Store {
    /// A store that can grow to `max_frames`.
    ///
    /// # Errors
    /// If there is no memory for its tables.
    pub fn new(max_frames: u64) -> Result<Self, TryReserveError> {
        let blocks = Directory::new(max_frames.min(u32::MAX.into()))?;
        Ok(Self { blocks, records: 0, vacant: 0, partial: [0; CLASSES], frames: 0 })
    }

    /// A piece of at least `len` bytes, at most a frame; `None` if there is no memory.
    pub fn alloc(&mut self, memory: &impl PhysMem, frames: &dyn FrameAlloc, len: usize) -> Option<Piece> {
        let class = class_of(len.min(PAGE_SIZE));
        let block = match self.partial[class].checked_sub(1) {
            Some(block) => block,
            None => self.add_block(memory, frames, class)?,
        };
        let record = self.block(memory, block);
        let index = record.used.trailing_ones();
        record.used |= 1 << index;
        if record.used == full(class) {
            self.unlink(memory, block);
        }
        Some(Piece { block, index })
    }

    /// A piece that holds `bytes`, at most a frame of them; `None` if there is no memory.
    pub fn put(&mut self, memory: &impl PhysMem, frames: &dyn FrameAlloc, bytes: &[u8]) -> Option<Piece> {
        let piece = self.alloc(memory, frames, bytes.len())?;
        let (place, size) = self.bytes(memory, piece);
        assert!(bytes.len() <= size, "a piece is too small");
        // SAFETY: the piece is ours, and large enough.
        unsafe { place.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Some(piece)
    }

    /// Gives a piece back.
    pub fn free(&mut self, memory: &impl PhysMem, frames: &dyn FrameAlloc, piece: Piece) {
        let record = self.block(memory, piece.block);
        debug_assert!(record.used & 1 << piece.index != 0, "{piece:?} is freed twice");
        let was_full = record.used == full(record.class as usize);
        record.used &= !(1 << piece.index);
        let (empty, pfn) = (record.used == 0, Pfn(record.pfn));
        match (was_full, empty) {
            (true, false) => self.link(memory, piece.block),
            (false, true) => self.unlink(memory, piece.block),
            (true, true) | (false, false) => {}
        }
        if empty {
            let vacant = core::mem::replace(&mut self.vacant, piece.block + 1);
            *self.block(memory, piece.block) = Block { next: vacant, ..Block::NONE };
            self.frames -= 1;
            // SAFETY: `add_block` took it from there, and no piece of it is in use.
            unsafe { frames.free_frame(pfn) };
        }
    }

    /// Where a piece is, and how long.
    pub fn bytes(&mut self, memory: &impl PhysMem, piece: Piece) -> (NonNull<u8>, usize) {
        let record = *self.block(memory, piece.block);
        let size = SIZES[record.class as usize];
        // SAFETY: the piece lies in its frame.
        (unsafe { memory.direct_map(Pfn(record.pfn)).add(piece.index as usize * size) }, size)
    }

    /// Gives back the frames of its tables. No piece is in use.
    pub fn clear(&mut self, frames: &dyn FrameAlloc) {
        debug_assert_eq!(self.frames, 0, "pieces are in use");
        self.blocks.clear(frames);
        (self.records, self.vacant) = (0, 0);
    }

    /// The frames that it takes, those of its tables included.
    pub fn frames(&self) -> u64 {
        self.frames + self.blocks.frames()
    }

    /// Takes a frame and cuts it; the block is in its class's list.
    fn add_block(&mut self, memory: &impl PhysMem, frames: &dyn FrameAlloc, class: usize) -> Option<u32> {
        let fresh = self.vacant == 0;
        let block = if fresh { self.records } else { self.vacant - 1 };
        if fresh && !self.blocks.reserve(memory, frames, block.into()) {
            return None;
        }
        let pfn = frames.alloc_frame()?;
        if fresh {
            self.records += 1;
        } else {
            self.vacant = self.block(memory, block).next;
        }
        *self.block(memory, block) = Block { pfn: pfn.0, class: class as u32, ..Block::NONE };
        self.frames += 1;
        self.link(memory, block);
        Some(block)
    }

    fn block(&mut self, memory: &impl PhysMem, block: u32) -> &mut Block {
        self.blocks.get_mut(memory, block.into()).expect("a block has a record")
    }

    fn link(&mut self, memory: &impl PhysMem, block: u32) {
        let class = self.block(memory, block).class as usize;
        let next = core::mem::replace(&mut self.partial[class], block + 1);
        let record = self.block(memory, block);
        (record.prev, record.next) = (0, next);
        if let Some(next) = next.checked_sub(1) {
            self.block(memory, next).prev = block + 1;
        }
    }

    fn unlink(&mut self, memory: &impl PhysMem, block: u32) {
        let Block { prev, next, class, .. } = *self.block(memory, block);
        match prev.checked_sub(1) {
            Some(prev) => self.block(memory, prev).next = next,
            None => self.partial[class as usize] = next,
        }
        if let Some(next) = next.checked_sub(1) {
            self.block(memory, next).prev = prev;
        }
    }
}

impl Block {
    const NONE: Self = Self { pfn: 0, used: 0, next: 0, prev: 0, class: 0, unused: 0 };
}
