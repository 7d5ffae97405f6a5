//! Walking all mappings of a folio, by its anon_vma: every batch of entries that map pages of it, and every
//! leaf that maps it. It comes by an address space once for each of its VMAs, whatever the folio's size.
//!
//! Linux: mm/rmap.c `rmap_walk_anon`.

use crate::{
    ids::VmaId,
    rmap::{
        anon_vma::AnonVmaReadGuard,
        hit::{Form, RmapHit, visit_vma},
    },
};
use anonmem_frame::Folio;
use anonmem_hal::Machine;
use anonmem_pgtable::StableVma;
use core::ops::ControlFlow;

/// Calls `f` for every entry of `form` that owns a page of `folio`, whose first page has the index `first`,
/// in the VMAs that are `wanted`, until it breaks. `guard` is what the hits are borrowed from, and holds
/// `locked`.
///
/// # Locks
/// That of the folio's anon_vma. Takes one page-table lock at a time.
#[doc(alias = "rmap_walk_anon")]
#[inline]
pub(super) fn walk<'a, 'v: 'a, M: Machine, G: StableVma<M>, B>(
    locked: &AnonVmaReadGuard<'v, M>,
    guard: &'a G,
    (folio, first): (Folio<'_, M>, u64),
    form: Form,
    mut wanted: impl FnMut(VmaId) -> bool,
    mut f: impl FnMut(RmapHit<'a, 'v, M, G>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let objects = locked.objects();
    let last = first + folio.nr_pages().0 - 1;
    let tree = objects.anon_vma(locked.anon_vma()).tree();
    let mut at = tree.first_overlap(objects, first, last);
    while let Some(chain) = at {
        let id = objects.chain(chain).vma();
        if wanted(id) {
            visit_vma(objects, guard, id, (folio, first), form, &mut f)?;
        }
        at = tree.next_overlap(objects, chain, first, last);
    }
    ControlFlow::Continue(())
}
