//! The places of stable nodes: added, found again, and taken out.
//!
//! All of them are on the list of their node, which walks of the reverse map follow. Those after the first
//! are in buckets, too, by node and place. A page that is merged where its node has a place needs no other.

use super::{
    node::{MergedAt, StableNodes},
    state::Ksm,
};
use crate::ids::{StableId, StableTag};
use anonmem_frame::{Link, OutOfMemory};
use anonmem_hal::Machine;

/// Says where to look for a place. Nothing else is expected of it.
fn mixed(id: StableId, place: MergedAt) -> u64 {
    let who = u64::from(id.raw().get()) << 32 | u64::from(place.family.get());
    (who.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ place.index)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

impl<M: Machine> Ksm<M> {
    /// Adds a place to the page of a node, unless it has it. The caller holds the scanner's lock, and that of
    /// the page, if anybody knows the node.
    ///
    /// # Errors
    /// [`OutOfMemory`]: nothing has changed.
    pub(super) fn add_place(
        &self,
        nodes: StableNodes<'_, M>,
        id: StableId,
        place: MergedAt,
    ) -> Result<(), OutOfMemory> {
        let (node, bucket) = (nodes.get(id), self.bucket_of_places(mixed(id, place)));
        let mut others = self.chain(nodes, bucket);
        if node.place() == Some(place) || others.any(|other| nodes.get(other).is_place(id, place)) {
            return Ok(());
        }
        let new = nodes.slab.alloc(nodes.frames)?;
        let item = nodes.get(new);
        item.init_place(id, place, node.more());
        item.set_next(self.head(nodes.frames, bucket));
        self.set_head(nodes.frames, bucket, new.into());
        node.set_more(new.into());
        node.count_places(1);
        Ok(())
    }

    /// Takes the places out that `is_used` says no of, but one. The caller holds the scanner's lock, and that
    /// of the page.
    pub(super) fn retain_places(
        &self,
        nodes: StableNodes<'_, M>,
        id: StableId,
        mut is_used: impl FnMut(MergedAt) -> bool,
    ) {
        let node = nodes.get(id);
        let mut before = node;
        while let Some(at) = before.more().get() {
            let place = nodes.get(at);
            if place.place().is_some_and(&mut is_used) {
                before = place;
                continue;
            }
            before.set_more(place.more());
            node.count_places(-1);
            self.free_place(nodes, id, at);
        }
        // The node's own place cannot go: another takes it.
        if let Some(at) = node.more().get()
            && !node.place().is_some_and(is_used)
            && let Some(place) = nodes.get(at).place()
        {
            node.set_place(place, nodes.get(at).more());
            node.count_places(-1);
            self.free_place(nodes, id, at);
        }
    }

    /// Frees a node that nothing names any more, with its places.
    pub(super) fn free_node(&self, nodes: StableNodes<'_, M>, id: StableId) {
        let mut at = nodes.get(id).more();
        while let Some(item) = at.get() {
            at = nodes.get(item).more();
            self.free_place(nodes, id, item);
        }
        nodes.get(id).forget_frame();
        nodes.slab.free(nodes.frames, id);
    }

    /// Frees a place of a node, which its list has no more.
    fn free_place(&self, nodes: StableNodes<'_, M>, id: StableId, at: StableId) {
        let item = nodes.get(at);
        let place = item.place().expect("a place that was added");
        let (bucket, after) = (self.bucket_of_places(mixed(id, place)), item.next());
        let before = self.chain(nodes, bucket).find(|other| nodes.get(*other).next().get() == Some(at));
        match before {
            Some(before) => nodes.get(before).set_next(after),
            None => self.set_head(nodes.frames, bucket, after),
        }
        nodes.slab.free(nodes.frames, at);
    }

    /// The nodes, or places, of a bucket. The caller holds the scanner's lock.
    pub(super) fn chain<'v>(
        &self,
        nodes: StableNodes<'v, M>,
        bucket: u64,
    ) -> impl Iterator<Item = StableId> + use<'v, M> {
        let mut at: Link<StableTag> = self.head(nodes.frames, bucket);
        core::iter::from_fn(move || {
            let id = at.get()?;
            at = nodes.get(id).next();
            Some(id)
        })
    }
}
