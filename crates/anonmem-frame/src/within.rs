//! A block that lies in a certain range of frames: a node's.
//!
//! The free lists know no ranges. The metadata of the range is looked through, block by block. The search
//! goes on where the last one ended, which the caller remembers. Who asks for any frame pays nothing for
//! those who ask for a certain one. A range in which nothing was found is not looked through again until a
//! frame of it is freed.
//!
//! Locks: the zone lock; for [`Search::All`] each CPU's list lock first.
//!
//! Linux: mm/page_alloc.c `get_page_from_freelist` with a node mask. Differs: no lists of a node's own.

use crate::{
    buddy::Buddy,
    class::Class,
    folio::NewFolio,
    frames::{Frames, OutOfMemory},
    memmap::Memmap,
    meta::Kind,
};
use anonmem_hal::{MAX_ORDER, Machine, NrPages, Order, Pfn};
use anonmem_sync::Ordering::Relaxed;
use core::ops::Range;

/// How much is done for a block of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Search {
    /// It is taken from the free lists.
    AtHand,
    /// If there is none, CPUs give back what they keep.
    All,
}

impl<M: Machine> Frames<M> {
    /// Allocates 2^order frames of `range` for a folio: of the first free block that begins at `from` or
    /// after it, else of the first in `range`. Their bytes are whatever they were.
    ///
    /// # Errors
    /// [`OutOfMemory`]: the range has no such block, or all that is free is the reserve.
    #[doc(alias = "__alloc_pages_node")]
    pub fn alloc_within(
        &self,
        order: Order,
        range: Range<Pfn>,
        from: Pfn,
        search: Search,
    ) -> Result<NewFolio<'_, M>, OutOfMemory> {
        if !self.machine().admit() {
            return Err(OutOfMemory);
        }
        let (range, from) = (self.free_indices(&range), self.indices(&(from..from)).start);
        let found = match (self.take_block_within(order, &range, from), search) {
            (None, Search::All) => {
                self.drain_pcp();
                self.take_block_within(order, &range, from)
            }
            (found, Search::All | Search::AtHand) => found,
        };
        Ok(NewFolio::from_block(self, self.made(found.ok_or(OutOfMemory)?, order, Kind::New)))
    }

    /// How many frames of `range` are free, on CPUs' lists, too: looks at the metadata of all of them. Exact
    /// when nothing is being allocated or freed.
    pub fn free_within(&self, range: Range<Pfn>) -> NrPages {
        let range = self.free_indices(&range);
        // A block that begins before the range may reach into it, and one of the range beyond it.
        let first = range.start.saturating_sub(1 << MAX_ORDER).max(self.memmap.first_free());
        let (mut at, mut free) = (first, 0);
        while at < range.end {
            let flags = self.memmap.at(at).flags.load(Relaxed);
            let is_listed = matches!(Kind::of(flags), Kind::Buddy | Kind::Pcp);
            let fresh = if Kind::of(flags) == Kind::Reserved { self.memmap.fresh_chunk(at) } else { None };
            let end = fresh.as_ref().map_or(at.saturating_add(block_at(flags)), |chunk| chunk.end);
            if is_listed || fresh.is_some() {
                free += end.min(range.end).saturating_sub(at.max(range.start));
            }
            at = end;
        }
        NrPages(u64::from(free))
    }

    /// The frames of `range` but those that are set aside, which nobody looks through.
    fn free_indices(&self, range: &Range<Pfn>) -> Range<u32> {
        let (range, first) = (self.indices(range), self.memmap.first_free());
        range.start.max(first)..range.end.max(first)
    }

    fn take_block_within(&self, order: Order, range: &Range<u32>, from: u32) -> Option<u32> {
        self.with_buddy(|buddy| {
            if u64::from(buddy.free()) < self.watermarks.min.0 + order.pages() {
                return None;
            }
            if buddy.is_full(range, order) {
                return None;
            }
            let from = from.clamp(range.start, range.end);
            let found = buddy.find_within(&self.memmap, order, from..range.end);
            // Of the whole range: a block may begin before `from` and end after it.
            let Some(index) = found.or_else(|| buddy.find_within(&self.memmap, order, range.clone())) else {
                buddy.note_full(range, order);
                return None;
            };
            buddy.take_at(&self.memmap, index, order);
            self.memmap.at(index).flags.store(Kind::New.bits(order), Relaxed);
            self.used_large.add(Class::Folio, order.pages() as i64);
            self.note_peak(buddy, 0);
            Some(index)
        })
    }
}

/// How many frames the block has that begins at a frame with these flags; 1 where none begins.
fn block_at(flags: u32) -> u32 {
    match Kind::of(flags) {
        Kind::Buddy | Kind::Folio | Kind::New | Kind::Kernel => 1 << Kind::order_of(flags),
        Kind::Reserved
        | Kind::BuddyTail
        | Kind::Pcp
        | Kind::Tail
        | Kind::Table
        | Kind::Slab
        | Kind::Offline => 1,
    }
}

impl Buddy {
    /// The first place in `range` where a free block of `order`, or a larger one, begins.
    fn find_within<M: Machine>(&mut self, map: &Memmap<M>, order: Order, range: Range<u32>) -> Option<u32> {
        let mut at = range.start;
        while u64::from(at) + order.pages() <= u64::from(range.end) {
            let mut flags = map.at(at).flags.load(Relaxed);
            if Kind::of(flags) == Kind::Reserved && self.settle(map, at) {
                flags = map.at(at).flags.load(Relaxed);
            }
            let size = block_at(flags);
            // The zone lock makes this exact.
            if Kind::of(flags) == Kind::Buddy && u64::from(size) >= order.pages() {
                return Some(at);
            }
            // What is in use may be freed meanwhile, and then begins no larger block than it was.
            at = at.saturating_add(size);
        }
        None
    }

    /// Takes the first 2^order frames of the free block at `index`, and puts the others back.
    fn take_at<M: Machine>(&mut self, map: &Memmap<M>, index: u32, order: Order) {
        let have = Kind::order_of(map.at(index).flags.load(Relaxed));
        let block = index..index + (1 << have);
        self.take_block(map, &block);
        self.put_run(map, index + order.pages() as u32..block.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestMachine;
    use anonmem_hal::PhysMem as _;
    use std::vec::Vec;

    #[test]
    fn a_block_that_has_the_place_to_begin_at_is_found() {
        let frames = Frames::new(TestMachine::<true>::new(0x100, 256)).unwrap();
        let base = frames.machine().base_pfn();
        let range = base.offset(128)..base.offset(192);
        let within =
            |order, from| frames.alloc_within(Order::new(order), range.clone(), from, Search::AtHand);
        let block = within(6, base.offset(150)).unwrap();
        assert_eq!(block.pfn(), range.start);
        // Full, also for smaller blocks, until something of it is freed.
        assert!(within(0, range.start).is_err() && within(3, range.start).is_err());
        assert_eq!(frames.free_within(range.clone()), NrPages(0));
        drop(block);
        // The block has merged with those around: a range may begin and end inside of one.
        assert_eq!(frames.free_within(range.clone()), NrPages(64));
        assert_eq!(frames.free_within(base.offset(130)..base.offset(141)), NrPages(11));
        assert_eq!(within(3, base.offset(190)).unwrap().pfn(), range.start);
        frames.validate().unwrap();
    }

    #[test]
    fn blocks_of_a_range_are_found_until_it_is_full() {
        let frames = Frames::new(TestMachine::<true>::new(0x100, 256)).unwrap();
        let base = frames.machine().base_pfn();
        let range = base.offset(128)..base.offset(192);
        let within = |order, from| frames.alloc_within(Order::new(order), range.clone(), from, Search::All);
        let first = within(2, range.start).unwrap();
        assert_eq!(first.pfn(), range.start);
        // The next free block that begins where the caller says or after it, and round to the beginning.
        let second = within(0, base.offset(150)).unwrap();
        assert_eq!(second.pfn(), base.offset(160));
        let mut all = Vec::new();
        while let Ok(page) = within(0, base.offset(150)) {
            assert!(range.contains(&page.pfn()));
            all.push(page);
        }
        assert_eq!(all.len(), 64 - 4 - 1);
        assert!(within(0, range.start).is_err());
        assert!(frames.alloc(Order::ZERO).is_ok(), "others are free");
        frames.validate().unwrap();
        drop((first, second, all));
        assert_eq!(within(6, range.start).unwrap().pfn(), range.start, "what CPUs kept comes back");
        frames.validate().unwrap();
    }
}
