//! Page tables: entries as enums, owners as bits, locks, walks, and the TLB gather.
//!
//! Every entry *owns* what it says. A present one owns a mapping, a swap entry a count of its slot, a
//! migration entry a hold on its page. [`PteGuard::install`] consumes the owner, [`PteGuard::clear`] gives it
//! back, and [`PteGuard::exchange`] does both; that conversion exists here and nowhere else.
//!
//! A walk ends at a last-level table or at a leaf above it ([`Walked`]), which maps a whole folio.
//!
//! | operation | needs |
//! |---|---|
//! | look at a table, clear entries | any [`StableVma`]: mmap, VMA or rmap lock |
//! | pin what is mapped | the lock of the table, or an RCU read section: [`AddressSpace::pin_fast`] |
//! | fill entries, add tables | a [`CanInstall`]: mmap or VMA lock |
//! | free tables | the mmap lock for writing, and the VMAs unlinked: [`AddressSpace::free_tables`] |
//! | make a table a leaf | mmap lock, VMA, rmap lock, all for writing: [`AddressSpace::collapse_table`] |
//!
//! Linux: Documentation/mm/process_addrs.rst; include/linux/pgtable.h; mm/mmu_gather.c.
//!
//! `unsafe` is allowed here; there is no `alloc`.
#![no_std]
#![warn(missing_debug_implementations)]

#[cfg(test)]
extern crate std;

mod batch;
mod dead;
mod debug;
mod deposit;
mod folios;
mod free;
mod gather;
mod guard;
mod leaf;
mod leaf_collapse;
mod leaf_migrate;
mod leaf_share;
mod move_alone;
mod moving;
mod owned;
mod owned_leaf;
mod pin;
mod pin_fast;
mod range;
mod recount;
mod space;
mod table;
mod tlb_batch;
mod walk;
mod word;
mod words;

pub use anonmem_frame::PinAccess;
pub use batch::Batch;
pub use dead::DeadTables;
pub use deposit::Deposit;
pub use folios::{MAX_TABLES, ManyTables, TableSet, TooManyTables};
pub use gather::MmuGather;
pub use guard::{PteGuard, PteSnapshot, Vacancy, Writes};
pub use leaf::{LeafGuard, LeafPlace, LeafVacancy, Locked};
pub use leaf_collapse::NotOneFolio;
pub use leaf_migrate::{Arrived, LeafPinned};
pub use move_alone::Destination;
pub use moving::{LeafStays, TakenFolio};
pub use owned::{Attrs, Cleared, EntryOwner, Mapped, NotShared, Unmap, UnmapPage};
pub use owned_leaf::{ClearedLeaf, LeafOwner, MappedLeaf};
pub use pin::PinEntry;
pub use pin_fast::{PIN_FAST_ROOM, PinnedFast};
pub use range::ClearedRun;
pub use recount::Miscounted;
pub use space::{AddressSpace, CanInstall, StableVma, Teardown};
pub use table::PteTable;
pub use tlb_batch::TlbBatch;
pub use walk::Walked;
