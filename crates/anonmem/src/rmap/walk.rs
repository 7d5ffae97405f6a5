//! Walking all mappings of a folio, by its anon_vma.
//!
//! Linux: mm/rmap.c `rmap_walk_anon`.

use crate::rmap::{
    anon_vma::AnonVmaReadGuard,
    hit::{Form, RmapHit, visit_vma},
};
use anonmem_frame::Folio;
use anonmem_hal::Machine;
use core::ops::ControlFlow;

/// Calls `f` for every batch of entries that map pages of `folio`, and for every leaf that maps it, until it
/// breaks. It comes by an address space once for each of its VMAs, whatever the folio's size.
///
/// Every mapping that exists for the whole walk is met, a page that moves meanwhile (mremap) at least once.
///
/// # Locks
/// The guard is that of the folio's anon_vma. Takes one page-table lock at a time.
pub fn rmap_walk_anon<'a, 'v: 'a, M: Machine, B>(
    guard: &'a AnonVmaReadGuard<'v, M>,
    folio: Folio<'_, M>,
    f: impl FnMut(RmapHit<'a, 'v, M, AnonVmaReadGuard<'v, M>>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    walk(guard, (folio, folio.index()), Form::Present, f)
}

/// As [`rmap_walk_anon`], for entries of any one form, and a folio whose first page has any one index.
#[inline]
pub(super) fn walk<'a, 'v: 'a, M: Machine, B>(
    guard: &'a AnonVmaReadGuard<'v, M>,
    (folio, first): (Folio<'_, M>, u64),
    form: Form,
    mut f: impl FnMut(RmapHit<'a, 'v, M, AnonVmaReadGuard<'v, M>>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let objects = guard.objects();
    let last = first + folio.nr_pages().0 - 1;
    let tree = objects.anon_vma(guard.anon_vma()).tree();
    let mut at = tree.first_overlap(objects, first, last);
    while let Some(chain) = at {
        let id = objects.chain(chain).vma();
        visit_vma(objects, guard, id, (folio, first), form, &mut f)?;
        at = tree.next_overlap(objects, chain, first, last);
    }
    ControlFlow::Continue(())
}
