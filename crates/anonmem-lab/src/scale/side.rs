//! The two sides of a pair, and which pages are whose.

use super::Relation;
use anonmem::Prot;

/// Read and write.
pub(super) const RW: Prot = Prot::READ.union(Prot::WRITE);
/// Pages of a table of the simulated machine.
pub(super) const TABLE: u64 = 8;
/// The first page of the heaps.
pub(super) const HEAP: u64 = 40;

/// One side of a pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    /// 0 or 1: its CPU, too.
    pub(super) number: usize,
    /// Its address space.
    pub(super) mm: usize,
}

impl Side {
    /// A page in the mapping that both sides have, in a table of this side's.
    pub(super) const fn common(self, n: u64) -> u64 {
        TABLE * self.number as u64 + n
    }

    /// A page of this side's own part, up to 6. A page is free before it, so that no mapping merges with the
    /// common one.
    pub(super) const fn own(self, n: u64) -> u64 {
        TABLE * (2 + self.number as u64) + 1 + n
    }

    /// The address space of its child.
    pub(super) const fn child(self) -> usize {
        2 + self.number
    }
}

/// The two sides of a relation.
pub(super) fn sides(relation: Relation) -> [Side; 2] {
    let mm = |number| if relation == Relation::Threads { 0 } else { number };
    [0, 1].map(|number| Side { number, mm: mm(number) })
}
