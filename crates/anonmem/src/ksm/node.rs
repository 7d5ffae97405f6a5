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
//! | `hash`, `domain`, `next`, of a place, too | the scanner's lock, or before anybody knows the node |
//! | `frame`, `left` | the folio lock of the page, and of the frame that it moves to; `left` goes under the scanner's |
//! | places, and how many | the scanner's lock and the folio lock of the page, while nothing is `left` |
//!
//! A page that a thousand programs share has a thousand places. So each but the first is in a bucket, where
//! the scanner asks whether a node has it (`places`).
//!
//! Linux: mm/ksm.c `struct ksm_stable_node`, `struct ksm_rmap_item`. Differs: a place is a family's, not a
//! process's; no object is kept for a page that was not merged.

use crate::ids::{StableId, StableTag};
use anonmem_frame::{Field, Link, RawHandle, Slab, SlabItem, fields};
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
    /// The hash of the bytes, in the merge domain. Of a place: whose it is.
    hash: Plain<u64, M>,
    domain: Plain<u64, M>,
    /// Next of its bucket: nodes in one of nodes, places in one of places.
    next: Plain<Link<StableTag>, M>,
    family: Atomic<u32, M>,
    index: Atomic<u64, M>,
    /// The next place.
    more: Atomic<Link<StableTag>, M>,
    /// Of a node: its places.
    places: Plain<u32, M>,
}

impl<M: Machine> SlabItem<M> for StableNode<M> {
    type Tag = StableTag;
    const NAME: &'static str = "ksm_stable_node";
    const FIELDS: &'static [Field] = fields! {
        frame, left, hash, domain, next, family, index, more, places,
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
            places: Plain::new(0),
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
        self.places.set(1);
        // Release pairs with the Acquire of `frame`.
        self.frame.store(frame.0 + 1, Ordering::Release);
    }

    /// Makes it one more place of node `of`, before the place `more`.
    pub(super) fn init_place(&self, of: StableId, place: MergedAt, more: Link<StableTag>) {
        self.hash.set(of.raw().get().into());
        self.set_place(place, more);
    }

    /// Whether it is a place of node `of`, and which.
    pub(super) fn is_place(&self, of: StableId, place: MergedAt) -> bool {
        self.hash.get() == u64::from(of.raw().get()) && self.place() == Some(place)
    }

    pub(super) fn set_place(&self, place: MergedAt, more: Link<StableTag>) {
        self.family.store(place.family.get(), Ordering::Relaxed);
        self.index.store(place.index, Ordering::Relaxed);
        self.more.store(more, Ordering::Relaxed);
    }

    pub(super) fn place(&self) -> Option<MergedAt> {
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

    /// The place after this one.
    pub(super) fn more(&self) -> Link<StableTag> {
        self.more.load(Ordering::Relaxed)
    }

    /// How many places the page of this node has.
    pub(super) fn nr_places(&self) -> u64 {
        self.places.get().into()
    }

    /// Notes that it has one more, or one less.
    pub(super) fn count_places(&self, change: i32) {
        self.places.update(|places| places.checked_add_signed(change).expect("places are counted"));
    }

    /// Lets another place come after this one.
    pub(super) fn set_more(&self, more: Link<StableTag>) {
        // Release pairs with the Acquire of `places`.
        self.more.store(more, Ordering::Release);
    }

    /// No frame is its page's any more.
    pub(super) fn forget_frame(&self) {
        self.frame.store(0, Ordering::Relaxed);
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
            // Acquire pairs with the Release of `set_more`.
            at = node.more.load(Ordering::Acquire).get();
            node.place()
        })
    }
}
