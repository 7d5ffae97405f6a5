//! A swap device in compressed memory.
//!
//! A page that leaves is compressed (LZ4) into a piece of a frame, and sixteen pages of a large folio as one.
//! The frames come from the memory manager that swaps, so that what the device saves is what compression
//! saves. A page that does not compress to half is kept whole.
//!
//! - [`device`]: slots, and moving pages in and out of them.
//! - [`unit`](mod@unit): sixteen pages that are compressed as one.
//! - `tables`: what each slot holds, and where.
//! - [`store`]: pieces of frames, in classes of size.
//! - [`directory`]: long arrays in frames, of which only the parts in use take memory.
//!
//! Locks: one spin lock around the tables, held for a copy of at most a page, of a unit half of its bytes;
//! pages are compressed and decompressed outside of it, in a workspace per CPU.
//!
//! Linux: drivers/block/zram, mm/zsmalloc.c. Differs: a piece never spans two frames.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod device;
pub mod directory;
pub mod store;
mod tables;
#[cfg(test)]
mod tests;
pub mod unit;

pub use device::{Usage, Zram};
