//! A peer in Rust: an address space of `memory_set` and `page_table_multiarch`, put together as an operating
//! system's author would.
//!
//! The two crates are the memory management of ArceOS: a map of areas, and page tables. What lies between, an
//! author writes: where frames come from ([`frames`]), what an area does when it is mapped and when a fault
//! comes ([`space`]), and the lock around all of it. Frames come from the same allocator as ours and are
//! zeroed by the same function; page tables are memory of the same machine.
//!
//! They do less: a page has no owner, no count and no reverse mapping; nothing is shared, so there is no
//! fork, no copy-on-write and no swap; areas never merge; one lock holds everyone. Only rows whose work is
//! the same are measured.

pub mod frames;
pub mod space;

pub use space::Space;

/// The crates, as the table calls them.
pub const NAME: &str = "memory_set";
/// What the rows of the peer stand for.
pub const ABOUT: &str = "memory_set 0.4 with page_table_multiarch 0.6, frames from anonmem's allocator; no rmap, no COW, no counts, \
                         no fork or swap, no merging of areas";
