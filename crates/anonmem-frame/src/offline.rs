//! Frames that are taken out of use and given back: hot-unplug, balloons, compaction.
//!
//! Only free frames go. Whoever wants a range empties it first, page by page, and takes what became free.
//!
//! Several may want the same frame. Its metadata says for whom it is out of use, and the stronger reason
//! stays. Compaction may have a frame that is to be unplugged meanwhile: then it is unplugged. Nobody gives
//! back what is out of use for another reason.
//!
//! A page whose frame is bad may be somebody's for a moment longer. It is marked, and the frame goes out of
//! use instead of to the free lists. The mark is in a word that whoever frees a page compares anyway.
//!
//! Locks: the CPUs' lists, then the zone.
//!
//! Linux: mm/page_isolation.c, mm/memory_hotplug.c `offline_pages`. Differs: no isolated lists. A frame that
//! is taken is nobody's, and who allocates beside it does not notice.

use crate::{
    buddy::Buddy,
    class::Class,
    folio::FolioRef,
    frames::Frames,
    memmap::Memmap,
    meta::{Kind, flags},
    zone::not_allocated,
};
use anonmem_hal::{MAX_ORDER, Machine, Order, Pfn};
use anonmem_sync::Ordering::Relaxed;
use core::ops::Range;

/// Why a frame is out of use; the later in this list, the stronger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum OutFor {
    /// A large block is being made of it, and it comes back at once.
    Block,
    /// It is unplugged, or in a balloon, until its owner gives it back.
    Owner,
    /// It is bad, and never comes back.
    Good,
}

impl OutFor {
    const ALL: [Self; 3] = [Self::Block, Self::Owner, Self::Good];

    /// What the metadata of such a frame says.
    const fn bits(self) -> u32 {
        let offline = Kind::Offline.bits(Order::ZERO);
        match self {
            Self::Block => offline | flags::BLOCK,
            Self::Owner => offline,
            Self::Good => offline | flags::BAD,
        }
    }

    fn of(bits: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|why| why.bits() == bits)
    }
}

impl<M: Machine> Frames<M> {
    /// Takes the free frames of `range` out of use. What is out of use for a weaker reason is out of use for
    /// this one from now on. Returns how many frames that are together.
    #[doc(alias = "offline_pages")]
    pub fn take_offline(&self, range: Range<Pfn>, why: OutFor) -> u64 {
        let range = self.indices(&range);
        self.drain_pcp();
        self.with_buddy(|buddy| {
            let (taken, upgraded) = buddy.take_within(&self.memmap, range, why);
            self.used_large.add(Class::Offline, i64::from(taken));
            u64::from(taken + upgraded)
        })
    }

    /// Gives the frames of `range` back that are out of use for this reason; returns how many. What is out
    /// of use for good stays so.
    #[doc(alias = "online_pages")]
    pub fn give_online(&self, range: Range<Pfn>, why: OutFor) -> u64 {
        let range = self.indices(&range);
        if why == OutFor::Good {
            return 0;
        }
        self.with_buddy(|buddy| {
            let mut given = 0;
            let mut at = range.start;
            while at < range.end {
                let run = at..range.end.min(end_of_out(&self.memmap, at, why));
                at = run.end.saturating_add(1);
                given += run.len() as i64;
                buddy.put_run(&self.memmap, run);
            }
            self.used_large.add(Class::Offline, -given);
            given as u64
        })
    }

    /// Why the frame is out of use, if it is.
    pub fn out_for(&self, frame: Pfn) -> Option<OutFor> {
        let index = self.indices(&(frame..frame.offset(1)));
        let meta = self.memmap.get(index.start).filter(|_| !index.is_empty())?;
        // Relaxed: a look, which whoever takes the frame or gives it back may make untrue at once.
        OutFor::of(meta.flags.load(Relaxed))
    }

    /// The free blocks of each order, as of now.
    pub fn free_blocks(&self) -> [u64; MAX_ORDER as usize + 1] {
        self.with_buddy(|buddy| buddy.all_blocks())
    }

    /// The frames of `range` that there are.
    pub(crate) fn indices(&self, range: &Range<Pfn>) -> Range<u32> {
        let base = self.memmap.pfn(0).0;
        let index = |pfn: Pfn| pfn.0.saturating_sub(base).min(u64::from(self.memmap.nr())) as u32;
        index(range.start)..index(range.end).max(index(range.start))
    }
}

impl<M: Machine> FolioRef<'_, M> {
    /// Lets the frame of the page go out of use for good when the last one lets go of the page.
    ///
    /// # Panics
    /// If it is no folio of one page.
    #[doc(alias = "SetPageHWPoison")]
    pub fn retire_when_freed(&self) {
        let folio = self.folio();
        assert!(folio.owned_order() == Order::ZERO, "a part of {folio:?} goes out of use");
        // Relaxed: whoever frees the page sees it by the counts, which he brought to 0 after this one's.
        folio.meta().flags.fetch_or(flags::BAD, Relaxed);
    }
}

impl<M: Machine> Frames<M> {
    /// Frees a block that does not go to the free lists: a page whose frame goes out of use.
    ///
    /// # Panics
    /// If it is none.
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) fn free_bad(&self, pfn: Pfn, order: Order, bits: u32) {
        if bits & !flags::STATE != Kind::Folio.bits(Order::ZERO) || order != Order::ZERO {
            not_allocated(pfn, order, bits);
        }
        // SAFETY: the caller owned the page, and gives it up.
        unsafe { self.machine().freed(pfn, order) };
        self.with_buddy(|_| {
            self.meta(pfn).reset(OutFor::Good.bits(), 0);
            self.used_large.add(Class::Folio, -1);
            self.used_large.add(Class::Offline, 1);
        });
    }
}

/// The end of the frames from `at` on that are out of use for this reason.
fn end_of_out<M: Machine>(map: &Memmap<M>, at: u32, why: OutFor) -> u32 {
    let differs = |&index: &u32| map.at(index).flags.load(Relaxed) != why.bits();
    (at..map.nr()).find(differs).unwrap_or(map.nr())
}

impl Buddy {
    /// Takes the free frames of `range`, and puts back what else their blocks have. Returns how many it took,
    /// and how many were out of use for a weaker reason.
    fn take_within<M: Machine>(&mut self, map: &Memmap<M>, range: Range<u32>, why: OutFor) -> (u32, u32) {
        let (mut taken, mut upgraded) = (0, 0);
        self.settle_all(map, range.clone());
        let mut at = range.start;
        while at < range.end {
            let Some(block) = free_block_with(map, at) else {
                // The zone lock makes this exact: under it alone a frame goes out of use, and comes back.
                let meta = map.at(at);
                if OutFor::of(meta.flags.load(Relaxed)).is_some_and(|known| known < why) {
                    meta.flags.store(why.bits(), Relaxed);
                    upgraded += 1;
                }
                at += 1;
                continue;
            };
            let inside = block.start.max(range.start)..block.end.min(range.end);
            self.take_block(map, &block);
            for index in inside.clone() {
                map.at(index).reset(why.bits(), 0);
            }
            for outside in [block.start..inside.start, inside.end..block.end] {
                self.put_run(map, outside);
            }
            taken += inside.len() as u32;
            at = inside.end;
        }
        (taken, upgraded)
    }
}

/// The free block that has the frame, if it is free.
fn free_block_with<M: Machine>(map: &Memmap<M>, index: u32) -> Option<Range<u32>> {
    (0..=MAX_ORDER).find_map(|order| {
        let head = map.head_of(index, order)?;
        // The zone lock makes this exact, as in `put`.
        let is_block = map.at(head).flags.load(Relaxed) == Kind::Buddy.bits(Order::new(order));
        is_block.then(|| head..head + (1 << order))
    })
}
