//! Pages of an object that go to swap, and come back.
//!
//! The object's entry is what a page is found by. It becomes a swap entry, which owns the one count of the
//! slot, when nobody but the object and the reclaimer has the page. Every new mapping starts with a reference
//! that is taken under the lock of that entry. So whoever finds the page there has a count, and the page
//! stays. Whoever finds a swap entry reads the page into the swap cache, as a fault of private memory does.
//! Under the folio lock and the entry's he asks whether the entry is the same, and whether the page still is
//! the slot's. Then the object has the page again, and the slot is free.
//!
//! ```text
//!   in the object, mapped ──reclaim/shared.rs──▶ in the object alone
//!     ▲                                            │ shm_leave
//!     │ shm_bring_back                             ▼
//!   in the swap cache, read, locked ◀── a slot, and the object's swap entry ──written──▶ free
//! ```
//!
//! Locks: the folio lock, then the lock of the object's table.
//!
//! Linux: mm/shmem.c `shmem_writeout`, `shmem_swapin_folio`, `shmem_unuse`, `shmem_set_folio_swapin_error`.

use super::{Found, OBJECT_ENTRY, ShmUser, offset};
use crate::{
    error::Error,
    events::Event,
    ids::ShmId,
    objects::Objects,
    rmap::machine::Machine,
    swap::{cache::SwapIn, slot::SwapRef},
    vm::Vm,
};
use anonmem_frame::{FolioGuard, FolioOwner, FolioRef};
use anonmem_hal::{IoError, Marker, NodePolicy, Pte, Sharing, SoftLeaf, SwapBits, SwapEntry, Va, VaRange};
use anonmem_pgtable::{Cleared, Mapped};
use anonmem_sync::{Ordering, fence, yield_now};
use core::ops::Range;

impl<M: Machine> Objects<M> {
    /// Lets the object have its page in swap, if nobody else has the page: it is locked, and the caller has
    /// one reference to it, the swap cache another. Says whether that is so now.
    #[doc(alias = "shmem_delete_from_page_cache")]
    pub(crate) fn shm_leave(
        &self,
        id: ShmId,
        index: u64,
        page: &FolioRef<'_, M>,
        swap: &SwapRef<'_, M>,
    ) -> bool {
        let (user, va) = (ShmUser(self.shm(id)), offset(index));
        let Some(table) = self.shm_table(&user, va) else { return false };
        let mut entries = table.lock();
        match entries.mapped(va) {
            Mapped::Shm(present) if present.pfn == page.pfn() => {}
            // It has left the object meanwhile.
            Mapped::Shm(_)
            | Mapped::None
            | Mapped::Zero(_)
            | Mapped::Exclusive(..)
            | Mapped::Shared(..)
            | Mapped::Swap(..)
            | Mapped::Migration(..)
            | Mapped::Marker(_) => return false,
        }
        let counts = page.folio().counts();
        if counts.pins() > 0 {
            self.count(Event::ReclaimPinned);
            return false;
        }
        // The entry's; ours and the swap cache's. Under this lock nobody gets another that he keeps.
        if counts.maps() != 1 || counts.refs() != 2 {
            return false;
        }
        let Ok(count) = swap.try_dup() else { return false };
        // Acquire pairs with the Release of whoever put a count last: what was stored is written.
        fence::<M>(Ordering::Acquire);
        let (Cleared::Shm(map, _), vacancy) = entries.take(va) else {
            unreachable!("it was the object's page, and is locked")
        };
        let bits = SwapBits { sharing: Sharing::Shared, uffd_wp: false, soft_clean: false };
        vacancy.fill(count.into_count(), bits);
        drop(entries);
        drop(map.unmap());
        true
    }

    /// Gives the object a locked page back that is what its slot `entry` has in memory; says whether the
    /// object asks for that slot, and the slot has that page. The caller keeps the device.
    pub(crate) fn shm_bring_back(
        &self,
        id: ShmId,
        index: u64,
        entry: SwapEntry,
        lock: &FolioGuard<'_, M>,
    ) -> bool {
        let (user, va) = (ShmUser(self.shm(id)), offset(index));
        let Some(table) = self.shm_table(&user, va) else { return false };
        let mut entries = table.lock();
        let Mapped::Swap(owned, _) = entries.mapped(va) else { return false };
        // Under both locks: the entry owns a count, so what the slot's word says of the page stays true.
        if owned.entry() != entry || !self.swap_caches(entry, lock.folio()) {
            return false;
        }
        let map = lock.map_of_object(id.raw(), index);
        let replaced = entries.exchange(va, map, OBJECT_ENTRY);
        let Cleared::Swap(count, _) = replaced else { unreachable!("it was a swap entry, and is locked") };
        drop(SwapRef::own(self, count));
        true
    }

    /// Whether the object has its page in the slot `entry`, asked under the lock.
    fn shm_asks_for(&self, id: ShmId, index: u64, entry: SwapEntry) -> bool {
        matches!(self.shm_find(self.shm(id), offset(index)), Found::Swapped(now) if now == entry)
    }

    /// Notes that the page in slot `entry` cannot be read: the slot is free, and the page is lost.
    #[doc(alias = "shmem_set_folio_swapin_error")]
    fn shm_poison(&self, id: ShmId, index: u64, entry: SwapEntry) {
        let (user, va) = (ShmUser(self.shm(id)), offset(index));
        let Some(table) = self.shm_table(&user, va) else { return };
        let mut entries = table.lock();
        if !matches!(entries.mapped(va), Mapped::Swap(owned, _) if owned.entry() == entry) {
            return;
        }
        let replaced = entries.exchange(va, Marker::Poisoned, ());
        let Cleared::Swap(count, _) = replaced else { unreachable!("it was a swap entry, and is locked") };
        drop(SwapRef::own(self, count));
    }
}

impl<M: Machine> Vm<M> {
    /// The page with index `index` of an object that the caller uses, brought back if it is in swap; `None`
    /// if the object has none. Sleeps.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::OutOfMemory`], [`Error::NodesFull`].
    pub(crate) fn shm_find_page(
        &self,
        id: ShmId,
        index: u64,
        policy: NodePolicy,
    ) -> Result<Option<FolioRef<'_, M>>, Error> {
        loop {
            match self.shm_find(self.shm(id), offset(index)) {
                Found::Nothing => return Ok(None),
                Found::Page(page) => return Ok(Some(page)),
                Found::Lost => return Err(Error::Io),
                Found::Swapped(entry) => {
                    if let Some(page) = self.shm_swap_in(id, index, entry, policy)? {
                        return Ok(Some(page));
                    }
                }
            }
        }
    }

    /// The same of a page that is not beyond the object's end.
    ///
    /// # Errors
    /// As [`shm_find_page`](Self::shm_find_page).
    pub(crate) fn shm_lookup(&self, id: ShmId, index: u64) -> Result<Option<FolioRef<'_, M>>, Error> {
        if index < self.shm(id).pages() {
            self.shm_find_page(id, index, NodePolicy::DEFAULT)
        } else {
            Ok(None)
        }
    }

    /// Brings a page back from the slot `entry`; `None` if the object is to be looked at again.
    #[cold]
    #[doc(alias = "shmem_swapin_folio")]
    fn shm_swap_in(
        &self,
        id: ShmId,
        index: u64,
        entry: SwapEntry,
        policy: NodePolicy,
    ) -> Result<Option<FolioRef<'_, M>>, Error> {
        // Without it the device could go away, and its slots with it, while we look.
        let Some(_user) = self.swap_user(entry) else {
            // Swapoff has brought the page back, or lets the device be used once more.
            yield_now::<M>();
            return Ok(None);
        };
        let page = match self.swap_cache_get(entry) {
            Some(page) => {
                self.count(Event::SwapCacheHit);
                page
            }
            None => match self.swap_read(entry, self.alloc_page_placed(policy, index)?) {
                Ok(SwapIn::Page(page)) => {
                    self.count(Event::SwapIn);
                    self.note_refault(entry);
                    page
                }
                Ok(SwapIn::Changed) => return Ok(None),
                // The slot may have been freed, and used again by somebody whose page it was.
                Err(IoError) if self.shm_asks_for(id, index, entry) => return Err(Error::Io),
                Err(IoError) => return Ok(None),
            },
        };
        let lock = page.lock();
        let is_back = self.shm_bring_back(id, index, entry, &lock);
        drop(lock);
        page.set_idle(0);
        Ok(is_back.then_some(page))
    }

    /// The number of pages in memory that are those of objects.
    #[doc(alias = "NR_SHMEM")]
    pub fn shared_pages(&self) -> u64 {
        let mut pages = 0;
        self.shm_objects.for_each_live(&self.frames, |id, _| {
            if let Some(object) = self.shm_visit(id.raw()) {
                pages += self.shm_all_pages(object.id).present;
            }
        });
        pages
    }

    /// Brings pages of an object back that are in swap, as far as there is memory.
    #[doc(alias = "shmem_swapin_range")]
    pub(crate) fn shm_will_need(&self, id: ShmId, pages: Range<u64>) {
        let object = self.shm(id);
        let end = pages.end.min(object.reach());
        let range = VaRange { start: offset(pages.start.min(end)), end: offset(end) };
        for (table, part) in object.space().tables(&self.frames, &ShmUser(object), range) {
            for va in part.iter_pages() {
                if matches!(table.peek(va), Pte::Soft(SoftLeaf::Swap { .. }))
                    && matches!(
                        self.shm_find_page(id, va.page(), NodePolicy::DEFAULT),
                        Err(Error::OutOfMemory | Error::NodesFull(_))
                    )
                {
                    return;
                }
            }
        }
    }

    /// Brings all pages of objects back from a device that no longer allocates. One that cannot be read is
    /// lost.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; never [`Error::Io`].
    #[doc(alias = "shmem_unuse")]
    pub(crate) fn unuse_objects(&self, device: u8) -> Result<(), Error> {
        let mut result = Ok(());
        self.shm_objects.for_each_live(&self.frames, |id, _| {
            if result.is_ok()
                && let Some(object) = self.shm_visit(id.raw())
            {
                result = self.unuse_object(object.id, device);
            }
        });
        result
    }

    fn unuse_object(&self, id: ShmId, device: u8) -> Result<(), Error> {
        let object = self.shm(id);
        let all = VaRange { start: Va(0), end: offset(object.reach()) };
        for (table, part) in object.space().tables(&self.frames, &ShmUser(object), all) {
            for va in part.iter_pages() {
                let Pte::Soft(SoftLeaf::Swap { entry, .. }) = table.peek(va) else { continue };
                if entry.device != device {
                    continue;
                }
                match self.shm_find_page(id, va.page(), NodePolicy::DEFAULT) {
                    Ok(_) => {}
                    Err(Error::Io) => self.shm_poison(id, va.page(), entry),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
