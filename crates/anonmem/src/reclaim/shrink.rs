//! Making folios leave that the hand of the clock ([`laps`](super::laps)) has come by.
//!
//! Folios leave in batches ([`PageoutBatch`]): each is locked and unmapped. Then one flush makes all CPUs
//! forget all of them; then they are written and freed.
//!
//! A large folio leaves whole, to slots in a row, and is written in one piece. It is split before that if a
//! part of it is mapped nowhere, or no device has a run of free slots. Then its pages leave one by one.
//!
//! Linux: mm/vmscan.c `shrink_folio_list`, `pageout`, `folio_check_references`; mm/page_io.c `swap_writeout`.

use crate::{
    events::Event,
    reclaim::SWAP_CLUSTER_MAX,
    rmap::machine::Machine,
    rmap::{
        referenced::folio_referenced_by_reclaim,
        unmap::{UnmapTo, Unmapped, try_to_unmap},
    },
    swap::slot::{SwapRef, SwapRun},
    thp::stats::FolioEvent,
    vm::Vm,
};
use anonmem_frame::{Folio, FolioGuard, FolioOwner, FolioRef, Mapping, Stored};
use anonmem_hal::{CpuId, Order};
use anonmem_pgtable::TlbBatch;
use anonmem_sync::Ordering;

/// Sweeps that a folio must have been unused for before it leaves.
pub(super) const IDLE_SWEEPS: u32 = 1;

/// What became of one folio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shrunk {
    /// It was free to go, and is gone.
    Freed,
    /// It is unmapped, and free once the batch is finished, unless its device fails.
    Leaving,
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
    /// Makes one folio leave, whoever maps it and however lately it was used, and says whether it is free
    /// now: for machines that want a certain frame back, and for tests.
    ///
    /// # Panics
    /// If the page is of another memory manager.
    ///
    /// # Locks
    /// The caller holds no folio, anon_vma or spin lock. Sleeps.
    #[doc(alias = "reclaim_pages")]
    pub fn reclaim_folio(&self, page: FolioRef<'_, M>) -> bool {
        self.assert_has(&page);
        let mut batch = PageoutBatch::new(self);
        let dropped = batch.add(page, Age::Any) == Shrunk::Freed;
        batch.finish() > 0 || dropped
    }

    /// Whether somebody else holds a reference, such as a fault that is copying the page: its frame would not
    /// become free, and the fault would find its page gone, bring it back, and ask for memory again, for
    /// ever.
    fn is_in_use(&self, folio: Folio<'_, M>) -> bool {
        folio.counts().refs() > 1 + self.swap_references(folio)
    }

    /// Whether the folio was used lately: since the hand came by last, or so short before that the hand must
    /// come by once more.
    #[doc(alias = "folio_check_references")]
    pub(super) fn was_used_lately(&self, page: &FolioRef<'_, M>) -> bool {
        let was_used = || {
            let found = folio_referenced_by_reclaim(self, page);
            found.is_none_or(|found| found.young > 0 || found.locked)
        };
        self.note_use(page, page.test_and_clear_referenced() || was_used())
    }

    /// The same of a page of which that is known already.
    pub(super) fn note_use(&self, page: &FolioRef<'_, M>, was_used: bool) -> bool {
        if was_used {
            page.set_idle(0);
            return true;
        }
        let idle = page.folio().idle();
        if idle < IDLE_SWEEPS {
            page.set_idle(idle + 1);
        }
        idle < IDLE_SWEEPS
    }

    /// A count of the folio's slot, or of one that it gets now.
    pub(super) fn swap_for<'v>(
        &'v self,
        page: &FolioRef<'v, M>,
        lock: &FolioGuard<'v, M>,
    ) -> Option<SwapRef<'v, M>> {
        // Our own count keeps the slot while it is written: an exiting program may drop all others.
        match self.swap_dup_cached(lock) {
            // A closed device: swapoff has just brought it back, and would again.
            Some(swap) => self.swap.get(swap.entry()).is_open().then_some(swap),
            None => {
                let swap = self.swap_claim(page.clone()).ok()?;
                lock.set_swap_entry(swap.entry());
                Some(swap)
            }
        }
    }

    /// Counts of the slots of a large folio, or of those that it gets now: one for each page. `None` if there
    /// are no free ones in a row, or some of its slots have let go of it.
    fn swap_run_for<'v>(
        &'v self,
        page: &FolioRef<'v, M>,
        lock: &FolioGuard<'v, M>,
    ) -> Option<SwapRun<'v, M>> {
        let folio = lock.folio();
        let Some(entry) = folio.swap_entry() else {
            let run = self.swap_claim_run(page)?;
            lock.set_swap_entry(run.first());
            return Some(run);
        };
        // A closed device: as for a page.
        let held = self.swap_hold_cached(lock);
        let all = held.counts().len() == folio.owned_order().pages();
        (all && self.swap.get(entry).is_open()).then_some(held)
    }

    /// Writes a large folio as [`pageout`](Self::pageout) does a page: in one piece. Returns how many pages
    /// are free.
    fn pageout_run(&self, leaving: LeavingRun<'_, M>) -> u64 {
        let LeavingRun { page, lock, run } = leaving;
        let (order, first) = (lock.folio().owned_order(), run.first());
        if !self.swap_write_run(&run, &page, order) {
            self.count(Event::SwapWriteError);
            // Compressed memory has to have frames for all of it before any of its own are free: smaller
            // pieces need fewer. They are in the swap cache, and leave when the hand meets them.
            let smaller = if order > LESS { LESS } else { Order::ZERO };
            if self.split_folio(&lock, &page, smaller).is_ok() {
                self.count_folio(order, FolioEvent::SwapOutFallback);
            }
            return 0;
        }
        self.events.add(Event::SwapOut, order.pages());
        self.count_folio(order, FolioEvent::SwapOut);
        self.swap_uncache_run(first, &lock, order.pages());
        drop(lock);
        order.pages()
    }

    /// Writes the pages to their slots, unless all of them are all zeroes.
    fn swap_write_run(&self, run: &SwapRun<'_, M>, page: &FolioRef<'_, M>, order: Order) -> bool {
        let (slots, head) = (self.swap.get(run.first()).slots(), page.pfn());
        let zeroes = (0..order.pages()).all(|nth| self.machine().is_zero(head.offset(nth)));
        let written = zeroes || slots.write_run(run.counts(), page).is_ok();
        if !written {
            return false;
        }
        let contents = if zeroes { Stored::Zeroes } else { Stored::OnDevice };
        for nth in 0..order.pages() {
            let count = run.counts().get(nth).expect("a count of each slot of the folio");
            slots.set_stored(&count, contents, self.workingset.evict(self.cpus.this()));
        }
        self.events.add(Event::SwapZero, if zeroes { order.pages() } else { 0 });
        true
    }

    /// Writes a page, which nobody maps and all CPUs have forgotten, and takes it out of the swap cache.
    fn pageout(&self, leaving: Leaving<'_, M>) -> Shrunk {
        let Leaving { page, lock, swap } = leaving;
        if !self.swap_write(&swap, &page) {
            self.count(Event::SwapWriteError);
            self.take_back(&lock, swap.entry());
            return Shrunk::Kept;
        }
        self.count(Event::SwapOut);
        // Somebody may wait for the lock already: he finds that the page is no longer the slot's, and reads
        // it again.
        self.swap_uncache(swap.entry(), &lock);
        drop(lock);
        Shrunk::Freed
    }

    /// Writes the page to its slot, unless it is all zeroes.
    #[doc(alias = "swap_writeout")]
    fn swap_write(&self, swap: &SwapRef<'_, M>, page: &FolioRef<'_, M>) -> bool {
        let slots = self.swap.get(swap.entry()).slots();
        if self.machine().is_zero(page.pfn()) {
            slots.set_stored(swap.count(), Stored::Zeroes, self.workingset.evict(self.cpus.this()));
            self.count(Event::SwapZero);
            return true;
        }
        let written = slots.write(swap.count(), page);
        if written.is_ok() {
            slots.set_stored(swap.count(), Stored::OnDevice, self.workingset.evict(self.cpus.this()));
        }
        written.is_ok()
    }
}

/// A folio that nobody maps any more, and that CPUs may still use.
pub(super) struct Leaving<'v, M: Machine> {
    pub(super) swap: SwapRef<'v, M>,
    pub(super) lock: FolioGuard<'v, M>,
    pub(super) page: FolioRef<'v, M>,
}

/// The same of a large folio.
struct LeavingRun<'v, M: Machine> {
    run: SwapRun<'v, M>,
    lock: FolioGuard<'v, M>,
    page: FolioRef<'v, M>,
}

/// The size of the pieces of a folio that was too large for its device.
const LESS: Order = Order::new(4);
/// Large folios that leave together at most.
const RUNS: usize = 4;
/// So many pages of large folios are enough for one flush: they are kept locked until all of them have left.
const ENOUGH: u64 = 256;

/// Folios on their way out, locked, and the flushes that are owed for them.
pub(crate) struct PageoutBatch<'v, M: Machine> {
    pub(super) vm: &'v Vm<M>,
    /// Where it is counted.
    cpu: CpuId,
    tlb: TlbBatch<'v, M>,
    leaving: [Option<Leaving<'v, M>>; SWAP_CLUSTER_MAX],
    len: usize,
    runs: [Option<LeavingRun<'v, M>>; RUNS],
    /// The pages of the large folios.
    run_pages: u64,
    /// Pages that were free to go, and are gone: for whoever counts them.
    pub(super) dropped: u64,
}

impl<'v, M: Machine> PageoutBatch<'v, M> {
    /// An empty one.
    pub(crate) fn new(vm: &'v Vm<M>) -> Self {
        Self {
            vm,
            cpu: vm.begin_batch(),
            tlb: TlbBatch::new(&vm.frames),
            leaving: [const { None }; SWAP_CLUSTER_MAX],
            len: 0,
            runs: [const { None }; RUNS],
            run_pages: 0,
            dropped: 0,
        }
    }

    /// Notes pages that were free to go.
    fn dropped(&mut self, pages: u64) -> Shrunk {
        self.dropped += pages;
        self.vm.note_freed(pages);
        Shrunk::Freed
    }

    /// The pages in it.
    pub(crate) fn len(&self) -> u64 {
        self.len as u64 + self.run_pages
    }

    /// Whether no other fits, or enough are waiting: [`finish`](Self::finish) it.
    pub(crate) fn is_full(&self) -> bool {
        self.len == SWAP_CLUSTER_MAX || self.runs[RUNS - 1].is_some() || self.run_pages >= ENOUGH
    }

    /// Unmaps one folio, if it may leave. There is room.
    ///
    /// # Locks
    /// Tries the folio lock, and keeps it. Takes anon_vma and page-table locks; the caller holds none.
    #[doc(alias = "shrink_folio_list")]
    pub(crate) fn add(&mut self, page: FolioRef<'v, M>, age: Age) -> Shrunk {
        let (vm, folio) = (self.vm, page.folio());
        match folio.mapping() {
            Mapping::Anon(_) | Mapping::Ksm(_) => {}
            Mapping::Shm(object) => return self.add_shared(page, object, age),
            Mapping::None => return Shrunk::Kept,
        }
        // Only a hint: who pins it from now on is found when its entry has been cleared (`try_share`).
        if folio.maybe_pinned() {
            vm.count(Event::ReclaimPinned);
            return Shrunk::Kept;
        }
        if age == Age::Idle && vm.was_used_lately(&page) {
            return Shrunk::Used;
        }
        // Somebody who has it locked is using it; besides, the caller may be below a fault that has.
        let Some(mut lock) = page.try_lock() else { return Shrunk::Kept };
        // A folio that leaves the swap cache without the lock forgets its entry a moment later, and the
        // device may go meanwhile.
        let device = folio.swap_entry().map(|entry| vm.swap_user(entry));
        if matches!(device, Some(None)) || vm.is_in_use(folio) {
            return Shrunk::Kept;
        }
        // Once there was such a mapping, pages of others are looked up once more than they would be.
        if vm.droppable_used.load(Ordering::Relaxed) != 0
            && folio.swap_entry().is_none()
            && try_to_unmap(vm, &lock, &UnmapTo::Droppable, &mut self.tlb) == Unmapped::All
        {
            let pages = folio.owned_order().pages();
            vm.events.add(Event::LazyFree, pages);
            drop((lock, page));
            return self.dropped(pages);
        }
        if folio.is_large() {
            match self.add_whole(&page, lock) {
                Ok(whole) => return whole,
                Err(back) => lock = back,
            }
            // The reference is the only one, or it is refused. The other pieces leave when the hand meets
            // them.
            if vm.split_folio(&lock, &page, Order::ZERO).is_err() {
                return Shrunk::Kept;
            }
            // In the swap cache, somebody's entry waits for it: it leaves as a page.
            if folio.counts().maps() == 0 && folio.swap_entry().is_none() {
                drop((lock, page));
                return self.dropped(1);
            }
        }
        if folio.is_lazyfree() && try_to_unmap(vm, &lock, &UnmapTo::Nothing, &mut self.tlb) == Unmapped::All {
            vm.count(Event::LazyFree);
            drop((lock, page));
            return self.dropped(1);
        }
        let Some(swap) = vm.swap_for(&page, &lock) else { return Shrunk::Kept };
        if try_to_unmap(vm, &lock, &UnmapTo::Swap(&swap), &mut self.tlb) != Unmapped::All {
            return Shrunk::Kept;
        }
        self.push(Leaving { swap, lock, page });
        Shrunk::Leaving
    }

    /// Takes a page that nobody maps any more. There is room.
    pub(super) fn push(&mut self, leaving: Leaving<'v, M>) {
        self.leaving[self.len] = Some(leaving);
        self.len += 1;
    }

    /// Unmaps a large folio that may leave whole.
    ///
    /// # Errors
    /// Its lock, if it is to be split.
    fn add_whole(
        &mut self,
        page: &FolioRef<'v, M>,
        lock: FolioGuard<'v, M>,
    ) -> Result<Shrunk, FolioGuard<'v, M>> {
        let (vm, folio) = (self.vm, page.folio());
        let (order, cached) = (folio.owned_order(), folio.swap_entry().is_some());
        // What is merged cannot be split: slots of pages that nobody maps are free as soon as it has left.
        let merged = matches!(folio.mapping(), Mapping::Ksm(_));
        if folio.unmapped_pages() > 0 && !cached && !merged {
            return Err(lock);
        }
        if folio.is_lazyfree() {
            if try_to_unmap(vm, &lock, &UnmapTo::Nothing, &mut self.tlb) != Unmapped::All {
                // Written since: no longer marked, and what was clean of it is gone.
                return Ok(Shrunk::Kept);
            }
            vm.events.add(Event::LazyFree, order.pages());
            return Ok(self.dropped(order.pages()));
        }
        let Some(run) = vm.swap_run_for(page, &lock) else {
            vm.count_folio(order, FolioEvent::SwapOutFallback);
            return Err(lock);
        };
        if try_to_unmap(vm, &lock, &UnmapTo::Run(&run), &mut self.tlb) != Unmapped::All {
            return Ok(Shrunk::Kept);
        }
        let place = self.runs.iter_mut().find(|place| place.is_none()).expect("there is room");
        *place = Some(LeavingRun { run, lock, page: page.clone() });
        self.run_pages += order.pages();
        Ok(Shrunk::Leaving)
    }

    /// Flushes once for all, writes them and frees them; returns how many pages are free.
    #[doc(alias = "try_to_unmap_flush_dirty")]
    pub(crate) fn finish(&mut self) -> u64 {
        self.tlb.flush();
        let leaving = self.leaving[..core::mem::take(&mut self.len)].iter_mut().filter_map(Option::take);
        let pages: u64 = leaving.map(|folio| u64::from(self.vm.pageout(folio) == Shrunk::Freed)).sum();
        self.run_pages = 0;
        let runs: u64 =
            self.runs.iter_mut().filter_map(Option::take).map(|run| self.vm.pageout_run(run)).sum();
        let freed = pages + runs;
        self.vm.note_freed(freed);
        freed
    }
}

impl<M: Machine> Drop for PageoutBatch<'_, M> {
    fn drop(&mut self) {
        anonmem_hal::debug_check!(
            M,
            self.len() == 0 || M::unwinding(),
            "a batch was dropped before it was finished"
        );
        self.vm.end_batch(self.cpu);
    }
}
