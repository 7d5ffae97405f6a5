//! Whether a page was used.
//!
//! Linux: mm/rmap.c `folio_referenced`.

use crate::{
    config::MoveLocks,
    objects::Objects,
    rmap::machine::Machine,
    rmap::{Rmap, hit::Form, reverse_map::ReverseMap},
    vma::flags::VmFlags,
};
use anonmem_frame::{Folio, FolioOwner, FolioRef};
use core::ops::ControlFlow;

/// What `folio_referenced` found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Referenced {
    /// Entries that were accessed since last asked.
    pub young: u64,
    /// Entries in all.
    pub mappings: u64,
    /// Whether a locked VMA maps it.
    pub locked: bool,
}

/// What reclaim asks of a folio; `None` if the folio is locked, and may be moving
/// ([`MoveLocks::Folio`](crate::MoveLocks)).
///
/// # Locks
/// Tries the folio lock where a page that moves is guarded by it alone; then as [`folio_referenced`].
pub fn folio_referenced_by_reclaim<M: Machine>(
    objects: &Objects<M>,
    page: &FolioRef<'_, M>,
) -> Option<Referenced> {
    let _lock = match objects.config.move_locks {
        MoveLocks::AnonVma => None,
        MoveLocks::Folio => Some(page.try_lock()?),
    };
    Some(folio_referenced(objects, page.folio()))
}

/// Counts the mappings through which the folio was accessed since it was last asked, and clears their
/// accessed bits. The TLB is not flushed: a stale "accessed" costs precision and nothing else.
///
/// # Locks
/// The caller has a reference to the folio; its lock only with [`MoveLocks::Folio`](crate::MoveLocks), and if
/// others may move it.
pub fn folio_referenced<M: Machine>(objects: &Objects<M>, folio: Folio<'_, M>) -> Referenced {
    let mut found = Referenced::default();
    let Some(guard) = Rmap::<M>::lock(objects, folio) else { return found };
    let _ = Rmap::<M>::walk(&guard, folio, Form::Present, |mut hit| {
        found.mappings += hit.pages;
        let young = hit.take_young();
        if young > 0 {
            found.young += young;
            hit.look_around();
        }
        found.locked |= objects.vma(hit.vma).flags().contains(VmFlags::LOCKED);
        ControlFlow::<()>::Continue(())
    });
    found
}
