//! Walking all mappings of a page, whether one family has them or KSM has merged pages of many.
//!
//! An anonymous page has one place: its family and its index. A merged page has those of its stable node
//! ([`ksm::node`](crate::ksm::node)). Each is locked and walked in turn, so that no more than one family is
//! locked at a time.
//!
//! Linux: mm/ksm.c `rmap_walk_ksm`. Differs: each place is walked at its index, and not over all of the
//! family's mappings.

use crate::{
    objects::Objects,
    rmap::machine::Machine,
    rmap::{
        Rmap,
        hit::{Form, RmapHit},
        reverse_map::ReverseMap,
    },
};
use anonmem_frame::{Folio, Mapping, RawHandle};
use core::ops::ControlFlow;

/// What keeps the mappers of a page while its entries are looked at.
type Locked<'v, M> = <Rmap<M> as ReverseMap<M>>::Locked<'v>;

/// Calls `f` for every entry of `form` that owns a page of `folio`, until it breaks.
///
/// # Locks
/// The caller has a reference to the folio; its lock, too, if the page may be a merged one. Takes the lock of
/// one family at a time, and in it one page-table lock at a time. Sleeps.
pub(crate) fn rmap_walk<'v, M: Machine, B>(
    objects: &'v Objects<M>,
    folio: Folio<'_, M>,
    form: Form,
    mut f: impl for<'a> FnMut(RmapHit<'a, 'v, M, Locked<'v, M>>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    match folio.mapping() {
        Mapping::Ksm(node) => rmap_walk_ksm(objects, (folio, node), form, f),
        Mapping::Anon(_) | Mapping::None | Mapping::Shm(_) => match Rmap::<M>::lock(objects, folio) {
            Some(guard) => Rmap::<M>::walk(&guard, folio, form, &mut f),
            None => ControlFlow::Continue(()),
        },
    }
}

/// The same for a merged page, whose lock the caller holds.
#[cold]
fn rmap_walk_ksm<'v, M: Machine, B>(
    objects: &'v Objects<M>,
    (folio, node): (Folio<'_, M>, RawHandle),
    form: Form,
    mut f: impl for<'a> FnMut(RmapHit<'a, 'v, M, Locked<'v, M>>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let nodes = objects.stable_nodes();
    // While the page is mapped its node lives.
    let Some(id) = folio.is_mapped().then(|| nodes.resolve(node)).flatten() else {
        return ControlFlow::Continue(());
    };
    for place in nodes.places(id) {
        let Some(guard) = Rmap::<M>::lock_family(objects, place.family) else { continue };
        Rmap::<M>::walk_at(&guard, (folio, place.index), form, &mut f)?;
    }
    ControlFlow::Continue(())
}
