//! The reverse map as the lab looks at it.

use crate::{
    objects::Objects,
    rmap::{
        Rmap,
        family::objects::{Family, Member},
        hit::{Form, RmapHit},
        machine::Machine,
        objects::{AnonVma, AnonVmaChain},
        reverse_map::ReverseMap,
    },
};
use anonmem_frame::Folio;
use anonmem_hal::reverse_map::Families;
use core::{any::TypeId, ops::ControlFlow};

/// Bytes of what a reverse map is made of, without what slabs add.
#[derive(Clone, Copy, Debug)]
pub struct RmapBytes {
    /// A set: an anon_vma, or a family.
    pub set: u64,
    /// A link between a VMA and an anon_vma, or a record of a VMA.
    pub link: u64,
    /// What an address space has in its slot for it.
    pub member: u64,
}

impl RmapBytes {
    /// Those of the reverse map that `M` has.
    pub fn of<M: Machine>() -> Self {
        let families = TypeId::of::<Rmap<M>>() == TypeId::of::<Families>();
        let (set, member) = if families {
            (size_of::<Family<M>>(), size_of::<Member<M>>())
        } else {
            (size_of::<AnonVma<M>>(), 0)
        };
        Self { set: set as u64, link: size_of::<AnonVmaChain<M>>() as u64, member: member as u64 }
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
    assert!(Rmap::<M>::is_right(&guard, folio), "what was locked is free, or a stranger's");
    let walked = Rmap::<M>::walk(&guard, folio, Form::Present, &mut f);
    assert!(Rmap::<M>::is_right(&guard, folio), "what was locked was freed during the walk");
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
