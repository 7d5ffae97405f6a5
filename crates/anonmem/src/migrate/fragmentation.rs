//! How broken free memory is, and a background task that mends it.
//!
//! The *score* of an order is the part of free memory, in per cent, that lies in smaller blocks. The *index*
//! says why a block cannot be had: towards 0 there is too little memory, towards 1000 it is in pieces.
//!
//! The task empties the cheapest windows, one after the other, until the score is low enough. Nobody waits
//! for it, and a fault meets it as it meets any page that moves.
//!
//! Linux: mm/vmstat.c `fragmentation_index`, `extfrag_for_order`; mm/compaction.c `proactive_compact_node`.

use super::evacuate::Effort;
use crate::{events::Event, rmap::machine::Machine, vm::Vm};
use anonmem_hal::{MAX_ORDER, Order};

/// The free blocks of each order.
pub type FreeBlocks = [u64; MAX_ORDER as usize + 1];

/// Free memory, by the blocks that it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragmentation {
    /// Blocks of each order.
    pub blocks: FreeBlocks,
}

impl Fragmentation {
    /// Free pages in blocks.
    pub fn pages(&self) -> u64 {
        self.blocks.iter().enumerate().map(|(order, blocks)| blocks << order).sum()
    }

    /// How many blocks of `order` could be taken.
    fn suitable(&self, order: Order) -> u64 {
        let from = usize::from(order.get());
        self.blocks.iter().enumerate().skip(from).map(|(nth, blocks)| blocks << (nth - from)).sum()
    }

    /// The part of free memory that is in blocks smaller than `order`, in per cent; 0 if none is free.
    #[doc(alias = "extfrag_for_order")]
    pub fn score(&self, order: Order) -> u64 {
        self.unusable(order) / 10
    }

    /// The same in thousandths (Linux: `unusable_index`).
    #[doc(alias = "unusable_free_index")]
    pub fn unusable(&self, order: Order) -> u64 {
        let pages = self.pages();
        let usable = self.suitable(order) * order.pages();
        ((pages - usable) * 1000).checked_div(pages).unwrap_or(0)
    }

    /// Why a block of `order` cannot be had: 0 (too little memory) to 1000 (in pieces); -1000 if it can.
    #[doc(alias = "fragmentation_index")]
    pub fn index(&self, order: Order) -> i64 {
        let blocks: u64 = self.blocks.iter().sum();
        if blocks == 0 {
            return 0;
        }
        if self.suitable(order) > 0 {
            return -1000;
        }
        1000 - ((1000 + self.pages() * 1000 / order.pages()) / blocks) as i64
    }
}

/// What a round of the background task came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Compacted {
    /// Blocks that were made.
    pub blocks: u64,
    /// Pages that moved for them.
    pub moved: u64,
}

impl<M: Machine> Vm<M> {
    /// Free memory, by the blocks that it is in. What CPUs keep for themselves counts as pages.
    pub fn fragmentation(&self) -> Fragmentation {
        Fragmentation { blocks: self.frames.free_blocks() }
    }

    /// Makes blocks of `order`, at most `most` of them, until the score is `low` or less.
    ///
    /// # Locks
    /// As [`evacuate`](Self::evacuate).
    #[doc(alias = "proactive_compact_node")]
    pub fn compact_until(&self, order: Order, low: u64, most: u64) -> Compacted {
        self.count(Event::CompactDaemonWake);
        let mut done = Compacted::default();
        self.frames.drain_pcp();
        let mut now = self.fragmentation();
        while done.blocks < most && now.score(order) > low {
            // A window that is free already makes no block.
            let Ok(moved) = self.compact_from(order, Effort::Light, 1) else { break };
            done.moved += moved;
            self.frames.drain_pcp();
            let before = core::mem::replace(&mut now, self.fragmentation());
            // Where only large blocks are left to go to, a window costs one: it would go round in circles.
            if now.suitable(order) <= before.suitable(order) {
                break;
            }
            done.blocks += 1;
        }
        self.events.add(Event::CompactDaemonMoved, done.moved);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Advice,
        testing::{P, RW, World, pages},
        vma::Backing,
    };
    use anonmem_hal::Va;

    fn of(blocks: &[(usize, u64)]) -> Fragmentation {
        let mut all = Fragmentation { blocks: [0; MAX_ORDER as usize + 1] };
        blocks.iter().for_each(|&(order, n)| all.blocks[order] = n);
        all
    }

    #[test]
    fn index_and_score_say_what_linux_says() {
        let order = Order::new(9);
        assert_eq!((of(&[]).index(order), of(&[]).score(order)), (0, 0));
        assert_eq!((of(&[(9, 1)]).index(order), of(&[(9, 1)]).score(order)), (-1000, 0));
        // 2,048 single pages: __fragmentation_index gives 1000 - (1000 + 4000) / 2048.
        assert_eq!((of(&[(0, 2048)]).index(order), of(&[(0, 2048)]).score(order)), (998, 100));
        // One page: there is too little.
        assert_eq!(of(&[(0, 1)]).index(order), -1);
        assert_eq!(of(&[(0, 512), (9, 3)]).score(order), 25);
        assert_eq!((of(&[(10, 1)]).unusable(order), of(&[(0, 512), (10, 1)]).unusable(order)), (0, 333));
    }

    #[test]
    fn the_background_task_mends_what_is_broken_and_stops() {
        World::run(|w| {
            let mm = w.vm.new_mm().unwrap();
            let (n, order) = (3800, Order::new(6));
            mm.map_raw(pages(16, n), RW, Backing::Anonymous);
            (0..n).for_each(|i| mm.store((16 + i) * P, (i % 251) as u8).unwrap());
            (0..n).step_by(2).for_each(|i| mm.madvise(Va((16 + i) * P), P, Advice::DontNeed).unwrap());
            w.vm.drain();
            let before = w.vm.fragmentation();
            assert!(before.score(order) > 80, "{before:?}");
            let one = w.vm.compact_until(order, 20, 1);
            assert_eq!(one.blocks, 1);
            let done = w.vm.compact_until(order, 20, 1000);
            let after = w.vm.fragmentation();
            assert!(after.score(order) <= 25, "{after:?} after {done:?}");
            assert!(done.moved <= done.blocks * order.pages() / 2 * 13 / 10, "{done:?}");
            assert_eq!(w.vm.compact_until(order, 25, 1000), Compacted::default());
            // All that can be done is done, and comes to an end.
            w.vm.compact_until(order, 0, u64::MAX);
            assert!(w.vm.compact_until(order, 0, u64::MAX).blocks <= 1);
            let right = |i| mm.load((16 + i) * P) == Ok(if i % 2 == 0 { 0 } else { (i % 251) as u8 });
            assert!((0..n).all(right));
            w.vm.validate().unwrap();
        });
    }
}
