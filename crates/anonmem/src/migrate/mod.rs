//! Migration: a page goes to another frame, and all of its entries follow. The one way to exchange a page
//! under its mappings; evacuation stands on it.
//!
//! ```text
//!   the mover                                        everybody else
//!   ─────────                                        ──────────────
//!   tries the folio lock
//!   entries: present ──▶ migration entry             a fault on one waits, and holds no count meanwhile
//!   one flush for the batch                          no CPU can use the old frame any more
//!   asks the counts: its own reference, the          whoever got the page before has a reference or a pin:
//!     swap cache's, and nothing else                   then the page stays
//!   copies, publishes the new folio, locked          found through the swap cache: waits for the lock
//!   the slot's word: old ──▶ new                     who waited for the old one's lock asks the word again
//!   entries: migration entry ──▶ present
//!   unlocks both, puts the old one
//! ```
//!
//! A migration entry stands only while its folio is locked. Fork may copy one into an address space that the
//! walk has passed. A walk is therefore repeated until it finds nothing, and [`migration_entry_wait`] has the
//! last word. A fault that gets the folio lock has met an entry that was left behind, and puts its page back.
//! What was left behind is shared, so that page and successor are copies of one another from then on, as
//! after copy-on-write.
//!
//! [`migration_entry_wait`]: crate::fault
//!
//! Linux: mm/migrate.c `migrate_pages_batch`, `migrate_folio_unmap`, `migrate_folio_move`,
//! `remove_migration_ptes`; mm/rmap.c `try_to_migrate_one`. Differs: fork copies migration entries, and a
//! walk that it ran behind is repeated.

mod compact;
mod evacuate;

pub use evacuate::{Effort, Evacuation, Kept};

use crate::{
    events::Event,
    ids::VmaId,
    ksm::node::Behind,
    mm::slot::MmSlot,
    objects::Objects,
    reclaim::SWAP_CLUSTER_MAX,
    rmap::machine::Machine,
    rmap::{
        Rmap,
        hit::{Form, RmapHit, take_to_share},
        ksm::rmap_walk,
        reverse_map::ReverseMap,
    },
    vm::Vm,
};
use anonmem_frame::{Folio, FolioGuard, FolioOwner, FolioRef, Mapping, MigrationHold, NewFolio, RawHandle};
use anonmem_hal::{EntryBits, MigrationBits, MigrationKind, Order, Pfn, Protection};
use anonmem_pgtable::{Attrs, Cleared, StableVma, TlbBatch, Vacancy};
use core::{fmt, ops::ControlFlow};

/// Why a page stays in its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stays {
    /// It belongs to a shared object, or is no program's: only anonymous pages move.
    NotAnonymous,
    /// It is part of a larger folio, which moves whole or is split first.
    Large,
    /// A device may be using it.
    Pinned,
    /// Somebody has its folio locked: it is being read, written, or moved.
    Locked,
    /// Somebody is using it: a fault copies it, or a debugger looks at it.
    Referenced,
    /// Its swap device is being closed, which brings it to its entries.
    SwapOff,
    /// There is no frame for it to go to.
    NoMemory,
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnonymous => "the page is not anonymous",
            Self::Large => "the page is part of a large folio: split it first",
            Self::Pinned => "the page is pinned: try again when its pin is gone",
            Self::Locked => "the page is locked: try again",
            Self::Referenced => "the page is in use: try again",
            Self::SwapOff => "the page's swap device is being closed: try again",
            Self::NoMemory => "there is no frame to move the page to",
        })
    }
}

impl core::error::Error for Stays {}

/// Where a page went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Went {
    /// To this frame.
    To(Pfn),
    /// Nowhere: the last one that had it let go of it meanwhile.
    Away,
}

impl<M: Machine> Vm<M> {
    /// Moves the page of a folio to another frame, whoever maps it, and lets its own frame go.
    ///
    /// # Locks
    /// The caller holds no folio, anon_vma or spin lock. Sleeps.
    ///
    /// # Errors
    /// Why the page stays: everything is as it was.
    ///
    /// # Panics
    /// If the page is of another memory manager.
    #[doc(alias = "migrate_pages")]
    pub fn migrate_folio(&self, page: FolioRef<'_, M>) -> Result<Went, Stays> {
        self.assert_has(&page);
        let target = self.alloc_page().map_err(|_| Stays::NoMemory)?;
        let mut batch = MigrationBatch::new(self);
        let mut result = batch.add(page, target).map(|()| Went::Away).map_err(|(stays, _)| stays);
        batch.finish(|landed| result = landed);
        result
    }
}

/// A folio on its way: nothing maps it any more, and CPUs may still use it until the flush.
struct Moving<'v, M: Machine> {
    target: NewFolio<'v, M>,
    lock: FolioGuard<'v, M>,
    page: FolioRef<'v, M>,
}

/// Folios that move together, with one flush. Faults on any of them wait until the batch is finished.
pub(crate) struct MigrationBatch<'v, M: Machine> {
    vm: &'v Vm<M>,
    tlb: TlbBatch<'v, M>,
    moving: [Option<Moving<'v, M>>; SWAP_CLUSTER_MAX],
    len: usize,
}

impl<'v, M: Machine> MigrationBatch<'v, M> {
    /// An empty one.
    pub(crate) fn new(vm: &'v Vm<M>) -> Self {
        Self { vm, tlb: TlbBatch::new(&vm.frames), moving: [const { None }; SWAP_CLUSTER_MAX], len: 0 }
    }

    /// Replaces the entries of one folio by migration entries. There is room for
    /// [`SWAP_CLUSTER_MAX`].
    ///
    /// # Locks
    /// Tries the folio lock, and keeps it. Takes anon_vma and page-table locks; the caller holds none.
    ///
    /// # Errors
    /// Why the page stays, and the frame that it was to have.
    #[doc(alias = "migrate_folio_unmap")]
    pub(crate) fn add(
        &mut self,
        page: FolioRef<'v, M>,
        target: NewFolio<'v, M>,
    ) -> Result<(), (Stays, NewFolio<'v, M>)> {
        match self.unmap(&page) {
            Ok(lock) => {
                self.moving[self.len] = Some(Moving { target, lock, page });
                self.len += 1;
                Ok(())
            }
            Err(stays) => {
                self.vm.note_stays(stays);
                Err((stays, target))
            }
        }
    }

    fn unmap(&mut self, page: &FolioRef<'v, M>) -> Result<FolioGuard<'v, M>, Stays> {
        let (vm, folio) = (self.vm, page.folio());
        if folio.owned_order() != Order::ZERO {
            return Err(Stays::Large);
        }
        // Only a hint: who pins it from now on is found when its entry has been cleared (`try_share`).
        if folio.maybe_pinned() {
            return Err(Stays::Pinned);
        }
        let lock = page.try_lock().ok_or(Stays::Locked)?;
        let cached = folio.swap_entry().is_some_and(|entry| vm.swap_caches(entry, folio));
        match folio.mapping() {
            Mapping::Anon(_) => {}
            // A merged page has read-only entries in many families, and goes as one; but not while an entry
            // has the frame that it came from, because its node remembers one such frame.
            Mapping::Ksm(node) if has_left(vm, node) => return Err(Stays::Referenced),
            Mapping::Ksm(_) => {}
            // Read from swap, and no entry has asked for it yet.
            Mapping::None if cached => {}
            Mapping::None | Mapping::Shm(_) => return Err(Stays::NotAnonymous),
        }
        // Only a hint, too, which spares those who use it a fault.
        if !lock.is_referenced_only(1 + u64::from(cached)) {
            return Err(Stays::Referenced);
        }
        match try_to_migrate(vm, &lock, &mut self.tlb, |_| ControlFlow::Continue(())) {
            ControlFlow::Continue(()) => Ok(lock),
            ControlFlow::Break(()) => {
                self.tlb.flush();
                restore(vm, &lock);
                Err(Stays::Pinned)
            }
        }
    }

    /// Flushes once for all, copies each, and lets its entries follow; says what became of each, in their
    /// order.
    #[doc(alias = "migrate_folio_move")]
    pub(crate) fn finish(&mut self, mut said: impl FnMut(Result<Went, Stays>)) {
        self.tlb.flush();
        let moving = self.moving[..core::mem::take(&mut self.len)].iter_mut().filter_map(Option::take);
        for folio in moving {
            let landed = land(self.vm, folio);
            match landed {
                Ok(_) => self.vm.count(Event::MigrateSuccess),
                Err(stays) => self.vm.note_stays(stays),
            }
            said(landed);
        }
    }
}

impl<M: Machine> Drop for MigrationBatch<'_, M> {
    fn drop(&mut self) {
        anonmem_hal::debug_check!(
            M,
            self.len == 0 || M::unwinding(),
            "a batch was dropped before it was finished"
        );
    }
}

impl<M: Machine> Vm<M> {
    fn note_stays(&self, stays: Stays) {
        self.count(Event::MigrateFail);
        match stays {
            Stays::Pinned => self.count(Event::MigratePinned),
            Stays::Locked | Stays::Referenced => self.count(Event::MigrateBusy),
            Stays::NotAnonymous | Stays::Large | Stays::SwapOff | Stays::NoMemory => {}
        }
    }
}

/// Replaces every entry that maps the folio by a migration entry; breaks if it may be pinned, or if `may`,
/// which is asked of each VMA under the page-table lock, breaks.
///
/// CPUs may still use their translations, and write the page, until `tlb` is flushed.
///
/// # Locks
/// The folio lock. Takes the anon_vma's lock, and one page-table lock at a time.
pub(crate) fn try_to_migrate<'v, M: Machine>(
    objects: &'v Objects<M>,
    lock: &FolioGuard<'_, M>,
    tlb: &mut TlbBatch<'v, M>,
    may: impl Fn(VmaId) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let folio = lock.folio();
    let mut holds = 0;
    loop {
        let before = holds;
        rmap_walk(objects, folio, Form::Present, |hit| {
            may(hit.vma)?;
            holds += 1;
            try_to_migrate_one(hit, tlb)
        })?;
        // Fork may have copied an entry to where the walk had passed.
        if holds == before || folio.counts().maps() <= holds {
            return ControlFlow::Continue(());
        }
    }
}

fn try_to_migrate_one<'v, M: Machine>(
    hit: RmapHit<'_, 'v, M, impl StableVma<M>>,
    tlb: &mut TlbBatch<'v, M>,
) -> ControlFlow<()> {
    let va = hit.va;
    let (mut entries, slot) = hit.into_table();
    let Some((vacancy, shared, present, sharing)) = take_to_share(&mut entries, slot, va, tlb) else {
        return ControlFlow::Break(());
    };
    vacancy.fill(shared.hold(), EntryBits::of_present(present, sharing).to_migration());
    ControlFlow::Continue(())
}

/// Copies a folio that no CPU can use any more, and lets its entries follow.
fn land<M: Machine>(vm: &Vm<M>, moving: Moving<'_, M>) -> Result<Went, Stays> {
    // In this order: the lock is let go of before the reference, whatever the way out.
    let Moving { page, target, lock } = moving;
    let folio = lock.folio();
    // Whoever has the device open keeps its slots there.
    let slot = folio.swap_entry().map(|entry| (entry, vm.swap.get(entry).get_user()));
    let cached = match &slot {
        Some((_, None)) => return stay(vm, &lock, Stays::SwapOff),
        Some((entry, Some(_))) => vm.swap_caches(*entry, folio),
        None => false,
    };
    // Nobody can get at the page any more but through the slot, and waits for the lock then.
    if !lock.is_referenced_only(1 + u64::from(cached)) {
        return stay(vm, &lock, Stays::Referenced);
    }
    if !folio.is_mapped() && !cached {
        return Ok(Went::Away);
    }
    let Ok((new, new_lock)) = target.into_successor(&lock) else {
        return stay(vm, &lock, Stays::NoMemory);
    };
    if let Some((entry, Some(_))) = slot {
        // If not, the last one who needed the slot has just let go of it.
        vm.swap_recache(entry, &lock, (&new, &new_lock));
    }
    follow(vm, &lock, |Waiting { vacancy, hold, bits, vma, .. }| {
        let says = Attrs::of(bits.into(), vma);
        match bits.kind {
            MigrationKind::Read => match hold.arrive(&new_lock) {
                Ok((map, _old)) => vacancy.fill(map, says),
                // Others have come meanwhile, 2^27 of them: this one keeps the page that it had.
                Err(hold) => put_back(vacancy, hold, bits, vma),
            },
            MigrationKind::ReadExclusive | MigrationKind::Write => {
                let (map, _old) = hold.arrive_exclusive(&new_lock);
                vacancy.fill(map, says);
            }
        }
    });
    if let Mapping::Ksm(node) = folio.mapping() {
        move_node(vm, node, folio, new.pfn());
    }
    let to = new.pfn();
    drop((new_lock, new));
    drop(lock);
    drop(page);
    Ok(Went::To(to))
}

/// The node of a merged page follows it, and remembers the old frame if fork has left an entry behind.
#[cold]
fn move_node<M: Machine>(objects: &Objects<M>, node: RawHandle, old: Folio<'_, M>, to: Pfn) {
    let nodes = objects.stable_nodes();
    let Some(id) = nodes.resolve(node) else { return };
    let behind = if old.is_mapped() { Behind::Entries } else { Behind::Nothing };
    nodes.get(id).page_moved(old.pfn(), to, behind);
}

fn has_left<M: Machine>(objects: &Objects<M>, node: RawHandle) -> bool {
    let nodes = objects.stable_nodes();
    nodes.resolve(node).is_some_and(|id| nodes.get(id).left().is_some())
}

/// Lets a page stay after all.
fn stay<M: Machine>(vm: &Vm<M>, lock: &FolioGuard<'_, M>, why: Stays) -> Result<Went, Stays> {
    restore(vm, lock);
    Err(why)
}

/// Puts the folio back into the entries that wait for it.
pub(crate) fn restore<M: Machine>(objects: &Objects<M>, lock: &FolioGuard<'_, M>) {
    follow(objects, lock, |Waiting { vacancy, hold, bits, vma, .. }| put_back(vacancy, hold, bits, vma));
}

/// An entry that waited for its page, emptied for what comes.
pub(crate) struct Waiting<'e, 'a, 'v, M: Machine, G> {
    /// Where something is to go.
    pub(crate) vacancy: Vacancy<'e, 'a, M, G>,
    /// What the entry had of the old page.
    pub(crate) hold: MigrationHold<'a, M>,
    pub(crate) bits: MigrationBits,
    /// What the VMA allows.
    pub(crate) vma: Protection,
    /// The address space.
    pub(crate) slot: &'v MmSlot<M>,
}

/// Hands every migration entry of a locked folio to `arrive`.
///
/// # Locks
/// The folio lock. Takes the anon_vma's lock, and one page-table lock at a time.
#[doc(alias = "remove_migration_ptes")]
pub(crate) fn follow<'v, M: Machine, F>(objects: &'v Objects<M>, lock: &FolioGuard<'_, M>, mut arrive: F)
where
    F: for<'e, 'a> FnMut(Waiting<'e, 'a, 'v, M, <Rmap<M> as ReverseMap<M>>::Locked<'v>>),
{
    let folio = lock.folio();
    let mut found = true;
    // Fork may have copied an entry to where the walk had passed.
    while core::mem::take(&mut found) {
        let _ = rmap_walk(objects, folio, Form::Migration, |hit| {
            found = true;
            // Under the page-table lock: mprotect says what it allows first, and then comes by.
            let vma = objects.vma(hit.vma).flags().protection();
            let (va, (mut entries, slot)) = (hit.va, hit.into_table());
            let (Cleared::Migration(hold, bits), vacancy) = entries.take(va) else {
                unreachable!("the walk said that the entry waits for the page")
            };
            arrive(Waiting { vacancy, hold, bits, vma, slot });
            ControlFlow::<()>::Continue(())
        });
    }
}

/// Gives an entry its page back, which stays where it is.
pub(crate) fn put_back<M: Machine, G: StableVma<M>>(
    vacancy: Vacancy<'_, '_, M, G>,
    hold: MigrationHold<'_, M>,
    bits: MigrationBits,
    vma: Protection,
) {
    let says = Attrs::of(bits.into(), vma);
    match bits.kind {
        MigrationKind::Read => vacancy.fill(hold.release(), says),
        MigrationKind::ReadExclusive | MigrationKind::Write => vacancy.fill(hold.release_exclusive(), says),
    }
}

#[cfg(test)]
mod tests;
