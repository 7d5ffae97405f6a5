//! Who has put off a flush, so that a page table can say whether entries of it wait for one.
//!
//! A batch of flushes takes a *turn*, the word of a CPU, and writes the turn's [`mark`](Turn::mark) into each
//! table whose entries it clears. Whoever finds a mark under a table's lock asks whether that turn is still
//! under way. So a batch writes its own word and the tables that it comes to, and nothing that all batches of
//! an address space share.
//!
//! | a CPU's word | meaning |
//! |---|---|
//! | even | nobody's turn |
//! | odd | the turn of this number |
//!
//! A mark has the number's low bits. One that comes round to the same bits says that a flush is put off where
//! none is, which costs a flush.
//!
//! Linux: mm/rmap.c `flush_tlb_batched_pending`, which keeps two counts in the address space.

use crate::frames::Frames;
use anonmem_hal::{CpuId, Machine};
use anonmem_sync::Ordering;

/// Bits of a mark that are the turn's number; those above are the CPU.
const NUMBER_BITS: u32 = 20;
const NUMBER: u32 = (1 << NUMBER_BITS) - 1;

/// The turn of a batch of flushes: it is under way until it is given back.
#[derive(Debug)]
#[must_use = "whoever finds its marks flushes, until the turn is given back"]
pub struct Turn {
    cpu: CpuId,
    number: u64,
}

impl Turn {
    /// What a table says of it.
    pub fn mark(&self) -> u32 {
        self.cpu.0 << NUMBER_BITS | self.number as u32 & NUMBER
    }
}

/// The mark of a batch that found no turn: it is taken for one that is under way for ever.
pub const UNKNOWN_TURN: u32 = u32::MAX;

impl<M: Machine> Frames<M> {
    /// Takes a turn, this CPU's if it is free. `None` if more batches are under way than there are CPUs.
    pub fn take_turn(&self) -> Option<Turn> {
        // A mark has twelve bits for the CPU.
        let (first, cpus) = (M::current_cpu().0, (M::nr_cpus() as u32).min(u32::MAX >> NUMBER_BITS));
        (0..cpus).map(|i| CpuId((first + i) % cpus)).find_map(|cpu| {
            let word = &self.cpu_words.of(cpu).turn;
            let even = word.load(Ordering::Relaxed) & !1;
            // Relaxed: the marks are written under the locks of their tables, which order them after this.
            word.compare_exchange(even, even + 1, Ordering::Relaxed).ok()?;
            Some(Turn { cpu, number: even + 1 })
        })
    }

    /// Gives a turn back: what was put off is flushed.
    pub fn end_turn(&self, turn: Turn) {
        // Release pairs with the Acquire of `is_under_way`: the translations are gone before the turn is.
        self.cpu_words.of(turn.cpu).turn.store(turn.number + 1, Ordering::Release);
    }

    /// Whether the turn of a mark, found under its table's lock, is under way.
    #[inline]
    pub fn is_under_way(&self, mark: u32) -> bool {
        mark != 0 && self.is_turn_under_way(mark)
    }

    #[cold]
    fn is_turn_under_way(&self, mark: u32) -> bool {
        if mark == UNKNOWN_TURN {
            return true;
        }
        // Acquire pairs with the Release of `end_turn`.
        let number = self.cpu_words.of(CpuId(mark >> NUMBER_BITS)).turn.load(Ordering::Acquire);
        number as u32 & NUMBER == mark & NUMBER
    }
}

#[cfg(test)]
mod tests {
    use crate::{Frames, testing::TestMachine};
    use anonmem_hal::Sched as _;
    use std::vec::Vec;

    fn frames() -> Frames<TestMachine> {
        Frames::new(TestMachine::new(16, 64)).expect("enough frames")
    }

    #[test]
    fn a_mark_is_under_way_until_its_turn_is_given_back() {
        let frames = frames();
        let turn = frames.take_turn().expect("nobody has one");
        let mark = turn.mark();
        assert!(frames.is_under_way(mark) && !frames.is_under_way(0));
        frames.end_turn(turn);
        assert!(!frames.is_under_way(mark));
        let next = frames.take_turn().expect("it was given back");
        assert!(frames.is_under_way(next.mark()) && !frames.is_under_way(mark), "another number");
        frames.end_turn(next);
    }

    #[test]
    fn there_are_as_many_turns_as_cpus() {
        let frames = frames();
        let turns: Vec<_> = core::iter::from_fn(|| frames.take_turn()).collect();
        assert_eq!(turns.len(), TestMachine::<true>::nr_cpus());
        assert!(frames.is_under_way(super::UNKNOWN_TURN), "who found none is never done");
        turns.into_iter().for_each(|turn| frames.end_turn(turn));
    }
}
