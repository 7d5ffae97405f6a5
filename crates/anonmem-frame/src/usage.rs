//! How much memory is used for what, and how little may be left.

use crate::{buddy::Buddy, frames::Frames, meta::Kind};
use anonmem_hal::{Machine, NrPages};
use anonmem_sync::Plain;

/// What an allocated frame counts as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    Folio = 0,
    Table = 1,
    Slab = 2,
    Kernel = 3,
}

/// The number of [`Class`]es.
const CLASSES: usize = 4;

impl Class {
    pub(crate) const ALL: [Self; CLASSES] = [Self::Folio, Self::Table, Self::Slab, Self::Kernel];

    /// That of a block's first frame; `None` if that kind is not allocated.
    #[inline(always)]
    pub(crate) const fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::New | Kind::Folio => Some(Self::Folio),
            Kind::Table => Some(Self::Table),
            Kind::Slab => Some(Self::Slab),
            Kind::Kernel => Some(Self::Kernel),
            Kind::Reserved | Kind::Buddy | Kind::BuddyTail | Kind::Pcp | Kind::Tail => None,
        }
    }

    /// Whether it may take what is left below the `min` watermark (Linux: `ALLOC_NO_WATERMARKS`).
    pub(crate) const fn may_use_reserve(self) -> bool {
        matches!(self, Self::Table | Self::Kernel)
    }
}

/// Pages by [`Class`]; written under one lock, read by anybody. One of several addends may be negative.
pub(crate) struct Counters<M>([Plain<i64, M>; CLASSES]);

impl<M: Machine> Counters<M> {
    pub(crate) const fn new() -> Self {
        Self([const { Plain::new(0) }; CLASSES])
    }

    #[inline(always)]
    pub(crate) fn add(&self, class: Class, pages: i64) {
        self.0[class as usize].update(|n| n + pages);
    }

    pub(crate) fn peek(&self, class: Class) -> i64 {
        self.0[class as usize].peek()
    }
}

/// How much of memory is used for what. Exact when nothing is being allocated or freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// All frames but the zero page.
    pub total: NrPages,
    /// Free, on the buddy lists or on a CPU's.
    pub free: NrPages,
    /// Folios, those that nobody can see yet included.
    pub folios: NrPages,
    /// Page tables.
    pub tables: NrPages,
    /// Slabs.
    pub slabs: NrPages,
    /// The kernel's own.
    pub kernel: NrPages,
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

/// Numbers of free pages at which something happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watermarks {
    /// Below it only page tables and the kernel's own are allocated.
    pub min: NrPages,
    /// Below it reclaim starts.
    pub low: NrPages,
    /// Above it reclaim stops.
    pub high: NrPages,
}

impl Watermarks {
    /// From the number of frames, as Linux does with its defaults (mm/page_alloc.c
    /// `calculate_min_free_kbytes`, `__setup_per_zone_wmarks`): `min` is four times the square root of
    /// memory in KiB, at most 256 MiB; the steps above are the larger of a quarter of it and a thousandth
    /// of memory. Differs: never more than a 64th of memory, where Linux has a floor of 128 KiB; that
    /// matters below 64 MiB.
    pub const fn for_frames(nr: u64) -> Self {
        const KIB_PER_PAGE: u64 = 4;
        const MOST: u64 = 262_144 / KIB_PER_PAGE;
        let min = (nr * KIB_PER_PAGE * 16).isqrt() / KIB_PER_PAGE;
        let min = least(least(min, MOST), nr / 64);
        let quarter = min / 4;
        let thousandth = nr / 1000;
        let step = if quarter > thousandth { quarter } else { thousandth };
        Self { min: NrPages(min), low: NrPages(min + step), high: NrPages(min + 2 * step) }
    }
}

const fn least(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
}

/// Frames that are neither free nor in use.
const ZERO_PAGES: u32 = 1;

impl<M: Machine> Frames<M> {
    /// Tells how much of memory is used for what.
    pub fn usage(&self) -> Usage {
        let [folios, tables, slabs, kernel] = Class::ALL.map(|class| self.used(class));
        let used = folios + tables + slabs + kernel;
        let total = u64::from(self.memmap.nr() - ZERO_PAGES);
        Usage {
            total: NrPages(total),
            free: NrPages(total.saturating_sub(used)),
            folios: NrPages(folios),
            tables: NrPages(tables),
            slabs: NrPages(slabs),
            kernel: NrPages(kernel),
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
        let at_most = u64::from(self.memmap.nr() - ZERO_PAGES - buddy.free() - idle);
        if at_most > self.peak.get() {
            let used = Class::ALL.map(|class| self.used(class)).iter().sum::<u64>();
            self.peak.set(used.max(self.peak.get()));
        }
    }

    /// The watermarks, from the size of memory.
    pub const fn watermarks(&self) -> Watermarks {
        self.watermarks
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watermarks_are_those_of_linux_from_64_mib_on() {
        let marks = |mib: u64| Watermarks::for_frames(mib * 256);
        assert_eq!(marks(64).min, NrPages(256));
        assert_eq!(marks(1024).min, NrPages(1024));
        assert_eq!(marks(1024).low, NrPages(1024 + 262));
        assert_eq!(marks(1024).high, NrPages(1024 + 2 * 262));
        assert_eq!(marks(256 * 1024).min, NrPages(16384));
        assert_eq!(Watermarks::for_frames(64).min, NrPages(1));
        assert_eq!(Watermarks::for_frames(0).high, NrPages(0));
    }
}
