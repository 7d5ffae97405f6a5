//! Which intervals of page indices overlap a given one: the tree of an anon_vma.
//!
//! The links are part of the objects that they link, so linking never allocates. The tree is a treap: in
//! order of the first index, with the higher *priority* above. A priority is a scrambled handle, never stored
//! and never equal to another's. So the shape is that of a random tree whatever the intervals are. A million
//! equal intervals (a million children that share a page) are as good as any. Each node knows the largest
//! last index of its subtree; a search passes over subtrees that do not reach its own first index.
//!
//! Locks: that of the anon_vma's root; for writing to link and unlink, for reading to search.
//!
//! Linux: mm/interval_tree.c `anon_vma_interval_tree_*`, include/linux/interval_tree_generic.h. Differs: a
//! treap instead of a red-black tree; the interval is copied into the node, so a search looks at no VMA.

use anonmem_frame::{Handle, Link};
use anonmem_hal::Machine;
use anonmem_sync::Plain;
use core::fmt;

/// A node's place in an [`IntervalTree`]; all words under the lock of the tree.
///
/// A node that is in no tree has an empty interval: its `first` is above its `last`.
pub(crate) struct IntervalLinks<M, N> {
    parent: Plain<Link<N>, M>,
    /// The child with lower first indices, and the one with higher or equal ones.
    children: [Plain<Link<N>, M>; 2],
    first: Plain<u64, M>,
    last: Plain<u64, M>,
    /// The largest last index in the subtree (Linux: `rb_subtree_last`).
    max_last: Plain<u64, M>,
}

impl<M: Machine, N> IntervalLinks<M, N> {
    /// In no tree.
    pub(crate) const fn new() -> Self {
        Self {
            parent: Plain::new(Link::NONE),
            children: [Plain::new(Link::NONE), Plain::new(Link::NONE)],
            first: Plain::new(1),
            last: Plain::new(0),
            max_last: Plain::new(0),
        }
    }

    /// Whether the node is in a tree.
    pub(crate) fn is_linked(&self) -> bool {
        self.first.get() <= self.last.get()
    }

    fn child(&self, side: Side) -> &Plain<Link<N>, M> {
        &self.children[side as usize]
    }

    fn both_children(&self) -> [Option<Handle<N>>; 2] {
        self.children.each_ref().map(|child| child.get().get())
    }
}

impl<M: Machine, N> Default for IntervalLinks<M, N> {
    fn default() -> Self {
        Self::new()
    }
}

/// Knows the nodes of interval trees by their handles.
pub(crate) trait IntervalNodes<M: Machine, N> {
    /// A node's place in its tree.
    fn links(&self, node: Handle<N>) -> &IntervalLinks<M, N>;
    /// The first and the last index of a node. May not change while the node is linked.
    fn interval(&self, node: Handle<N>) -> (u64, u64);
}

/// A set of nodes, in order of their first index.
#[doc(alias("rb_root_cached", "anon_vma_interval_tree"))]
pub(crate) struct IntervalTree<M, N> {
    root: Plain<Link<N>, M>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left = 0,
    Right = 1,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

/// Whether node `a` belongs above node `b`.
fn is_above<N>(a: Handle<N>, b: Handle<N>) -> bool {
    priority(a) > priority(b)
}

/// What decides which of two nodes is above the other. One to one, so no two are equal.
fn priority<N>(node: Handle<N>) -> u32 {
    mix(node.raw().get())
}

/// The finalizer of MurmurHash3: every bit of `x` reaches every bit.
fn mix(mut x: u32) -> u32 {
    x = (x ^ x >> 16).wrapping_mul(0x85eb_ca6b);
    x = (x ^ x >> 13).wrapping_mul(0xc2b2_ae35);
    x ^ x >> 16
}

/// Linking and unlinking, under the root's lock held for writing.
impl<M: Machine, N> IntervalTree<M, N> {
    /// A tree without nodes.
    pub(crate) const fn new() -> Self {
        Self { root: Plain::new(Link::NONE) }
    }

    /// Links a node by its interval.
    ///
    /// # Panics
    /// If the node is linked already, or its interval is empty.
    #[doc(alias = "anon_vma_interval_tree_insert")]
    pub(crate) fn insert(&self, nodes: &impl IntervalNodes<M, N>, node: Handle<N>) {
        let links = nodes.links(node);
        let (first, last) = nodes.interval(node);
        assert!(!links.is_linked(), "{node:?} is in an interval tree already");
        assert!(first <= last, "{node:?} has an empty interval: {first} to {last}");
        links.first.set(first);
        links.last.set(last);
        links.max_last.set(last);
        links.children.iter().for_each(|child| child.set(Link::NONE));
        self.hang(nodes, node, first, last);
        while let Some(parent) = links.parent.get().get()
            && is_above(node, parent)
        {
            self.rotate_up(nodes, node);
        }
    }

    /// Makes `node` a leaf at its place in the order.
    fn hang(&self, nodes: &impl IntervalNodes<M, N>, node: Handle<N>, first: u64, last: u64) {
        let (mut parent, mut slot) = (None, &self.root);
        while let Some(above) = slot.get().get() {
            let links = nodes.links(above);
            links.max_last.update(|max| max.max(last));
            let side = if first < links.first.get() { Side::Left } else { Side::Right };
            (parent, slot) = (Some(above), links.child(side));
        }
        slot.set(node.into());
        nodes.links(node).parent.set(parent.into());
    }

    /// Unlinks a node.
    ///
    /// # Panics
    /// If the node is not linked.
    #[doc(alias = "anon_vma_interval_tree_remove")]
    pub(crate) fn remove(&self, nodes: &impl IntervalNodes<M, N>, node: Handle<N>) {
        let links = nodes.links(node);
        assert!(links.is_linked(), "{node:?} is in no interval tree");
        let child = loop {
            match links.both_children() {
                [Some(left), Some(right)] => {
                    let upper = if is_above(left, right) { left } else { right };
                    self.rotate_up(nodes, upper);
                }
                [child, None] | [None, child] => break child,
            }
        };
        let parent = links.parent.get();
        self.slot_of(nodes, node).set(child.into());
        if let Some(child) = child {
            nodes.links(child).parent.set(parent);
        }
        links.first.set(1);
        links.last.set(0);
        mend_upward(nodes, parent);
    }

    /// The word that points to a linked node.
    fn slot_of<'a>(&'a self, nodes: &'a impl IntervalNodes<M, N>, node: Handle<N>) -> &'a Plain<Link<N>, M> {
        match nodes.links(node).parent.get().get() {
            None => &self.root,
            Some(parent) => nodes.links(parent).child(side_of(nodes, parent, node)),
        }
    }

    /// Swaps the places of a node and its parent; the order stays.
    fn rotate_up(&self, nodes: &impl IntervalNodes<M, N>, node: Handle<N>) {
        let links = nodes.links(node);
        let parent = links.parent.get().get().expect("a node that rises has a parent");
        let above = nodes.links(parent);
        let side = side_of(nodes, parent, node);
        let inner = links.child(side.other()).get();

        self.slot_of(nodes, parent).set(node.into());
        links.parent.set(above.parent.get());
        links.child(side.other()).set(parent.into());
        above.parent.set(node.into());
        above.child(side).set(inner);
        if let Some(inner) = inner.get() {
            nodes.links(inner).parent.set(parent.into());
        }

        links.max_last.set(above.max_last.get());
        above.max_last.set(max_last(nodes, above));
    }
}

/// Searching, under the root's lock held for reading.
impl<M: Machine, N> IntervalTree<M, N> {
    /// Whether there is no node.
    #[doc(alias = "RB_EMPTY_ROOT")]
    pub(crate) fn is_empty(&self) -> bool {
        self.root.get() == Link::NONE
    }

    /// Finds the node with the lowest first index whose interval overlaps `first` to `last`.
    #[doc(alias = "anon_vma_interval_tree_iter_first")]
    pub(crate) fn first_overlap(
        &self,
        nodes: &impl IntervalNodes<M, N>,
        first: u64,
        last: u64,
    ) -> Option<Handle<N>> {
        first_under(nodes, reaching(nodes, self.root.get(), first)?, first, last)
    }

    /// Finds the one after `node` whose interval overlaps `first` to `last`. The lock has been held since
    /// `node` was found.
    #[doc(alias = "anon_vma_interval_tree_iter_next")]
    pub(crate) fn next_overlap(
        &self,
        nodes: &impl IntervalNodes<M, N>,
        node: Handle<N>,
        first: u64,
        last: u64,
    ) -> Option<Handle<N>> {
        let mut node = node;
        loop {
            let right = nodes.links(node).child(Side::Right).get();
            if let Some(right) = reaching(nodes, right, first) {
                // Something there ends late enough. If it starts too late, so does all that follows it.
                return first_under(nodes, right, first, last);
            }
            node = next_above(nodes, node)?;
            let links = nodes.links(node);
            if links.first.get() > last {
                return None;
            }
            if first <= links.last.get() {
                return Some(node);
            }
        }
    }

    /// Steps through the nodes whose intervals overlap `first` to `last`, by first index. The lock is held
    /// until the iterator is dropped.
    #[doc(alias = "anon_vma_interval_tree_foreach")]
    #[cfg(test)]
    pub(crate) fn overlaps<'a, I: IntervalNodes<M, N>>(
        &'a self,
        nodes: &'a I,
        first: u64,
        last: u64,
    ) -> impl Iterator<Item = Handle<N>> + use<'a, M, N, I> {
        let start = self.first_overlap(nodes, first, last);
        core::iter::successors(start, move |&node| self.next_overlap(nodes, node, first, last))
    }

    /// Checks everything that is to hold of the tree, returns the number of its nodes.
    ///
    /// # Errors
    /// The first node found wrong, in order.
    #[doc(alias = "anon_vma_interval_tree_verify")]
    pub(crate) fn validate(&self, nodes: &impl IntervalNodes<M, N>) -> Result<u64, Invalid<N>> {
        let (mut count, mut before) = (0, 0);
        let mut next = lowest_under(nodes, self.root.get());
        while let Some(node) = next {
            let links = nodes.links(node);
            self.validate_node(nodes, node, before).map_err(|what| Invalid { node, what })?;
            (count, before) = (count + 1, links.first.get());
            next = lowest_under(nodes, links.child(Side::Right).get()).or_else(|| next_above(nodes, node));
        }
        Ok(count)
    }

    fn validate_node(
        &self,
        nodes: &impl IntervalNodes<M, N>,
        node: Handle<N>,
        before: u64,
    ) -> Result<(), &'static str> {
        let links = nodes.links(node);
        if (links.first.get(), links.last.get()) != nodes.interval(node) {
            return Err("its interval changed while it was linked");
        }
        if links.first.get() < before {
            return Err("it starts below the node before it");
        }
        if links.max_last.get() != max_last(nodes, links) {
            return Err("its largest last index is wrong");
        }
        let parent = links.parent.get().get();
        let hangs_right = self.slot_of(nodes, node).get() == node.into();
        if !hangs_right || parent.is_some_and(|parent| is_above(node, parent)) {
            return Err("it hangs at the wrong parent");
        }
        Ok(())
    }
}

impl<M: Machine, N> Default for IntervalTree<M, N> {
    fn default() -> Self {
        Self::new()
    }
}

/// The first overlap under `node`, whose subtree reaches `first`.
fn first_under<M: Machine, N>(
    nodes: &impl IntervalNodes<M, N>,
    node: Handle<N>,
    first: u64,
    last: u64,
) -> Option<Handle<N>> {
    let mut node = node;
    loop {
        let links = nodes.links(node);
        // If what reaches `first` on the left starts behind `last`, so does all to its right.
        if let Some(left) = reaching(nodes, links.child(Side::Left).get(), first) {
            node = left;
            continue;
        }
        if links.first.get() > last {
            return None;
        }
        if first <= links.last.get() {
            return Some(node);
        }
        node = reaching(nodes, links.child(Side::Right).get(), first)?;
    }
}

/// The node, if its subtree has an interval that ends at `first` or above.
fn reaching<M: Machine, N>(nodes: &impl IntervalNodes<M, N>, node: Link<N>, first: u64) -> Option<Handle<N>> {
    node.get().filter(|&node| nodes.links(node).max_last.get() >= first)
}

/// Which child of `parent` the node is.
fn side_of<M: Machine, N>(nodes: &impl IntervalNodes<M, N>, parent: Handle<N>, node: Handle<N>) -> Side {
    if nodes.links(parent).child(Side::Left).get() == node.into() { Side::Left } else { Side::Right }
}

/// The first ancestor that comes after the node in the order.
fn next_above<M: Machine, N>(nodes: &impl IntervalNodes<M, N>, node: Handle<N>) -> Option<Handle<N>> {
    let mut node = node;
    loop {
        let parent = nodes.links(node).parent.get().get()?;
        if side_of(nodes, parent, node) == Side::Left {
            return Some(parent);
        }
        node = parent;
    }
}

/// The first node in the order under `node`.
fn lowest_under<M: Machine, N>(nodes: &impl IntervalNodes<M, N>, node: Link<N>) -> Option<Handle<N>> {
    let mut node = node.get()?;
    while let Some(left) = nodes.links(node).child(Side::Left).get().get() {
        node = left;
    }
    Some(node)
}

/// What `max_last` is to be.
fn max_last<M: Machine, N>(nodes: &impl IntervalNodes<M, N>, links: &IntervalLinks<M, N>) -> u64 {
    let below = links.both_children().map(|c| c.map_or(0, |child| nodes.links(child).max_last.get()));
    links.last.get().max(below[0]).max(below[1])
}

/// Brings `max_last` up to date from `from` to the root, as far as it changes.
fn mend_upward<M: Machine, N>(nodes: &impl IntervalNodes<M, N>, from: Link<N>) {
    let mut next = from;
    while let Some(node) = next.get() {
        let links = nodes.links(node);
        let max = max_last(nodes, links);
        if links.max_last.get() == max {
            return;
        }
        links.max_last.set(max);
        next = links.parent.get();
    }
}

/// What is wrong with an interval tree.
pub(crate) struct Invalid<N> {
    /// The node that it was noticed at.
    pub node: Handle<N>,
    /// What it is.
    pub what: &'static str,
}

impl<N> fmt::Debug for Invalid<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<N> fmt::Display for Invalid<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {:?} of an interval tree: {}", self.node, self.what)
    }
}

impl<N> core::error::Error for Invalid<N> {}

#[cfg(test)]
mod tests;
