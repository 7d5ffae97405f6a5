//! Recounting a tree at rest.

use super::{
    Nodes, TreeNode, VmaTree,
    find::to_pages,
    node::{CAPACITY, MIN, Tier},
};
use crate::ids::NodeId;
use anonmem_hal::{Machine, VaRange};
use core::fmt;

/// What is wrong with a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Invalid {
    /// Two entries overlap or are in the wrong order: the second one.
    Order(VaRange),
    /// A node has too few slots, or slots in use behind its length: the number of slots, and its level.
    Occupancy(usize, usize),
    /// What a parent says of a child is not what the child says: the child's level.
    Summary(usize),
    /// The number of entries is not the one counted: this one.
    Len(u64),
    /// The spare nodes are not as many as counted, or fewer than promised.
    Spare,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order(range) => write!(f, "entry {range:?} overlaps or precedes the one before it"),
            Self::Occupancy(len, level) => write!(f, "a node of level {level} has {len} slots"),
            Self::Summary(level) => write!(f, "the summary of a child of level {level} is wrong"),
            Self::Len(found) => write!(f, "there are {found} entries, which is not what was counted"),
            Self::Spare => f.write_str("the chain of spare nodes is not what was counted"),
        }
    }
}

impl core::error::Error for Invalid {}

impl<M: Machine, V> VmaTree<M, V> {
    /// Checks everything that is to hold of the tree, returns the number of nodes that it owns.
    ///
    /// # Locks
    /// Mmap lock; no change under way.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub(crate) fn validate(&self, nodes: Nodes<'_, M>) -> Result<u64, Invalid> {
        let (mut entries, mut end, mut wrong) = (0, 0, None);
        self.for_each(nodes, |range, _| {
            let (from, to) = to_pages(range);
            if from < end {
                wrong = wrong.or(Some(Invalid::Order(range)));
            }
            (entries, end) = (entries + 1, to);
        });
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        if entries != self.len() {
            return Err(Invalid::Len(entries));
        }
        let in_tree = match self.root() {
            Some((root, height)) => validate_under(nodes, root, height)?,
            None => 0,
        };
        Ok(in_tree + self.validate_spare(nodes)?)
    }

    fn validate_spare(&self, nodes: Nodes<'_, M>) -> Result<u64, Invalid> {
        let (mut count, mut link) = (0, self.spare.get());
        while let Some(node) = link.get() {
            count += 1;
            link = nodes.get(node).next();
        }
        let is_right = count == self.nr_spare.get() && count >= self.nr_promised.get();
        if is_right { Ok(u64::from(count)) } else { Err(Invalid::Spare) }
    }
}

/// Checks the nodes under `root`, returns how many there are. Recursion goes no deeper than the tree.
fn validate_under<M: Machine>(nodes: Nodes<'_, M>, root: NodeId, height: usize) -> Result<u64, Invalid> {
    let top = nodes.get(root);
    let fewest = match Tier::of(height - 1) {
        Tier::Leaf => 1,
        Tier::Inner => 2,
    };
    validate_occupancy(top, fewest, height - 1)?;
    validate_children(nodes, top, height - 1)
}

fn validate_children<M: Machine>(
    nodes: Nodes<'_, M>,
    node: &TreeNode<M>,
    level: usize,
) -> Result<u64, Invalid> {
    let mut count = 1;
    if Tier::of(level) == Tier::Leaf {
        return Ok(count);
    }
    for i in 0..node.len() {
        let child = node.child(i).ok_or(Invalid::Occupancy(i, level))?;
        let below = nodes.get(child);
        validate_occupancy(below, MIN, level - 1)?;
        if below.summary(Tier::of(level - 1), child) != node.slot(i) {
            return Err(Invalid::Summary(level - 1));
        }
        count += validate_children(nodes, below, level - 1)?;
    }
    Ok(count)
}

fn validate_occupancy<M: Machine>(node: &TreeNode<M>, fewest: usize, level: usize) -> Result<(), Invalid> {
    let len = node.len();
    let tail_is_unused = (len..CAPACITY).all(|i| node.link(i) == 0 && node.end(i) == u64::MAX);
    let is_right = (fewest..=CAPACITY).contains(&len) && tail_is_unused;
    if is_right { Ok(()) } else { Err(Invalid::Occupancy(len, level)) }
}
