//! The background task that keeps some memory free.
//!
//! The machine gives it a task and calls [`Vm::kswapd`] there; allocations that leave less than the low
//! watermark wake it. So do those who find a node full that they may not leave: it looks
//! after that node then.
//!
//! Linux: mm/vmscan.c `kswapd`, `wakeup_kswapd`.

use crate::{
    events::Event,
    reclaim::{
        SWAP_CLUSTER_MAX,
        state::KswapdOrder::{End, Sleep, Work},
    },
    rmap::machine::Machine,
    vm::Vm,
};
use anonmem_hal::NodeSet;
use anonmem_sync::Ordering;

impl<M: Machine> Vm<M> {
    /// Reclaims in the background until [`kswapd_stop`](Self::kswapd_stop). The task that calls this is its
    /// own.
    pub fn kswapd(&self) {
        loop {
            let mailbox = &self.kswapd;
            // Acquire pairs with the release of whoever wakes or ends us: what it did is seen.
            mailbox.queue.wait_until(&|| mailbox.order.load(Ordering::Acquire) != Sleep);
            if mailbox.order.load(Ordering::Acquire) == End {
                // Another task may start it again.
                mailbox.order.store(Sleep, Ordering::Relaxed);
                return;
            }
            // AcqRel pairs with the waker's: a wake-up after this sees memory as this round finds it.
            let _ = mailbox.order.compare_exchange(Work, Sleep, Ordering::AcqRel);
            self.count(Event::KswapdWake);
            self.reap();
            // Without progress it would spin: whoever allocates then reclaims for himself.
            while !self.frames.above_high() && self.shrink(SWAP_CLUSTER_MAX as u64) > 0 {}
            self.balance_nodes();
        }
    }

    /// Frees as much of each node that was found full as its share of the high watermark.
    #[doc(alias = "balance_pgdat")]
    pub(crate) fn balance_nodes(&self) {
        // AcqRel pairs with `wake_kswapd_for`: who says so after this finds the task awake, or wakes it.
        let full = NodeSet(self.kswapd.full_nodes.swap(0, Ordering::AcqRel) as u8);
        for node in full.iter() {
            let node = NodeSet::only(node);
            let (nodes, frames) = (&self.nodes_of_memory, &self.frames);
            let missing = nodes.high_of(frames, node).saturating_sub(nodes.free_on(frames, node));
            if missing > 0 {
                self.shrink_on(node, missing);
            }
        }
    }

    /// Ends the background task.
    pub fn kswapd_stop(&self) {
        // Release pairs with the task's Acquire above.
        self.kswapd.order.store(End, Ordering::Release);
        self.kswapd.queue.wake_all();
    }

    /// Wakes the background task if memory runs low.
    #[doc(alias = "wakeup_kswapd")]
    #[inline]
    pub(crate) fn wake_kswapd(&self) {
        if self.frames.below_low() && self.swap.any_open() {
            self.kswapd_go();
        }
    }

    /// Wakes the background task for nodes on which no free page was found.
    pub(super) fn wake_kswapd_for(&self, nodes: NodeSet) {
        if self.swap.any_open() {
            // AcqRel pairs with the task's exchange in `balance_nodes`.
            self.kswapd.full_nodes.fetch_or(u64::from(nodes.0), Ordering::AcqRel);
            self.kswapd_go();
        }
    }

    #[inline]
    fn kswapd_go(&self) {
        let mailbox = &self.kswapd;
        // AcqRel pairs with the task's: it works on the memory that made us wake it.
        if mailbox.order.load(Ordering::Relaxed) == Sleep
            && mailbox.order.compare_exchange(Sleep, Work, Ordering::AcqRel).is_ok()
        {
            mailbox.queue.wake_all();
        }
    }
}
