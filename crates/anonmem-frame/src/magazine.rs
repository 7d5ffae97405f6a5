//! The stacks of free pages that a CPU keeps for itself: `pcp.rs` says when pages move.

use crate::{
    class::Counters,
    memmap::{Memmap, NO_LINK},
};
use anonmem_hal::Machine;
use anonmem_sync::{Spin, order::Pcp};

/// The most pages that move between a CPU's list and the buddy lists in one go on refill.
const MAX_BATCH: u32 = 31;

/// How many pages move and stay, from the size of memory.
#[derive(Clone, Copy)]
pub(crate) struct PcpLimits {
    /// Pages to fetch when a list is empty.
    pub(crate) batch: u32,
    /// Pages in one of the three stacks.
    pub(crate) full: u32,
}

impl PcpLimits {
    /// 31 to fetch and 186 to keep from 64 MiB on, less below.
    pub(crate) fn for_frames(nr: u32) -> Self {
        let batch = (nr / 512).clamp(1, MAX_BATCH);
        Self { batch, full: batch * 3 }
    }
}

/// A CPU's part of the allocator.
pub(crate) struct CpuPages<M: Machine> {
    pub(crate) lists: Spin<M, Pcp, PcpLists>,
    /// What this CPU allocated minus what it freed, in pages, of single pages. Under the lock of `lists`.
    pub(crate) used: Counters<M>,
}

/// A CPU's free pages.
pub(crate) struct PcpLists {
    pub(crate) hot: Stack,
    pub(crate) cold: Stack,
    /// For what does not move: page tables, slabs, the kernel's own. They lie together, so that they spoil
    /// few large blocks.
    pub(crate) fixed: Stack,
}

impl PcpLists {
    /// None.
    const EMPTY: Self = Self { hot: Stack::EMPTY, cold: Stack::EMPTY, fixed: Stack::EMPTY };

    /// How many they are.
    pub(crate) const fn len(&self) -> u32 {
        self.hot.len + self.cold.len + self.fixed.len
    }
}

/// Pages linked through their `private` words.
#[derive(Clone, Copy)]
pub(crate) struct Stack {
    pub(crate) head: u32,
    pub(crate) len: u32,
}

impl Stack {
    pub(crate) const EMPTY: Self = Self { head: NO_LINK, len: 0 };

    #[inline(always)]
    pub(crate) fn push<M: Machine>(&mut self, map: &Memmap<M>, index: u32) {
        map.at(index).set_links(self.head, NO_LINK);
        self.head = index + 1;
        self.len += 1;
    }

    #[inline(always)]
    pub(crate) fn pop<M: Machine>(&mut self, map: &Memmap<M>) -> Option<u32> {
        let index = self.head.checked_sub(1)?;
        self.head = map.at(index).links().0;
        self.len -= 1;
        Some(index)
    }
}

impl<M: Machine> CpuPages<M> {
    /// A CPU without pages.
    pub(crate) fn new() -> Self {
        Self { lists: Spin::new(PcpLists::EMPTY), used: Counters::new() }
    }

    /// Calls `f` with every page on this CPU's list, up to `limit`, and returns how many there should be.
    pub(crate) fn for_each_free(&self, map: &Memmap<M>, limit: u32, mut f: impl FnMut(u32)) -> u32 {
        let lists = self.lists.lock();
        let mut left = limit;
        for stack in [lists.hot, lists.cold, lists.fixed] {
            let mut link = stack.head;
            while let Some(index) = link.checked_sub(1).filter(|_| left > 0) {
                f(index);
                left -= 1;
                link = map.get(index).map_or(NO_LINK, |meta| meta.links().0);
            }
        }
        lists.len()
    }
}
