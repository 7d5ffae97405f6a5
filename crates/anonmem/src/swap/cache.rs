//! From a swap entry to its page in memory.
//!
//! Linux: mm/swap_state.c `swap_cache_get_folio`, `read_swap_cache_async`, `free_swap_cache`; mm/page_io.c
//! `swap_read_folio`.

use crate::{events::Event, objects::Objects, swap::slot::SwapRef};
use anonmem_frame::{Folio, FolioGuard, FolioOwner, FolioRef, NewFolio};
use anonmem_hal::{IoError, Machine, Order, SwapEntry};

/// What came of asking for the page of an entry.
pub(crate) enum SwapIn<'v, M: Machine> {
    /// It is in memory; it may still be being read: lock it and ask whether it is cached.
    Page(FolioRef<'v, M>),
    /// The slot is not what it was: look at the entry again.
    Changed,
}

impl<M: Machine> Objects<M> {
    /// The page of `entry`, if it is in the swap cache.
    pub(crate) fn swap_cache_get(&self, entry: SwapEntry) -> Option<FolioRef<'_, M>> {
        self.swap.get(entry).slots().lookup(&self.frames, entry.offset)
    }

    /// Whether the page of `entry` is in memory, for whoever has only read the entry.
    pub(crate) fn swap_has_page(&self, entry: SwapEntry) -> bool {
        let device = self.swap.get(entry);
        let user = device.get_user();
        user.is_some() && device.slots().cached_page(&self.frames, entry.offset).is_some()
    }

    /// Whether the folio is the cached page of `entry`.
    pub(crate) fn swap_caches(&self, entry: SwapEntry, folio: Folio<'_, M>) -> bool {
        self.swap.get(entry).slots().caches(&self.frames, entry.offset, folio.pfn())
    }

    /// Makes `new` the cached page of `entry` and fills it. It is in the cache, locked, before it is read:
    /// there is one reader per slot, and others wait for the lock. The caller keeps the device.
    ///
    /// # Errors
    /// [`IoError`]; the page is out of the cache again.
    pub(crate) fn swap_read<'v>(
        &'v self,
        entry: SwapEntry,
        new: NewFolio<'v, M>,
    ) -> Result<SwapIn<'v, M>, IoError> {
        let slots = self.swap.get(entry).slots();
        let page = new.into_reference();
        let lock = page.lock();
        lock.set_swap_entry(entry);
        if slots.cache(&self.frames, entry.offset, page.clone()).is_err() {
            page.forget_swap_entry(entry);
            return Ok(SwapIn::Changed);
        }
        let read = if slots.state(&self.frames, entry.offset).zero {
            self.machine().zero(page.pfn(), Order::ZERO);
            Ok(())
        } else {
            self.machine().swap_read(entry.device, entry.offset, Order::ZERO, page.pfn())
        };
        if read.is_err() && !self.swap_uncache(entry, &lock) {
            // Only the last owner of a count takes the page of another out of the cache: the slot was freed,
            // and discarded, under the read. That is no error of the device, and nobody misses the page.
            return Ok(SwapIn::Changed);
        }
        drop(lock);
        read.map(|()| SwapIn::Page(page))
    }

    /// Counts a page that a fault has read as a refault, if it left lately.
    pub(crate) fn note_refault(&self, entry: SwapEntry) {
        let slot = self.swap.get(entry).slots().state(&self.frames, entry.offset);
        if self.workingset.is_refault(slot.evicted) {
            self.count(Event::WorkingsetRefault);
        }
    }

    /// Takes a locked page out of the cache of `entry`, if it is there.
    pub(crate) fn swap_uncache(&self, entry: SwapEntry, lock: &FolioGuard<'_, M>) -> bool {
        let folio = lock.folio();
        let taken = self.swap.get(entry).slots().uncache(&self.frames, entry.offset, folio.pfn());
        if taken.is_some() {
            lock.forget_swap_entry(entry);
        }
        taken.is_some()
    }

    /// Lets `new`, which is locked, take the place of a locked page in the cache of `entry`, if it is there. The
    /// caller keeps the device.
    pub(crate) fn swap_recache(
        &self,
        entry: SwapEntry,
        old: &FolioGuard<'_, M>,
        new: (&FolioRef<'_, M>, &FolioGuard<'_, M>),
    ) -> bool {
        let (page, lock) = new;
        let slots = self.swap.get(entry).slots();
        // Before the slot's word names the page, so that whoever finds it there finds the entry.
        lock.set_swap_entry(entry);
        let replaced = slots.recache(&self.frames, entry.offset, old.folio().pfn(), page.clone()).is_ok();
        let without = if replaced { old } else { lock };
        without.forget_swap_entry(entry);
        replaced
    }

    /// A count of the slot that a locked folio is the cached page of, if it is one.
    pub(crate) fn swap_dup_cached(&self, lock: &FolioGuard<'_, M>) -> Option<SwapRef<'_, M>> {
        let entry = lock.folio().swap_entry()?;
        let slots = self.swap.get(entry).slots();
        let count = slots.dup_if_cached(&self.frames, entry.offset, lock.folio().pfn())?;
        Some(SwapRef::own(self, count))
    }
}
