//! The reverse map as the lab looks at it.

use crate::{
    objects::Objects,
    rmap::{
        Rmap,
        hit::{Form, RmapHit},
        machine::Machine,
        reverse_map::ReverseMap,
    },
};
use anonmem_frame::Folio;
use core::ops::ControlFlow;

/// Calls `f` for every batch of entries that map pages of a folio, until it breaks; `None` if nothing maps
/// it.
///
/// # Locks
/// The caller has a reference to the folio, and may or may not hold its lock. Sleeps.
///
/// # Panics
/// If what was locked is not the folio's.
#[expect(private_bounds, reason = "the lock is the reverse map's own")]
pub fn walk_mappings<'v, M: Machine, B>(
    objects: &'v Objects<M>,
    folio: Folio<'_, M>,
    mut f: impl for<'a> FnMut(RmapHit<'a, 'v, M, <Rmap<M> as ReverseMap<M>>::Locked<'v>>) -> ControlFlow<B>,
) -> Option<ControlFlow<B>> {
    let guard = Rmap::<M>::lock(objects, folio)?;
    assert!(Rmap::<M>::is_right(&guard, folio), "what was locked is free, or a stranger's");
    let walked = Rmap::<M>::walk(&guard, folio, Form::Present, &mut f);
    assert!(Rmap::<M>::is_right(&guard, folio), "what was locked was freed during the walk");
    Some(walked)
}
