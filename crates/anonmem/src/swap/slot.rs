//! Allocating swap slots, and owning them.
//!
//! Each CPU allocates from a cluster of its own, so that CPUs do not meet and pages that leave together lie
//! together. A free slot is taken by a compare-exchange on its word; the device's lock is taken only to find
//! another cluster. A large folio takes a run of slots in one cluster, word by word. A run that somebody else
//! takes a slot of is given up again, and the next one is tried.
//!
//! Linux: mm/swapfile.c `folio_alloc_swap`, `swap_range_free`. Differs: clusters are counted, not listed.

use crate::{
    objects::Objects,
    swap::device::{CLUSTER, ClusterWords as _, DeviceState, SwapDevice},
};
use anonmem_frame::{FolioRef, SlotCountOverflow, SlotPut, SwapCount, SwapCounts};
use anonmem_hal::{Machine, SwapEntry};
use anonmem_sync::Ordering;

/// One count of a swap slot, which is freed with its last one.
pub(crate) struct SwapRef<'v, M: Machine> {
    objects: &'v Objects<M>,
    /// Always there, but for the moment in which it goes somewhere else.
    count: Option<SwapCount<'v, M>>,
}

impl<'v, M: Machine> SwapRef<'v, M> {
    /// Takes over a count, such as the one that a cleared swap entry owned.
    pub(crate) fn own(objects: &'v Objects<M>, count: SwapCount<'v, M>) -> Self {
        Self { objects, count: Some(count) }
    }

    /// Gives the count to somebody else: to a swap entry.
    pub(crate) fn into_count(mut self) -> SwapCount<'v, M> {
        self.count.take().expect("a count is given away once")
    }

    /// The count.
    pub(crate) fn count(&self) -> &SwapCount<'v, M> {
        self.count.as_ref().expect("a count is given away once")
    }

    /// The slot.
    pub(crate) fn entry(&self) -> SwapEntry {
        self.count().entry()
    }

    /// Another count.
    ///
    /// # Errors
    /// [`SlotCountOverflow`].
    #[doc(alias = "swap_duplicate")]
    pub(crate) fn try_dup(&self) -> Result<Self, SlotCountOverflow> {
        self.objects.swap_dup(self.count())
    }
}

impl<M: Machine> Drop for SwapRef<'_, M> {
    #[doc(alias = "swap_free")]
    fn drop(&mut self) {
        let Some(count) = self.count.take() else { return };
        let (objects, entry) = (self.objects, count.entry());
        let device = objects.swap.get(entry);
        let SlotPut::Free { slot, stored, page } = device.slots.put(count) else { return };
        if let Some(page) = page {
            objects.swap_forget(&page, entry);
        }
        if stored {
            device.slots.discard(&objects.frames, &slot);
        }
        device.slots.finish_free(&objects.frames, slot);
        // Release pairs with the Acquire in `next_cluster`: who is told of a free slot finds it.
        device.cluster_free.cluster(&objects.frames, entry.offset / CLUSTER).fetch_add(1, Ordering::Release);
        objects.swap.count_free(device, 1);
    }
}

/// Counts of slots in a row, at most one of each. Each slot is freed with its last count.
pub(crate) struct SwapRun<'v, M: Machine> {
    objects: &'v Objects<M>,
    counts: SwapCounts<'v, M>,
}

impl<'v, M: Machine> SwapRun<'v, M> {
    /// None of the slots from `first` on.
    pub(crate) fn none(objects: &'v Objects<M>, first: SwapEntry) -> Self {
        Self { objects, counts: SwapCounts::none(&objects.frames, first) }
    }

    /// The first slot.
    pub(crate) fn first(&self) -> SwapEntry {
        self.counts.first()
    }

    /// The counts.
    pub(crate) fn counts(&self) -> &SwapCounts<'v, M> {
        &self.counts
    }

    /// Takes over a count of one more of the slots.
    pub(crate) fn push(&mut self, count: SwapCount<'v, M>) {
        self.counts.push(count);
    }

    /// Another count of the `nth` slot, which there is one of.
    ///
    /// # Errors
    /// [`SlotCountOverflow`].
    pub(crate) fn try_dup(&self, nth: u64) -> Result<SwapRef<'v, M>, SlotCountOverflow> {
        self.objects.swap_dup(&self.counts.get(nth).expect("a count of each slot of the folio"))
    }
}

impl<M: Machine> Drop for SwapRun<'_, M> {
    fn drop(&mut self) {
        while let Some(count) = self.counts.pop() {
            drop(SwapRef::own(self.objects, count));
        }
    }
}

/// Clusters that are looked at for a run of free slots, and those of them whose slots are.
const MOST_CLUSTERS: u64 = 1_024;
const MOST_SEARCHED: u64 = 32;

impl<M: Machine> Objects<M> {
    /// Takes free slots in a row for all pages of a folio, which is locked, aligned to their number: the
    /// folio is in the swap cache from now on. `None` if there are none, as far as a bounded search says.
    #[doc(alias = "folio_alloc_swap")]
    pub(crate) fn swap_claim_run<'v>(&'v self, page: &FolioRef<'v, M>) -> Option<SwapRun<'v, M>> {
        let mut below = None;
        while let Some((device, index)) = self.next_device(below) {
            // As for a single slot.
            if let Some(_user) = self.swap.get_user(&self.rcu, device)
                && let Some(counts) = self.claim_run_on(device, page)
            {
                return Some(SwapRun { objects: self, counts });
            }
            below = Some((device.priority(), index));
        }
        None
    }

    fn claim_run_on<'v>(
        &'v self,
        device: &SwapDevice<M>,
        page: &FolioRef<'v, M>,
    ) -> Option<SwapCounts<'v, M>> {
        let (pages, slots) = (page.folio().owned_order().pages(), device.slots());
        let clusters = slots.len().div_ceil(CLUSTER);
        let first = device.run_cursor.load(Ordering::Relaxed);
        let free_in = |cluster: u64| device.cluster_free.cluster(&self.frames, cluster);
        let fits = |cluster: &u64| free_in(*cluster).load(Ordering::Relaxed) >= pages;
        let order = (0..clusters.min(MOST_CLUSTERS)).map(|i| (first + i) % clusters);
        for cluster in order.filter(fits).take(MOST_SEARCHED as usize) {
            let end = ((cluster + 1) * CLUSTER).min(slots.len());
            for run in (cluster * CLUSTER..end + 1 - pages.min(end)).step_by(pages as usize) {
                if !device.is_open() {
                    return None;
                }
                if (run..run + pages).any(|slot| !slots.is_free(&self.frames, slot)) {
                    continue;
                }
                if let Some(counts) = slots.claim_run(&self.frames, run, page) {
                    free_in(cluster).fetch_sub(pages, Ordering::Relaxed);
                    self.swap.count_free(device, -(pages as i64));
                    device.run_cursor.store(cluster, Ordering::Relaxed);
                    return Some(counts);
                }
            }
        }
        // The next one looks where this one did not.
        device.run_cursor.store((first + MOST_SEARCHED) % clusters, Ordering::Relaxed);
        None
    }

    /// Another count of a slot that somebody has a count of: of one that a locked swap entry owns, for
    /// example.
    ///
    /// # Errors
    /// [`SlotCountOverflow`].
    pub(crate) fn swap_dup<'v>(
        &'v self,
        count: &SwapCount<'v, M>,
    ) -> Result<SwapRef<'v, M>, SlotCountOverflow> {
        let count = self.swap.get(count.entry()).slots().dup(count)?;
        Ok(SwapRef::own(self, count))
    }

    /// Takes a free slot for the page of `page`, which is locked: the page is in the swap cache from now on.
    /// The count that is returned keeps the slot.
    ///
    /// # Errors
    /// The reference, if all devices are full.
    #[doc(alias = "folio_alloc_swap")]
    pub(crate) fn swap_claim<'v>(
        &'v self,
        mut page: FolioRef<'v, M>,
    ) -> Result<SwapRef<'v, M>, FolioRef<'v, M>> {
        let mut below = None;
        while let Some((device, index)) = self.next_device(below) {
            // Races with swapoff, which looks for slots in use once more when there is no user left.
            if let Some(_user) = self.swap.get_user(&self.rcu, device) {
                match self.claim_on(device, page) {
                    Ok(count) => return Ok(SwapRef::own(self, count)),
                    Err(back) => page = back,
                }
            }
            below = Some((device.priority(), index));
        }
        Err(page)
    }

    /// The open device that comes after `last`: by priority, then by number.
    fn next_device(&self, last: Option<(i32, u8)>) -> Option<(&SwapDevice<M>, u8)> {
        let open = self.swap.devices.iter().zip(0u8..).filter(|(d, _)| d.is_open_for_alloc());
        let after = open.filter(|(d, i)| {
            last.is_none_or(|(priority, index)| {
                d.priority() < priority || (d.priority() == priority && *i > index)
            })
        });
        after.max_by_key(|(d, i)| (d.priority(), core::cmp::Reverse(*i)))
    }

    fn claim_on<'v>(
        &'v self,
        device: &SwapDevice<M>,
        mut page: FolioRef<'v, M>,
    ) -> Result<SwapCount<'v, M>, FolioRef<'v, M>> {
        while device.is_open() {
            let cursor = self.swap.cursor(device);
            let Some(mut slot) = cursor.load(Ordering::Relaxed).checked_sub(1) else {
                if !self.next_cluster(device) {
                    return Err(page);
                }
                continue;
            };
            let end = ((slot / CLUSTER + 1) * CLUSTER).min(device.slots.len());
            while slot < end {
                let this = slot;
                slot += 1;
                if !device.slots.is_free(&self.frames, this) {
                    continue;
                }
                cursor.store(if slot < end { slot + 1 } else { 0 }, Ordering::Relaxed);
                match device.slots.claim(&self.frames, this, page) {
                    Ok(count) => {
                        let cluster = device.cluster_free.cluster(&self.frames, this / CLUSTER);
                        cluster.fetch_sub(1, Ordering::Relaxed);
                        self.swap.count_free(device, -1);
                        return Ok(count);
                    }
                    Err(back) => page = back,
                }
            }
            cursor.store(0, Ordering::Relaxed);
            // The cluster's count comes after a slot is freed, and after one is claimed. So who has claimed
            // the last one has not counted it yet.
            M::relax();
        }
        Err(page)
    }

    /// Gives this CPU a cluster with free slots; `false` if there is none.
    fn next_cluster(&self, device: &SwapDevice<M>) -> bool {
        let mut next = device.next_cluster.lock();
        if !device.is_open() || self.swap.used(device) >= device.slots.len() {
            return false;
        }
        let clusters = device.slots.len().div_ceil(CLUSTER);
        for i in 0..clusters {
            let cluster = (*next + i) % clusters;
            // Acquire pairs with the Release of who frees a slot. Without it, this CPU could look for the
            // slot again and again, and not see that it is free.
            if device.cluster_free.cluster(&self.frames, cluster).load(Ordering::Acquire) > 0 {
                *next = (cluster + 1) % clusters;
                self.swap.cursor(device).store(cluster * CLUSTER + 1, Ordering::Relaxed);
                return true;
            }
        }
        false
    }
}

impl<M: Machine> SwapDevice<M> {
    fn is_open_for_alloc(&self) -> bool {
        // Pairs with the release that opened it: its arrays are seen complete.
        self.state.load(Ordering::Acquire) == DeviceState::Open
    }
}
