//! What a reverse map is made of: sets of VMAs, and the links between a VMA and its sets.
//!
//! Linux: include/linux/rmap.h `struct anon_vma`, `struct anon_vma_chain`.

use crate::{
    ids::{AnonVmaId, AnonVmaTag, ChainTag, VmaId, VmaTag},
    rmap::interval_tree::{IntervalLinks, IntervalTree},
};
use anonmem_frame::{Field, Link, SlabItem, fields};
use anonmem_hal::Machine;
use anonmem_sync::{Atomic, Ordering, Plain, RwSem, order::AnonVmaRoot};

/// A set of VMAs that may map a page.
pub(crate) struct AnonVma<M: Machine> {
    /// The anon_vma whose lock protects this family; itself for a root. Constant while the slot is live.
    pub(super) root: Atomic<Link<AnonVmaTag>, M>,
    /// The anon_vma that this one was forked from; itself for a root. Under the root's lock.
    pub(super) parent: Plain<Link<AnonVmaTag>, M>,
    /// What keeps the slot: 0 means free, or about to be.
    pub(super) refcount: Atomic<u32, M>,
    /// anon_vmas whose parent this is. Under the root's lock.
    pub(super) nr_children: Plain<u64, M>,
    /// VMAs whose `anon_vma` this is. Under the root's lock.
    pub(super) nr_vmas: Plain<u64, M>,
    /// The lock of a family; used in roots only.
    pub(super) lock: RwSem<M, AnonVmaRoot, ()>,
    /// Links to the VMAs, by page index. Under the root's lock.
    pub(super) tree: IntervalTree<M, ChainTag>,
}

impl<M: Machine> SlabItem<M> for AnonVma<M> {
    type Tag = AnonVmaTag;
    const NAME: &'static str = "anon_vma";
    const FIELDS: &'static [Field] = fields! {
        root, parent, refcount, nr_children, nr_vmas, lock, tree,
    };
    fn new() -> Self {
        Self {
            root: Atomic::new(Link::NONE),
            parent: Plain::new(Link::NONE),
            refcount: Atomic::new(0),
            nr_children: Plain::new(0),
            nr_vmas: Plain::new(0),
            lock: RwSem::new(()),
            tree: IntervalTree::new(),
        }
    }
}

/// A link between a VMA and an anon_vma.
pub(crate) struct AnonVmaChain<M: Machine> {
    pub(super) vma: Plain<Link<VmaTag>, M>,
    pub(super) anon_vma: Plain<Link<AnonVmaTag>, M>,
    /// Next older chain of the same VMA. Under the mmap lock for writing, or for reading in
    /// `anon_vma_prepare`.
    pub(super) next: Plain<Link<ChainTag>, M>,
    /// Place in the anon_vma's interval tree. Under the root's lock.
    pub(super) links: IntervalLinks<M, ChainTag>,
}

impl<M: Machine> SlabItem<M> for AnonVmaChain<M> {
    type Tag = ChainTag;
    const NAME: &'static str = "anon_vma_chain";
    const FIELDS: &'static [Field] = fields! {
        vma, anon_vma, next, links,
    };
    fn new() -> Self {
        Self {
            vma: Plain::new(Link::NONE),
            anon_vma: Plain::new(Link::NONE),
            next: Plain::new(Link::NONE),
            links: IntervalLinks::new(),
        }
    }
}

impl<M: Machine> AnonVmaChain<M> {
    /// The VMA.
    pub(crate) fn vma(&self) -> VmaId {
        self.vma.get().get().expect("a chain in use has a VMA")
    }

    /// The anon_vma.
    pub(crate) fn anon_vma(&self) -> AnonVmaId {
        self.anon_vma.get().get().expect("a chain in use has an anon_vma")
    }

    pub(crate) fn next(&self) -> Link<ChainTag> {
        self.next.get()
    }

    /// Makes it a family's record of `vma`: a link to no anon_vma, because nobody ever links it to one.
    pub(super) fn record(&self, vma: VmaId) {
        self.vma.set(vma.into());
    }
}

impl<M: Machine> AnonVma<M> {
    /// The root of its family, as of now.
    #[inline]
    pub(crate) fn root(&self) -> Option<AnonVmaId> {
        // Acquire pairs with the Release of `init`.
        self.root.load(Ordering::Acquire).get()
    }

    /// The links to its VMAs. Under the root's lock.
    pub(crate) fn tree(&self) -> &IntervalTree<M, ChainTag> {
        &self.tree
    }

    pub(super) fn lock(&self) -> &RwSem<M, AnonVmaRoot, ()> {
        &self.lock
    }

    /// What keeps the slot, for displays and `validate`.
    pub(crate) fn counts(&self) -> (u32, u64, u64) {
        (self.refcount.peek(), self.nr_children.peek(), self.nr_vmas.peek())
    }

    pub(crate) fn parent(&self) -> Option<AnonVmaId> {
        self.parent.peek().get()
    }
}
