//! What a [`Vm`](crate::Vm) is made with.

use crate::overcommit::Overcommit;

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

/// What a `Vm` is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// What a fault holds.
    pub lock_mode: LockMode,
    /// How much may be promised at first; `Vm::set_overcommit` changes it.
    pub overcommit: Overcommit,
    /// The most mappings of one address space. Linux: /proc/sys/vm/max_map_count.
    pub max_map_count: u32,
    /// The lowest address that may be mapped. Linux: /proc/sys/vm/mmap_min_addr.
    pub mmap_min_addr: u64,
    /// Bytes that are left free below a stack. Linux: the boot parameter `stack_guard_gap`.
    pub stack_guard_gap: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lock_mode: LockMode::Mmap,
            overcommit: Overcommit::Heuristic,
            max_map_count: 65_530,
            mmap_min_addr: 65_536,
            stack_guard_gap: 256 * 4096,
        }
    }
}
