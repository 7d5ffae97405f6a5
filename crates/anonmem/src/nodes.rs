//! Nodes of memory: equal parts of the frames, and where a free frame of each was found last.
//!
//! There is one zone, whatever the number of nodes. Who wants a frame of a certain node has the allocator
//! look for one there, from where the last one was. Who wants any frame pays nothing for the nodes.
//!
//! Reclaim for certain nodes passes their frames alone. A node's watermark is its share of the machine's, and
//! is asked by who has found the node full, not by who allocates.
//!
//! Linux: include/linux/mmzone.h `struct pglist_data`. Differs: no lists of a node's own.

use crate::reclaim::state::Hand;
use anonmem_frame::{Frames, NewFolio, OutOfMemory, Search};
use anonmem_hal::{MAX_NODES, MAX_ORDER, Machine, NodeSet, Order, Pfn};
use anonmem_sync::{Atomic, Ordering};
use core::ops::Range;

/// The nodes of one machine.
pub(crate) struct Nodes<M: Machine> {
    count: u32,
    /// The number, relative to the first, of the frame at which the next look into the node begins.
    next: [Atomic<u64, M>; MAX_NODES as usize],
    /// The clock's hands for those who may have no other node.
    hands: [Hand<M>; MAX_NODES as usize],
}

impl<M: Machine> Nodes<M> {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            count: count.clamp(1, MAX_NODES),
            next: [const { Atomic::new(0) }; MAX_NODES as usize],
            hands: [const { Hand::new() }; MAX_NODES as usize],
        }
    }

    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    /// All of them.
    pub(crate) const fn all(&self) -> NodeSet {
        NodeSet::first(self.count)
    }

    /// The frames of a node. No block of the largest size lies in two.
    pub(crate) fn range(&self, frames: &Frames<M>, node: u32) -> Range<Pfn> {
        let (base, nr) = (frames.machine().base_pfn().0, frames.machine().nr_frames());
        let cut = |node: u32| match node {
            0 => Pfn(base),
            node if node < self.count => {
                let at = base + nr * u64::from(node) / u64::from(self.count);
                Pfn(at.next_multiple_of(1 << MAX_ORDER).min(base + nr))
            }
            _ => Pfn(base + nr),
        };
        cut(node)..cut(node.saturating_add(1))
    }

    /// The node that has the frame.
    pub(crate) fn of(&self, frames: &Frames<M>, frame: Pfn) -> u32 {
        (0..self.count).rev().find(|&node| self.range(frames, node).start <= frame).unwrap_or(0)
    }

    /// Whether one of `nodes` has the frame. All of them have every frame, which costs one comparison.
    pub(crate) fn have(&self, frames: &Frames<M>, nodes: NodeSet, frame: Pfn) -> bool {
        nodes == self.all() || nodes.contains(self.of(frames, frame))
    }

    /// The clock's hand of a node, relative to its first frame.
    pub(crate) const fn hand(&self, node: u32) -> &Hand<M> {
        &self.hands[node as usize % MAX_NODES as usize]
    }

    /// What is free on some of them, on CPUs' lists, too: looks at the metadata of all their frames.
    pub(crate) fn free_on(&self, frames: &Frames<M>, nodes: NodeSet) -> u64 {
        nodes.iter().map(|node| frames.free_within(self.range(frames, node)).0).sum()
    }

    /// The high watermark of some of them: their share of that of all.
    pub(crate) fn high_of(&self, frames: &Frames<M>, nodes: NodeSet) -> u64 {
        let of = |node| self.range(frames, node);
        let size: u64 = nodes.iter().map(|node| of(node).end.0 - of(node).start.0).sum();
        frames.watermarks().high.0 * size / frames.machine().nr_frames().max(1)
    }

    /// A block of a node.
    ///
    /// # Errors
    /// [`OutOfMemory`]: there is none, or what is left is the reserve.
    pub(crate) fn alloc<'f>(
        &self,
        frames: &'f Frames<M>,
        node: u32,
        order: Order,
        search: Search,
    ) -> Result<NewFolio<'f, M>, OutOfMemory> {
        let range = self.range(frames, node);
        let next = &self.next[node as usize % MAX_NODES as usize];
        // Relaxed: a hint. Two who look at the same time begin at the same frame.
        let from = range.start.offset(next.load(Ordering::Relaxed));
        let block = frames.alloc_within(order, range.clone(), from, search)?;
        next.store(block.pfn().0 + order.pages() - range.start.0, Ordering::Relaxed);
        Ok(block)
    }
}
