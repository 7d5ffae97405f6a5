//! The seams of anonmem: what the memory manager takes as given, and what it asks of the world.
//!
//! [`Arch`] is *facts*: how a page-table entry is laid out. It is pure, so every architecture is tested on
//! every host. [`Machine`] is *effects*, in six small traits, of which twelve methods have no default.
//! [`PhysMem`] is physical memory, [`Mmu`] the caches of translations, [`Sched`] CPUs and tasks, and
//! [`Clock`] the time. [`Sources`] are the bytes behind private mappings, and [`SwapIo`] devices to swap to.
//! Everything above is generic over `M: Machine`; there is no other way out of the memory manager.
//!
//! [`Probe`] is the third seam and normally absent: a machine that simulates sees every shared access
//! before it happens and decides what it returns.
//!
//! No policy lives here, and no `alloc`.
#![no_std]
#![warn(missing_debug_implementations)]

#[doc(hidden)]
pub mod addr;
pub mod arch;
mod check;
#[doc(hidden)]
pub mod cpu;
#[doc(hidden)]
pub mod machine;
#[doc(hidden)]
pub mod nodes;
mod page_hash;
mod page_words;
#[doc(hidden)]
pub mod probe;
#[doc(hidden)]
pub mod pte;
pub mod reverse_map;

pub use addr::{MAX_ORDER, NrPages, Order, PAGE_SHIFT, PAGE_SIZE, Pfn, Va, VaRange, page_align};
pub use arch::Arch;
pub use cpu::{CpuId, CpuSet, CpuSlots, UpTo};
pub use machine::{
    Clock, FlushRange, FrameAlloc, GiveUp, HeldLocks, IoError, Machine, Mmu, PhysMem, Sched, SourceError,
    SourceId, Sources, SwapIo,
};
pub use nodes::{MAX_NODES, NodeMode, NodePolicy, NodeSet};
pub use page_hash::PageHash;
pub use probe::{LockKind, NoProbe, Probe};
pub use pte::{
    Entry, EntryBits, Marker, MigrationBits, MigrationKind, Present, Protection, Pte, Sharing, SoftLeaf,
    SwapBits, SwapEntry,
};
