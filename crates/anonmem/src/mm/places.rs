//! Address spaces asked by their places, for lists of address spaces that are measured and are none of ours.

use super::Mm;
use crate::{
    objects::Objects,
    rmap::{
        family::{members::lock_read, walk::with_pages_at},
        hit::{Form, visit_vma},
        machine::Machine,
    },
};
use anonmem_frame::Folio;
use anonmem_hal::{Va, reverse_map::Families};
use core::ops::ControlFlow;

/// Asks, under the lock of a folio's family, places that are chosen by `choose`: an address space, and where
/// it would have the folio's first page. The answer is how many pages of the folio it has in that mapping.
/// `None` if nothing maps the folio.
///
/// A walk over address spaces asks each of them so, whoever keeps their list.
///
/// # Locks
/// The caller has a reference to the folio, and may or may not hold its lock. Sleeps.
pub fn ask_places<M: Machine + anonmem_hal::Machine<ReverseMap = Families>, R>(
    objects: &Objects<M>,
    folio: Folio<'_, M>,
    choose: impl FnOnce(&mut dyn FnMut(&Mm<'_, M>, Va) -> u64) -> R,
) -> Option<R> {
    let guard = lock_read(objects, folio)?;
    let first = folio.index();
    Some(choose(&mut |mm, va| {
        let mut met = 0;
        if let Some(id) = with_pages_at(&guard, mm.id, va)
            && objects.vma(id).address_of(first) == Some(va)
        {
            let _ = visit_vma(objects, &guard, id, (folio, first), Form::Present, &mut |hit| {
                met += hit.pages;
                ControlFlow::<()>::Continue(())
            });
        }
        met
    }))
}
