//! The map of an address space: disjoint ranges of pages, in order, each with a value.
//!
//! A B+-tree with up to sixteen slots a node (`node.rs`). Lookups take no lock: nodes are slots of a
//! type-stable slab, and every word is an [`Atomic`]. A sequence count tells whether a writer was at work
//! meanwhile (`find.rs`). Each node knows the largest hole below every child, so that a place for a new
//! mapping is found in O(log n) (`gap.rs`).
//!
//! Locks: writers, and readers that do not want to retry, hold the mmap lock (write, or read); the tree
//! has no lock of its own. What changes it takes a [`Prealloc`]: the nodes that the change may need, reserved
//! while failing is still possible (`prealloc.rs`). Several changes that belong together are made through one
//! [`TreeWriter`] (`write.rs`): no lookup sees a half-done split or merge.
//!
//! Linux: lib/maple_tree.c, include/linux/mm.h `vma_iterator`. Differs: a lookup that meets a writer retries
//! instead of finding the old nodes under RCU, so nodes are reused at once. Holes are not slots.

mod find;
mod gap;
mod node;
mod prealloc;
#[cfg(test)]
mod tests;
mod validate;
mod write;

pub use find::Busy;
pub(crate) use node::TreeNode;
pub(crate) use prealloc::Prealloc;

use crate::ids::{NodeId, NodeTag};
#[cfg(test)]
use anonmem_frame::OutOfMemory;
use anonmem_frame::{Frames, Link, Slab};
use anonmem_hal::Machine;
use anonmem_sync::{Atomic, Ordering::Relaxed, Plain, SeqCount};
use core::marker::PhantomData;
use node::{MAX_HEIGHT, Tier};

/// Where the nodes of trees live. All trees of a `Vm` share one slab.
pub(crate) struct Nodes<'a, M: Machine> {
    /// The nodes.
    pub slab: &'a Slab<M, TreeNode<M>>,
    /// The frames that the slab is made of.
    pub frames: &'a Frames<M>,
}

impl<M: Machine> Clone for Nodes<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Machine> Copy for Nodes<'_, M> {}

impl<'a, M: Machine> Nodes<'a, M> {
    #[inline]
    fn get(self, node: NodeId) -> &'a TreeNode<M> {
        self.slab.get(self.frames, node)
    }
}

/// An ordered map of disjoint, page-aligned ranges to handles of `V`.
#[doc(alias = "maple_tree")]
pub(crate) struct VmaTree<M, V> {
    /// Odd while a [`TreeWriter`] is at work.
    pub(crate) seq: SeqCount<M>,
    /// The levels, 0 if the tree is empty.
    pub(crate) height: Atomic<u32, M>,
    pub(crate) root: Atomic<Link<NodeTag>, M>,
    /// The number of entries.
    pub(crate) len: Atomic<u64, M>,
    /// Chain of nodes kept for the next change. Mmap write lock.
    spare: Plain<Link<NodeTag>, M>,
    /// The length of that chain. Mmap write lock.
    nr_spare: Plain<u32, M>,
    /// How many of them belong to a [`Prealloc`]. Mmap write lock.
    nr_promised: Plain<u32, M>,
    _value: PhantomData<fn() -> V>,
}

impl<M: Machine, V> VmaTree<M, V> {
    /// A tree without entries; it owns no node.
    pub(crate) const fn new() -> Self {
        Self {
            seq: SeqCount::new(),
            height: Atomic::new(0),
            root: Atomic::new(Link::NONE),
            len: Atomic::new(0),
            spare: Plain::new(Link::NONE),
            nr_spare: Plain::new(0),
            nr_promised: Plain::new(0),
            _value: PhantomData,
        }
    }

    /// The number of entries (Linux: `map_count`).
    #[doc(alias = "map_count")]
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Relaxed)
    }

    /// The levels, 0 if there is no entry.
    fn height(&self) -> usize {
        self.height.load(Relaxed) as usize
    }

    /// The root and the number of levels.
    fn root(&self) -> Option<(NodeId, usize)> {
        self.root.load(Relaxed).get().map(|root| (root, self.height()))
    }

    /// Replaces the root. Inside a write section.
    fn set_root(&self, root: Link<NodeTag>, height: usize) {
        assert!(height <= MAX_HEIGHT, "a tree of {height} levels");
        self.root.store(root, Relaxed);
        self.height.store(height as u32, Relaxed);
    }
}

impl<M: Machine, V> Default for VmaTree<M, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// The nodes from the root to a leaf and the slot taken in each. Index 0 is the leaf.
///
/// Three narrow arrays and not one of steps: an empty path is made for each change, and these are zeroed in a
/// few instructions.
struct Path<'a, M> {
    nodes: [Option<&'a TreeNode<M>>; MAX_HEIGHT],
    handles: [Link<NodeTag>; MAX_HEIGHT],
    slots: [u8; MAX_HEIGHT],
}

/// One node on a path.
struct Step<'a, M> {
    handle: Link<NodeTag>,
    node: &'a TreeNode<M>,
    slot: usize,
}

impl<M> Clone for Step<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M> Copy for Step<'_, M> {}

impl<'a, M: Machine> Path<'a, M> {
    const EMPTY: Self =
        Self { nodes: [None; MAX_HEIGHT], handles: [Link::NONE; MAX_HEIGHT], slots: [0; MAX_HEIGHT] };

    /// The step on `level`, which is on the path.
    #[inline]
    fn at(&self, level: usize) -> Step<'a, M> {
        let node = self.nodes[level].expect("a path reaches from the root to a leaf");
        Step { handle: self.handles[level], node, slot: usize::from(self.slots[level]) }
    }

    #[inline]
    fn set(&mut self, level: usize, handle: impl Into<Link<NodeTag>>, node: &'a TreeNode<M>, slot: usize) {
        self.nodes[level] = Some(node);
        self.handles[level] = handle.into();
        self.slots[level] = slot as u8;
    }
}

impl<M: Machine> Step<'_, M> {
    fn summary(&self, level: usize) -> node::Slot {
        let handle = self.handle.get().expect("a step is at a node");
        self.node.summary(Tier::of(level), handle)
    }
}
