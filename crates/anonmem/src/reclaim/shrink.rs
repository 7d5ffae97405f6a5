//! The clock: choosing folios and making them leave.
//!
//! Linux: mm/vmscan.c `shrink_folio_list`, `pageout`, `folio_check_references`; mm/page_io.c `swap_writeout`.

use crate::{
    events::Event,
    rmap::{
        unmap::{UnmapTo, Unmapped, try_to_unmap},
        walk::folio_referenced,
    },
    swap::SwapRef,
    vm::Vm,
};
use anonmem_frame::{Folio, FolioGuard, FolioRef, Kind, Mapping, Stored};
use anonmem_hal::Machine;
use anonmem_sync::{Atomic, Ordering};

/// Sweeps that a folio must have been unused for before it leaves.
const IDLE_SWEEPS: u32 = 1;

/// Where the hand of the clock is: frames relative to the first.
pub(crate) struct ClockHand<M> {
    at: Atomic<u64, M>,
}

impl<M: Machine> ClockHand<M> {
    pub(crate) const fn new() -> Self {
        Self { at: Atomic::new(0) }
    }
}

/// What became of one folio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shrunk {
    /// It is free.
    Freed,
    /// It was used lately.
    Used,
    /// It must stay: locked, pinned, being worked on, or there is no room for it in swap.
    Kept,
}

/// How much a caller wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Age {
    /// Only what was not used lately.
    Idle,
    /// Anything (`MADV_PAGEOUT`, and the last try before giving up).
    Any,
}

impl<M: Machine> Vm<M> {
    /// Makes up to `want` pages free; returns how many. Sweeps the clock at most three times around.
    ///
    /// # Locks
    /// The caller holds no folio, anon_vma or spin lock.
    #[doc(alias = "try_to_free_pages")]
    pub(crate) fn shrink(&self, want: u64) -> u64 {
        let frames = self.machine().nr_frames();
        let mut freed = 0;
        // Without a place to go to, pages stay, and looking at them would only cost them their age.
        if !self.swap.any_open() && self.lazyfree_used.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        for passed in 0..3 * frames {
            // The third time around nothing is spared.
            let age = if passed < 2 * frames { Age::Idle } else { Age::Any };
            let at = self.clock.at.fetch_add(1, Ordering::Relaxed) % frames;
            let pfn = self.machine().base_pfn().offset(at);
            if self.frames.kind(pfn) != Kind::Folio {
                continue;
            }
            self.count(Event::ReclaimScan);
            if let Some(page) = self.frames.try_get(pfn)
                && page.pfn() == pfn
                && self.shrink_folio(page, age) == Shrunk::Freed
            {
                freed += 1;
                if freed >= want {
                    break;
                }
            }
        }
        self.events.add(Event::ReclaimSteal, freed);
        freed
    }

    /// Makes one folio leave, whoever maps it and however lately it was used, and says whether it is free now: for machines
    /// that want a certain frame back, and for tests.
    ///
    /// # Locks
    /// As [`shrink`](Self::shrink). Sleeps.
    #[doc(alias = "reclaim_pages")]
    pub fn reclaim_folio(&self, page: FolioRef<'_, M>) -> bool {
        self.shrink_folio(page, Age::Any) == Shrunk::Freed
    }

    /// Lets reclaim drop a page that is not written any more (`MADV_FREE`).
    pub(crate) fn mark_lazyfree(&self, folio: Folio<'_, M>) {
        folio.set_lazyfree();
        if self.lazyfree_used.load(Ordering::Relaxed) == 0 {
            self.lazyfree_used.store(1, Ordering::Relaxed);
        }
    }

    /// Makes one folio leave, if it may.
    #[doc(alias = "shrink_folio_list")]
    pub(crate) fn shrink_folio<'v>(&'v self, page: FolioRef<'v, M>, age: Age) -> Shrunk {
        let folio = page.folio();
        if !matches!(folio.mapping(), Mapping::Anon(_)) || folio.maybe_pinned() {
            return Shrunk::Kept;
        }
        if age == Age::Idle && self.folio_check_references(&page) == Shrunk::Used {
            return Shrunk::Used;
        }
        // Somebody who has it locked is using it; besides, the caller may be below a fault that has.
        let Some(lock) = folio.try_lock() else { return Shrunk::Kept };
        // A folio that leaves the swap cache without the lock forgets its entry a moment later, and the device may go meanwhile.
        let device = folio.swap_entry().map(|entry| self.swap.get(entry).get_user());
        if matches!(device, Some(None)) || self.is_in_use(folio) {
            return Shrunk::Kept;
        }
        if folio.is_lazyfree() && try_to_unmap(self, &lock, &UnmapTo::Nothing) == Unmapped::All {
            self.count(Event::LazyFree);
            return Shrunk::Freed;
        }
        self.pageout(page, lock)
    }

    /// Whether somebody else holds a reference, such as a fault that is copying the page: its frame would not
    /// become free, and the fault would find its page gone, bring it back, and ask for memory again, for ever.
    fn is_in_use(&self, folio: Folio<'_, M>) -> bool {
        let cached = folio.swap_entry().is_some_and(|entry| self.swap_caches(entry, folio));
        folio.counts().refs() > 1 + u64::from(cached)
    }

    /// Whether the folio was used since the hand came by last, or the hand must come by once more.
    fn folio_check_references(&self, page: &FolioRef<'_, M>) -> Shrunk {
        let folio = page.folio();
        let found = folio_referenced(self, folio);
        if found.young > 0 || found.locked {
            folio.set_idle(0);
            return Shrunk::Used;
        }
        let idle = folio.idle();
        if idle < IDLE_SWEEPS {
            folio.set_idle(idle + 1);
            return Shrunk::Used;
        }
        Shrunk::Kept
    }

    /// Writes a page to swap and frees it.
    fn pageout<'v>(&'v self, page: FolioRef<'v, M>, lock: FolioGuard<'v, M>) -> Shrunk {
        // Our own count keeps the slot while it is written: an exiting program may drop all others.
        let swap = match self.swap_dup_cached(&lock) {
            Some(swap) if self.swap.get(swap.entry()).is_open() => swap,
            // Swapoff has just brought it back, and would again.
            Some(_) => return Shrunk::Kept,
            None => match self.swap_claim(page.clone()) {
                Ok(swap) => {
                    lock.set_swap_entry(swap.entry());
                    swap
                }
                Err(back) => {
                    drop(lock);
                    drop(back);
                    return Shrunk::Kept;
                }
            },
        };
        if try_to_unmap(self, &lock, &UnmapTo::Swap(&swap)) != Unmapped::All {
            return Shrunk::Kept;
        }
        if !self.swap_write(&swap, &page) {
            self.count(Event::SwapWriteError);
            return Shrunk::Kept;
        }
        self.count(Event::SwapOut);
        // Somebody may wait for the lock already: he finds that the page is no longer the slot's, and reads it again.
        self.swap_uncache(swap.entry(), &lock);
        drop(lock);
        Shrunk::Freed
    }

    /// Writes the page to its slot, unless it is all zeroes.
    #[doc(alias = "swap_writeout")]
    fn swap_write(&self, swap: &SwapRef<'_, M>, page: &FolioRef<'_, M>) -> bool {
        let (entry, slots) = (swap.entry(), self.swap.get(swap.entry()).slots());
        if self.machine().is_zero(page.pfn()) {
            slots.set_stored(&self.frames, entry.offset, Stored::Zeroes);
            self.count(Event::SwapZero);
            return true;
        }
        let written = self.machine().swap_write(entry.device, entry.offset, page.pfn(), self);
        if written.is_ok() {
            slots.set_stored(&self.frames, entry.offset, Stored::OnDevice);
        }
        written.is_ok()
    }
}
