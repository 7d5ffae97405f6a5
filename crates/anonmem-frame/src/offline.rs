//! Frames that are taken out of use and given back: hot-unplug, balloons, compaction.
//!
//! Only free frames go. Whoever wants a range empties it first, page by page, and takes what became free.
//!
//! Locks: the CPUs' lists, then the zone.
//!
//! Linux: mm/page_isolation.c, mm/memory_hotplug.c `offline_pages`. Differs: no isolated lists. A frame that
//! is taken is nobody's, and who allocates beside it does not notice.

use crate::{
    buddy::Buddy,
    class::Class,
    frames::Frames,
    memmap::Memmap,
    meta::{Kind, flags},
};
use anonmem_hal::{MAX_ORDER, Machine, Order, Pfn};
use anonmem_sync::Ordering::Relaxed;
use core::ops::Range;

impl<M: Machine> Frames<M> {
    /// Takes the free frames of `range` out of use; returns how many.
    #[doc(alias = "offline_pages")]
    pub fn take_offline(&self, range: Range<Pfn>) -> u64 {
        let range = self.indices(&range);
        self.drain_pcp();
        self.with_buddy(|buddy| {
            let taken = buddy.take_within(&self.memmap, range);
            self.used_large.add(Class::Offline, i64::from(taken));
            u64::from(taken)
        })
    }

    /// Gives the frames of `range` that are out of use back; returns how many.
    #[doc(alias = "online_pages")]
    pub fn give_online(&self, range: Range<Pfn>) -> u64 {
        let range = self.indices(&range);
        self.with_buddy(|buddy| {
            let mut given = 0;
            let mut at = range.start;
            while at < range.end {
                let run = at..range.end.min(end_of_offline(&self.memmap, at));
                at = run.end + 1;
                given += run.len() as i64;
                buddy.put_run(&self.memmap, run);
            }
            self.used_large.add(Class::Offline, -given);
            given as u64
        })
    }

    /// Keeps a frame that is out of use from ever being given back; returns whether it is.
    #[doc(alias = "SetPageHWPoison")]
    pub fn condemn(&self, frame: Pfn) -> bool {
        let range = self.indices(&(frame..frame.offset(1)));
        self.with_buddy(|_buddy| {
            let Some(meta) = self.memmap.get(range.start).filter(|_| !range.is_empty()) else { return false };
            let bits = meta.flags.load(Relaxed);
            if bits == OFFLINE {
                meta.flags.store(BAD, Relaxed);
            }
            bits == OFFLINE || bits == BAD
        })
    }

    /// The free blocks of each order, as of now.
    pub fn free_blocks(&self) -> [u64; MAX_ORDER as usize + 1] {
        self.with_buddy(|buddy| buddy.all_blocks())
    }

    /// The frames of `range` that there are.
    fn indices(&self, range: &Range<Pfn>) -> Range<u32> {
        let base = self.memmap.pfn(0).0;
        let index = |pfn: Pfn| pfn.0.saturating_sub(base).min(u64::from(self.memmap.nr())) as u32;
        index(range.start)..index(range.end).max(index(range.start))
    }
}

/// The end of the frames from `at` on that are out of use.
fn end_of_offline<M: Machine>(map: &Memmap<M>, at: u32) -> u32 {
    let in_use = |&index: &u32| map.at(index).flags.load(Relaxed) != OFFLINE;
    (at..map.nr()).find(in_use).unwrap_or(map.nr())
}

/// The mark of a frame that is out of use.
const OFFLINE: u32 = Kind::Offline.bits(Order::ZERO);

/// The same of one that is bad.
const BAD: u32 = OFFLINE | flags::BAD;

impl Buddy {
    /// Takes the free frames of `range`, and puts back what else their blocks have.
    fn take_within<M: Machine>(&mut self, map: &Memmap<M>, range: Range<u32>) -> u32 {
        let mut taken = 0;
        let mut at = range.start;
        while at < range.end {
            let Some(block) = free_block_with(map, at) else {
                at += 1;
                continue;
            };
            let inside = block.start.max(range.start)..block.end.min(range.end);
            self.take_block(map, &block);
            for index in inside.clone() {
                map.at(index).reset(OFFLINE, 0);
            }
            for outside in [block.start..inside.start, inside.end..block.end] {
                self.put_run(map, outside);
            }
            taken += inside.len() as u32;
            at = inside.end;
        }
        taken
    }
}

/// The free block that has the frame, if it is free.
fn free_block_with<M: Machine>(map: &Memmap<M>, index: u32) -> Option<Range<u32>> {
    (0..=MAX_ORDER).find_map(|order| {
        let head = map.head_of(index, order)?;
        // The zone lock makes this exact, as in `put`.
        let is_block = map.at(head).flags.load(Relaxed) == Kind::Buddy.bits(Order::new(order));
        is_block.then_some(head..head + (1 << order))
    })
}
