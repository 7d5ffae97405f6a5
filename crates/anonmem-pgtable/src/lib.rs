//! Page tables: entries as enums, owners as bits, locks, walks, and the TLB gather.
//!
//! A present anonymous entry *owns* one mapping. [`PteGuard::install`] consumes the owner and
//! [`PteGuard::clear`] gives it back; that conversion exists here and nowhere else.
//!
//! | operation | needs |
//! |---|---|
//! | look at a table, clear entries | any [`StableVma`]: mmap, VMA or rmap lock |
//! | fill entries, add tables | a [`CanInstall`]: mmap or VMA lock |
//! | free tables | the mmap lock for writing, and the VMAs unlinked: [`AddressSpace::free_tables`] |
//!
//! Linux: Documentation/mm/process_addrs.rst; include/linux/pgtable.h; mm/mmu_gather.c.
//!
//! `unsafe` is allowed here; there is no `alloc`.
#![no_std]

#[cfg(test)]
extern crate std;

mod batch;
mod dead;
mod free;
mod gather;
mod guard;
mod owned;
mod recount;
mod space;
mod table;

pub use batch::TlbBatch;
pub use dead::DeadTables;
pub use gather::{MmuGather, Teardown};
pub use guard::{Attrs, Dirty, NotShared, PteGuard, PteSnapshot};
pub use owned::{Cleared, MapOwner, Mapped, Unmap};
pub use recount::Miscounted;
pub use space::AddressSpace;
pub use table::{CanInstall, PteTable, StableVma};
