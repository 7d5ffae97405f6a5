//! What the test of a format compares it with: a table by bit numbers, as the format's manual has it.
//!
//! Round trips do not see a bit in a wrong place, as long as encoding and decoding agree.

use super::Arch;
use crate::{
    addr::Pfn,
    pte::{Entry, Present, Protection, Pte},
};
use core::ops::Range;

/// Read, write and execute.
pub(super) const RWX: Protection = Protection { exec: true, ..Protection::RW };

/// A format, by bit numbers.
pub(super) struct Format {
    /// The bits of a page of a program with these permissions: one that is clean, and one that is dirty.
    pub(super) permissions: [(Protection, [&'static [u32]; 2]); 4],
    /// The bit of each mark, if the format keeps it: accessed, special, uffd write-protected, soft-clean.
    pub(super) marks: [Option<u32>; 4],
    /// The bits of the frame number.
    pub(super) frame: Range<u32>,
    /// The bits of a pointer to a table.
    pub(super) table: &'static [u32],
    /// The bits in which a leaf differs from a page.
    pub(super) leaf: &'static [u32],
    /// The highest level that may have leaves.
    pub(super) leaves_up_to: u32,
}

fn raw(bits: &[u32]) -> u64 {
    bits.iter().fold(0, |raw, bit| raw | 1 << bit)
}

impl Format {
    /// Calls `f` with the pages of frame 0, of all permissions and with any marks, and their bits.
    fn for_each_page(&self, mut f: impl FnMut(Present, u64)) {
        for (prot, by_dirty) in self.permissions {
            for (dirty, bits) in [false, true].into_iter().zip(by_dirty) {
                for set in 0..16u32 {
                    let on = |mark: usize| set >> mark & 1 == 1;
                    if (0..4).any(|mark| on(mark) && self.marks[mark].is_none()) {
                        continue;
                    }
                    let (young, special, uffd_wp, soft_clean) = (on(0), on(1), on(2), on(3));
                    let page = Present { pfn: Pfn(0), prot, young, dirty, special, uffd_wp, soft_clean };
                    let marks = (0..4).filter(|mark| on(*mark)).filter_map(|mark| self.marks[mark]);
                    f(page, raw(bits) | marks.fold(0, |raw, bit| raw | 1 << bit));
                }
            }
        }
    }

    /// Every page, leaf and pointer that `A` can hold has the bits of this table, and is read from them.
    pub(super) fn is_that_of<A: Arch>(&self) {
        self.for_each_page(|page, bits| {
            for frame in self.frames(0) {
                let (page, bits) = (Present { pfn: frame, ..page }, bits | frame.0 << self.frame.start);
                assert_eq!(A::encode_pte(Pte::Present(page)), bits, "{page:?}");
                assert_eq!(A::decode_pte(bits), Pte::Present(page), "{bits:#x}");
            }
            for level in 1..=self.leaves_up_to {
                for frame in self.frames(level * A::INDEX_BITS) {
                    let leaf = Entry::Leaf(Present { pfn: frame, ..page });
                    let bits = bits ^ raw(self.leaf) | frame.0 << self.frame.start;
                    assert_eq!(A::encode_entry(leaf, level), bits, "{leaf:?} of level {level}");
                    assert_eq!(A::decode_entry(bits, level), leaf, "{bits:#x} of level {level}");
                }
            }
        });
        for level in 1..A::LEVELS {
            for frame in self.frames(0) {
                let bits = raw(self.table) | frame.0 << self.frame.start;
                assert_eq!(A::encode_entry(Entry::Table(frame), level), bits, "level {level}");
                assert_eq!(A::decode_entry(bits, level), Entry::Table(frame), "level {level}");
            }
        }
    }

    /// Frames of which each has one bit, `lowest` or a higher one; and frame 0.
    fn frames(&self, lowest: u32) -> impl Iterator<Item = Pfn> {
        let bits = lowest..self.frame.end - self.frame.start;
        core::iter::once(Pfn(0)).chain(bits.map(|bit| Pfn(1 << bit)))
    }
}
