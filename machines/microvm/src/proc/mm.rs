//! The memory manager as the system side calls it: numbers of the ABI on one side, types on the other.

use crate::fs::store::Store;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use anonmem_oslib::Result;
use anonmem_oslib::vfs::Inode;

/// A use of an address space.
pub type Space = crate::machine::Mm;

/// What `mmap` is asked for, in the ABI's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    /// The address, or a hint.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// `MAP_*`.
    pub flags: u32,
}

/// What is behind a mapping.
pub enum Backing<'a> {
    /// Zeros.
    Anonymous,
    /// A file's bytes, copied at first touch.
    File {
        /// The file.
        inode: &'a Arc<Inode>,
        /// Its path, for the maps.
        path: &'a [u8],
        /// Where to start.
        offset: u64,
    },
    /// A file's bytes, shared.
    Store {
        /// The memory that holds them.
        store: &'a Arc<Store>,
        /// The file.
        inode: &'a Arc<Inode>,
        /// Its path, for the maps.
        path: &'a [u8],
        /// Where to start.
        offset: u64,
    },
}

/// What a fault wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Instruction fetch.
    Exec,
}

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The access can be tried again.
    Done,
    /// The fault must be handled again.
    Retry,
    /// No memory.
    Oom,
    /// Nothing is mapped there.
    Maperr,
    /// The mapping forbids it.
    Accerr,
    /// There is nothing behind the mapping there.
    Bus,
}

/// When locked pages are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Populate {
    /// At once.
    Now,
    /// When they are touched.
    OnFault,
}

/// What an address space uses, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub rss: u64,
    pub shared: u64,
    pub hiwater_rss: u64,
    pub page_tables: u64,
    pub total_vm: u64,
    pub data: u64,
    pub stack: u64,
    pub locked: u64,
}

/// What the machine's memory is used for, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub user_bytes: u64,
    pub table_bytes: u64,
    pub slab_bytes: u64,
    pub kernel_bytes: u64,
    pub committed_bytes: u64,
    pub commit_limit_bytes: u64,
}

/// One mapping.
#[derive(Clone, Debug)]
pub struct Vma {
    pub start: u64,
    pub end: u64,
    pub read: bool,
    pub write: bool,
    pub exec: bool,
    pub shared: bool,
    pub grows_down: bool,
    pub locked: bool,
    pub offset: u64,
    pub ino: u64,
    pub path: Option<String>,
    pub rss: u64,
    pub pss: u64,
    pub anonymous: u64,
    pub shared_pages: u64,
    pub private_pages: u64,
}

pub fn new() -> Result<Space> {
    todo!()
}
pub fn fork(_mm: &Space) -> Result<Space> {
    todo!()
}
pub fn id(_mm: &Space) -> u64 {
    todo!()
}
pub fn mmap(_mm: &Space, _map: Map, _backing: Backing<'_>) -> Result<u64> {
    todo!()
}
pub fn munmap(_mm: &Space, _addr: u64, _len: u64) -> Result<()> {
    todo!()
}
pub fn mprotect(_mm: &Space, _addr: u64, _len: u64, _prot: u32) -> Result<()> {
    todo!()
}
pub fn mremap(_mm: &Space, _old: u64, _old_len: u64, _new_len: u64, _flags: u32, _new: u64) -> Result<u64> {
    todo!()
}
pub fn brk(_mm: &Space, _addr: u64) -> u64 {
    todo!()
}
pub fn brk_end(_mm: &Space) -> u64 {
    todo!()
}
pub fn set_brk(_mm: &Space, _addr: u64) -> Result<()> {
    todo!()
}
pub fn madvise(_mm: &Space, _addr: u64, _len: u64, _advice: u32) -> Result<()> {
    todo!()
}
pub fn mincore(_mm: &Space, _addr: u64, _len: u64, _f: &mut dyn FnMut(bool)) -> Result<()> {
    todo!()
}
pub fn is_mapped(_mm: &Space, _addr: u64, _len: u64) -> bool {
    todo!()
}
pub fn mlock(_mm: &Space, _addr: u64, _len: u64, _when: Populate) -> Result<()> {
    todo!()
}
pub fn munlock(_mm: &Space, _addr: u64, _len: u64) -> Result<()> {
    todo!()
}
pub fn mlockall(_mm: &Space, _flags: u32) -> Result<()> {
    todo!()
}
pub fn munlockall(_mm: &Space) -> Result<()> {
    todo!()
}
pub fn handle_fault(_mm: &Space, _va: u64, _access: Access) -> Outcome {
    todo!()
}
pub fn shared_at(_mm: &Space, _va: u64) -> Option<(u64, u64)> {
    todo!()
}
pub fn for_each_vma(_mm: &Space, _f: &mut dyn FnMut(Vma)) {
    todo!()
}
pub fn pagemap(_mm: &Space, _va: u64) -> u64 {
    todo!()
}
pub fn counters(_mm: &Space) -> Counters {
    todo!()
}
pub fn memory() -> Memory {
    todo!()
}
pub fn event_counts() -> Vec<(&'static str, u64)> {
    todo!()
}
pub fn current_cpu() -> usize {
    todo!()
}
pub fn max_map_count() -> u64 {
    todo!()
}
pub fn mmap_min_addr() -> u64 {
    todo!()
}
pub fn overcommit_mode() -> u32 {
    todo!()
}
