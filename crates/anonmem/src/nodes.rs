//! Nodes of memory: equal parts of the frames, and where a free frame of each was found last.
//!
//! There is one zone, whatever the number of nodes. Who wants a frame of a certain node has the allocator
//! look for one there, from where the last one was. Who wants any frame pays nothing for the nodes.
//!
//! Linux: include/linux/mmzone.h `struct pglist_data`. Differs: no lists and no watermarks of a node's own.

use anonmem_frame::{Frames, NewFolio, OutOfMemory, Search};
use anonmem_hal::{MAX_NODES, MAX_ORDER, Machine, NodeSet, Order, Pfn};
use anonmem_sync::{Atomic, Ordering};
use core::ops::Range;

/// The nodes of one machine.
pub(crate) struct Nodes<M: Machine> {
    count: u32,
    /// The number, relative to the first, of the frame at which the next look into the node begins.
    next: [Atomic<u64, M>; MAX_NODES as usize],
    /// The same, of the frame that pages leave next for those who have no other node.
    leaves: [Atomic<u64, M>; MAX_NODES as usize],
}

impl<M: Machine> Nodes<M> {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            count: count.clamp(1, MAX_NODES),
            next: [const { Atomic::new(0) }; MAX_NODES as usize],
            leaves: [const { Atomic::new(0) }; MAX_NODES as usize],
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

    /// The next `len` frames of a node, in turns; fewer at its end.
    pub(crate) fn next_batch(
        &self,
        frames: &Frames<M>,
        node: u32,
        len: u64,
    ) -> impl Iterator<Item = Pfn> + use<M> {
        let range = self.range(frames, node);
        let size = range.end.0 - range.start.0;
        // Relaxed: a hint, as below.
        let nth = self.leaves[node as usize % MAX_NODES as usize].fetch_add(len, Ordering::Relaxed);
        let first = if size == 0 { 0 } else { nth % size.next_multiple_of(len) };
        (first.min(size)..(first + len).min(size)).map(move |nth| range.start.offset(nth))
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
