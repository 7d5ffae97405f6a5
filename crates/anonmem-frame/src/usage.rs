//! How much memory is used for what.

use crate::{
    buddy::Buddy,
    class::{Class, Watermarks},
    frames::Frames,
};
use anonmem_hal::{Machine, NrPages};

/// How much of memory is used for what. Exact when nothing is being allocated or freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// All frames but the zero page.
    pub total: NrPages,
    /// Free, on the buddy lists or on a CPU's, or set aside for slabs.
    pub free: NrPages,
    /// Folios, those that nobody can see yet included.
    pub folios: NrPages,
    /// Page tables.
    pub tables: NrPages,
    /// Slabs.
    pub slabs: NrPages,
    /// The kernel's own.
    pub kernel: NrPages,
    /// Out of use: unplugged, in a balloon, or bad.
    pub offline: NrPages,
    /// The most that was in use at a time. Looked at when a CPU's list is refilled, so that it may lag by
    /// one list per CPU.
    pub peak: NrPages,
}

impl Usage {
    /// All that is not free.
    pub const fn used(&self) -> NrPages {
        NrPages(self.total.0 - self.free.0)
    }
}

/// Frames that are neither free nor in use.
const ZERO_PAGES: u32 = 1;

impl<M: Machine> Frames<M> {
    /// Tells how much of memory is used for what.
    pub fn usage(&self) -> Usage {
        let [folios, tables, slabs, kernel, offline] = Class::ALL.map(|class| self.used(class));
        let used = folios + tables + slabs + kernel + offline;
        let total = u64::from(self.memmap.nr() - ZERO_PAGES);
        Usage {
            total: NrPages(total),
            free: NrPages(total.saturating_sub(used)),
            folios: NrPages(folios),
            tables: NrPages(tables),
            slabs: NrPages(slabs),
            kernel: NrPages(kernel),
            offline: NrPages(offline),
            peak: NrPages(self.peak.peek().max(used)),
        }
    }

    /// The pages of one class, all CPUs together.
    pub(crate) fn used(&self, class: Class) -> u64 {
        let cpus: i64 = self.pcp.iter().map(|cpu| cpu.used.peek(class)).sum();
        // While others allocate and free, the sum may be caught between two of its addends.
        (cpus + self.used_large.peek(class)).max(0) as u64
    }

    /// Raises the peak if need be. `idle` of the pages that left the buddy lists are known to be unused.
    pub(crate) fn note_peak(&self, buddy: &Buddy, idle: u32) {
        let at_most =
            u64::from(self.memmap.nr() - ZERO_PAGES - buddy.free() - buddy.set_aside.len() as u32 - idle);
        if at_most > self.peak.get() {
            let used = Class::ALL.map(|class| self.used(class)).iter().sum::<u64>();
            self.peak.set(used.max(self.peak.get()));
        }
    }

    /// The watermarks, from the size of memory.
    pub const fn watermarks(&self) -> Watermarks {
        self.watermarks
    }

    /// Whether all that is free is the reserve. Pages on CPUs' lists do not count as free here.
    pub fn is_at_reserve(&self) -> bool {
        self.buddy_free.peek() <= self.watermarks.min.0
    }

    /// Whether reclaim should start. Pages on CPUs' lists do not count as free here.
    pub fn below_low(&self) -> bool {
        self.buddy_free.peek() < self.watermarks.low.0
    }

    /// Whether reclaim has freed enough.
    pub fn above_high(&self) -> bool {
        self.buddy_free.peek() > self.watermarks.high.0
    }
}
