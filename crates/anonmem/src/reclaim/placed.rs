//! Pages that are to lie on certain nodes.
//!
//! A mapping's policy comes before its task's. Each names nodes, which are asked one after the other. Then
//! comes any frame, unless the policy is strict. Then pages leave the frames of its nodes, those first that
//! were not used lately, until there is one. No page of another node leaves for it. If nothing can leave its
//! nodes, the caller is told of which nodes ([`Short`]): asking others for memory would help nobody.
//!
//! Linux: mm/mempolicy.c `policy_nodemask`, `interleave_nid`; mm/page_alloc.c `__alloc_pages_slowpath` with a
//! node mask. Differs: interleaving goes by the address alone, so that it does not matter in which order
//! pages are touched. The reserve is the machine's, not a node's.

use super::wait::Progress;
use crate::{error::Error, events::Event, rmap::machine::Machine, vm::Vm};
use anonmem_frame::{NewFolio, OutOfMemory, Search};
use anonmem_hal::{NodeMode, NodePolicy, NodeSet, Order, Pfn};
use core::ops::Range;

/// How often only others make progress, of whatever node, before a strict policy finds no memory. Linux:
/// `MAX_RECLAIM_RETRIES`.
const FUTILE: u32 = 16;

/// What there was not enough of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Short {
    /// Memory, of whatever node.
    Memory,
    /// Memory of these nodes, and no others are allowed. Their pages were asked to leave.
    Nodes(NodeSet),
}

impl From<OutOfMemory> for Short {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::Memory
    }
}

impl From<Short> for Error {
    fn from(short: Short) -> Self {
        match short {
            Short::Memory => Self::OutOfMemory,
            Short::Nodes(nodes) => Self::NodesFull(nodes),
        }
    }
}

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
    pub(crate) fn alloc_page_placed(&self, policy: NodePolicy, index: u64) -> Result<NewFolio<'_, M>, Short> {
        let Some(plan) = self.plan(policy, index) else { return Ok(self.alloc_page()?) };
        let at_hand = |node| self.nodes_of_memory.alloc(&self.frames, node, Order::ZERO, Search::AtHand).ok();
        if let Some(page) = plan.nodes().find_map(at_hand) {
            self.wake_kswapd();
            return Ok(page);
        }
        if plan.is_strict == IsStrict::No || plan.then == self.nodes_of_memory.all() {
            return Ok(self.alloc_page()?);
        }
        self.alloc_strictly(&plan)
    }

    /// A page of the plan's nodes, and of no other. If there is none, their pages leave. Those of other nodes
    /// leave only if the whole machine is down to its reserve, because then any of them would help.
    #[doc(alias = "__alloc_pages_slowpath")]
    fn alloc_strictly(&self, plan: &Plan) -> Result<NewFolio<'_, M>, Short> {
        let placed = || plan.nodes().find_map(|node| self.alloc_on(node, Order::ZERO).ok());
        self.wake_kswapd_for(plan.then);
        if let Some(page) = placed() {
            return Ok(page);
        }
        self.count(Event::DirectReclaim);
        let mut futile = 0;
        while futile < FUTILE && !M::is_dying() {
            if self.frames.is_at_reserve() {
                if !self.reclaim_some() {
                    return Err(Short::Memory);
                }
            } else {
                futile = match self.reclaim_on(plan.then) {
                    Progress::Here => 0,
                    Progress::Elsewhere => futile + 1,
                    Progress::None => FUTILE,
                };
            }
            if let Some(page) = placed() {
                return Ok(page);
            }
        }
        Err(Short::Nodes(plan.then))
    }

    /// Whether reclaim has freed enough on some nodes: who had found no memory there may try again.
    pub fn is_above_high_on(&self, nodes: NodeSet) -> bool {
        let (all, frames) = (&self.nodes_of_memory, &self.frames);
        if nodes == all.all() {
            return frames.above_high();
        }
        !frames.is_at_reserve() && all.free_on(frames, nodes) > all.high_of(frames, nodes)
    }
}
