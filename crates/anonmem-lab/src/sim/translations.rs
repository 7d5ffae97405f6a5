//! The translations that a CPU keeps.

use anonmem_hal::{Arch, FlushRange, PAGE_SIZE, Pfn, Present, Va, VaRange, arch::Toy};
use core::ops::Range;

const WAYS: usize = 8;

/// One cached translation: of a page, or of all pages of a leaf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Translation {
    pub(super) root: Pfn,
    /// The first address.
    pub(super) va: Va,
    /// The frame of the first page.
    pub(super) pfn: Pfn,
    pub(super) pages: u64,
    pub(super) write: bool,
    pub(super) dirty: bool,
}

impl Translation {
    /// What an entry of `level` for `va` says.
    pub(super) fn of(root: Pfn, va: Va, level: u32, present: Present) -> Self {
        let pages = 1 << (Toy::shift(level) - Toy::shift(0));
        let va = va.align_down(pages * PAGE_SIZE as u64);
        Self { root, va, pfn: present.pfn, pages, write: present.prot.write, dirty: present.dirty }
    }

    fn range(&self) -> VaRange {
        VaRange { start: self.va, end: self.va.page_after(self.pages) }
    }

    pub(super) fn covers(&self, root: Pfn, va: Va) -> bool {
        self.root == root && self.range().contains(va)
    }

    /// The frame of the page at `va`, which it translates.
    pub(super) fn frame_of(&self, va: Va) -> Pfn {
        self.pfn.offset(va.page() - self.va.page())
    }
}

/// The last table on the way to some addresses, as an upper entry had it when it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upper {
    pub(super) root: Pfn,
    /// Which entry: the address without what is below it.
    pub(super) entry: u64,
    pub(super) table: Pfn,
}

impl Upper {
    pub(super) fn entry_of(va: Va) -> u64 {
        va.0 >> Toy::shift(1)
    }
}

/// The translations that a CPU has cached, and the upper entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tlb {
    pub(super) entries: [Option<Translation>; WAYS],
    pub(super) next: u8,
    pub(super) flushes: u32,
    pub(super) upper: [Option<Upper>; 2],
}

impl Tlb {
    pub(super) const EMPTY: Self = Self { entries: [None; WAYS], next: 0, flushes: 0, upper: [None; 2] };

    /// The address that is translated to a frame of `block`, if there is one.
    pub(super) fn translation_to(&self, block: &Range<u64>) -> Option<Va> {
        let reaches = |t: &&Translation| t.pfn.0 < block.end && block.start < t.pfn.0 + t.pages;
        self.entries.iter().flatten().find(reaches).map(|t| t.va)
    }

    /// A translation of another size for some of the addresses of `new`. A CPU uses either, or takes a
    /// machine check (Intel SDM volume 3A, 5.10.2.3; AMD family 10h, erratum 383).
    pub(super) fn of_another_size(&self, new: &Translation) -> Option<Translation> {
        let clashes =
            |t: &&Translation| t.root == new.root && t.pages != new.pages && t.range().overlaps(new.range());
        self.entries.iter().flatten().find(clashes).copied()
    }

    pub(super) fn find(&self, root: Pfn, va: Va) -> Option<Translation> {
        self.entries.iter().flatten().find(|t| t.covers(root, va)).copied()
    }

    /// Adds a translation. Returns whether another one, which the hardware might have kept, had to make room.
    #[must_use]
    pub(super) fn insert(&mut self, new: Translation) -> bool {
        self.drop_where(|t| t.root == new.root && t.va == new.va);
        let free = self.entries.iter().position(Option::is_none);
        let way = free.unwrap_or_else(|| {
            self.next = (self.next + 1) % WAYS as u8;
            self.next.into()
        });
        self.entries[way] = Some(new);
        free.is_none()
    }

    pub(super) fn find_upper(&self, root: Pfn, va: Va) -> Option<Pfn> {
        let here = |u: &&Upper| u.root == root && u.entry == Upper::entry_of(va);
        self.upper.iter().flatten().find(here).map(|u| u.table)
    }

    pub(super) fn insert_upper(&mut self, new: Upper) {
        if self.find_upper(new.root, Va(new.entry << Toy::shift(1))) != Some(new.table) {
            self.upper = [Some(new), self.upper[0]];
        }
    }

    pub(super) fn drop_where(&mut self, gone: impl Fn(&Translation) -> bool) {
        for entry in &mut self.entries {
            if entry.as_ref().is_some_and(&gone) {
                *entry = None;
            }
        }
    }

    pub(super) fn flush(&mut self, root: Pfn, what: FlushRange) {
        self.flushes += 1;
        self.upper.iter_mut().filter(|u| u.is_some_and(|u| u.root == root)).for_each(|u| *u = None);
        self.drop_where(|t| {
            t.root == root
                && match what {
                    FlushRange::All => true,
                    FlushRange::Range(range) => range.overlaps(t.range()),
                }
        });
    }
}
