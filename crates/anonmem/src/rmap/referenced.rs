//! Whether a page was used.
//!
//! Linux: mm/rmap.c `folio_referenced`.

use crate::{
    config::MoveLocks,
    objects::Objects,
    rmap::machine::Machine,
    rmap::{
        Rmap,
        hit::{Form, RmapHit},
        ksm::rmap_walk,
        reverse_map::ReverseMap,
    },
    vma::flags::VmFlags,
};
use anonmem_frame::{Folio, FolioOwner, FolioRef, Mapping};
use anonmem_pgtable::StableVma;
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
/// Tries the folio lock where a page that moves is guarded by it alone, and of a merged page, whose places it
/// guards; then as [`folio_referenced`].
pub fn folio_referenced_by_reclaim<M: Machine>(
    objects: &Objects<M>,
    page: &FolioRef<'_, M>,
) -> Option<Referenced> {
    let folio = page.folio();
    let merged = matches!(folio.mapping(), Mapping::Ksm(_));
    match objects.config.move_locks {
        // If it is merged just now, nothing is found.
        MoveLocks::AnonVma if !merged => Some(folio_referenced(objects, folio)),
        MoveLocks::AnonVma | MoveLocks::Folio => {
            let _lock = page.try_lock()?;
            let mut found = Referenced::default();
            let _ = rmap_walk(objects, folio, Form::Present, |hit| found.note(objects, hit));
            Some(found)
        }
    }
}

/// Counts the mappings through which the folio was accessed since it was last asked, and clears their
/// accessed bits. The TLB is not flushed: a stale "accessed" costs precision and nothing else.
///
/// # Locks
/// The caller has a reference to the folio; its lock only with [`MoveLocks::Folio`](crate::MoveLocks), and if
/// others may move it. Of a merged page nothing is found.
pub fn folio_referenced<M: Machine>(objects: &Objects<M>, folio: Folio<'_, M>) -> Referenced {
    let mut found = Referenced::default();
    let Some(guard) = Rmap::<M>::lock(objects, folio) else { return found };
    let _ = Rmap::<M>::walk(&guard, folio, Form::Present, |hit| found.note(objects, hit));
    found
}

impl Referenced {
    fn note<M: Machine, G: StableVma<M>>(
        &mut self,
        objects: &Objects<M>,
        mut hit: RmapHit<'_, '_, M, G>,
    ) -> ControlFlow<()> {
        self.mappings += hit.pages;
        let young = hit.take_young();
        if young > 0 {
            self.young += young;
            hit.look_around();
        }
        self.locked |= objects.vma(hit.vma).flags().contains(VmFlags::LOCKED);
        ControlFlow::Continue(())
    }
}
