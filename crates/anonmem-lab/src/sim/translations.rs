//! The translations that a CPU keeps.

use anonmem_hal::{Arch, FlushRange, Pfn, Va, arch::Toy};
use core::ops::Range;

const WAYS: usize = 8;

/// One cached translation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Translation {
    pub(super) root: Pfn,
    pub(super) va: Va,
    pub(super) pfn: Pfn,
    pub(super) write: bool,
    pub(super) dirty: bool,
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
        self.entries.iter().flatten().find(|t| block.contains(&t.pfn.0)).map(|t| t.va)
    }

    pub(super) fn find(&self, root: Pfn, va: Va) -> Option<Translation> {
        self.entries.iter().flatten().find(|t| t.root == root && t.va == va).copied()
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
                    FlushRange::Range(range) => range.contains(t.va),
                }
        });
    }
}
