//! One node of the tree: up to sixteen slots, sorted, with the words that a lookup needs first.
//!
//! A slot is an entry in a leaf and a summary of a child further up. Both have the same four words, so that
//! splitting and merging are the same on every level:
//!
//! | word | in a leaf | further up |
//! |---|---|---|
//! | `end` | one past the entry's last page | one past the child's last page |
//! | `link` | the value | the child |
//! | `start` | the entry's first page | the child's first page, less the guard that its first entry wants |
//! | `gap` | pages to be left free below the entry | the largest hole between two of the child's entries |
//!
//! Unused slots end at [`UNUSED`], above every page, so that [`TreeNode::rank`] needs no length.

use crate::ids::{NodeId, NodeTag};
use anonmem_frame::{Field, Handle, Link, RawHandle, SlabItem, fields};
use anonmem_hal::Machine;
use anonmem_sync::{Atomic, Ordering::Relaxed};
use core::array;

/// The most slots of a node.
pub(super) const CAPACITY: usize = 16;
/// The fewest slots of a node that is not the root.
pub(super) const MIN: usize = 4;
/// The most levels: with [`MIN`] children a node, more entries than memory holds slots.
pub(super) const MAX_HEIGHT: usize = 16;
/// The end of a slot that is not in use.
const UNUSED: u64 = u64::MAX;

/// A node of a [`VmaTree`](super::VmaTree), a slot of a type-stable slab.
///
/// Words are read by lookups that hold no lock; they are written inside the tree's write section, under the
/// mmap write lock. Only `next` is outside of that: it chains nodes that are in no tree.
#[repr(C)]
pub(crate) struct TreeNode<M> {
    end: [Atomic<u64, M>; CAPACITY],
    link: [Atomic<u32, M>; CAPACITY],
    start: [Atomic<u64, M>; CAPACITY],
    gap: [Atomic<u64, M>; CAPACITY],
    len: Atomic<u32, M>,
    next: Atomic<Link<NodeTag>, M>,
    /// With the slab's own word, a slot has 512 bytes: the ends and links are three whole cache lines.
    _pad: [u64; 6],
}

/// What one slot says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) gap: u64,
    pub(super) link: u32,
}

impl Slot {
    /// The first page that an entry claims: below its start if it wants a guard.
    pub(super) fn claim(&self) -> u64 {
        self.start.saturating_sub(self.gap)
    }
}

/// Whether a node's slots are entries or children.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tier {
    /// Slots are entries.
    Leaf,
    /// Slots are children.
    Inner,
}

impl Tier {
    /// The tier of `level`, counted from the leaves.
    pub(super) const fn of(level: usize) -> Self {
        if level == 0 { Self::Leaf } else { Self::Inner }
    }
}

impl<M: Machine> SlabItem<M> for TreeNode<M> {
    type Tag = NodeTag;
    const NAME: &'static str = "vma_tree_node";
    const FIELDS: &'static [Field] = fields! {
        end[8], link[4], start[8], gap[8], len, next, _pad as _,
    };

    fn new() -> Self {
        Self {
            end: array::from_fn(|_| Atomic::new(UNUSED)),
            link: array::from_fn(|_| Atomic::new(0)),
            start: array::from_fn(|_| Atomic::new(0)),
            gap: array::from_fn(|_| Atomic::new(0)),
            len: Atomic::new(0),
            next: Atomic::new(Link::NONE),
            _pad: [0; 6],
        }
    }
}

impl<M: Machine> TreeNode<M> {
    /// The number of slots that end at or below `page`: the index of the first that ends above it.
    #[inline]
    pub(super) fn rank(&self, page: u64) -> usize {
        // First which four, then which of the four: no branch depends on the outcome of a compare.
        let ends_below = |i: usize| usize::from(self.end[i].load(Relaxed) <= page);
        let fours = ends_below(3) + ends_below(7) + ends_below(11) + ends_below(15);
        let i = 4 * fours;
        if i == CAPACITY {
            return i;
        }
        i + ends_below(i) + ends_below(i + 1) + ends_below(i + 2)
    }

    /// The link of slot `i`, 0 if it is not in use.
    #[inline]
    pub(super) fn link(&self, i: usize) -> u32 {
        self.link.get(i).map_or(0, |link| link.load(Relaxed))
    }

    /// The child in slot `i` of an inner node.
    #[inline]
    pub(super) fn child(&self, i: usize) -> Option<NodeId> {
        RawHandle::new(self.link(i)).map(Handle::from_raw)
    }

    /// The first page of slot `i`.
    #[inline]
    pub(super) fn start(&self, i: usize) -> u64 {
        self.start[i].load(Relaxed)
    }

    /// One past the last page of slot `i`.
    #[inline]
    pub(super) fn end(&self, i: usize) -> u64 {
        self.end[i].load(Relaxed)
    }

    /// The largest hole below the child in slot `i`.
    #[inline]
    pub(super) fn gap(&self, i: usize) -> u64 {
        self.gap[i].load(Relaxed)
    }

    /// The first page that slot `i` claims, its guard included.
    #[inline]
    pub(super) fn claim(&self, tier: Tier, i: usize) -> u64 {
        match tier {
            Tier::Leaf => self.slot(i).claim(),
            Tier::Inner => self.start(i),
        }
    }

    /// The number of slots in use.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len.load(Relaxed) as usize
    }

    /// All of slot `i`.
    #[inline]
    pub(super) fn slot(&self, i: usize) -> Slot {
        Slot { start: self.start(i), end: self.end(i), gap: self.gap(i), link: self.link(i) }
    }

    /// Overwrites slot `i`, word by word and only what differs.
    pub(super) fn set(&self, i: usize, slot: Slot) {
        fn put<M: Machine>(word: &Atomic<u64, M>, value: u64) {
            if word.load(Relaxed) != value {
                word.store(value, Relaxed);
            }
        }
        put(&self.end[i], slot.end);
        put(&self.start[i], slot.start);
        put(&self.gap[i], slot.gap);
        self.link[i].store(slot.link, Relaxed);
    }

    /// Makes room at `i` and puts `slot` there. The node is not full.
    pub(super) fn insert(&self, i: usize, slot: Slot) {
        let len = self.len();
        assert!(i <= len && len < CAPACITY, "inserting at {i} of {len} slots");
        for k in (i..len).rev() {
            self.set(k + 1, self.slot(k));
        }
        self.set(i, slot);
        self.len.store(len as u32 + 1, Relaxed);
    }

    /// Removes slot `i`.
    pub(super) fn remove(&self, i: usize) {
        let len = self.len();
        assert!(i < len, "removing slot {i} of {len}");
        for k in i + 1..len {
            self.set(k - 1, self.slot(k));
        }
        self.truncate(len - 1);
    }

    /// Forgets the slots from `len` on.
    pub(super) fn truncate(&self, len: usize) {
        for k in len..self.len() {
            self.end[k].store(UNUSED, Relaxed);
            self.link[k].store(0, Relaxed);
        }
        self.len.store(len as u32, Relaxed);
    }

    /// Moves the slots from `cut` on to the front of `right`, which has room.
    pub(super) fn move_tail(&self, cut: usize, right: &Self) {
        let moved = self.len() - cut;
        right.shift(moved);
        for k in 0..moved {
            right.set(k, self.slot(cut + k));
        }
        self.truncate(cut);
    }

    /// Moves the first `count` slots of `right` to the end of this node, which has room.
    pub(super) fn take_head(&self, right: &Self, count: usize) {
        let (len, left) = (self.len(), right.len() - count);
        for k in 0..count {
            self.set(len + k, right.slot(k));
        }
        self.len.store((len + count) as u32, Relaxed);
        for k in 0..left {
            right.set(k, right.slot(count + k));
        }
        right.truncate(left);
    }

    /// Moves every slot up by `count`; the first `count` are then to be set.
    fn shift(&self, count: usize) {
        let len = self.len();
        for k in (0..len).rev() {
            self.set(k + count, self.slot(k));
        }
        self.len.store((len + count) as u32, Relaxed);
    }

    /// What the parent's slot says of this node. The node is not empty.
    pub(super) fn summary(&self, tier: Tier, this: NodeId) -> Slot {
        let len = self.len();
        let (mut gap, mut end) = (0, self.end(0));
        if tier == Tier::Inner {
            gap = self.gap(0);
        }
        for i in 1..len {
            let hole = self.claim(tier, i).saturating_sub(end);
            gap = gap.max(hole);
            if tier == Tier::Inner {
                gap = gap.max(self.gap(i));
            }
            end = self.end(i);
        }
        Slot { start: self.claim(tier, 0), end, gap, link: this.raw().get() }
    }

    /// The node that follows in the chain of nodes that are in no tree.
    pub(super) fn next(&self) -> Link<NodeTag> {
        self.next.load(Relaxed)
    }

    /// Chains a node that is in no tree.
    pub(super) fn set_next(&self, next: Link<NodeTag>) {
        self.next.store(next, Relaxed);
    }
}
