//! The clock: the hand passes frames, and what it finds unused leaves.
//!
//! The hand goes three laps at most, over all frames or over those of certain nodes. In the third lap nothing
//! is spared. Who may have any frame shares one hand with all others like him. Each node has a hand of its
//! own for those who may have no other: no page of another node leaves for them.
//!
//! Linux: mm/vmscan.c `shrink_zones`, `shrink_lruvec`, `sc->nodemask`. Differs: several nodes are swept lap
//! by lap together, so that no node loses pages in use while another has idle ones.

use super::{
    shrink::{Age, PageoutBatch},
    state::Sweep,
};
use crate::{events::Event, rmap::machine::Machine, vm::Vm};
use anonmem_frame::Kind;
use anonmem_hal::{MAX_NODES, NodeSet, Pfn};
use anonmem_sync::{Atomic, Ordering};

/// Times that the hand goes around at most.
const LAPS: u64 = 3;

/// Frames that the hand passes at most while folios wait, locked, for others to leave with.
const PATIENCE: u64 = 256;

/// Frames in a row, and the hand that goes around them.
struct Way<'a, M: Machine> {
    hand: &'a Atomic<u64, M>,
    first: Pfn,
    len: u64,
}

/// One call's work.
struct Round<'v, M: Machine> {
    batch: PageoutBatch<'v, M>,
    want: u64,
    freed: u64,
    /// Frames passed since something waits in the batch.
    since: u64,
}

/// Whether the hand goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Enough {
    Yes,
    No,
}

impl<M: Machine> Vm<M> {
    /// Makes up to `want` pages free; returns how many. Sweeps the clock at most three times around.
    ///
    /// # Locks
    /// The caller holds no folio, anon_vma or spin lock.
    #[doc(alias = "try_to_free_pages")]
    pub(crate) fn shrink(&self, want: u64) -> u64 {
        self.shrink_on(self.nodes_of_memory.all(), want)
    }

    /// The same on some nodes: of the others nothing leaves.
    ///
    /// # Locks
    /// As [`shrink`](Self::shrink).
    #[doc(alias = "shrink_zones")]
    pub(crate) fn shrink_on(&self, nodes: NodeSet, want: u64) -> u64 {
        // What nobody maps costs nobody anything to give back.
        let mut freed = self.split_partly_mapped(nodes);
        if freed < want {
            freed += self.give_back_untouched_on(nodes, want - freed);
        }
        self.note_freed(freed);
        // Nobody looked for those: they are no part of what reclaim took of what it looked at.
        let found = freed;
        if freed >= want {
            return freed;
        }
        // Without a place to go to, pages stay, and looking at them would only cost them their age.
        if !self.swap.any_open() && self.lazyfree_used.load(Ordering::Relaxed) == 0 {
            return freed;
        }
        let mut round = Round { batch: PageoutBatch::new(self), want, freed, since: 0 };
        self.go_around(nodes, &mut round);
        freed = round.freed + round.batch.finish();
        self.events.add(Event::ReclaimSteal, freed - found);
        freed
    }

    fn go_around<'v>(&'v self, nodes: NodeSet, round: &mut Round<'v, M>) {
        let all = nodes == self.nodes_of_memory.all();
        let turn = if all { 0 } else { self.clock.next_turn() };
        for lap in 0..LAPS {
            let age = if lap + 1 < LAPS { Age::Idle } else { Age::Any };
            for nth in 0..if all { 1 } else { MAX_NODES } {
                let way = match all {
                    true => self.whole_way(),
                    false => self.way_of((turn + nth) % MAX_NODES, nodes),
                };
                if round.go(self, &way, age) == Enough::Yes {
                    return;
                }
            }
        }
    }

    fn whole_way(&self) -> Way<'_, M> {
        let machine = self.machine();
        Way { hand: self.clock.hand(), first: machine.base_pfn(), len: machine.nr_frames() }
    }

    /// The frames of a node; none, if it is not one of `nodes`.
    fn way_of(&self, node: u32, nodes: NodeSet) -> Way<'_, M> {
        let range = self.node_frames(node);
        let len = if nodes.contains(node) { range.end.0 - range.start.0 } else { 0 };
        Way { hand: self.nodes_of_memory.hand(node), first: range.start, len }
    }
}

impl<'v, M: Machine> Round<'v, M> {
    /// Goes around once.
    fn go(&mut self, vm: &'v Vm<M>, way: &Way<'v, M>, age: Age) -> Enough {
        let mut sweep = Sweep::new(way.hand, way.len);
        for _ in 0..way.len {
            let at = sweep.next_frame();
            self.since += 1;
            if self.is_time_to_finish() {
                self.freed += self.batch.finish();
            }
            if self.freed >= self.want {
                return Enough::Yes;
            }
            if self.batch.len() == 0 {
                self.since = 0;
            }
            self.pass(vm, way.first.offset(at), age);
        }
        Enough::No
    }

    fn is_time_to_finish(&self) -> bool {
        let waiting = self.batch.len();
        self.batch.is_full() || waiting > 0 && (self.since >= PATIENCE || self.freed + waiting >= self.want)
    }

    /// Passes one frame.
    fn pass(&mut self, vm: &'v Vm<M>, pfn: Pfn, age: Age) {
        if vm.frames.kind(pfn) != Kind::Folio {
            return;
        }
        if let Some(page) = vm.frames.try_get(pfn)
            && page.pfn() == pfn
        {
            // Pages, as what is taken is counted in.
            vm.events.add(Event::ReclaimScan, page.folio().owned_order().pages());
            self.batch.add(page, age);
            self.freed += core::mem::take(&mut self.batch.dropped);
        }
    }
}
