//! Memory that was never used: chunks of frames that are on no free list yet.
//!
//! A list links the first frames of blocks. So a large machine would touch much of its metadata before it
//! runs, of which 16 TiB have 128 GiB. Therefore memory comes to the lists later. It comes when they have no
//! block that is large enough, or when somebody asks for that very part of memory. Until then not a word of
//! its metadata is written.
//!
//! A chunk is fresh as long as its first frame is [`Kind::Reserved`]. The first chunk and the last are on the
//! lists from the beginning. Fresh frames count as free.
//!
//! Locks: the zone lock, but for looks.
//!
//! Linux: mm/mm_init.c `deferred_init_memmap`, `deferred_grow_zone`. Differs: nothing is done in the
//! background.

use crate::{buddy::Buddy, memmap::Memmap, meta::Kind, set_aside::CHUNK};
use anonmem_hal::{MAX_ORDER, Machine, Order};
use anonmem_sync::Ordering::Relaxed;
use core::ops::Range;

const _: () = assert!(CHUNK >= 1 << MAX_ORDER, "a block lies in one chunk");

/// Blocks of the largest order in a chunk.
pub(crate) const BLOCKS: u32 = CHUNK >> MAX_ORDER;

impl<M: Machine> Memmap<M> {
    /// The frames of the chunk that has a frame, as far as there are such frames.
    fn chunk_of(&self, index: u32) -> Range<u32> {
        let into = (self.pfn(index).0 % u64::from(CHUNK)) as u32;
        // The first one may begin before memory does.
        let end = u64::from(index) + u64::from(CHUNK - into);
        index.saturating_sub(into)..end.min(u64::from(self.nr())) as u32
    }

    /// The chunk that has a frame, if nothing of it was ever used: as of now, unless the zone is locked.
    pub(crate) fn never_used(&self, index: u32) -> Option<Range<u32>> {
        let chunk = self.chunk_of(index);
        // The zero page says the same, and is in the first chunk that is not set aside.
        let is_unused = |first| self.at(first).flags.load(Relaxed) == Kind::Reserved.bits(Order::ZERO);
        (chunk.start != self.first_free() && is_unused(chunk.start)).then_some(chunk)
    }

    /// The same of a chunk that is free.
    pub(crate) fn fresh_chunk(&self, index: u32) -> Option<Range<u32>> {
        if index < self.first_free() { None } else { self.never_used(index) }
    }
}

impl Buddy {
    /// Puts the first chunk of free frames on the lists, of which the zero page is to be one.
    pub(crate) fn begin<M: Machine>(&mut self, map: &Memmap<M>) {
        self.set_aside = 0..map.first_free();
        self.next_fresh = map.chunk_of(map.first_free()).end;
        self.push_all(map, map.first_free()..self.next_fresh);
    }

    /// Makes the others free. Whole chunks stay as they are.
    pub(crate) fn begin_others<M: Machine>(&mut self, map: &Memmap<M>) {
        let first = map.chunk_of(map.first_free());
        let last = map.chunk_of(map.nr().max(1) - 1);
        self.fresh = last.start.saturating_sub(first.end);
        self.free += self.fresh;
        if last.start >= first.end {
            self.push_all(map, last);
        }
    }

    /// The number of fresh frames.
    pub(crate) const fn fresh(&self) -> u32 {
        self.fresh
    }

    /// Puts the next chunk on the lists that is fresh; says whether there was one.
    #[cold]
    #[inline(never)]
    pub(crate) fn settle_next<M: Machine>(&mut self, map: &Memmap<M>) -> bool {
        while self.fresh > 0 && self.next_fresh < map.nr() {
            let at = self.next_fresh;
            self.next_fresh = map.chunk_of(at).end;
            if self.settle(map, at) {
                return true;
            }
        }
        false
    }

    /// Puts the chunk that has a frame on the lists, if it is fresh; says whether it was.
    pub(crate) fn settle<M: Machine>(&mut self, map: &Memmap<M>, index: u32) -> bool {
        let Some(chunk) = map.fresh_chunk(index) else { return false };
        self.fresh -= CHUNK;
        self.free -= CHUNK;
        self.push_all(map, chunk);
        true
    }

    /// Puts all chunks on the lists that have frames of `range`.
    pub(crate) fn settle_all<M: Machine>(&mut self, map: &Memmap<M>, range: Range<u32>) {
        let mut at = range.start;
        while at < range.end && self.fresh > 0 {
            self.settle(map, at);
            at = map.chunk_of(at).end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Frames, Search, testing::TestMachine};
    use anonmem_hal::Pfn;
    use std::vec::Vec;

    type M = TestMachine<false>;

    const C: u64 = CHUNK as u64;
    const BASE: u64 = 0x100;
    /// As large as the first block of all: the zero page is not to be taken here.
    const LAST: u64 = 256;

    /// Four whole chunks between two shorter ones.
    fn frames() -> Frames<M> {
        Frames::new(TestMachine::new(BASE, 5 * C + LAST - BASE)).unwrap()
    }

    fn fresh(frames: &Frames<M>) -> Vec<u64> {
        (0..6).filter(|n| frames.never_used(Pfn((n * C).max(BASE))).is_some()).collect()
    }

    fn free_blocks(frames: &Frames<M>) -> u64 {
        let mut sum = 0;
        frames.for_each_frame(|_, kind, order| sum += if kind == Kind::Buddy { order.pages() } else { 0 });
        sum
    }

    #[test]
    fn memory_comes_to_the_lists_when_they_have_none() {
        let frames = frames();
        let all = frames.usage().free.0;
        assert_eq!(fresh(&frames), [1, 2, 3, 4]);
        assert_eq!((free_blocks(&frames), all), (all, 5 * C + LAST - BASE - 1));
        assert_eq!(frames.free_blocks()[10], 4 * 32 + 31);
        frames.validate().unwrap();

        let largest = || frames.alloc(Order::MAX);
        let mut taken: Vec<_> = (0..32).map(|_| largest().unwrap()).collect();
        assert_eq!(fresh(&frames), [2, 3, 4], "one chunk has come");
        assert_eq!(taken.last().unwrap().pfn(), Pfn(C));
        frames.validate().unwrap();
        while let Ok(block) = largest() {
            taken.push(block);
        }
        assert!(fresh(&frames).is_empty());
        let mut pages: Vec<_> = taken.iter().flat_map(|b| b.pfn().0..b.pfn().0 + 1024).collect();
        pages.sort_unstable();
        pages.dedup();
        assert_eq!(pages.len(), taken.len() * 1024, "no frame came twice");
        frames.validate().unwrap();
        drop(taken);
        frames.drain_pcp();
        assert_eq!((frames.usage().free.0, free_blocks(&frames)), (all, all));
        frames.validate().unwrap();
    }

    #[test]
    fn who_asks_for_a_part_of_memory_has_that_part_come_alone() {
        let frames = frames();
        let part = Pfn(3 * C + 5)..Pfn(3 * C + 5000);
        assert_eq!(frames.free_within(part.clone()).0, 4995);
        assert_eq!(frames.free_within(Pfn(BASE)..Pfn(6 * C)).0, frames.usage().free.0);
        assert_eq!(fresh(&frames), [1, 2, 3, 4], "counting touches nothing");
        let block = frames.alloc_within(Order::new(4), part.clone(), part.start, Search::AtHand).unwrap();
        assert_eq!(block.pfn(), Pfn(3 * C + 1024));
        assert_eq!(fresh(&frames), [1, 2, 4]);
        assert_eq!(frames.take_offline(Pfn(5 * C - 10)..Pfn(5 * C + 10), crate::OutFor::Owner), 20);
        assert_eq!(fresh(&frames), [1, 2]);
        frames.validate().unwrap();
        assert_eq!(frames.give_online(Pfn(4 * C)..Pfn(6 * C), crate::OutFor::Owner), 20);
        assert_eq!(frames.never_used(Pfn(C + 9)), Some(Pfn(2 * C)));
        assert_eq!(frames.never_used(Pfn(3 * C + 9)), None);
        frames.validate().unwrap();
    }
}
