//! Stable nodes: what is known of a page that equal pages were merged into.
//!
//! Such a page has no anon_vma of its own. Its mappers are of any family, at any index. So its mapping word
//! names a node, and the node has the *places*. Each is a family and an index, under which a walk of the
//! reverse map finds entries. Fork adds none, because a child is of the family of its parent; nor does
//! mremap, which keeps the index. A place that nobody maps any more stays until the scanner takes it out: a
//! walk that comes there finds no entry of the page.
//!
//! The same goes for the node. It owns no count of its page: the last mapper frees the page, and pays nothing
//! for what the scanner has kept. The scanner finds the node later, and asks the frame whose it is.
//!
//! | field | changes under |
//! |---|---|
//! | `hash`, `domain`, `next` | the scanner's lock, or before anybody knows the node |
//! | `frame`, `left` | the folio lock of the page, and of the frame that it moves to; `left` goes under the scanner's |
//! | places | the folio lock of the page, while nothing is `left` |
//!
//! Linux: mm/ksm.c `struct ksm_stable_node`, `struct ksm_rmap_item`. Differs: a place is a family's, not a
//! process's; no object is kept for a page that was not merged.

use crate::ids::{StableId, StableTag};
use anonmem_frame::{Field, Link, OutOfMemory, RawHandle, Slab, SlabItem, fields};
use anonmem_hal::{Machine, Pfn};
use anonmem_sync::{Atomic, Ordering, Plain};

/// Where entries of a page may be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MergedAt {
    /// The name of those who may map it
    /// ([`ReverseMap::family`](crate::rmap::reverse_map::ReverseMap::family)).
    pub(crate) family: RawHandle,
    /// The linear page index there.
    pub(crate) index: u64,
}

/// A stable node, or one more place on the list of such a node.
pub(crate) struct StableNode<M: Machine> {
    /// The page's frame plus one.
    frame: Atomic<u64, M>,
    /// A frame plus one that the page was moved out of, and that an entry may still have.
    left: Atomic<u64, M>,
    /// The hash of the bytes, in the merge domain.
    hash: Plain<u64, M>,
    domain: Plain<u64, M>,
    /// Next of its bucket.
    next: Plain<Link<StableTag>, M>,
    family: Atomic<u32, M>,
    index: Atomic<u64, M>,
    /// The next place.
    more: Atomic<Link<StableTag>, M>,
}

impl<M: Machine> SlabItem<M> for StableNode<M> {
    type Tag = StableTag;
    const NAME: &'static str = "ksm_stable_node";
    const FIELDS: &'static [Field] = fields! {
        frame, left, hash, domain, next, family, index, more,
    };
    fn new() -> Self {
        Self {
            frame: Atomic::new(0),
            left: Atomic::new(0),
            hash: Plain::new(0),
            domain: Plain::new(0),
            next: Plain::new(Link::NONE),
            family: Atomic::new(0),
            index: Atomic::new(0),
            more: Atomic::new(Link::NONE),
        }
    }
}

impl<M: Machine> StableNode<M> {
    /// Makes it the node of the page in `frame`, which has one place, and which nobody can have found yet.
    pub(super) fn init(&self, frame: Pfn, (hash, domain): (u64, u64), place: MergedAt) {
        self.hash.set(hash);
        self.domain.set(domain);
        self.next.set(Link::NONE);
        self.left.store(0, Ordering::Relaxed);
        self.set_place(place, Link::NONE);
        // Release pairs with the Acquire of `frame`.
        self.frame.store(frame.0 + 1, Ordering::Release);
    }

    fn set_place(&self, place: MergedAt, more: Link<StableTag>) {
        self.family.store(place.family.get(), Ordering::Relaxed);
        self.index.store(place.index, Ordering::Relaxed);
        self.more.store(more, Ordering::Relaxed);
    }

    fn place(&self) -> Option<MergedAt> {
        let family = RawHandle::new(self.family.load(Ordering::Relaxed))?;
        Some(MergedAt { family, index: self.index.load(Ordering::Relaxed) })
    }

    /// The frame of its page, as of now.
    pub(crate) fn frame(&self) -> Option<Pfn> {
        // Acquire pairs with the Release of `init` and `page_moved`.
        self.frame.load(Ordering::Acquire).checked_sub(1).map(Pfn)
    }

    /// The frame that its page left, and an entry has not.
    pub(crate) fn left(&self) -> Option<Pfn> {
        self.left.load(Ordering::Acquire).checked_sub(1).map(Pfn)
    }

    /// Notes that the page is in another frame from now on; `behind`, if entries of the old one are left. The
    /// caller holds the locks of both.
    pub(crate) fn page_moved(&self, from: Pfn, to: Pfn, behind: Behind) {
        match behind {
            Behind::Nothing => {}
            // Release pairs with the Acquire of `left`.
            Behind::Entries => self.left.store(from.0 + 1, Ordering::Release),
        }
        // Release pairs with the Acquire of `frame`.
        self.frame.store(to.0 + 1, Ordering::Release);
    }

    /// Notes that no entry has the old frame any more.
    pub(super) fn forget_left(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    /// The hash and the merge domain.
    pub(super) fn key(&self) -> (u64, u64) {
        (self.hash.get(), self.domain.get())
    }

    /// The next node of its bucket.
    pub(super) fn next(&self) -> Link<StableTag> {
        self.next.get()
    }

    pub(super) fn set_next(&self, next: Link<StableTag>) {
        self.next.set(next);
    }
}

/// Whether a page that moved has left entries behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Behind {
    /// It has not.
    Nothing,
    /// Entries that fork had copied to where the walk had passed.
    Entries,
}

/// The nodes, and the frames that they lie in.
pub(crate) struct StableNodes<'v, M: Machine> {
    pub(crate) slab: &'v Slab<M, StableNode<M>>,
    pub(crate) frames: &'v anonmem_frame::Frames<M>,
}

impl<M: Machine> Clone for StableNodes<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Machine> Copy for StableNodes<'_, M> {}

impl<'v, M: Machine> StableNodes<'v, M> {
    pub(crate) fn get(self, id: StableId) -> &'v StableNode<M> {
        self.slab.get(self.frames, id)
    }

    /// The node that a page's mapping word names.
    pub(crate) fn resolve(self, raw: RawHandle) -> Option<StableId> {
        self.slab.resolve(self.frames, raw)
    }

    /// The places of a node's page. The caller holds the lock of the page.
    pub(crate) fn places(self, id: StableId) -> impl Iterator<Item = MergedAt> {
        let mut at = Some(id);
        core::iter::from_fn(move || {
            let node = self.get(at?);
            // Acquire pairs with the Release of `add_place`.
            at = node.more.load(Ordering::Acquire).get();
            node.place()
        })
    }

    /// Adds a place to the page of a node, unless it has it. The caller holds the lock of the page.
    ///
    /// # Errors
    /// [`OutOfMemory`]: nothing has changed.
    pub(super) fn add_place(self, id: StableId, place: MergedAt) -> Result<(), OutOfMemory> {
        if self.places(id).any(|known| known == place) {
            return Ok(());
        }
        let new = self.slab.alloc(self.frames)?;
        let node = self.get(id);
        self.get(new).set_place(place, node.more.load(Ordering::Relaxed));
        // Release pairs with the Acquire of `places`.
        node.more.store(new.into(), Ordering::Release);
        Ok(())
    }

    /// Takes the places out that `is_used` says no of, but one. The caller holds the lock of the page.
    pub(super) fn retain_places(self, id: StableId, mut is_used: impl FnMut(MergedAt) -> bool) {
        let node = self.get(id);
        let mut before = node;
        while let Some(at) = before.more.load(Ordering::Relaxed).get() {
            let place = self.get(at);
            if place.place().is_some_and(&mut is_used) {
                before = place;
                continue;
            }
            before.more.store(place.more.load(Ordering::Relaxed), Ordering::Relaxed);
            self.slab.free(self.frames, at);
        }
        // The node's own place cannot go: another takes it.
        if let Some(at) = node.more.load(Ordering::Relaxed).get()
            && !node.place().is_some_and(is_used)
        {
            let next = self.get(at);
            if let Some(place) = next.place() {
                node.set_place(place, next.more.load(Ordering::Relaxed));
                self.slab.free(self.frames, at);
            }
        }
    }

    /// Frees a node that nothing names any more, with its places.
    pub(super) fn free(self, id: StableId) {
        let mut at = Some(id);
        while let Some(item) = at {
            at = self.get(item).more.load(Ordering::Relaxed).get();
            self.get(item).frame.store(0, Ordering::Relaxed);
            self.slab.free(self.frames, item);
        }
    }
}
