//! What a [`Vm`](crate::Vm) is made with.

use crate::{overcommit::Overcommit, thp::mode::FolioPolicy};

/// What a fault holds. Each mode falls back to the next stronger one, and counts why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LockMode {
    /// The mmap lock.
    #[default]
    Mmap,
    /// The VMA's own lock; else the mmap lock.
    Vma,
    /// No VMA lock at all: what was read is checked when the page is installed. Else the VMA's lock.
    Speculative,
}

/// What keeps walks of the reverse map away from a page that moves to another set of VMAs (`UFFDIO_MOVE`).
///
/// A walk without the folio's lock finds the page's set, locks it, and asks again. The mover must not change
/// the set of a page under such a walk, and there are two ways to see to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MoveLocks {
    /// The mover holds the folio's lock and that of the page's old set, for writing; walks ask again (Linux
    /// 6.8 to 6.18). Moves out of one set run one after the other.
    AnonVma,
    /// The mover holds the folio's lock, and so does every walk (Linux 7.2). A walk that finds the folio
    /// locked takes it for one that is in use.
    #[default]
    Folio,
}

/// How the entries that map a page are found, on a machine whose reverse map is
/// [`Either`](anonmem_hal::reverse_map::Either).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReverseMapChoice {
    /// By sets of VMAs.
    #[default]
    AnonVmas,
    /// By families of address spaces.
    Families,
}

/// What a `Vm` is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// What a fault holds.
    pub lock_mode: LockMode,
    /// What a moving page is guarded by.
    pub move_locks: MoveLocks,
    /// Which reverse map it is, of a machine that leaves that open.
    pub reverse_map: ReverseMapChoice,
    /// How much may be promised at first; `Vm::set_overcommit` changes it.
    pub overcommit: Overcommit,
    /// The most mappings of one address space at first; `Vm::set_max_map_count` changes it. Linux:
    /// /proc/sys/vm/max_map_count.
    pub max_map_count: u32,
    /// The lowest address that may be mapped. Linux: /proc/sys/vm/mmap_min_addr.
    pub mmap_min_addr: u64,
    /// Bytes that are left free below a stack. Linux: the boot parameter `stack_guard_gap`.
    pub stack_guard_gap: u64,
    /// A number that programs cannot know: what the hashes of KSM are keyed with.
    pub secret: u64,
    /// How many nodes memory has, at most [`MAX_NODES`](anonmem_hal::MAX_NODES): equal parts of the frames.
    pub nodes: u32,
    /// The sizes of folios that faults take at first; `Vm::set_folio_policy` changes them.
    pub folios: FolioPolicy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lock_mode: LockMode::Mmap,
            move_locks: MoveLocks::default(),
            reverse_map: ReverseMapChoice::default(),
            overcommit: Overcommit::Heuristic,
            max_map_count: 65_530,
            mmap_min_addr: 65_536,
            stack_guard_gap: 256 * 4096,
            secret: 0x5bd1_e995_7f4a_7c15,
            nodes: 1,
            folios: FolioPolicy::default(),
        }
    }
}
