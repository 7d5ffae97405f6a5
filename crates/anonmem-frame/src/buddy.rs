//! Free blocks of 2^order frames: split on the way out, merged on the way in.
//!
//! Only the first frame of a free block is marked ([`Kind::Buddy`] and its order) and linked; both take
//! O(order). What the other frames of a free block say is left over. They never say that they are a head: one
//! that is merged into a block is marked [`Kind::BuddyTail`]. So a look at a block's buddy is never misled.
//!
//! Locks: the caller holds the zone lock, which is how it has a `&mut Buddy`.
//!
//! Linux: mm/page_alloc.c `__rmqueue_smallest`, `expand`, `__free_one_page`. Differs: no migrate types.

use crate::{
    memmap::{Memmap, NO_LINK},
    meta::Kind,
};
use anonmem_hal::{MAX_NODES, MAX_ORDER, Machine, Order};
use anonmem_sync::Ordering::Relaxed;
use core::ops::Range;

const ORDERS: usize = MAX_ORDER as usize + 1;

/// The free lists.
pub(crate) struct Buddy {
    /// Link of the first block of each order.
    heads: [u32; ORDERS],
    /// The number of blocks of each order.
    blocks: [u32; ORDERS],
    /// Bit `n`: there is a block of order `n`.
    nonempty: u32,
    /// The number of frames in all blocks, and of those that were never used.
    pub(crate) free: u32,
    /// Of these, those that were never used (`fresh.rs`).
    pub(crate) fresh: u32,
    /// Where the next of them may be.
    pub(crate) next_fresh: u32,
    /// Frames that wait to become a slab's (`set_aside.rs`).
    pub(crate) set_aside: Range<u32>,
    /// Ranges in which a look found nothing, and nothing was freed since.
    full: [Full; RANGES],
    /// How many of them there are.
    nr_full: u32,
}

/// As many ranges are remembered as there are nodes.
const RANGES: usize = MAX_NODES as usize;

/// A range of frames without a free block of a size, or of a larger one.
#[derive(Clone, Copy)]
struct Full {
    start: u32,
    /// 0 for none.
    end: u32,
    order: u8,
}

impl Full {
    const NONE: Self = Self { start: 0, end: 0, order: 0 };

    const fn is(&self, range: &Range<u32>) -> bool {
        self.end != 0 && self.start == range.start && self.end == range.end
    }
}

impl Buddy {
    /// Lists without a block.
    pub(crate) const fn new() -> Self {
        Self {
            heads: [NO_LINK; ORDERS],
            blocks: [0; ORDERS],
            nonempty: 0,
            free: 0,
            fresh: 0,
            next_fresh: 0,
            set_aside: 0..0,
            full: [Full::NONE; RANGES],
            nr_full: 0,
        }
    }

    /// Puts frames that were never used on the lists, as the largest aligned blocks that there are.
    ///
    /// From the end, so that the lowest block is taken first.
    pub(crate) fn push_all<M: Machine>(&mut self, map: &Memmap<M>, run: Range<u32>) {
        let mut end = run.end;
        while end > run.start {
            let aligned = map.pfn(end).0.trailing_zeros();
            let order = aligned.min((end - run.start).ilog2()).min(u32::from(MAX_ORDER)) as u8;
            end -= 1 << order;
            self.push(map, end, order);
            self.free += 1 << order;
        }
    }

    /// The number of free frames, those included that are on no list.
    pub(crate) const fn free(&self) -> u32 {
        self.free
    }

    /// The number of free blocks of `order` that are on a list.
    pub(crate) const fn blocks(&self, order: Order) -> u32 {
        self.blocks[order.get() as usize]
    }

    /// The number of free blocks of each order.
    pub(crate) fn all_blocks(&self) -> [u64; ORDERS] {
        let mut blocks = self.blocks.map(u64::from);
        blocks[usize::from(MAX_ORDER)] += u64::from(self.fresh >> MAX_ORDER);
        blocks
    }

    /// The first free block of `order`, as a link.
    pub(crate) const fn head(&self, order: Order) -> u32 {
        self.heads[order.get() as usize]
    }

    /// Takes a block of `order` and stores `flags` in its first frame, which ends its being free.
    #[doc(alias = "__rmqueue_smallest")]
    pub(crate) fn take<M: Machine>(&mut self, map: &Memmap<M>, order: Order, flags: u32) -> Option<u32> {
        let order = order.get();
        if self.nonempty >> order == 0 && !self.settle_next(map) {
            return None;
        }
        let have = order + (self.nonempty >> order).trailing_zeros() as u8;
        let index = self.split(map, have, order);
        map.at(index).flags.store(flags, Relaxed);
        Some(index)
    }

    /// Takes up to `most` adjacent pages, at least 1: those that taking pages one by one would give. The
    /// caller marks them, all of them, before it lets go of the lock.
    pub(crate) fn take_run<M: Machine>(&mut self, map: &Memmap<M>, most: u32) -> Option<Range<u32>> {
        if self.nonempty == 0 && !self.settle_next(map) {
            return None;
        }
        let have = self.nonempty.trailing_zeros() as u8;
        let order = have.min(most.ilog2() as u8);
        let index = self.split(map, have, order);
        Some(index..index + (1 << order))
    }

    /// Takes the first block of order `have`, which there is, and gives back all but its first 2^order
    /// frames.
    #[doc(alias = "expand")]
    fn split<M: Machine>(&mut self, map: &Memmap<M>, have: u8, order: u8) -> u32 {
        let index = self.heads[usize::from(have)] - 1;
        self.unlink(map, index, have);
        for half in (order..have).rev() {
            self.push(map, index + (1 << half), half);
        }
        self.free -= 1 << order;
        index
    }

    /// Takes a certain free block, whatever is to become of it.
    pub(crate) fn take_block<M: Machine>(&mut self, map: &Memmap<M>, block: &Range<u32>) {
        let order = block.len().ilog2() as u8;
        self.unlink(map, block.start, order);
        self.free -= 1 << order;
    }

    /// Puts adjacent pages back, in the largest blocks that they make. Nobody else looks at their marks.
    pub(crate) fn put_run<M: Machine>(&mut self, map: &Memmap<M>, run: Range<u32>) {
        for index in run.clone() {
            map.at(index).flags.store(Kind::BuddyTail.bits(Order::ZERO), Relaxed);
        }
        self.put_blocks(map, run);
    }

    /// The same, of frames none of which says that it is a head.
    pub(crate) fn put_blocks<M: Machine>(&mut self, map: &Memmap<M>, mut run: Range<u32>) {
        while !run.is_empty() {
            let aligned = map.pfn(run.start).0.trailing_zeros();
            let order = aligned.min(run.len().ilog2()).min(u32::from(MAX_ORDER)) as u8;
            self.put(map, run.start, Order::new(order));
            run.start += 1 << order;
        }
    }

    /// Puts a block back and merges it with its buddy as long as that is free too.
    #[doc(alias = "__free_one_page")]
    pub(crate) fn put<M: Machine>(&mut self, map: &Memmap<M>, mut index: u32, order: Order) {
        let mut order = order.get();
        self.free += 1 << order;
        while order < MAX_ORDER {
            let Some(buddy) = map.buddy_of(index, order) else { break };
            // The zone lock makes this exact: nobody else turns a frame into a free block or back.
            if map.at(buddy).flags.load(Relaxed) != Kind::Buddy.bits(Order::new(order)) {
                break;
            }
            self.unlink(map, buddy, order);
            map.at(index.max(buddy)).flags.store(Kind::BuddyTail.bits(Order::ZERO), Relaxed);
            index = index.min(buddy);
            order += 1;
        }
        self.push(map, index, order);
        if self.nr_full > 0 {
            self.forget_full(index..index + (1 << order));
        }
    }

    /// Whether it is known that no block of `order` is free in `range`.
    pub(crate) fn is_full(&self, range: &Range<u32>, order: Order) -> bool {
        self.full.iter().any(|full| full.is(range) && full.order <= order.get())
    }

    /// Remembers that no block of `order` is free in `range`, until one of its frames is freed.
    pub(crate) fn note_full(&mut self, range: &Range<u32>, order: Order) {
        let place = self.full.iter().position(|full| full.is(range));
        let place = place.or_else(|| self.full.iter().position(|full| full.end == 0));
        let Some(place) = place else { return };
        self.full[place] = Full { start: range.start, end: range.end, order: order.get() };
        self.count_full();
    }

    #[cold]
    fn forget_full(&mut self, block: Range<u32>) {
        for full in &mut self.full {
            if full.start < block.end && block.start < full.end {
                *full = Full::NONE;
            }
        }
        self.count_full();
    }

    fn count_full(&mut self) {
        self.nr_full = self.full.iter().filter(|full| full.end != 0).count() as u32;
    }

    fn push<M: Machine>(&mut self, map: &Memmap<M>, index: u32, order: u8) {
        let list = usize::from(order);
        let next = self.heads[list];
        let meta = map.at(index);
        meta.flags.store(Kind::Buddy.bits(Order::new(order)), Relaxed);
        meta.set_links(next, NO_LINK);
        if next != NO_LINK {
            let meta = map.at(next - 1);
            meta.set_links(meta.links().0, index + 1);
        }
        self.heads[list] = index + 1;
        self.blocks[list] += 1;
        self.nonempty |= 1 << order;
    }

    fn unlink<M: Machine>(&mut self, map: &Memmap<M>, index: u32, order: u8) {
        let list = usize::from(order);
        let (next, prev) = map.at(index).links();
        if next != NO_LINK {
            let meta = map.at(next - 1);
            meta.set_links(meta.links().0, prev);
        }
        if prev != NO_LINK {
            let meta = map.at(prev - 1);
            meta.set_links(next, meta.links().1);
        } else {
            self.heads[list] = next;
        }
        self.blocks[list] -= 1;
        if self.heads[list] == NO_LINK {
            self.nonempty &= !(1 << order);
        }
    }
}
