//! The background tasks that keep some memory free.
//!
//! The machine gives them tasks and calls [`Vm::kswapd`] there: one, or one for each CPU. An allocation that
//! leaves less than the low watermark wakes one of them. A task that has passed as many frames as one look
//! may pass, and found nothing, wakes the next. All of them move one hand, so they look at different frames.
//!
//! Those who find a node full that they may not leave wake a task, too: it looks after that node then.
//!
//! Linux: mm/vmscan.c `kswapd`, `wakeup_kswapd`. Differs: one task for each node there.

use crate::{
    events::Event,
    reclaim::{
        SWAP_CLUSTER_MAX,
        laps::Found,
        state::KswapdOrder::{End, Sleep, Work},
    },
    rmap::machine::Machine,
    vm::Vm,
};
use anonmem_hal::NodeSet;
use anonmem_sync::{Ordering, yield_now};

impl<M: Machine> Vm<M> {
    /// Reclaims in the background until [`kswapd_stop`](Self::kswapd_stop). The task that calls this is its
    /// own. Several tasks share the work. Returns at once after `kswapd_stop`, until
    /// [`kswapd_run`](Self::kswapd_run).
    pub fn kswapd(&self) {
        let mailbox = &self.kswapd;
        mailbox.tasks.fetch_add(1, Ordering::Relaxed);
        loop {
            // Acquire pairs with the release of whoever wakes or ends us: what it did is seen.
            mailbox.queue.wait_until(&|| mailbox.order.load(Ordering::Acquire) != Sleep);
            if mailbox.order.load(Ordering::Acquire) == End {
                break;
            }
            // AcqRel pairs with the waker's: a wake-up after this sees memory as this round finds it.
            if mailbox.order.compare_exchange(Work, Sleep, Ordering::AcqRel).is_ok() {
                self.count(Event::KswapdWake);
                self.reap();
                let all = self.nodes_of_memory.all();
                self.shrink_until(all, |_| self.frames.above_high());
                self.balance_nodes();
            }
        }
        mailbox.tasks.fetch_sub(1, Ordering::Relaxed);
    }

    /// Makes pages of some nodes leave until there is enough, nothing can leave, or the background ends.
    /// Without progress it would spin: whoever allocates then reclaims for himself.
    /// `is_enough` is told how many pages have left.
    fn shrink_until(&self, nodes: NodeSet, is_enough: impl Fn(u64) -> bool) {
        let (mut search, mut freed) = (self.search(nodes), 0);
        while !is_enough(freed) {
            if self.kswapd.order.load(Ordering::Relaxed) == End {
                return;
            }
            match self.look(&mut search, SWAP_CLUSTER_MAX as u64) {
                Found::Pages(pages) => freed += pages,
                Found::NotYet => {
                    self.kswapd_helps(nodes, 1);
                    yield_now::<M>();
                }
                Found::Nothing => return,
            }
        }
        // Whoever looks after that begins by sparing what is in use.
        self.note_success(nodes);
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
            self.shrink_until(node, |freed| freed >= missing);
        }
    }

    /// Ends the background tasks, those included that are about to begin.
    pub fn kswapd_stop(&self) {
        // Release pairs with the tasks' Acquire above.
        self.kswapd.order.store(End, Ordering::Release);
        self.kswapd.queue.wake_all();
    }

    /// Lets background tasks begin again after [`kswapd_stop`](Self::kswapd_stop).
    pub fn kswapd_run(&self) {
        // Whoever is told to end has seen it, or works on.
        let _ = self.kswapd.order.compare_exchange(End, Sleep, Ordering::Relaxed);
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

    /// Whoever looks has found nothing so far: a task looks, too, if there are others than `own`. Not where
    /// all was looked at in vain: tasks would wake one another for ever. Linux: `kswapd_failures`.
    pub(super) fn kswapd_helps(&self, nodes: NodeSet, own: u64) {
        let is_of_use = nodes == self.nodes_of_memory.all() && !self.is_all_in_vain();
        if is_of_use && self.kswapd.tasks.peek() > own && self.swap.any_open() {
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
            mailbox.queue.wake_one();
        }
    }
}
