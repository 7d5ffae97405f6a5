//! Changing the tree.
//!
//! Each operation goes down once, changes a leaf, and mends the summaries on the way up until nothing differs
//! any more. A full node is split in two, with the cut where the insertion is if that is near an end. Maps
//! grow in one direction, and the nodes that stay behind should be full. A node that gets too small takes
//! from its neighbour or merges with it.

use super::{
    Path, Prealloc, TreeNode, VmaTree,
    find::to_pages,
    node::{CAPACITY, MIN, Slot, Tier},
};
use anonmem_frame::{Handle, Link, RawHandle};
use anonmem_hal::{Machine, NrPages, VaRange};
use anonmem_sync::{Ordering::Relaxed, seqcount::SeqWriteGuard};

/// A write section of a [`VmaTree`]: lookups without a lock see all of its changes or none.
///
/// Between the operations of one writer the tree is whole, and holders of the mmap lock may look things up.
#[must_use = "changes are made through the writer"]
pub(crate) struct TreeWriter<'a, 'p, M: Machine, V> {
    prealloc: &'p mut Prealloc<'a, M, V>,
    _section: SeqWriteGuard<'a, M>,
}

impl<'a, M: Machine, V> Prealloc<'a, M, V> {
    /// Starts changing the tree. Lock-free lookups wait until the writer is dropped.
    #[doc(alias = "vma_iter_store_new")]
    pub(crate) fn write(&mut self) -> TreeWriter<'a, '_, M, V> {
        TreeWriter::new(self)
    }
}

impl<'a, 'p, M: Machine, V> TreeWriter<'a, 'p, M, V> {
    fn new(prealloc: &'p mut Prealloc<'a, M, V>) -> Self {
        let tree = prealloc.tree;
        Self { prealloc, _section: tree.seq.begin_write() }
    }

    fn tree(&self) -> &'a VmaTree<M, V> {
        self.prealloc.tree
    }

    /// Adds an entry that overlaps no other. Takes one insertion of the reserve.
    ///
    /// # Panics
    /// If `range` overlaps an entry, is empty or not page aligned; if the reserve was for fewer insertions.
    #[doc(alias("vma_iter_store_new", "mas_store_prealloc"))]
    #[cfg(test)]
    pub(crate) fn insert(&mut self, range: VaRange, value: Handle<V>) {
        self.insert_guarded(range, value, NrPages(0));
    }

    /// Adds an entry below which `guard` pages are to be left free: a stack, that may grow down.
    ///
    /// Only the search for holes honours the guard.
    ///
    /// # Panics
    /// As [`insert`](Self::insert).
    #[doc(alias("stack_guard_gap", "vm_start_gap"))]
    pub(crate) fn insert_guarded(&mut self, range: VaRange, value: Handle<V>, guard: NrPages) {
        let (start, end) = to_pages(range);
        let slot = Slot { start, end, gap: guard.0, link: value.raw().get() };
        let tree = self.tree();
        tree.len.fetch_add(1, Relaxed);
        let mut path = Path::EMPTY;
        if !tree.walk(self.prealloc.nodes, start, &mut path) {
            let root = self.prealloc.take();
            self.prealloc.nodes.get(root).insert(0, slot);
            tree.set_root(root.into(), 1);
            return;
        }
        let leaf = path.at(0);
        assert!(
            leaf.slot == leaf.node.len() || end <= leaf.node.start(leaf.slot),
            "{range:?} overlaps an entry"
        );
        self.insert_slot(&mut path, slot);
    }

    /// Removes the entry with exactly this range; returns its value. Needs no reserve.
    ///
    /// # Panics
    /// If there is no such entry.
    #[doc(alias("vma_iter_clear", "mas_erase"))]
    pub(crate) fn erase(&mut self, range: VaRange) -> Handle<V> {
        let tree = self.tree();
        let mut path = Path::EMPTY;
        self.walk_to(range, &mut path);
        let leaf = path.at(0);
        let value = leaf.node.slot(leaf.slot).link;
        leaf.node.remove(leaf.slot);
        tree.len.fetch_sub(1, Relaxed);
        self.mend_underfull(&mut path);
        value_of(value)
    }

    /// Moves the start, the end or both of the entry `old`; its value and its guard stay. Needs no reserve.
    ///
    /// Where a boundary between two entries moves, shrink the one before growing the other.
    ///
    /// # Panics
    /// If there is no entry `old`. On checked machines, if `new` overlaps another entry.
    #[doc(alias("vma_iter_store_overwrite", "vma_set_range"))]
    pub(crate) fn resize(&mut self, old: VaRange, new: VaRange) {
        let (start, end) = to_pages(new);
        if M::CHECKED {
            self.assert_only_one_in(old, new);
        }
        let mut path = Path::EMPTY;
        self.walk_to(old, &mut path);
        let leaf = path.at(0);
        leaf.node.set(leaf.slot, Slot { start, end, ..leaf.node.slot(leaf.slot) });
        self.mend_summaries(&path, 0);
    }

    /// Fills in the way down to the entry with exactly this range.
    fn walk_to(&self, range: VaRange, path: &mut Path<'a, M>) {
        let (start, end) = to_pages(range);
        let found = self.tree().walk(self.prealloc.nodes, start, path) && {
            let leaf = path.at(0);
            leaf.slot < leaf.node.len()
                && (leaf.node.start(leaf.slot), leaf.node.end(leaf.slot)) == (start, end)
        };
        assert!(found, "no entry {range:?}");
    }

    fn assert_only_one_in(&self, old: VaRange, new: VaRange) {
        let (tree, nodes) = (self.tree(), self.prealloc.nodes);
        let below = tree.prev(nodes, old.start).is_none_or(|(range, _)| range.end <= new.start);
        let above = tree.find(nodes, old.end).is_none_or(|(range, _)| new.end <= range.start);
        assert!(below && above, "{new:?} overlaps an entry other than {old:?}");
    }

    /// Inserts `slot` at the path's place in the leaf, splitting full nodes from there upward.
    fn insert_slot(&mut self, path: &mut Path<'a, M>, mut slot: Slot) {
        let height = self.tree().height();
        for level in 0..height {
            let step = path.at(level);
            if step.node.len() < CAPACITY {
                step.node.insert(step.slot, slot);
                self.mend_summaries(path, level);
                return;
            }
            let right = self.prealloc.take();
            split(step.node, self.prealloc.nodes.get(right), step.slot, slot);
            slot = self.prealloc.nodes.get(right).summary(Tier::of(level), right);
            if level + 1 < height {
                let parent = path.at(level + 1);
                parent.node.set(parent.slot, step.summary(level));
                // The new node goes right behind the old one.
                path.set(level + 1, parent.handle, parent.node, parent.slot + 1);
            }
        }
        let old = path.at(height - 1);
        let root = self.prealloc.take();
        let node = self.prealloc.nodes.get(root);
        node.insert(0, old.summary(height - 1));
        node.insert(1, slot);
        self.tree().set_root(root.into(), height + 1);
    }

    /// Brings the summaries above `level` up to date, as far as they changed.
    fn mend_summaries(&self, path: &Path<'a, M>, level: usize) {
        for level in level..self.tree().height() - 1 {
            let (step, parent) = (path.at(level), path.at(level + 1));
            let summary = step.summary(level);
            if parent.node.slot(parent.slot) == summary {
                return;
            }
            parent.node.set(parent.slot, summary);
        }
    }

    /// Refills nodes that have too few slots, from the leaf upward; then mends the summaries.
    fn mend_underfull(&mut self, path: &mut Path<'a, M>) {
        let height = self.tree().height();
        for level in 0..height - 1 {
            let (step, parent) = (path.at(level), path.at(level + 1));
            if step.node.len() >= MIN {
                return self.mend_summaries(path, level);
            }
            let left = if parent.slot + 1 < parent.node.len() { parent.slot } else { parent.slot - 1 };
            if !self.refill(parent.node, left, level) {
                return self.mend_summaries(path, level + 1);
            }
        }
        self.lower_root(path.at(height - 1).node);
    }

    /// Evens out the children `left` and `left + 1` of `parent`; whether they became one.
    fn refill(&mut self, parent: &TreeNode<M>, left: usize, level: usize) -> bool {
        let nodes = self.prealloc.nodes;
        let [a, b] = [left, left + 1].map(|i| parent.child(i).expect("a slot in use has a child"));
        let (node_a, node_b, tier) = (nodes.get(a), nodes.get(b), Tier::of(level));
        let (len_a, len_b) = (node_a.len(), node_b.len());
        if len_a + len_b <= CAPACITY {
            node_a.take_head(node_b, len_b);
            parent.set(left, node_a.summary(tier, a));
            parent.remove(left + 1);
            self.prealloc.give(b);
            return true;
        }
        let half = (len_a + len_b) / 2;
        if len_a < half {
            node_a.take_head(node_b, half - len_a);
        } else {
            node_a.move_tail(half, node_b);
        }
        parent.set(left, node_a.summary(tier, a));
        parent.set(left + 1, node_b.summary(tier, b));
        false
    }

    /// Drops a root that has one child, or, as a leaf, no entry.
    fn lower_root(&mut self, root: &TreeNode<M>) {
        let tree = self.tree();
        let Some((handle, height)) = tree.root() else { return };
        let below = match (Tier::of(height - 1), root.len()) {
            (Tier::Leaf, 0) => Link::NONE,
            (Tier::Inner, 1) => root.child(0).into(),
            (Tier::Leaf | Tier::Inner, _) => return,
        };
        tree.set_root(below, height - 1);
        self.prealloc.give(handle);
    }
}

fn value_of<V>(bits: u32) -> Handle<V> {
    Handle::from_raw(RawHandle::new(bits).expect("an entry has a value"))
}

/// Moves the upper part of the full `node` into the empty `right` and inserts `slot` at `at` of the whole.
fn split<M: Machine>(node: &TreeNode<M>, right: &TreeNode<M>, at: usize, slot: Slot) {
    // How many of the CAPACITY + 1 slots stay: few if the tree grows down, many if it grows up.
    let stay = match at {
        0..MIN => MIN,
        _ if at > CAPACITY - MIN => CAPACITY + 1 - MIN,
        _ => CAPACITY.div_ceil(2),
    };
    if at < stay {
        node.move_tail(stay - 1, right);
        node.insert(at, slot);
    } else {
        node.move_tail(stay, right);
        right.insert(at - stay, slot);
    }
}
