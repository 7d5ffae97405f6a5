//! A swap device in compressed memory.
//!
//! A page that leaves is compressed (LZ4) into a piece of a frame; the frames come from the memory manager
//! that swaps, so that what the device saves is what compression saves. A page that does not compress to half
//! is kept whole.
//!
//! - [`device`]: slots, and moving pages in and out of them.
//! - [`store`]: pieces of frames, in classes of size.
//! - [`directory`]: long arrays in frames, of which only the parts in use take memory.
//!
//! Locks: one spin lock around the tables, held for a copy of at most a page; pages are compressed and
//! decompressed outside of it, in a workspace per CPU.
//!
//! Linux: drivers/block/zram, mm/zsmalloc.c. Differs: a piece never spans two frames.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod device;
pub mod directory;
pub mod store;
#[cfg(test)]
mod tests;

pub use device::{Usage, Zram};
