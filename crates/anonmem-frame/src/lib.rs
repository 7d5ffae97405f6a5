//! Frames: their metadata, who owns which count, how they are allocated, and slabs made of them.
//!
//! - [`meta`]: 32 bytes per frame, and what they mean.
//! - [`folio`]: the owner types. A count has one owner type and none stands in for another.
//! - [`handle`]: names of slots in type-stable slabs.
//!
//! `unsafe` is allowed here; there is no `alloc`.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod handle;
pub mod meta;

pub use handle::{Handle, Link, RawHandle};
pub use meta::{Counts, Kind, META_BYTES, Mapping, MappingWord};
