//! The clock: the hand passes frames, and what it finds unused leaves.
//!
//! All reclaimers move one hand, so several of them look at different frames. Two laps after something left
//! last nothing is spared any more. If nothing leaves in three laps, there is nothing that can. Whose laps
//! they are does not matter. So with more reclaimers it is sooner known that memory has run out.
//!
//! The hand passes 16,384 frames or blocks at a time at most ([`MOST_LOOKED`]). Whoever has found nothing
//! among them wakes a background task, lets others run, and sees whether they have freed something. Folios
//! that are partly mapped are looked for among all frames, once a search, and only if one was noted.
//!
//! Who may have any frame shares one hand with all others like him. Each node has a hand of its own for those
//! who may have no other: no page of another node leaves for them.
//!
//! Linux: mm/vmscan.c `shrink_zones`, `shrink_lruvec`, `sc->nodemask`, `sc->priority`. Differs: several nodes
//! are swept lap by lap together, so that no node loses pages in use while another has idle ones.

use super::{
    shrink::{Age, PageoutBatch},
    state::{Hand, Sweep},
};
use crate::{events::Event, rmap::machine::Machine, vm::Vm};
use anonmem_frame::Kind;
use anonmem_hal::{MAX_NODES, NodeSet, Pfn};
use anonmem_sync::Ordering;

/// Times that the hand goes around in vain at most.
const LAPS: u64 = 3;

/// Frames that a reclaimer looks at before it lets others have their turn: those of 64 MiB.
pub(super) const MOST_LOOKED: u64 = 16_384;

/// Frames that the hand passes at most while folios wait, locked, for others to leave with.
const PATIENCE: u64 = 256;

/// One caller's search for memory: where the hands were when it began.
pub(super) struct Search {
    pub(super) nodes: NodeSet,
    /// The hand of each node, or the one over all frames in the first place.
    began: [u64; MAX_NODES as usize],
    /// The look for untouched folios: where its hand was, and as whom it is known.
    pub(super) untouched: Option<(u64, u64)>,
    /// Whether folios were looked for that are partly mapped.
    has_split: bool,
}

/// What came of a look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// So many pages are free.
    Pages(u64),
    /// None so far; there are frames that were not looked at.
    NotYet,
    /// No page can leave.
    Nothing,
}

/// Frames in a row, and the hand that goes around them.
struct Way<'a, M: Machine> {
    hand: &'a Hand<M>,
    first: Pfn,
    len: u64,
    /// Where the hand was when the caller began.
    began: u64,
}

impl<M: Machine> Way<'_, M> {
    /// How often it was gone around in vain since the caller began.
    fn laps(&self) -> u64 {
        self.hand.laps(self.began, self.len)
    }

    /// What may leave now, whoever began when: all reclaimers look at parts of the same lap.
    fn age(&self) -> Age {
        if self.hand.laps(0, self.len) + 1 < LAPS { Age::Idle } else { Age::Any }
    }
}

/// One look's work.
struct Round<'v, M: Machine> {
    batch: PageoutBatch<'v, M>,
    want: u64,
    freed: u64,
    /// Frames passed since something waits in the batch.
    since: u64,
    /// Frames that may still be looked at.
    left: u64,
}

impl<M: Machine> Vm<M> {
    /// Makes up to `want` pages free; returns how many.
    ///
    /// # Locks
    /// The caller holds no folio, anon_vma or spin lock.
    #[cfg(test)]
    pub(crate) fn shrink(&self, want: u64) -> u64 {
        let mut search = self.search(self.nodes_of_memory.all());
        loop {
            match self.look(&mut search, want) {
                Found::Pages(pages) => return pages,
                Found::NotYet => {}
                Found::Nothing => return 0,
            }
        }
    }

    /// Begins to search for memory of some nodes.
    pub(super) fn search(&self, nodes: NodeSet) -> Search {
        let mut began = [0; MAX_NODES as usize];
        if nodes == self.nodes_of_memory.all() {
            began[0] = self.clock.all.at();
        } else {
            nodes.iter().for_each(|node| began[node as usize] = self.nodes_of_memory.hand(node).at());
        }
        Search { nodes, began, untouched: None, has_split: false }
    }

    /// Looks for up to `want` pages that can leave, among a limited number of frames. Nothing leaves other
    /// nodes than those of the search.
    ///
    /// # Locks
    /// The caller holds no folio, anon_vma or spin lock.
    #[doc(alias = "shrink_zones")]
    pub(super) fn look(&self, search: &mut Search, want: u64) -> Found {
        // What nobody maps costs nobody anything to give back. Among all frames, so once.
        let has_split = core::mem::replace(&mut search.has_split, true);
        let mut freed = if has_split { 0 } else { self.split_partly_mapped(search.nodes) };
        let mut untouched = Found::Nothing;
        if freed < want {
            untouched = self.look_for_untouched(search, want - freed);
            freed += if let Found::Pages(pages) = untouched { pages } else { 0 };
        }
        self.note_freed(freed);
        // Nobody looked for those: they are no part of what reclaim took of what it looked at.
        let found = freed;
        // Without a place to go to, pages stay, and looking at them would only cost them their age.
        let can_leave = self.swap.any_open() || self.lazyfree_used.load(Ordering::Relaxed) != 0;
        let mut is_over = untouched == Found::Nothing;
        if freed < want && can_leave {
            let batch = PageoutBatch::new(self);
            let mut round = Round { batch, want, freed, since: 0, left: MOST_LOOKED };
            is_over &= self.go_around(search, &mut round);
            self.events.add(Event::ReclaimPass, MOST_LOOKED - round.left);
            freed = round.freed + round.batch.finish();
        }
        if freed > found {
            self.events.add(Event::ReclaimSteal, freed - found);
            self.note_success(search.nodes);
        }
        match freed {
            0 if is_over => Found::Nothing,
            0 => Found::NotYet,
            pages => Found::Pages(pages),
        }
    }

    /// Something has left these nodes, or there is enough of them.
    pub(super) fn note_success(&self, nodes: NodeSet) {
        if nodes == self.nodes_of_memory.all() {
            self.clock.all.note_success();
        } else {
            nodes.iter().for_each(|node| self.nodes_of_memory.hand(node).note_success());
        }
    }

    /// Whether the hand has gone around as often as it may since something left.
    pub(super) fn is_all_in_vain(&self) -> bool {
        self.clock.all.laps(0, self.machine().nr_frames()) >= LAPS
    }

    /// Passes frames until there is enough, or the look is over; says whether all were passed in vain.
    fn go_around<'v>(&'v self, search: &Search, round: &mut Round<'v, M>) -> bool {
        let all = search.nodes == self.nodes_of_memory.all();
        let turn = if all { 0 } else { self.clock.next_turn() };
        while round.left > 0 {
            let way = match all {
                true => self.whole_way(search),
                // The first of those that were gone around least often.
                false => (0..MAX_NODES)
                    .map(|nth| self.way_of((turn + nth) % MAX_NODES, search))
                    .min_by_key(Way::laps)
                    .expect("there is a node"),
            };
            if way.laps() >= LAPS {
                return true;
            }
            round.go(self, &way);
            if round.freed >= round.want {
                return false;
            }
        }
        false
    }

    fn whole_way(&self, search: &Search) -> Way<'_, M> {
        let machine = self.machine();
        let (first, len) = (machine.base_pfn(), machine.nr_frames());
        Way { hand: &self.clock.all, first, len, began: search.began[0] }
    }

    /// The frames of a node; none, if it is not one of the search's.
    fn way_of(&self, node: u32, search: &Search) -> Way<'_, M> {
        let range = self.node_frames(node);
        let len = if search.nodes.contains(node) { range.end.0 - range.start.0 } else { 0 };
        let hand = self.nodes_of_memory.hand(node);
        Way { hand, first: range.start, len, began: search.began[node as usize] }
    }
}

impl<'v, M: Machine> Round<'v, M> {
    /// Goes around once at most.
    fn go(&mut self, vm: &'v Vm<M>, way: &Way<'v, M>) {
        let mut sweep = Sweep::new(way.hand, way.len);
        let (laps, mut age) = (way.laps(), way.age());
        loop {
            if sweep.is_at_end() {
                if self.left == 0 || way.laps() != laps {
                    return;
                }
                age = way.age();
            }
            let at = way.first.offset(sweep.next_frame());
            self.since += 1;
            self.left = self.left.saturating_sub(1);
            if self.is_time_to_finish() {
                self.freed += self.batch.finish();
            }
            if self.freed >= self.want {
                return;
            }
            if self.batch.len() == 0 {
                self.since = 0;
            }
            let passed = self.pass(vm, at, age);
            if passed > 1 {
                sweep.skip(passed - 1);
            }
        }
    }

    fn is_time_to_finish(&self) -> bool {
        let waiting = self.batch.len();
        self.batch.is_full() || waiting > 0 && (self.since >= PATIENCE || self.freed + waiting >= self.want)
    }

    /// Passes one frame; says how many there is nothing to be found in, this one included.
    fn pass(&mut self, vm: &'v Vm<M>, pfn: Pfn, age: Age) -> u64 {
        if vm.frames.kind(pfn) != Kind::Folio {
            return vm.frames.end_of_block(pfn).0 - pfn.0;
        }
        if let Some(page) = vm.frames.try_get(pfn)
            && page.pfn() == pfn
        {
            // Pages, as what is taken is counted in.
            vm.events.add(Event::ReclaimScan, page.folio().owned_order().pages());
            self.batch.add(page, age);
            self.freed += core::mem::take(&mut self.batch.dropped);
        }
        1
    }
}
