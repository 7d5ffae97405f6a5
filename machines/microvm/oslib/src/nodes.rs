//! Memory policies in Linux's numbers: modes, their flags, masks of nodes.
//!
//! Linux: mm/mempolicy.c `sanitize_mpol_flags`, `mpol_new`, `mpol_set_nodemask`, `get_nodes`.

use crate::Result;
use crate::errno::EINVAL;
use anonmem_hal::{MAX_NODES, NodeMode, NodePolicy, NodeSet};

/// The most bits of a mask that are looked at; those beyond must be 0.
pub const MASK_BITS: u64 = 1024;
/// The most bits that a mask may be said to have.
pub const MOST_BITS: u64 = 4096 * 8;

/// `MPOL_*`, by number.
const MODES: [NodeMode; 7] = [
    NodeMode::Default,
    NodeMode::Preferred,
    NodeMode::Bind,
    NodeMode::Interleave,
    NodeMode::Local,
    NodeMode::PreferredMany,
    NodeMode::WeightedInterleave,
];

/// `MPOL_F_STATIC_NODES`, `MPOL_F_RELATIVE_NODES` and `MPOL_F_NUMA_BALANCING`, as they are kept in a tag.
const FLAG_SHIFT: u32 = 13;
const BALANCING: u8 = 1 << 0;
const RELATIVE: u8 = NodePolicy::FOLDED;
const STATIC: u8 = 1 << 2;

/// A mode and its flags, which fit each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    mode: NodeMode,
    tag: u8,
}

impl Mode {
    /// Reads the number that `mbind` and `set_mempolicy` are given.
    ///
    /// # Errors
    /// `EINVAL` for a mode that there is not, and flags that do not fit it.
    pub fn read(number: u32) -> Result<Mode> {
        let tag = (number >> FLAG_SHIFT & 7) as u8;
        let mode = *MODES.get((number & !(7 << FLAG_SHIFT)) as usize).ok_or(EINVAL)?;
        let balances = matches!(mode, NodeMode::Bind | NodeMode::PreferredMany);
        if tag & (RELATIVE | STATIC) == RELATIVE | STATIC || (tag & BALANCING != 0 && !balances) {
            return Err(EINVAL);
        }
        Ok(Mode { mode, tag })
    }

    /// Whether it takes a policy away.
    pub fn is_default(self) -> bool {
        self.mode == NodeMode::Default
    }

    /// The policy over the nodes of `mask`, of which `there` are.
    ///
    /// # Errors
    /// `EINVAL` if the mode wants nodes, and has none that are there, or wants none.
    pub fn policy(self, mask: u64, there: NodeSet) -> Result<NodePolicy> {
        let is_relative = self.tag & (RELATIVE | STATIC) != 0;
        let mode = match self.mode {
            NodeMode::Default if mask != 0 => return Err(EINVAL),
            NodeMode::Default => return Ok(NodePolicy::DEFAULT),
            NodeMode::Preferred if mask == 0 && is_relative => return Err(EINVAL),
            NodeMode::Preferred if mask == 0 => NodeMode::Local,
            NodeMode::Local if mask != 0 || is_relative => return Err(EINVAL),
            NodeMode::Local => NodeMode::Local,
            NodeMode::Bind
            | NodeMode::Interleave
            | NodeMode::PreferredMany
            | NodeMode::WeightedInterleave
                if mask == 0 =>
            {
                return Err(EINVAL);
            }
            mode => mode,
        };
        if mode == NodeMode::Local {
            return Ok(NodePolicy { mode, nodes: NodeSet::EMPTY, tag: self.tag });
        }
        // What was asked for is kept if a flag says so, and only what is there counts.
        let asked = NodePolicy { mode, nodes: here(mask), tag: self.tag };
        let fits = u64::from(asked.nodes.0) == mask;
        let nodes = if self.tag & RELATIVE != 0 && !fits { fold(mask, there) } else { asked.among(there) };
        if nodes.is_empty() {
            return Err(EINVAL);
        }
        if self.tag != 0 && fits {
            return Ok(asked);
        }
        let first = NodeSet(1 << nodes.0.trailing_zeros());
        Ok(NodePolicy { nodes: if mode == NodeMode::Preferred { first } else { nodes }, ..asked })
    }
}

/// The number that `get_mempolicy` tells.
pub fn number(policy: NodePolicy) -> u32 {
    let mode = MODES.iter().position(|mode| *mode == policy.mode).unwrap_or(0);
    mode as u32 | u32::from(policy.tag) << FLAG_SHIFT
}

/// The word that `numa_maps` has for a policy, where these nodes are.
#[doc(alias = "mpol_to_str")]
pub fn words(policy: NodePolicy, there: NodeSet) -> alloc::string::String {
    let mode = match policy.mode {
        NodeMode::Default => "default",
        NodeMode::Preferred => "prefer",
        NodeMode::Bind => "bind",
        NodeMode::Interleave => "interleave",
        NodeMode::Local => "local",
        NodeMode::PreferredMany => "prefer (many)",
        NodeMode::WeightedInterleave => "weighted interleave",
    };
    let flags = match policy.tag & (RELATIVE | STATIC) {
        STATIC => "=static",
        RELATIVE => "=relative",
        _ => "",
    };
    let (mut out, nodes) = (alloc::format!("{mode}{flags}"), policy.among(there));
    if !nodes.is_empty() {
        out.push(':');
        out += &list(nodes);
    }
    out
}

/// A set as Linux writes lists: `0-1`, `0,2`.
pub fn list(nodes: NodeSet) -> alloc::string::String {
    use core::fmt::Write as _;
    let mut out = alloc::string::String::new();
    let mut at = 0;
    while at < MAX_NODES {
        if !nodes.contains(at) {
            at += 1;
            continue;
        }
        let end = (at..MAX_NODES).find(|&node| !nodes.contains(node)).unwrap_or(MAX_NODES) - 1;
        let comma = if out.is_empty() { "" } else { "," };
        let _ = if end > at { write!(out, "{comma}{at}-{end}") } else { write!(out, "{comma}{at}") };
        at = end + 1;
    }
    out
}

/// The nodes that there may be, of a mask.
pub fn here(mask: u64) -> NodeSet {
    NodeSet(mask as u8)
}

/// A mask that counts the nodes that are there, folded over them.
#[doc(alias = "mpol_relative_nodemask")]
fn fold(mask: u64, there: NodeSet) -> NodeSet {
    let n = there.len().max(1);
    let nth = |bit: u32| there.iter().nth((bit % n) as usize).unwrap_or(0);
    let bits = (0..u64::BITS).filter(|bit| mask >> bit & 1 != 0);
    NodeSet(bits.fold(0, |set, bit| set | 1 << nth(bit)))
}

/// Where pages of node `from` go, of those in `old`: to the node that has the same place in `new`.
#[doc(alias = "node_remap")]
pub fn remap(from: u32, old: NodeSet, new: NodeSet) -> u32 {
    match old.iter().position(|node| node == from) {
        Some(nth) if !new.is_empty() => new.iter().nth(nth % new.len() as usize).unwrap_or(from),
        Some(_) | None => from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NodeSet = NodeSet(3);

    fn policy(mode: u32, mask: u64) -> Result<(NodeMode, u8)> {
        Mode::read(mode)?.policy(mask, TWO).map(|policy| (policy.mode, policy.nodes.0))
    }

    #[test]
    fn modes_take_the_nodes_that_linux_lets_them_take() {
        assert_eq!(policy(0, 0), Ok((NodeMode::Default, 0)));
        assert_eq!(policy(0, 1), Err(EINVAL));
        assert_eq!(policy(1, 0), Ok((NodeMode::Local, 0)));
        assert_eq!(policy(1, 3), Ok((NodeMode::Preferred, 1)));
        assert_eq!(policy(2, 6), Ok((NodeMode::Bind, 2)));
        assert_eq!(policy(2, 4), Err(EINVAL));
        assert_eq!(policy(3, 0), Err(EINVAL));
        assert_eq!(policy(4, 0), Ok((NodeMode::Local, 0)));
        assert_eq!(policy(4, 1), Err(EINVAL));
        assert_eq!(policy(7, 1), Err(EINVAL));
        assert_eq!(policy(1 | 1 << 15, 0), Err(EINVAL));
        assert_eq!(policy(2 | 3 << 14, 1), Err(EINVAL));
        assert_eq!(policy(3 | 1 << 13, 1), Err(EINVAL));
        assert_eq!(policy(2 | 1 << 13, 1), Ok((NodeMode::Bind, 1)));
        // Relative: the third node of two is the first. What was asked for is told again.
        assert_eq!(policy(2 | 1 << 14, 4), Ok((NodeMode::Bind, 4)));
        assert_eq!(policy(2 | 1 << 14, 1 << 12), Ok((NodeMode::Bind, 1)));
        assert_eq!(policy(2 | 1 << 15, 6), Ok((NodeMode::Bind, 6)));
        assert_eq!(policy(2 | 1 << 15, 4), Err(EINVAL));
    }

    #[test]
    fn what_was_asked_for_is_told_again() {
        for mode in [0, 2, 3, 5, 6, 2 | 1 << 15, 3 | 1 << 14, 2 | 1 << 13] {
            let mask = u64::from(mode != 0);
            assert_eq!(number(Mode::read(mode).unwrap().policy(mask, TWO).unwrap()), mode);
        }
        let of = |mode, mask| words(Mode::read(mode).unwrap().policy(mask, TWO).unwrap(), TWO);
        assert_eq!(
            (of(0, 0), of(3, 3), of(2, 2)),
            ("default".into(), "interleave:0-1".into(), "bind:1".into())
        );
        assert_eq!(of(2 | 1 << 15, 1), "bind=static:0");
        assert_eq!((list(NodeSet(0b1011)), list(NodeSet(0))), ("0-1,3".into(), "".into()));
    }

    #[test]
    fn nodes_go_to_those_in_the_same_place() {
        assert_eq!((remap(0, NodeSet(1), NodeSet(2)), remap(1, NodeSet(2), NodeSet(1))), (1, 0));
        assert_eq!((remap(0, TWO, NodeSet(2)), remap(1, TWO, NodeSet(2))), (1, 1));
        assert_eq!((remap(1, NodeSet(1), NodeSet(2)), remap(0, NodeSet(1), NodeSet(0))), (1, 0));
    }
}
