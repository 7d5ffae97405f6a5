//! Anonymous memory management: the part of an operating system behind `malloc`, `fork` and swap.
//!
//! Three doors lead in. *A fault comes in*: [`Mm::handle_fault`], and `fault/mod.rs` draws what happens. *A
//! system call comes in*: the methods of [`Mm`], one file each. *Memory is short*: an allocation that finds
//! no page makes pages leave for a swap device (`reclaim/`). An operation that gets none all the same fails
//! with [`Error::OutOfMemory`] and leaves nothing behind.
//!
//! ```
//! use anonmem::{Advice, Config, MmapRequest, Prot, Vm};
//! use anonmem_testkit::{Program, VecMachine};
//!
//! let vm = Vm::new(VecMachine::new(256), Config::default())?; // over 256 frames of a `Vec`
//! vm.swap_on(0, 64, 0)?;
//! let parent = vm.new_mm()?; // an address space
//! let va = parent.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
//! parent.store(va, 7)?; // traps, and `Mm::handle_fault` finds a page
//! let child = parent.fork()?; // shares the page
//! child.store(va, 8)?; // traps, and copies it
//! parent.madvise(va, 4096, Advice::PageOut)?; // the page leaves for the swap device
//! assert_eq!((parent.load(va)?, child.load(va)?), (7, 8)); // and comes back
//! vm.validate()?; // recounts everything
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `anonmem-testkit` is the smallest machine, to be read beside a port of your own. `examples/one_page.rs`
//! and docs/walkthrough.md show what the memory manager knows after each of these steps.
//!
//! Everything is reached from one [`Vm`], which is made over a machine's memory ([`anonmem_hal::Machine`]).
//! There is no heap below this crate, and no global state. Its only `unsafe` is what its guards promise
//! (`promises.rs`) and what is known at the end of an array (`freeing.rs`).
//!
//! The folder listing is the table of contents; names are Linux's where the job is the same.
#![no_std]
#![warn(missing_debug_implementations)]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

mod brk;
mod clear_refs;
mod commit;
mod config;
mod cpu;
mod debug;
mod error;
mod events;
mod fault;
mod fork;
mod freeing;
pub mod gup;
mod ids;
mod ksm;
mod limits;
mod madvise;
mod maps;
mod mempolicy;
mod migrate;
mod mincore;
mod mlock;
mod mm;
mod mmap;
mod mprotect;
mod mremap;
mod mseal;
mod msync;
mod munmap;
mod nodes;
mod objects;
mod overcommit;
mod page_flags;
mod pagemap_scan;
mod populate;
mod promises;
mod reclaim;
mod rmap;
mod shm;
mod split_folios;
mod stats;
mod swap;
mod swapoff;
#[cfg(test)]
mod testing;
mod thp;
mod truncate;
mod userfaultfd;
mod validate;
mod vm;
mod vma;
mod zap;

pub use clear_refs::ClearRefs;
pub use config::{Config, LockMode, MoveLocks, ReverseMapChoice};
pub use error::Error;
pub use events::Event;
pub use fault::{FaultAccess, FaultOutcome};
pub use gup::{PageLook, PartlyPinned, PinFlags, PinnedRange, RemoteBytes, Unpin};
pub use ids::{AnonVmaId, AnonVmaTag, MmId, MmTag, ShmId, ShmTag, VmaId, VmaTag};
#[doc(hidden)]
pub use ids::{
    ChainId, ChainTag, FamilyId, FamilyTag, NodeId, NodeTag, StableId, StableTag, UffdId, UffdMessageId,
    UffdMessageTag, UffdTag,
};
pub use ksm::{
    scan::KsmScanned,
    settings::{KsmSettings, MergeDomains},
    unmerge::MergeAny,
    usage::{KsmStats, KsmUsage},
};
pub use limits::{Limits, WriteExec};
pub use madvise::Advice;
pub use maps::{MapKind, MapUse, PagemapEntry, VmaInfo, VmaUsage};
#[doc(hidden)]
pub use mempolicy::Holes;
pub use mempolicy::{NoPage, NotMoved, Whose};
pub use migrate::{
    Compacted, Effort, Evacuation, Failure, Fragmentation, FrameFate, FreeBlocks, Kept, Stays, Went,
};
pub use mlock::MlockAll;
pub use mm::{Mm, MmCounters, MmGrab};
pub use mmap::{MapBacking, MapFlags, MmapRequest, Prot};
pub use mremap::RemapFlags;
pub use msync::SyncFlags;
pub use overcommit::Overcommit;
pub use page_flags::PageState;
pub use pagemap_scan::{PageCategories, PageRegion, PageScan, ScanEnd, ScanFlags, Scanned};
pub use populate::Populate;
pub use shm::owned::SharedObject;
pub use split_folios::Splits;
pub use stats::Stats;
pub use swap::device::SwapInfo;
pub use thp::{
    collapse::{BlockEffort, CollapseLimits, Collapsed, NotCollapsed},
    khugepaged::{CollapseSettings, CollapseStep, CollapseTask},
    mode::{FolioMode, FolioPolicy, MAX_FOLIO_ORDER, ThpDisable},
    stats::FolioEvent,
    words::NoPolicy,
};
pub use userfaultfd::{
    FillMode, Filled, MoveMode, ProtectMode, RegisterMode, Uffd, UffdFault, UffdFaults, UffdFeatures,
    UffdFork, UffdMessage, UffdReason,
};
pub use validate::Violation;
pub use vm::Vm;
pub use vma::{flags::VmFlags, tree::Busy};

pub use anonmem_frame::FramesError;
/// The seams: what a machine implements, and the types of addresses and frames.
pub use anonmem_hal as hal;
pub use anonmem_hal::{CpuId, PAGE_SIZE, Va, VaRange};
pub use rmap::machine::Machine;

/// What the lab and the bench look at behind the API. No promise is made about it.
#[doc(hidden)]
pub mod lab {
    pub use crate::{
        migrate::leave_behind,
        mm::places::ask_places,
        objects::Objects,
        rmap::{
            anon_vma::AnonVmaReadGuard,
            either::EitherReadGuard,
            family::members::FamilyReadGuard,
            hit::RmapHit,
            lab::{count_mappings, walk_mappings},
            referenced::{Referenced, folio_referenced, folio_referenced_by_reclaim},
            reverse_map::RmapBytes,
        },
    };
}
