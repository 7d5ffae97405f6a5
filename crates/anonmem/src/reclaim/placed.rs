//! Pages that are to lie on certain nodes.
//!
//! A mapping's policy comes before its task's. Each names nodes, which are asked one after the other. Then
//! comes any frame, unless the policy is strict. Then pages leave the frames of its nodes, until there is one
//! or a few batches were looked at. No page of another node leaves for it here. A fault that still has none
//! asks reclaim before it gives up, which knows no nodes.
//!
//! Linux: mm/mempolicy.c `policy_nodemask`, `interleave_nid`. Differs: interleaving goes by the address
//! alone, so that it does not matter in which order pages are touched.

use super::SWAP_CLUSTER_MAX;
use crate::{rmap::machine::Machine, vm::Vm};
use anonmem_frame::{NewFolio, OutOfMemory, Search};
use anonmem_hal::{NodeMode, NodePolicy, NodeSet, Order, Pfn};
use core::ops::Range;

/// How many batches of a node's frames are looked at before a strict policy finds no memory.
const ROUNDS: u64 = 16;

/// How many frames of a node are looked at for pages that leave.
const BATCH: u64 = 512;

/// What a policy comes to for one page.
struct Plan {
    /// The nodes, in the order in which they are asked.
    first: u32,
    then: NodeSet,
    is_strict: IsStrict,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IsStrict {
    Yes,
    No,
}

impl Plan {
    fn nodes(&self) -> impl Iterator<Item = u32> {
        let first = self.first;
        core::iter::once(first).chain(self.then.iter().filter(move |&node| node != first))
    }
}

impl<M: Machine> Vm<M> {
    /// How many nodes of memory there are.
    pub fn nr_nodes(&self) -> u32 {
        self.nodes_of_memory.count()
    }

    /// The frames of a node; none if there is no such node.
    pub fn node_frames(&self, node: u32) -> Range<Pfn> {
        self.nodes_of_memory.range(&self.frames, node)
    }

    /// The node that has a frame.
    #[doc(alias = "page_to_nid")]
    pub fn node_of(&self, frame: Pfn) -> u32 {
        self.nodes_of_memory.of(&self.frames, frame)
    }

    /// A block of a node, without making others leave.
    pub(crate) fn alloc_on(&self, node: u32, order: Order) -> Result<NewFolio<'_, M>, OutOfMemory> {
        let block = self.nodes_of_memory.alloc(&self.frames, node, order, Search::All);
        self.wake_kswapd();
        block
    }

    fn plan(&self, policy: NodePolicy, index: u64) -> Option<Plan> {
        let nodes = policy.among(self.nodes_of_memory.all());
        let nth = |nth: u64| nodes.iter().nth(nth as usize);
        let local = M::current_node();
        let (first, then, is_strict) = match policy.mode {
            NodeMode::Default => return None,
            NodeMode::Local => (local, NodeSet::EMPTY, IsStrict::No),
            NodeMode::Preferred => (nth(0)?, NodeSet::EMPTY, IsStrict::No),
            NodeMode::Interleave | NodeMode::WeightedInterleave => {
                (nth(index % u64::from(nodes.len().max(1)))?, NodeSet::EMPTY, IsStrict::No)
            }
            NodeMode::PreferredMany | NodeMode::Bind => {
                let first = if nodes.contains(local) { local } else { nth(0)? };
                let is_strict = if policy.mode == NodeMode::Bind { IsStrict::Yes } else { IsStrict::No };
                (first, nodes, is_strict)
            }
        };
        Some(Plan { first, then, is_strict })
    }

    /// A block that lies where the policy wants it, of what is free; any block, if the policy leaves that
    /// open. Does not sleep, and asks no other CPU for what it keeps.
    #[cold]
    pub(crate) fn alloc_placed_gently(
        &self,
        order: Order,
        policy: NodePolicy,
        index: u64,
    ) -> Result<NewFolio<'_, M>, OutOfMemory> {
        let Some(plan) = self.plan(policy, index) else { return self.frames.alloc_gently(order) };
        let placed = |node| self.nodes_of_memory.alloc(&self.frames, node, order, Search::AtHand).ok();
        match plan.nodes().find_map(placed) {
            Some(block) => Ok(block),
            None if plan.is_strict == IsStrict::Yes => Err(OutOfMemory),
            None => self.frames.alloc_gently(order),
        }
    }

    /// A page that lies where the policy wants it; if there is none, others leave, or it lies elsewhere.
    ///
    /// # Locks
    /// As [`alloc_page`](Self::alloc_page).
    #[cold]
    #[doc(alias = "alloc_pages_mpol")]
    pub(crate) fn alloc_page_placed(
        &self,
        policy: NodePolicy,
        index: u64,
    ) -> Result<NewFolio<'_, M>, OutOfMemory> {
        let Some(plan) = self.plan(policy, index) else { return self.alloc_page() };
        let at_hand = |node| self.nodes_of_memory.alloc(&self.frames, node, Order::ZERO, Search::AtHand).ok();
        if let Some(page) = plan.nodes().find_map(at_hand) {
            self.wake_kswapd();
            return Ok(page);
        }
        if plan.is_strict == IsStrict::No {
            return self.alloc_page();
        }
        let placed = || plan.nodes().find_map(|node| self.alloc_on(node, Order::ZERO).ok());
        if let Some(page) = placed() {
            return Ok(page);
        }
        for _ in 0..ROUNDS {
            if M::is_dying() {
                break;
            }
            let freed: u64 = plan.nodes().map(|node| self.shrink_node(node)).sum();
            if freed > 0
                && let Some(page) = placed()
            {
                return Ok(page);
            }
        }
        Err(OutOfMemory)
    }

    /// Makes pages leave the next few frames of a node, however lately they were used; returns how many
    /// folios left.
    fn shrink_node(&self, node: u32) -> u64 {
        let mut freed = 0;
        for at in self.nodes_of_memory.next_batch(&self.frames, node, BATCH) {
            if freed >= SWAP_CLUSTER_MAX as u64 {
                break;
            }
            let page = self.frames.try_get(at).filter(|page| page.pfn() == at);
            freed += page.map_or(0, |page| u64::from(self.reclaim_folio(page)));
        }
        freed
    }
}
