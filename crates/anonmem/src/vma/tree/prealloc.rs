//! The nodes that a change may need, reserved while failing is still possible.
//!
//! An insertion splits at most one node per level and may put a new root on top. What is reserved and not
//! used stays with the tree for the next change, up to [`KEEP`] nodes. So the usual `mmap` allocates no node
//! at all.
//!
//! Linux: lib/maple_tree.c `mas_preallocate`. Differs: reserves for any place, before the place is known.

use super::{Nodes, VmaTree};
use crate::ids::{NodeId, NodeTag};
use anonmem_frame::{Link, OutOfMemory};
use anonmem_hal::Machine;
use anonmem_sync::Ordering::Relaxed;

/// The nodes that a tree keeps for its next change.
const KEEP: u32 = 8;

/// Nodes reserved for a number of insertions into one tree. Dropping it returns what was not used.
///
/// The holder has the mmap lock for writing for as long as it has this.
#[must_use = "nodes are reserved for a change"]
pub(crate) struct Prealloc<'a, M: Machine, V> {
    pub(super) tree: &'a VmaTree<M, V>,
    pub(super) nodes: Nodes<'a, M>,
    /// Nodes of the tree's spare chain that are ours.
    promised: u32,
}

impl<M: Machine, V> VmaTree<M, V> {
    /// Reserves nodes for `insertions` calls of [`TreeWriter::insert`](super::TreeWriter::insert), anywhere
    /// in the tree. Erasing and resizing need none.
    ///
    /// # Locks
    /// Mmap write lock, until the reservation is dropped.
    ///
    /// # Errors
    /// [`OutOfMemory`]; nothing has changed.
    #[doc(alias("mas_preallocate", "vma_iter_prealloc"))]
    pub(crate) fn prealloc<'a>(
        &'a self,
        nodes: Nodes<'a, M>,
        insertions: u32,
    ) -> Result<Prealloc<'a, M, V>, OutOfMemory> {
        let mut prealloc = self.prealloc_none(nodes);
        let need = self.worst_case(insertions);
        while prealloc.promised < need {
            if self.nr_spare.get() == self.nr_promised.get() {
                self.push_spare(nodes, nodes.slab.alloc(nodes.frames)?);
            }
            self.nr_promised.update(|n| n + 1);
            prealloc.promised += 1;
        }
        Ok(prealloc)
    }

    /// Prepares changes that need no node: erasing, resizing. Cannot fail.
    ///
    /// # Locks
    /// Mmap write lock, until it is dropped.
    pub(crate) fn prealloc_none<'a>(&'a self, nodes: Nodes<'a, M>) -> Prealloc<'a, M, V> {
        Prealloc { tree: self, nodes, promised: 0 }
    }

    /// The nodes that `insertions` can take: one per level each, and the roots on top.
    fn worst_case(&self, insertions: u32) -> u32 {
        let height = self.height() as u32;
        // A new root has room for more children than eight insertions make; beyond that, one more level
        // each covers the levels that are yet to come.
        match insertions {
            0 => 0,
            1..=8 => insertions * height + 1,
            _ => insertions * (height + 1),
        }
    }

    fn push_spare(&self, nodes: Nodes<'_, M>, node: NodeId) {
        nodes.get(node).set_next(self.spare.get());
        self.spare.set(node.into());
        self.nr_spare.update(|n| n + 1);
    }

    fn pop_spare(&self, nodes: Nodes<'_, M>) -> Option<NodeId> {
        let node = self.spare.get().get()?;
        self.spare.set(nodes.get(node).next());
        self.nr_spare.update(|n| n - 1);
        Some(node)
    }

    /// Returns spare nodes to the slab until `keep` are left, and those that are promised.
    fn trim_spare(&self, nodes: Nodes<'_, M>, keep: u32) {
        while self.nr_spare.get() > self.nr_promised.get().max(keep) {
            let node = self.pop_spare(nodes).expect("the chain is as long as its count");
            nodes.slab.free(nodes.frames, node);
        }
    }

    /// Removes all entries and returns every node, the spare ones too. The values are the caller's.
    ///
    /// # Locks
    /// Mmap write lock.
    ///
    /// # Panics
    /// If a [`Prealloc`] of this tree is still there.
    #[doc(alias("__mt_destroy", "mas_destroy"))]
    pub(crate) fn clear(&self, nodes: Nodes<'_, M>) {
        assert_eq!(self.nr_promised.get(), 0, "nodes are still reserved for a change");
        if let Some((root, height)) = self.root() {
            {
                let _section = self.seq.begin_write();
                self.set_root(Link::NONE, 0);
                self.len.store(0, Relaxed);
            }
            self.free_under(nodes, root, height);
        }
        self.trim_spare(nodes, 0);
    }

    /// Frees a tree of nodes that is no longer reachable, level by level: each level's nodes are chained
    /// before their parents are freed.
    fn free_under(&self, nodes: Nodes<'_, M>, root: NodeId, height: usize) {
        let mut level: Link<NodeTag> = root.into();
        nodes.get(root).set_next(Link::NONE);
        for depth in (0..height).rev() {
            let mut below = Link::NONE;
            while let Some(handle) = level.get() {
                let node = nodes.get(handle);
                level = node.next();
                if depth > 0 {
                    for child in (0..node.len()).filter_map(|i| node.child(i)) {
                        nodes.get(child).set_next(below);
                        below = child.into();
                    }
                }
                nodes.slab.free(nodes.frames, handle);
            }
            level = below;
        }
    }
}

impl<'a, M: Machine, V> Prealloc<'a, M, V> {
    /// An empty node out of the reserve. Inside a write section.
    pub(super) fn take(&mut self) -> NodeId {
        assert!(self.promised > 0, "more insertions than nodes were reserved for");
        self.promised -= 1;
        self.tree.nr_promised.update(|n| n - 1);
        let handle = self.tree.pop_spare(self.nodes).expect("promised nodes are in the chain");
        self.nodes.get(handle).truncate(0);
        handle
    }

    /// Puts a node that left the tree into the reserve: an insertion that follows may need it again.
    pub(super) fn give(&mut self, node: NodeId) {
        self.promised += 1;
        self.tree.nr_promised.update(|n| n + 1);
        self.tree.push_spare(self.nodes, node);
    }
}

impl<M: Machine, V> Drop for Prealloc<'_, M, V> {
    fn drop(&mut self) {
        self.tree.nr_promised.update(|n| n - self.promised);
        self.tree.trim_spare(self.nodes, KEEP);
    }
}
