//! From a swap entry to its page in memory.
//!
//! Linux: mm/swap_state.c `swap_cache_get_folio`, `read_swap_cache_async`, `free_swap_cache`; mm/page_io.c
//! `swap_read_folio`.

use crate::{
    events::Event,
    objects::Objects,
    swap::{
        device::DeviceUser,
        slot::{SwapRef, SwapRun},
    },
};
use anonmem_frame::{Folio, FolioGuard, FolioOwner, FolioRef, NewFolio};
use anonmem_hal::{IoError, Machine, SwapEntry};

/// What came of asking for the page of an entry.
pub(crate) enum SwapIn<'v, M: Machine> {
    /// It is in memory; it may still be being read: lock it and ask whether it is cached.
    Page(FolioRef<'v, M>),
    /// The slot is not what it was: look at the entry again.
    Changed,
}

impl<M: Machine> Objects<M> {
    /// Keeps the device of `entry` from going away, if it is not gone already.
    pub(crate) fn swap_user(&self, entry: SwapEntry) -> Option<DeviceUser<'_, M>> {
        self.swap.get_user(&self.rcu, self.swap.get(entry))
    }

    /// The page of `entry`, if it is in the swap cache.
    pub(crate) fn swap_cache_get(&self, entry: SwapEntry) -> Option<FolioRef<'_, M>> {
        self.swap.get(entry).slots().lookup(&self.frames, entry.offset)
    }

    /// Whether the page of `entry` is in memory, for whoever has only read the entry.
    pub(crate) fn swap_has_page(&self, entry: SwapEntry) -> bool {
        let device = self.swap.get(entry);
        let user = self.swap_user(entry);
        user.is_some() && device.slots().cached_page(&self.frames, entry.offset).is_some()
    }

    /// Whether the cached page of `entry` is one of the folio's, which the caller has a count of.
    pub(crate) fn swap_caches(&self, entry: SwapEntry, folio: Folio<'_, M>) -> bool {
        let cached = self.swap.get(entry).slots().cached_page(&self.frames, entry.offset);
        cached.is_some_and(|page| folio.owned_has(page))
    }

    /// Whether the device has the bytes of a slot, of which the caller has a count.
    pub(crate) fn swap_is_stored(&self, entry: SwapEntry) -> bool {
        let state = self.swap.get(entry).slots().state(&self.frames, entry.offset);
        state.stored || state.zero
    }

    /// How many references to the folio are those of slots. The caller has a count of it, and keeps its
    /// device.
    pub(crate) fn swap_references(&self, folio: Folio<'_, M>) -> u64 {
        let Some(first) = folio.swap_entry() else { return 0 };
        let slots = self.swap.get(first).slots();
        let caches = |nth: u64| slots.caches(&self.frames, first.offset + nth, folio.pfn().offset(nth));
        (0..folio.owned_order().pages()).filter(|&nth| caches(nth)).count() as u64
    }

    /// Lets a page that `entry` let go of forget its slot. A large folio forgets its slots with the last one.
    pub(crate) fn swap_forget(&self, page: &FolioRef<'_, M>, entry: SwapEntry) {
        let folio = page.folio();
        if !folio.is_large() {
            page.forget_swap_entry(entry);
            return;
        }
        let Some(first) = folio.swap_entry() else { return };
        let slots = self.swap.get(first).slots();
        let caches = |nth: u64| slots.caches(&self.frames, first.offset + nth, folio.pfn().offset(nth));
        // From the end: most let go of them in their order, and then the first look says no.
        if !(0..folio.owned_order().pages()).rev().any(caches) {
            page.forget_swap_entry(first);
        }
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
        if slots.cache(&self.frames, entry.offset, page.clone(), 0).is_err() {
            page.forget_swap_entry(entry);
            return Ok(SwapIn::Changed);
        }
        let read = slots.read(entry, &lock);
        if read.is_err() && !self.swap_uncache(entry, &lock) {
            // Only the last owner of a count takes the page of another out of the cache: the slot was freed,
            // and discarded, under the read. That is no error of the device, and nobody misses the page.
            return Ok(SwapIn::Changed);
        }
        drop(lock);
        read.map(|()| SwapIn::Page(page))
    }

    /// The same for all pages of a folio and as many slots from `first` on, none of which has a cached page:
    /// they are read as one. If somebody is faster at one of the slots, or needs one of them no more, nothing
    /// is read.
    ///
    /// # Errors
    /// [`IoError`]; the pages are out of the cache again. One of them could not be read.
    #[doc(alias = "alloc_swap_folio")]
    pub(crate) fn swap_read_run<'v>(
        &'v self,
        first: SwapEntry,
        new: NewFolio<'v, M>,
    ) -> Result<SwapIn<'v, M>, IoError> {
        let (slots, order) = (self.swap.get(first).slots(), new.order());
        let page = new.into_reference();
        let lock = page.lock();
        lock.set_swap_entry(first);
        let cache = |&nth: &u64| slots.cache(&self.frames, first.offset + nth, page.clone(), nth).is_ok();
        let cached = (0..order.pages()).take_while(cache).count() as u64;
        let read = match cached == order.pages() {
            true => slots.read(first, &lock),
            false => Err(IoError),
        };
        if read.is_err() {
            self.swap_uncache_run(first, &lock, cached);
            return if cached == order.pages() { Err(IoError) } else { Ok(SwapIn::Changed) };
        }
        drop(lock);
        Ok(SwapIn::Page(page))
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

    /// Takes the first `pages` pages of a locked folio out of the cache of the slots from `first` on.
    pub(crate) fn swap_uncache_run(&self, first: SwapEntry, lock: &FolioGuard<'_, M>, pages: u64) {
        let (slots, head) = (self.swap.get(first).slots(), lock.folio().pfn());
        for nth in 0..pages {
            drop(slots.uncache(&self.frames, first.offset + nth, head.offset(nth)));
        }
        lock.forget_swap_entry(first);
    }

    /// Lets `new`, which is locked, take the place of a locked page in the cache of `entry`, if it is there.
    /// The caller keeps the device.
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

    /// The same for a large folio, and the slots that `held` has counts of: each of them has a page of `old`,
    /// and keeps one.
    pub(crate) fn swap_recache_run(
        &self,
        held: &SwapRun<'_, M>,
        old: &FolioGuard<'_, M>,
        new: (&FolioRef<'_, M>, &FolioGuard<'_, M>),
    ) {
        let ((page, lock), first) = (new, held.first());
        if held.counts().is_empty() {
            return;
        }
        let (slots, from) = (self.swap.get(first).slots(), old.folio());
        // As above: the entry first.
        lock.set_swap_entry(first);
        for nth in (0..from.owned_order().pages()).filter(|&nth| held.counts().has(nth)) {
            let (slot, was) = (first.offset + nth, from.pfn().offset(nth));
            let replaced = slots.recache(&self.frames, slot, was, page.clone()).is_ok();
            anonmem_hal::debug_check!(M, replaced, "slot {slot} lost its page while it was held");
        }
        old.forget_swap_entry(first);
    }

    /// Counts of the slots that the pages of a locked folio are the cached pages of. While they are held, no
    /// slot loses its page. The caller keeps the device.
    pub(crate) fn swap_hold_cached(&self, lock: &FolioGuard<'_, M>) -> SwapRun<'_, M> {
        let folio = lock.folio();
        let none = SwapEntry { device: 0, offset: 0 };
        let first = folio.swap_entry();
        let mut run = SwapRun::none(self, first.unwrap_or(none));
        let Some(first) = first else { return run };
        let slots = self.swap.get(first).slots();
        for nth in 0..folio.owned_order().pages() {
            if let Some(count) =
                slots.dup_if_cached(&self.frames, first.offset + nth, folio.pfn().offset(nth))
            {
                run.push(count);
            }
        }
        run
    }

    /// A count of the slot that a locked folio is the cached page of, if it is one.
    pub(crate) fn swap_dup_cached(&self, lock: &FolioGuard<'_, M>) -> Option<SwapRef<'_, M>> {
        let entry = lock.folio().swap_entry()?;
        let slots = self.swap.get(entry).slots();
        let count = slots.dup_if_cached(&self.frames, entry.offset, lock.folio().pfn())?;
        Some(SwapRef::own(self, count))
    }
}
