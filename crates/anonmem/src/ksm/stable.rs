//! Finding a page to merge into, by the hash of its bytes; and forgetting those that are gone.
//!
//! The last mapper of a merged page frees it like any other and tells nobody. So a node that is found may be
//! of a frame that holds something else by now. The mapping word of the frame says so: it names the node, or
//! the page is gone.

use super::{node::StableNodes, state::Ksm};
use crate::{
    ids::StableId,
    objects::Objects,
    rmap::machine::Machine,
    rmap::{Rmap, hit::Form, reverse_map::ReverseMap},
};
use anonmem_frame::{Folio, FolioGuard, FolioOwner, FolioRef, Mapping};
use anonmem_hal::{Order, Pfn};
use anonmem_sync::{Ordering, fence};
use core::ops::ControlFlow;

/// What became of the page of a node.
enum PageOf<'v, M: Machine> {
    /// It is there.
    There(FolioRef<'v, M>),
    /// It is gone.
    Gone,
}

impl<M: Machine> Objects<M> {
    /// The page that the node has in `pfn`, if it has one there.
    fn page_in(&self, id: StableId, pfn: Pfn) -> Option<FolioRef<'_, M>> {
        let page = self.frames.try_get(pfn)?;
        (page.folio().mapping() == Mapping::Ksm(id.raw())).then_some(page)
    }

    /// Whether two folios have the same size and bytes just now; others may be writing.
    pub(super) fn same_folios(&self, a: Folio<'_, M>, b: Folio<'_, M>) -> bool {
        let (pages, machine) = (a.nr_pages().0, self.machine());
        a.nr_pages() == b.nr_pages()
            && (0..pages).all(|nth| machine.same_bytes(a.pfn().offset(nth), b.pfn().offset(nth)))
    }

    /// The page of a node. The caller holds the scanner's lock, so that the node stays.
    fn page_of(&self, id: StableId) -> PageOf<'_, M> {
        let node = self.stable_nodes().get(id);
        loop {
            let Some(frame) = node.frame() else { return PageOf::Gone };
            if let Some(page) = self.page_in(id, frame) {
                return PageOf::There(page);
            }
            // It may have moved: then the new frame was noted before the old one was let go. Pairs with the
            // fence of `move_node`: what says that a frame is free orders nothing.
            fence::<M>(Ordering::SeqCst);
            if node.frame() == Some(frame) {
                return PageOf::Gone;
            }
        }
    }

    /// Whether the page of a node is there, mapped, and has no place too many, as of now. Most are: nobody
    /// takes a count of them, nor a lock.
    fn seems_as_it_should(&self, id: StableId) -> bool {
        let node = self.stable_nodes().get(id);
        let Some(frame) = node.frame().filter(|_| node.left().is_none()) else { return false };
        let is_its = |folio: &Folio<'_, M>| folio.mapping() == Mapping::Ksm(id.raw()) && folio.is_mapped();
        let Some(folio) = self.frames.folio(frame).filter(is_its) else { return false };
        node.nr_places() <= sharers(folio)
    }

    /// Whether no page of the node is left, so that nobody can come to it. A page that is only cached for
    /// swap is taken away from it.
    fn is_over(&self, id: StableId) -> bool {
        let node = self.stable_nodes().get(id);
        if let Some(left) = node.left() {
            if let Some(page) = self.page_in(id, left) {
                if page.folio().is_mapped() {
                    return false;
                }
                // It may be cached for swap, and move: not to the node that has this one's name next.
                let Some(lock) = page.try_lock() else { return false };
                if lock.folio().is_mapped() {
                    return false;
                }
                if lock.folio().mapping() == Mapping::Ksm(id.raw()) {
                    lock.take_from_node();
                }
            }
            node.forget_left();
        }
        let PageOf::There(page) = self.page_of(id) else {
            // It may have moved since the look above, and gone, while entries have the old frame.
            return node.left().is_none();
        };
        if page.folio().is_mapped() {
            return false;
        }
        let Some(lock) = page.try_lock() else { return false };
        let idle = self.is_locked_page_of(&lock, id) && lock.folio().counts().maps() == 0;
        if idle {
            lock.take_from_node();
        }
        idle
    }

    /// Whether a locked page is all that its node has. It may have moved before it was locked: the old frame
    /// still names the node then.
    pub(super) fn is_locked_page_of(&self, lock: &FolioGuard<'_, M>, id: StableId) -> bool {
        let (folio, node) = (lock.folio(), self.stable_nodes().get(id));
        folio.mapping() == Mapping::Ksm(id.raw())
            && node.frame() == Some(folio.pfn())
            && node.left().is_none()
    }

    /// Takes places out that nobody maps the page at any more, if there are more than there are mappings.
    fn trim_places(&self, ksm: &Ksm<M>, id: StableId) {
        let nodes = self.stable_nodes();
        let PageOf::There(page) = self.page_of(id) else { return };
        let Some(lock) = page.try_lock() else { return };
        let folio = lock.folio();
        if !self.is_locked_page_of(&lock, id) || nodes.get(id).nr_places() <= sharers(folio) {
            return;
        }
        ksm.retain_places(nodes, id, |place| {
            let Some(guard) = Rmap::<M>::lock_family(self, place.family) else { return false };
            [Form::Present, Form::Migration].into_iter().any(|form| {
                Rmap::<M>::walk_at(&guard, (folio, place.index), form, |_| ControlFlow::Break(())).is_break()
            })
        });
    }
}

/// A page that others may be merged into.
pub(super) struct Stable<'v, M: Machine> {
    pub(super) id: StableId,
    pub(super) page: FolioRef<'v, M>,
}

impl<M: Machine> Ksm<M> {
    fn bucket(&self, hash: u64) -> u64 {
        (hash >> 32) % self.buckets()
    }

    /// A folio of as many pages whose bytes have this hash in this domain, and which takes one more mapping,
    /// beside those that it is about to get. Nobody writes to it, so nobody compares it before a merge does.
    pub(super) fn find_stable<'v>(
        &self,
        objects: &'v Objects<M>,
        key: (u64, u64),
        order: Order,
        coming: impl Fn(StableId) -> u64,
    ) -> Option<Stable<'v, M>> {
        let most = u64::from(self.settings.get().max_page_sharing);
        self.stable_of(objects, key).find(|stable| {
            let most = most.saturating_sub(coming(stable.id));
            let folio = stable.page.folio();
            folio.owned_order() == order && takes_one_more(folio, most)
        })
    }

    /// Whether a single page of this key is the page in `pfn` byte for byte, as of now, and takes one more.
    pub(super) fn has_stable(&self, objects: &Objects<M>, key: (u64, u64), pfn: Pfn) -> bool {
        let most = u64::from(self.settings.get().max_page_sharing);
        self.stable_of(objects, key).any(|stable| {
            let folio = stable.page.folio();
            !folio.is_large() && takes_one_more(folio, most) && objects.machine().same_bytes(folio.pfn(), pfn)
        })
    }

    /// The folios of a hash and domain.
    fn stable_of<'v>(
        &self,
        objects: &'v Objects<M>,
        key @ (hash, _): (u64, u64),
    ) -> impl Iterator<Item = Stable<'v, M>> {
        let nodes = objects.stable_nodes();
        let same = self.chain(nodes, self.bucket(hash)).filter(move |id| nodes.get(*id).key() == key);
        same.filter_map(|id| match objects.page_of(id) {
            PageOf::There(page) => Some(Stable { id, page }),
            PageOf::Gone => None,
        })
    }

    /// Lets a node be found.
    pub(super) fn add_stable(&self, nodes: StableNodes<'_, M>, id: StableId) {
        let bucket = self.bucket(nodes.get(id).key().0);
        nodes.get(id).set_next(self.head(nodes.frames, bucket));
        self.set_head(nodes.frames, bucket, id.into());
    }

    /// Frees the nodes whose pages are gone of the buckets that lie together from `first` on.
    pub(super) fn prune_group(&self, objects: &Objects<M>, first: u64) {
        for (bucket, head) in (first..).zip(self.table.line(&objects.frames, first)) {
            if head.load(Ordering::Relaxed) != 0 {
                self.prune(objects, bucket);
            }
        }
    }

    /// Frees the nodes of a bucket whose pages are gone; returns how many are left.
    pub(super) fn prune(&self, objects: &Objects<M>, bucket: u64) -> u64 {
        let nodes = objects.stable_nodes();
        let (mut before, mut left): (Option<StableId>, u64) = (None, 0);
        let mut at = self.head(nodes.frames, bucket);
        while let Some(id) = at.get() {
            at = nodes.get(id).next();
            let stays = objects.seems_as_it_should(id);
            if stays || !objects.is_over(id) {
                if !stays {
                    objects.trim_places(self, id);
                }
                before = Some(id);
                left += 1;
                continue;
            }
            match before {
                Some(before) => nodes.get(before).set_next(at),
                None => self.set_head(nodes.frames, bucket, at),
            }
            self.free_node(nodes, id);
        }
        left
    }

    /// Calls `f` with the pages of every folio that is there, its mappings, and whether the node before it in
    /// its bucket has the same bytes.
    pub(super) fn for_each_stable(&self, objects: &Objects<M>, mut f: impl FnMut(u64, u64, SameBytes)) {
        let nodes = objects.stable_nodes();
        for bucket in 0..self.buckets() {
            for id in self.chain(nodes, bucket) {
                let PageOf::There(page) = objects.page_of(id) else { continue };
                let maps = page.folio().counts().maps();
                if maps == 0 {
                    continue;
                }
                let key = nodes.get(id).key();
                let others = || self.chain(nodes, bucket).filter(|other| nodes.get(*other).key() == key);
                let same = match (others().next() == Some(id), others().nth(1)) {
                    (_, None) => SameBytes::Alone,
                    (true, Some(_)) => SameBytes::First,
                    (false, Some(_)) => SameBytes::Another,
                };
                f(page.folio().nr_pages().0, maps, same);
            }
        }
    }
}

/// Whether more than one page has the same bytes, because so many map them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SameBytes {
    /// One page has them all.
    Alone,
    /// This is the first one of several.
    First,
    /// This is another one.
    Another,
}

/// As how many a folio has: of a large one, as often as its pages are mapped on average.
pub(super) fn sharers<M: Machine>(folio: Folio<'_, M>) -> u64 {
    folio.counts().maps().div_ceil(folio.nr_pages().0)
}

fn takes_one_more<M: Machine>(folio: Folio<'_, M>, most: u64) -> bool {
    (1..most).contains(&sharers(folio))
}
