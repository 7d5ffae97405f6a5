//! What reclaim remembers: the clock's hand, who is at work, and the background task's mailbox.

use anonmem_hal::Machine;
use anonmem_sync::{Atomic, AtomicState, Ordering, WaitQueue, states};

/// Where the hands of the clock are: frames relative to the first.
pub(crate) struct ClockHand<M> {
    pub(super) at: Atomic<u64, M>,
    /// The hand that looks for large folios of which most is untouched.
    pub(super) large: Atomic<u64, M>,
    /// Whether there may be any.
    untouched: Atomic<u64, M>,
}

impl<M: Machine> ClockHand<M> {
    pub(crate) const fn new() -> Self {
        Self { at: Atomic::new(0), large: Atomic::new(0), untouched: Atomic::new(0) }
    }

    /// A fault has taken a large folio for the sake of one page.
    pub(crate) fn note_untouched(&self) {
        if self.untouched.load(Ordering::Relaxed) == 0 {
            self.untouched.store(1, Ordering::Relaxed);
        }
    }

    pub(super) fn may_be_untouched(&self) -> bool {
        self.untouched.load(Ordering::Relaxed) != 0
    }

    pub(super) fn none_untouched(&self) {
        self.untouched.store(0, Ordering::Relaxed);
    }
}

/// Who reclaims, and what came of it.
pub(crate) struct Reclaimers<M> {
    /// Batches under way.
    pub(super) batches: Atomic<u32, M>,
    /// Pages freed by all of them, ever.
    pub(super) freed: Atomic<u64, M>,
    pub(super) queue: WaitQueue<M>,
}

impl<M: Machine> Reclaimers<M> {
    pub(crate) const fn new() -> Self {
        Self { batches: Atomic::new(0), freed: Atomic::new(0), queue: WaitQueue::new() }
    }

    /// A batch begins.
    pub(crate) fn begin(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    /// A batch has freed some pages.
    pub(crate) fn freed(&self, pages: u64) {
        if pages > 0 {
            // Release pairs with the Acquire of whoever waits: the pages are free.
            self.freed.fetch_add(pages, Ordering::Release);
            self.queue.wake_all();
        }
    }

    /// A batch ends: what it kept is unlocked.
    pub(crate) fn end(&self) {
        // Release pairs with the Acquire of whoever waits.
        if self.batches.fetch_sub(1, Ordering::Release) == 1 {
            self.queue.wake_all();
        }
    }
}

/// The background task's mailbox.
pub(crate) struct Kswapd<M> {
    pub(super) order: AtomicState<KswapdOrder, M>,
    pub(super) queue: WaitQueue<M>,
}

states! {
    /// What the background task is to do.
    pub(super) enum KswapdOrder {
        /// Wait.
        Sleep,
        /// Reclaim until the high watermark.
        Work,
        /// Return.
        End,
    }
}

impl<M: Machine> Kswapd<M> {
    pub(crate) const fn new() -> Self {
        Self { order: AtomicState::new(), queue: WaitQueue::new() }
    }
}
