//! Folios that move together: unmapped one by one, flushed once, copied, and mapped again.
//!
//! Linux: mm/migrate.c `migrate_pages_batch`, `migrate_folio_unmap`, `migrate_folio_move`.

use super::{
    entries::{Says::AsItWas, Waiting, arrive, follow, follow_large, restore, try_to_migrate},
    stays::{Stays, Went},
};
use crate::{
    events::Event, ksm::node::Behind, objects::Objects, reclaim::SWAP_CLUSTER_MAX, rmap::machine::Machine,
    thp::stats::FolioEvent, vm::Vm,
};
use anonmem_frame::{Folio, FolioGuard, FolioOwner, FolioRef, Mapping, NewFolio, RawHandle};
use anonmem_hal::{Order, Pfn};
use anonmem_pgtable::TlbBatch;
use anonmem_sync::{Ordering, fence};
use core::ops::ControlFlow;

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
    /// Their pages.
    pages: u64,
}

impl<'v, M: Machine> MigrationBatch<'v, M> {
    /// An empty one.
    pub(crate) fn new(vm: &'v Vm<M>) -> Self {
        Self {
            vm,
            tlb: TlbBatch::new(&vm.frames),
            moving: [const { None }; SWAP_CLUSTER_MAX],
            len: 0,
            pages: 0,
        }
    }

    /// Whether a folio of `pages` pages makes it wait longer than a batch should: it is finished first.
    pub(crate) const fn is_full_for(&self, pages: u64) -> bool {
        self.len > 0 && self.pages + pages > SWAP_CLUSTER_MAX as u64
    }

    /// Replaces the entries of one folio by migration entries. There is room for
    /// [`SWAP_CLUSTER_MAX`] of them.
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
        let order = page.folio().owned_order();
        assert!(target.order() == order, "a target of another size than {page:?}");
        match self.unmap(&page) {
            Ok(lock) => {
                self.pages += order.pages();
                self.moving[self.len] = Some(Moving { target, lock, page });
                self.len += 1;
                Ok(())
            }
            Err(stays) => {
                self.vm.note_stays(order, stays);
                Err((stays, target))
            }
        }
    }

    fn unmap(&mut self, page: &FolioRef<'v, M>) -> Result<FolioGuard<'v, M>, Stays> {
        let (vm, folio) = (self.vm, page.folio());
        // Only a hint: who pins it from now on is found when its entry has been cleared (`try_share`).
        if folio.maybe_pinned() {
            return Err(Stays::Pinned);
        }
        let lock = page.try_lock().ok_or(Stays::Locked)?;
        // Whoever has the device open keeps its slots there.
        let device = folio.swap_entry().map(|entry| vm.swap_user(entry));
        if matches!(device, Some(None)) {
            return Err(Stays::SwapOff);
        }
        let cached = vm.cached_pages(folio);
        match folio.mapping() {
            Mapping::Anon(_) => {}
            // A merged page has read-only entries in many families, and goes as one; but not while an entry
            // has the frame that it came from, because its node remembers one such frame.
            Mapping::Ksm(node) if has_left(vm, node) => return Err(Stays::Referenced),
            Mapping::Ksm(_) => {}
            // Read from swap, and no entry has asked for it yet.
            Mapping::None if cached > 0 => {}
            Mapping::None | Mapping::Shm(_) => return Err(Stays::NotAnonymous),
        }
        // Only a hint, too, which spares those who use it a fault.
        if !lock.is_referenced_only(1 + cached) {
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
    /// order, and how many pages it has.
    #[doc(alias = "migrate_folio_move")]
    pub(crate) fn finish(&mut self, mut said: impl FnMut(Result<Went, Stays>, u64)) {
        self.tlb.flush();
        self.pages = 0;
        let moving = self.moving[..core::mem::take(&mut self.len)].iter_mut().filter_map(Option::take);
        for folio in moving {
            let order = folio.target.order();
            let landed = land(self.vm, folio);
            match landed {
                Ok(_) => self.vm.note_moved(order),
                Err(stays) => self.vm.note_stays(order, stays),
            }
            said(landed, order.pages());
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
    pub(super) fn note_moved(&self, order: Order) {
        self.events.add(Event::MigrateSuccess, order.pages());
        if order != Order::ZERO {
            self.count_folio(order, FolioEvent::Migrated);
        }
    }

    pub(super) fn note_stays(&self, order: Order, stays: Stays) {
        self.events.add(Event::MigrateFail, order.pages());
        if order != Order::ZERO {
            self.count_folio(order, FolioEvent::MigrateFailed);
        }
        match stays {
            Stays::Pinned => self.count(Event::MigratePinned),
            Stays::Locked | Stays::Referenced => self.count(Event::MigrateBusy),
            Stays::NotAnonymous | Stays::Watched | Stays::SwapOff | Stays::NoMemory => {}
        }
    }
}

impl<M: Machine> Objects<M> {
    /// How many pages of a folio, which the caller has a count of, are cached ones of slots.
    fn cached_pages(&self, folio: Folio<'_, M>) -> u64 {
        if folio.owned_order() == Order::ZERO {
            return u64::from(folio.swap_entry().is_some_and(|entry| self.swap_caches(entry, folio)));
        }
        self.swap_references(folio)
    }
}

/// Copies a folio that no CPU can use any more, and lets its entries follow.
fn land<M: Machine>(vm: &Vm<M>, moving: Moving<'_, M>) -> Result<Went, Stays> {
    if moving.target.order() != Order::ZERO {
        return land_large(vm, moving);
    }
    // In this order: the lock is let go of before the reference, whatever the way out.
    let Moving { page, target, lock } = moving;
    let folio = lock.folio();
    // Whoever has the device open keeps its slots there.
    let slot = folio.swap_entry().map(|entry| (entry, vm.swap_user(entry)));
    let cached = match &slot {
        Some((_, None)) => return stay(vm, &lock, Stays::SwapOff),
        Some((entry, Some(_))) => vm.swap_caches(*entry, folio),
        None => false,
    };
    // Nobody can get at the page any more but through the slot, and waits for the lock then.
    if !lock.is_referenced_only(1 + u64::from(cached)) || lock.has_exclusive() {
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
        arrive(vacancy, (hold, bits), vma, &new_lock);
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

/// The same for a large folio. Pages of it may be cached ones of slots, each of its own.
fn land_large<M: Machine>(vm: &Vm<M>, moving: Moving<'_, M>) -> Result<Went, Stays> {
    // As above.
    let Moving { page, target, lock } = moving;
    let folio = lock.folio();
    let device = folio.swap_entry().map(|entry| vm.swap_user(entry));
    if matches!(device, Some(None)) {
        return stay(vm, &lock, Stays::SwapOff);
    }
    // No slot loses its page while these are held.
    let cached = vm.swap_hold_cached(&lock);
    if !lock.is_referenced_only(1 + cached.counts().len()) || lock.has_exclusive() {
        return stay(vm, &lock, Stays::Referenced);
    }
    if !folio.is_mapped() && cached.counts().is_empty() {
        return Ok(Went::Away);
    }
    let Ok((new, new_lock)) = target.into_successor(&lock) else {
        return stay(vm, &lock, Stays::NoMemory);
    };
    vm.swap_recache_run(&cached, &lock, (&new, &new_lock));
    follow_large(vm, &lock, Some(&new_lock), AsItWas);
    if let Mapping::Ksm(node) = folio.mapping() {
        move_node(vm, node, folio, new.pfn());
    }
    let to = new.pfn();
    drop(cached);
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
    // Before the old frame is let go of, by whomever: pairs with the fence of who finds it free.
    fence::<M>(Ordering::SeqCst);
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

#[cfg(test)]
mod tests;
