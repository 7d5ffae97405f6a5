//! Where an address space stands in its family: a number that says whose descendant it is.
//!
//! The labels of a family are the nodes of a binary tree of 24 levels. A node and all below it are its
//! *block*. A child gets a label inside of its parent's block. So whoever may have somebody's page by fork is
//! in that one's block. Nobody needs an object of the dead to know it.
//!
//! A label is a node's number in the tree's order (as a CIDR block would be written by its middle):
//!
//! ```text
//!                 1000                   the root: block 0000 to 1111
//!         0100            1100           number 1 gets the right half, the others share the left
//!      0010    0110    1010    1110
//! ```
//!
//! The lowest bit that is set says how large the block is. No label is 0.
//!
//! The child with number n gets the node at the end of the path whose turns are n in Elias's delta code. The
//! code is short for small numbers, and no code is the beginning of another's: so blocks of children are
//! disjoint. A path that is too long has no label; what happens then is in `members.rs`.

use anonmem_frame::Stamp;

/// A place in a family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Label(u32);

impl Label {
    /// That of the oldest address space: everybody is in its block.
    pub(crate) const ROOT: Self = Self(1 << (Stamp::LABEL_BITS - 1));

    /// The label with these bits.
    ///
    /// # Panics
    /// If it is 0 or has too many bits.
    pub(crate) fn from_bits(bits: u32) -> Self {
        assert!(bits != 0 && bits >> Stamp::LABEL_BITS == 0, "{bits:#x} is no label");
        Self(bits)
    }

    /// Its bits.
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// How many labels on either side of it are in its block, and one: a power of two.
    const fn half(self) -> u32 {
        self.0 & self.0.wrapping_neg()
    }

    /// The first number of its block.
    const fn start(self) -> u32 {
        self.0 - self.half()
    }

    /// Levels above it.
    const fn depth(self) -> u32 {
        Stamp::LABEL_BITS - 1 - self.0.trailing_zeros()
    }

    /// What members are ordered by: the start of the block, the larger block first. So everybody comes after
    /// all of whom he descends from.
    pub(crate) const fn key(self) -> u64 {
        (self.start() as u64) << 5 | self.depth() as u64
    }

    /// The first and the last key of its block.
    pub(crate) const fn block(self) -> (u64, u64) {
        (self.key(), (self.start() + 2 * self.half() - 1) as u64 * 32 + 31)
    }

    /// Whether `other` is in its block.
    #[cfg(test)]
    pub(crate) const fn covers(self, other: Self) -> bool {
        let (first, last) = self.block();
        first <= other.key() && other.key() <= last
    }

    /// The label of child number `n`, from 1; `None` if the path to it is too long.
    pub(crate) fn child(self, n: u32) -> Option<Self> {
        let (code, bits) = delta(n);
        let half = self.half().checked_shr(bits).filter(|&half| half > 0)?;
        Some(Self(self.start() + 2 * half * code + half))
    }
}

/// The delta code of `n`, which is not 0, and how many bits it has.
fn delta(n: u32) -> (u32, u32) {
    let low = n.ilog2();
    let length = low + 1;
    let code = u64::from(length) << low | u64::from(n - (1 << low));
    // Numbers whose code is longer than any path come out as a code that is too long, too.
    (code as u32, 2 * length.ilog2() + 1 + low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn codes_are_those_of_the_book() {
        let codes: Vec<_> = (1..=8).map(delta).collect();
        let book = [(1, 1), (0b0100, 4), (0b0101, 4), (0b01100, 5), (0b01101, 5), (0b01110, 5), (0b01111, 5)];
        assert_eq!(codes[..7], book);
        assert_eq!(codes[7], (0b0010_0000, 8));
        assert_eq!(delta(10_000).1, 20);
    }

    #[test]
    fn a_child_is_in_the_block_of_its_parent_and_comes_after_it() {
        let mut parents = std::vec![Label::ROOT];
        for _ in 0..3 {
            let children: Vec<_> =
                parents.iter().flat_map(|p| (1..20).filter_map(|n| Some((*p, p.child(n)?)))).collect();
            assert!(!children.is_empty());
            for (parent, child) in &children {
                assert!(parent.covers(*child) && parent.key() < child.key(), "{parent:?} {child:?}");
                assert!(!child.covers(*parent));
                assert_eq!(Label::from_bits(child.bits()), *child);
            }
            parents = children.into_iter().map(|(_, child)| child).collect();
        }
    }

    #[test]
    fn blocks_of_siblings_are_disjoint() {
        let children: Vec<_> = (1..3000).map_while(|n| Label::ROOT.child(n)).collect();
        assert_eq!(children.len(), 2999);
        let mut blocks: Vec<_> = children.iter().map(|child| child.block()).collect();
        blocks.sort_unstable();
        assert!(blocks.windows(2).all(|w| w[0].1 < w[1].0));
    }

    #[test]
    fn a_path_has_an_end() {
        let mut label = Label::ROOT;
        let mut generations = 0;
        while let Some(child) = label.child(1) {
            assert!(label.covers(child));
            (label, generations) = (child, generations + 1);
        }
        assert_eq!((generations, label.child(u32::MAX)), (23, None));
        assert_eq!(Label::ROOT.child(u32::MAX), None);
        assert!(Label::ROOT.child(32_767).is_some() && Label::ROOT.child(32_768).is_none());
    }

    #[test]
    fn who_contains_a_label_with_the_same_start_comes_before_its_block() {
        // Number 1's right half never starts where its parent does; the far left child does.
        let child = Label::ROOT.child(8).unwrap();
        let deep = (0..30).fold(child, |label, _| label.child(2_000_000).or(label.child(9)).unwrap_or(label));
        assert!(child.covers(deep) && !deep.covers(child) && !deep.covers(Label::ROOT));
    }
}
