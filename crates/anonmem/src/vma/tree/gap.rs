//! Finding a hole for a new mapping.
//!
//! Each slot of an inner node knows the largest hole below its child, so whole subtrees are passed over. The
//! holes between two children are seen in their parent. The part below an entry that it wants as its guard is
//! no hole.
//!
//! Linux: mm/mmap.c `vm_unmapped_area`, `unmapped_area_topdown`; lib/maple_tree.c `mas_empty_area_rev`.
//! Differs: guards are part of the holes' sizes, so a search never has to start over because of one.

use super::{Nodes, Path, TreeNode, VmaTree, node::Tier};
use anonmem_hal::{Machine, NrPages, Va, VaRange};

/// One past the last page that there could be.
const LAST: u64 = u64::MAX >> anonmem_hal::PAGE_SHIFT;

/// What is looked for, in pages.
#[derive(Clone, Copy)]
struct Want {
    len: u64,
    /// Children with no hole of this size are passed over.
    need: u64,
    low: u64,
    high: u64,
    align: u64,
}

impl Want {
    fn new(len: NrPages, within: VaRange, align: NrPages) -> Self {
        assert!(len.0 > 0 && align.0.is_power_of_two(), "a hole of {len:?}, aligned to {align:?}");
        let (low, high) = (within.start.0.div_ceil(1 << anonmem_hal::PAGE_SHIFT), within.end.page());
        Self { len: len.0, need: len.0, low, high, align: align.0 }
    }

    /// The same, but only in holes where it fits however they are aligned: the first one that lies in the
    /// window is it, so the search is logarithmic.
    fn padded(self) -> Self {
        Self { need: self.len.saturating_add(self.align - 1), ..self }
    }

    /// The place that `search` finds: where the alignment exceeds a page, in a hole with room to spare, if
    /// there is one.
    fn best(self, search: impl Fn(Self) -> Option<u64>) -> Option<Va> {
        search(self.padded()).or_else(|| if self.align > 1 { search(self) } else { None }).map(Va::from_page)
    }

    /// The highest place in the hole from `start` to `end`.
    fn highest_in(&self, start: u64, end: u64) -> Option<u64> {
        let place = end.min(self.high).checked_sub(self.len)? & !(self.align - 1);
        (place >= start.max(self.low)).then_some(place)
    }

    /// The lowest place in the hole from `start` to `end`.
    fn lowest_in(&self, start: u64, end: u64) -> Option<u64> {
        let place = start.max(self.low).checked_next_multiple_of(self.align)?;
        (place.checked_add(self.len)? <= end.min(self.high)).then_some(place)
    }

    /// Whether the child in slot `i` has a hole that is large enough and may lie in the window.
    fn is_worth_entering<M: Machine>(&self, tier: Tier, node: &TreeNode<M>, i: usize) -> bool {
        tier == Tier::Inner && node.gap(i) >= self.need && node.start(i) < self.high && self.low < node.end(i)
    }
}

impl<M: Machine, V> VmaTree<M, V> {
    /// Finds the highest hole of `len` pages within `within` that starts at a multiple of `align` pages;
    /// returns its start.
    ///
    /// Where `align` exceeds a page, a hole with room to spare is preferred to a higher one that fits
    /// exactly.
    ///
    /// # Locks
    /// Mmap lock.
    ///
    /// # Panics
    /// If `len` is 0 or `align` no power of two.
    #[doc(alias("unmapped_area_topdown", "mas_empty_area_rev"))]
    pub(crate) fn gap_topdown(
        &self,
        nodes: Nodes<'_, M>,
        len: NrPages,
        within: VaRange,
        align: NrPages,
    ) -> Option<Va> {
        Want::new(len, within, align).best(|want| self.highest(nodes, want))
    }

    /// Finds the lowest hole, else as [`gap_topdown`](Self::gap_topdown).
    ///
    /// # Locks
    /// Mmap lock.
    ///
    /// # Panics
    /// If `len` is 0 or `align` no power of two.
    #[doc(alias("unmapped_area", "mas_empty_area"))]
    pub(crate) fn gap_bottomup(
        &self,
        nodes: Nodes<'_, M>,
        len: NrPages,
        within: VaRange,
        align: NrPages,
    ) -> Option<Va> {
        Want::new(len, within, align).best(|want| self.lowest(nodes, want))
    }

    fn highest(&self, nodes: Nodes<'_, M>, want: Want) -> Option<u64> {
        let Some((handle, height)) = self.root() else { return want.highest_in(0, LAST) };
        let (root, mut level) = (nodes.get(handle), height - 1);
        if let Some(place) = want.highest_in(root.end(root.len() - 1), LAST) {
            return Some(place);
        }
        // A step's slot is the number of slots that are yet to be looked at.
        let mut path = Path::EMPTY;
        path.set(level, handle, root, root.len());
        while level < height {
            let (step, tier) = (path.at(level), Tier::of(level));
            let Some(i) = step.slot.checked_sub(1) else {
                level += 1;
                continue;
            };
            path.set(level, step.handle, step.node, i);
            if i + 1 < step.node.len()
                && let Some(place) = want.highest_in(step.node.end(i), step.node.claim(tier, i + 1))
            {
                return Some(place);
            }
            if step.node.end(i) <= want.low {
                return None;
            }
            if want.is_worth_entering(tier, step.node, i) {
                let child = step.node.child(i)?;
                level -= 1;
                path.set(level, child, nodes.get(child), nodes.get(child).len());
            }
        }
        want.highest_in(0, root.claim(Tier::of(height - 1), 0))
    }

    fn lowest(&self, nodes: Nodes<'_, M>, want: Want) -> Option<u64> {
        let Some((handle, height)) = self.root() else { return want.lowest_in(0, LAST) };
        let (root, mut level) = (nodes.get(handle), height - 1);
        if let Some(place) = want.lowest_in(0, root.claim(Tier::of(level), 0)) {
            return Some(place);
        }
        // A step's slot is the next one to be looked at.
        let mut path = Path::EMPTY;
        path.set(level, handle, root, 0);
        while level < height {
            let (step, tier, i) = (path.at(level), Tier::of(level), path.at(level).slot);
            if i == step.node.len() {
                level += 1;
                continue;
            }
            path.set(level, step.handle, step.node, i + 1);
            let claim = step.node.claim(tier, i);
            if i > 0
                && let Some(place) = want.lowest_in(step.node.end(i - 1), claim)
            {
                return Some(place);
            }
            if claim >= want.high {
                return None;
            }
            if want.is_worth_entering(tier, step.node, i) {
                let child = step.node.child(i)?;
                level -= 1;
                path.set(level, child, nodes.get(child), 0);
            }
        }
        want.lowest_in(root.end(root.len() - 1), LAST)
    }
}
