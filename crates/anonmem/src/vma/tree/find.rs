//! Lookups, with the mmap lock or without any.
//!
//! Both go down the same way; the difference is what is asked at each level. A holder of the mmap lock asks
//! nothing. A lock-free reader asks whether a writer was at work since it began, *before* it follows a link.
//! So the link leads to a node of this tree as the tree was then, whatever became of the node since. Its slot
//! stays a node for ever, and the last question discards what a later writer put there.
//!
//! Linux: lib/maple_tree.c `mas_find`, `mas_walk`; mm/mmap.c `find_vma`, `find_vma_prev`.

use super::{Nodes, Path, TreeNode, VmaTree, node::Tier};
use crate::ids::NodeId;
use anonmem_frame::{Handle, RawHandle};
use anonmem_hal::{Machine, Va, VaRange};
use anonmem_sync::Ordering::Relaxed;
use core::fmt;

/// How often a lock-free lookup starts over before it gives up.
const TRIES: usize = 8;

/// An entry: its range and its value.
pub(super) type Entry<V> = (VaRange, Handle<V>);

/// A lock-free lookup met writers every time it tried. Take the mmap lock and ask again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the map of the address space is being changed; look it up under the mmap lock")
    }
}

impl core::error::Error for Busy {}

/// The range from page `start` to page `end`.
#[inline]
pub(super) fn pages(start: u64, end: u64) -> VaRange {
    VaRange::new(Va::from_page(start), Va::from_page(end))
}

/// The first and one past the last page of a range.
///
/// # Panics
/// If the range is empty or not page aligned.
#[inline]
pub(super) fn to_pages(range: VaRange) -> (u64, u64) {
    assert!(
        range.start.is_page_aligned() && range.end.is_page_aligned() && !range.is_empty(),
        "{range:?} is no range of pages"
    );
    (range.start.page(), range.end.page())
}

/// The entry in slot `i` of a leaf; `None` if the slot is not in use.
#[inline]
pub(super) fn entry<M: Machine, V>(leaf: &TreeNode<M>, i: usize) -> Option<Entry<V>> {
    let value = RawHandle::new(leaf.link(i))?;
    Some((pages(leaf.start(i), leaf.end(i)), Handle::from_raw(value)))
}

/// Lookups under the mmap lock, held for reading or writing.
impl<M: Machine, V> VmaTree<M, V> {
    /// Finds the first entry that ends above `va`.
    #[doc(alias("find_vma", "vma_find", "mas_find"))]
    #[inline]
    pub(crate) fn find(&self, nodes: Nodes<'_, M>, va: Va) -> Option<Entry<V>> {
        let (mut node, height) = self.root()?;
        for _ in 1..height {
            let inner = nodes.get(node);
            node = inner.child(inner.rank(va.page()))?;
        }
        let leaf = nodes.get(node);
        entry(leaf, leaf.rank(va.page()))
    }

    /// Finds the entry that contains `va`.
    #[doc(alias("vma_lookup", "mas_walk"))]
    #[inline]
    pub(crate) fn find_containing(&self, nodes: Nodes<'_, M>, va: Va) -> Option<Entry<V>> {
        self.find(nodes, va).filter(|(range, _)| range.contains(va))
    }

    /// Finds the last entry that ends at or below `va`: the one before [`find`](Self::find)'s.
    #[doc(alias("find_vma_prev", "vma_prev", "mas_prev"))]
    pub(crate) fn prev(&self, nodes: Nodes<'_, M>, va: Va) -> Option<Entry<V>> {
        let (mut node, height) = self.root()?;
        // The deepest child that lies wholly below the way down to `find`'s entry, and its level.
        let mut below = None;
        for level in (1..height).rev() {
            let inner = nodes.get(node);
            let i = inner.rank(va.page());
            if i > 0 {
                below = Some((level - 1, inner.child(i - 1)?));
            }
            match inner.child(i) {
                Some(child) => node = child,
                None => return self.last_under(nodes, below?),
            }
        }
        let leaf = nodes.get(node);
        match leaf.rank(va.page()).min(leaf.len()) {
            0 => self.last_under(nodes, below?),
            i => entry(leaf, i - 1),
        }
    }

    /// Finds the first entry that starts at or above `va`.
    #[doc(alias("vma_next", "mas_next"))]
    #[cfg(test)]
    pub(crate) fn next(&self, nodes: Nodes<'_, M>, va: Va) -> Option<Entry<V>> {
        let found = self.find(nodes, va)?;
        if found.0.start < va { self.find(nodes, found.0.end) } else { Some(found) }
    }

    /// Finds the entry with the highest addresses.
    #[doc(alias = "mas_find_rev")]
    pub(crate) fn last(&self, nodes: Nodes<'_, M>) -> Option<Entry<V>> {
        let (root, height) = self.root()?;
        self.last_under(nodes, (height - 1, root))
    }

    fn last_under(&self, nodes: Nodes<'_, M>, (level, mut node): (usize, NodeId)) -> Option<Entry<V>> {
        for _ in 0..level {
            let inner = nodes.get(node);
            node = inner.child(inner.len() - 1)?;
        }
        let leaf = nodes.get(node);
        entry(leaf, leaf.len() - 1)
    }

    /// Calls `f` for each entry, in order. `f` does not change the tree; a [`Cursor`] allows that.
    #[doc(alias("for_each_vma", "mas_for_each"))]
    pub(crate) fn for_each(&self, nodes: Nodes<'_, M>, mut f: impl FnMut(VaRange, Handle<V>)) {
        let Some((root, height)) = self.root() else { return };
        let mut path = Path::EMPTY;
        path.set(height - 1, root, nodes.get(root), 0);
        let mut level = height - 1;
        loop {
            let step = path.at(level);
            if step.slot < step.node.len() && level > 0 {
                path.set(level, step.handle, step.node, step.slot + 1);
                let child = step.node.child(step.slot).expect("a slot in use has a child");
                level -= 1;
                path.set(level, child, nodes.get(child), 0);
                continue;
            }
            if level == 0 {
                for (range, value) in (0..step.node.len()).filter_map(|i| entry(step.node, i)) {
                    f(range, value);
                }
            }
            level += 1;
            if level == height {
                return;
            }
        }
    }

    /// Steps through the entries that overlap `range`; the tree may change between the steps.
    #[doc(alias("vma_iter_init", "for_each_vma_range"))]
    pub(crate) fn cursor(&self, range: VaRange) -> Cursor {
        Cursor { left: range }
    }

    /// Fills in the way down to the first entry that ends above `page`; if none does, to the end of the last
    /// leaf. Returns whether there is any. (A path is too large to be returned.)
    pub(super) fn walk<'a>(&self, nodes: Nodes<'a, M>, page: u64, path: &mut Path<'a, M>) -> bool {
        let Some((mut handle, height)) = self.root() else { return false };
        for level in (0..height).rev() {
            let node = nodes.get(handle);
            let rank = node.rank(page);
            match Tier::of(level) {
                Tier::Leaf => path.set(level, handle, node, rank),
                Tier::Inner => {
                    let slot = rank.min(node.len() - 1);
                    path.set(level, handle, node, slot);
                    handle = node.child(slot).expect("a slot in use has a child");
                }
            }
        }
        true
    }
}

/// Lookups without a lock.
impl<M: Machine, V> VmaTree<M, V> {
    /// Finds the first entry that ends above `va`, without any lock.
    ///
    /// What is returned was in the tree at one moment of the call. It may be gone by now, and its value
    /// freed and reused: lock the value and compare, or re-check with [`sequence`](Self::sequence).
    ///
    /// # Errors
    /// [`Busy`] if writers were at work each time it tried.
    #[doc(alias("lock_vma_under_rcu", "find_vma"))]
    #[inline]
    pub(crate) fn try_find(&self, nodes: Nodes<'_, M>, va: Va) -> Result<Option<Entry<V>>, Busy> {
        for _ in 0..TRIES {
            if let Some(seen) = self.seq.try_begin()
                && let Some(found) = self.find_as_of(nodes, va, seen)
            {
                return Ok(found);
            }
            M::relax();
        }
        Err(Busy)
    }

    /// Finds the entry that contains `va`, without any lock; else as [`try_find`](Self::try_find).
    ///
    /// # Errors
    /// [`Busy`] if writers were at work each time it tried.
    #[doc(alias = "mas_walk")]
    #[inline]
    pub(crate) fn try_find_containing(&self, nodes: Nodes<'_, M>, va: Va) -> Result<Option<Entry<V>>, Busy> {
        Ok(self.try_find(nodes, va)?.filter(|(range, _)| range.contains(va)))
    }

    /// Goes down as [`find`](Self::find) does; `None` if the tree is no longer in the state `seen`.
    #[inline]
    fn find_as_of(&self, nodes: Nodes<'_, M>, va: Va, seen: u64) -> Option<Option<Entry<V>>> {
        let mut next = self.root.load(Relaxed).get();
        let mut level = self.height();
        loop {
            // Races with TreeWriter: a link is followed only if it was one of a tree at rest.
            if self.seq.retry(seen) {
                return None;
            }
            let Some(handle) = next else { return Some(None) };
            let node = nodes.get(handle);
            let i = node.rank(va.page());
            level -= 1;
            if level == 0 {
                let found = leaf_words(node, i);
                return (!self.seq.retry(seen))
                    .then(|| found.map(|(s, e, v)| (pages(s, e), Handle::from_raw(v))));
            }
            next = node.child(i);
        }
    }
}

/// The words of slot `i`, which may be torn: no range is made of them yet.
#[inline]
fn leaf_words<M: Machine>(leaf: &TreeNode<M>, i: usize) -> Option<(u64, u64, RawHandle)> {
    let value = RawHandle::new(leaf.link(i))?;
    Some((leaf.start(i), leaf.end(i), value))
}

/// A place in the order of entries. It remembers an address, not a node.
#[doc(alias("vma_iterator", "ma_state"))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    left: VaRange,
}

impl Cursor {
    /// Steps to the next entry that overlaps the range. Mmap lock.
    #[doc(alias("vma_next", "vma_iter_load"))]
    pub(crate) fn next<M: Machine, V>(
        &mut self,
        tree: &VmaTree<M, V>,
        nodes: Nodes<'_, M>,
    ) -> Option<Entry<V>> {
        if self.left.is_empty() {
            return None;
        }
        let found = tree.find(nodes, self.left.start).filter(|(range, _)| range.start < self.left.end);
        self.left.start = found.map_or(self.left.end, |(range, _)| range.end.min(self.left.end));
        found
    }
}
