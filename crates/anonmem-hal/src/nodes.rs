//! Nodes of memory, and on which of them pages are to lie.
//!
//! A policy is one word, so that a mapping keeps it among its attributes, and the machine keeps one for each
//! task.
//!
//! Linux: mm/mempolicy.c `struct mempolicy`. Differs: no object, and no count.

/// The most nodes of a machine.
pub const MAX_NODES: u32 = 8;

/// A set of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeSet(pub u8);

impl NodeSet {
    /// No node.
    pub const EMPTY: Self = Self(0);

    /// One node; none, if there can be no such node.
    pub const fn only(node: u32) -> Self {
        if node < MAX_NODES { Self(1 << node) } else { Self::EMPTY }
    }

    /// The first `n` nodes.
    pub const fn first(n: u32) -> Self {
        if n >= MAX_NODES { Self(u8::MAX) } else { Self((1 << n) - 1) }
    }

    /// Whether it is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many nodes it has.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether it has the node.
    pub const fn contains(self, node: u32) -> bool {
        node < MAX_NODES && self.0 >> node & 1 != 0
    }

    /// Its nodes, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..MAX_NODES).filter(move |&node| self.contains(node))
    }

    /// The nodes that both have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// How nodes are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NodeMode {
    /// Nobody said anything.
    #[default]
    Default,
    /// The first of them, else any node.
    Preferred,
    /// One of them, and no other.
    Bind,
    /// One after the other, page by page, else any node.
    Interleave,
    /// That of the CPU, else any node.
    Local,
    /// One of them, else any node.
    PreferredMany,
    /// As `Interleave`: all nodes weigh the same.
    WeightedInterleave,
}

impl NodeMode {
    const ALL: [Self; 7] = [
        Self::Default,
        Self::Preferred,
        Self::Bind,
        Self::Interleave,
        Self::Local,
        Self::PreferredMany,
        Self::WeightedInterleave,
    ];
}

/// Where pages are to lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodePolicy {
    /// How nodes are chosen.
    pub mode: NodeMode,
    /// Of which; those that are not there do not count.
    pub nodes: NodeSet,
    /// Three bits that the machine wants to know again; [`FOLDED`](Self::FOLDED) is one of them.
    pub tag: u8,
}

impl NodePolicy {
    /// Nobody said anything.
    pub const DEFAULT: Self = Self { mode: NodeMode::Default, nodes: NodeSet::EMPTY, tag: 0 };
    /// The set counts the nodes that are there, round and round. Linux: `MPOL_F_RELATIVE_NODES`.
    pub const FOLDED: u8 = 1 << 1;
    /// How many bits [`bits`](Self::bits) has.
    pub const BITS: u32 = 14;

    /// The policy as [`BITS`](Self::BITS) bits; 0 is the default.
    pub const fn bits(self) -> u16 {
        self.mode as u16 | (self.tag as u16 & 7) << 3 | (self.nodes.0 as u16) << 6
    }

    /// The policy that has these bits.
    pub const fn of(bits: u16) -> Self {
        let mode = match NodeMode::ALL.len() > (bits & 7) as usize {
            true => NodeMode::ALL[(bits & 7) as usize],
            false => NodeMode::Default,
        };
        Self { mode, tag: (bits >> 3 & 7) as u8, nodes: NodeSet((bits >> 6) as u8) }
    }

    /// The nodes that it means, of those that are `there`.
    #[doc(alias = "mpol_rebind_nodemask")]
    pub fn among(self, there: NodeSet) -> NodeSet {
        if self.tag & Self::FOLDED == 0 {
            return self.nodes.and(there);
        }
        let n = there.len().max(1);
        let nth = |node: u32| there.iter().nth((node % n) as usize).map_or(0, |node| 1 << node);
        NodeSet(self.nodes.iter().fold(0, |set, node| set | nth(node)))
    }

    /// Whether a page that lies on `node`, of those that are `there`, is where it is to be.
    pub fn allows(self, node: u32, there: NodeSet) -> bool {
        let nodes = self.among(there);
        match self.mode {
            NodeMode::Default | NodeMode::Local => true,
            NodeMode::Preferred => nodes.iter().next() == Some(node),
            NodeMode::Bind
            | NodeMode::Interleave
            | NodeMode::PreferredMany
            | NodeMode::WeightedInterleave => nodes.contains(node),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn a_policy_is_one_word() {
        for mode in NodeMode::ALL {
            for nodes in [0, 1, 2, 3, 255] {
                for tag in 0..8 {
                    let policy = NodePolicy { mode, nodes: NodeSet(nodes), tag };
                    assert!(policy.bits() < 1 << NodePolicy::BITS);
                    assert_eq!(NodePolicy::of(policy.bits()), policy);
                }
            }
        }
        assert_eq!((NodePolicy::DEFAULT.bits(), NodePolicy::of(7).mode), (0, NodeMode::Default));
    }

    #[test]
    fn a_set_that_is_folded_counts_what_is_there() {
        let policy = |nodes, tag| NodePolicy { mode: NodeMode::Bind, nodes: NodeSet(nodes), tag };
        assert_eq!(policy(0b110, 0).among(NodeSet(3)), NodeSet(2));
        assert_eq!(policy(0b110, NodePolicy::FOLDED).among(NodeSet(3)), NodeSet(3));
        assert_eq!(policy(0b10, NodePolicy::FOLDED).among(NodeSet(1)), NodeSet(1));
        assert!(policy(0b10, 0).allows(1, NodeSet(3)) && !policy(0b10, 0).allows(0, NodeSet(3)));
        let first = NodePolicy { mode: NodeMode::Preferred, ..policy(3, 0) };
        assert_eq!([0, 1].map(|node| first.allows(node, NodeSet(3))), [true, false]);
    }

    #[test]
    fn a_set_has_what_was_put_in() {
        let set = NodeSet(0b101);
        assert_eq!(set.iter().collect::<std::vec::Vec<_>>(), [0, 2]);
        assert_eq!((set.len(), set.contains(1), set.contains(9)), (2, false, false));
        assert_eq!((NodeSet::only(2), NodeSet::only(8)), (NodeSet(0b100), NodeSet::EMPTY));
        assert_eq!((NodeSet::first(2), NodeSet::first(8)), (NodeSet(3), NodeSet(255)));
        assert_eq!(set.and(NodeSet(0b110)), NodeSet(0b100));
    }
}
