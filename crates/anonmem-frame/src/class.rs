//! What memory is counted as, and how little may be left.

use crate::meta::Kind;
use anonmem_hal::{Machine, NrPages};
use anonmem_sync::Plain;

/// What an allocated frame counts as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    Folio = 0,
    Table = 1,
    Slab = 2,
    Kernel = 3,
    Offline = 4,
}

/// The number of [`Class`]es.
const CLASSES: usize = 5;

impl Class {
    pub(crate) const ALL: [Self; CLASSES] =
        [Self::Folio, Self::Table, Self::Slab, Self::Kernel, Self::Offline];

    /// That of a block's first frame; `None` if that kind is not allocated.
    #[inline(always)]
    pub(crate) const fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::New | Kind::Folio => Some(Self::Folio),
            Kind::Table => Some(Self::Table),
            Kind::Slab => Some(Self::Slab),
            Kind::Kernel => Some(Self::Kernel),
            Kind::Offline => Some(Self::Offline),
            Kind::Reserved | Kind::Buddy | Kind::BuddyTail | Kind::Pcp | Kind::Tail => None,
        }
    }

    /// Whether it stays where it is until it is freed.
    #[inline(always)]
    pub(crate) const fn is_fixed(self) -> bool {
        match self {
            Self::Table | Self::Slab | Self::Kernel => true,
            Self::Folio | Self::Offline => false,
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
