//! The reverse map as the lab looks at it.

use crate::{
    objects::Objects,
    rmap::{
        Rmap,
        hit::{Form, RmapHit},
        machine::Machine,
        reverse_map::{ReverseMap, RmapBytes},
    },
};
use anonmem_frame::Folio;
use core::ops::ControlFlow;

impl RmapBytes {
    /// Those of the reverse map that `M` has.
    pub fn of<M: Machine>() -> Self {
        Rmap::<M>::BYTES
    }
}

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
    assert_eq!(Rmap::<M>::validate_locked(&guard, folio), Ok(()), "before the walk");
    let walked = Rmap::<M>::walk(&guard, folio, Form::Present, &mut f);
    assert_eq!(Rmap::<M>::validate_locked(&guard, folio), Ok(()), "after the walk");
    Some(walked)
}

/// How many pages' mappings a walk to a folio meets.
///
/// # Locks
/// As [`walk_mappings`].
pub fn count_mappings<M: Machine>(objects: &Objects<M>, folio: Folio<'_, M>) -> u64 {
    let mut met = 0;
    let _ = walk_mappings(objects, folio, |hit| {
        met += hit.pages;
        ControlFlow::<()>::Continue(())
    });
    met
}
