//! Free pages that a CPU keeps for itself, so that most allocations touch nothing shared.
//!
//! Two stacks of single pages: allocation pops from `hot`, free pushes to it. An empty `hot` is exchanged
//! with `cold`, and if that is empty too a batch comes from the buddy lists. A full `hot` becomes `cold`, and
//! the old `cold`, untouched for longest, goes back. So two transitions in a row never both reach the zone
//! lock, whatever the pattern.
//!
//! What does not move has a third stack, `fixed`, which is filled with adjacent pages. What is freed of them
//! is used for the like again. So page tables lie together, and not one in every large block. Linux has
//! migrate types of whole blocks.
//!
//! Locks: each CPU's list has a lock, because [`Frames::drain_pcp`] empties all of them; nobody else
//! contends. The zone lock is taken inside.
//!
//! Linux: mm/page_alloc.c `rmqueue_bulk`, `free_unref_page`, `drain_all_pages`. Differs: single pages only;
//! magazines (Bonwick and Adams, 2001) instead of one list with a cold end; adjacent pages move together.

use crate::{
    buddy::Buddy,
    class::Class,
    frames::Frames,
    magazine::{CpuPages, PcpLists, Stack},
    memmap::NO_LINK,
    meta::{Kind, flags},
};
use anonmem_hal::{Machine, Order, Pfn};
use anonmem_sync::{Ordering::Relaxed, SpinGuard, order::Pcp};
use core::ops::Range;

/// Folios that are being freed. This CPU's list is locked from the first page on: nothing else is allocated
/// or freed by whoever holds this.
pub(crate) struct FreeMany<'f, M: Machine> {
    frames: &'f Frames<M>,
    cpu: &'f CpuPages<M>,
    lists: Option<SpinGuard<'f, M, Pcp, PcpLists>>,
    /// How many pages, for the CPU's counter.
    pages: i64,
    /// Frames of larger folios, side by side, that go to the buddy lists together.
    blocks: Range<u32>,
}

impl<M: Machine> FreeMany<'_, M> {
    /// Frees the folio at `head`.
    #[inline]
    pub(crate) fn add(&mut self, head: Pfn) {
        let frames = self.frames;
        let index = frames.memmap.index(head);
        let meta = frames.memmap.at(index);
        if meta.flags.load(Relaxed) & !GOOD_STATE != Kind::Folio.bits(Order::ZERO) {
            return self.add_block(head);
        }
        // SAFETY: the caller owned the page, and gives it up.
        unsafe { frames.machine().freed(head, Order::ZERO) };
        meta.mapping.store(0, Relaxed);
        let lists = self.lists.get_or_insert_with(|| self.cpu.lists.lock());
        frames.put_on(lists, index);
        self.pages += 1;
    }

    /// Frees a folio of several pages. Folios side by side, as one mapping after the other has them, go back
    /// as the large blocks that they make, under one hold of the zone lock.
    #[cold]
    #[inline(never)]
    fn add_block(&mut self, head: Pfn) {
        let frames = self.frames;
        let index = frames.memmap.index(head);
        let meta = frames.memmap.at(index);
        let order = meta.owned().order();
        if meta.flags.load(Relaxed) & !GOOD_STATE != Kind::Folio.bits(order) {
            return frames.free_block(head, order);
        }
        // SAFETY: the caller owned the folio, and gives it up.
        unsafe { frames.machine().freed(head, order) };
        meta.mapping.store(0, Relaxed);
        // No frame of the run says that it is a head, as in a free block.
        meta.flags.store(Kind::BuddyTail.bits(Order::ZERO), Relaxed);
        let block = index..index + order.pages() as u32;
        if block.start == self.blocks.end {
            self.blocks.end = block.end;
        } else if block.end == self.blocks.start {
            self.blocks.start = block.start;
        } else {
            self.put_blocks();
            self.blocks = block;
        }
    }

    /// Gives the run of frames back.
    fn put_blocks(&mut self) {
        let run = core::mem::take(&mut self.blocks);
        if !run.is_empty() {
            self.frames.with_buddy(|buddy| {
                self.frames.used_large.add(Class::Folio, -(run.len() as i64));
                buddy.put_blocks(&self.frames.memmap, run);
            });
        }
    }
}

impl<M: Machine> Drop for FreeMany<'_, M> {
    fn drop(&mut self) {
        self.put_blocks();
        if self.lists.is_some() {
            self.cpu.used.add(Class::Folio, -self.pages);
        }
    }
}

/// What a page may say that goes to a CPU's list: anything but that it goes out of use.
const GOOD_STATE: u32 = flags::STATE & !flags::BAD;

/// The mark of a page on a CPU's list.
const ON_PCP: u32 = Kind::Pcp.bits(Order::ZERO);

impl<M: Machine> Frames<M> {
    /// Takes a page from this CPU's list; `None` if it is empty and the buddy lists give nothing.
    #[inline]
    pub(crate) fn take_page(&self, class: Class) -> Option<u32> {
        let cpu = self.pcp.this();
        let mut lists = cpu.lists.lock();
        if class.is_fixed() {
            let index = self.take_fixed(&mut lists, class)?;
            cpu.used.add(class, 1);
            return Some(index);
        }
        let index = match lists.hot.pop(&self.memmap) {
            Some(index) => index,
            None => self.refill(&mut lists, class)?,
        };
        cpu.used.add(class, 1);
        Some(index)
    }

    /// Puts a page on this CPU's list.
    #[doc(alias = "free_unref_page")]
    #[inline]
    pub(crate) fn put_page(&self, index: u32, class: Class) {
        let cpu = self.pcp.this();
        let mut lists = cpu.lists.lock();
        if class.is_fixed() && lists.fixed.len < self.pcp_limits.full {
            self.memmap.at(index).flags.store(ON_PCP, Relaxed);
            lists.fixed.push(&self.memmap, index);
        } else {
            self.put_on(&mut lists, index);
        }
        cpu.used.add(class, -1);
    }

    /// Takes a page for what does not move.
    #[inline(never)]
    fn take_fixed(&self, lists: &mut PcpLists, class: Class) -> Option<u32> {
        let own = lists.hot.len + lists.cold.len;
        if lists.fixed.len == 0 {
            lists.fixed = self.with_buddy(|buddy| {
                // What this CPU has for others comes before the reserve.
                if own > 0 && self.above_min(buddy) == 0 {
                    return Stack::EMPTY;
                }
                let stack = self.fetch(buddy, class);
                self.note_peak(buddy, stack.len);
                stack
            });
        }
        match lists.fixed.pop(&self.memmap) {
            Some(index) => Some(index),
            None => lists.hot.pop(&self.memmap).or_else(|| lists.cold.pop(&self.memmap)),
        }
    }

    #[inline]
    fn put_on(&self, lists: &mut PcpLists, index: u32) {
        let meta = self.memmap.at(index);
        meta.flags.store(ON_PCP, Relaxed);
        if lists.hot.len >= self.pcp_limits.full {
            self.spill(lists);
        }
        lists.hot.push(&self.memmap, index);
    }

    /// Starts freeing folios, the single pages among them under one hold of this CPU's list.
    #[doc(alias = "free_unref_folios")]
    #[inline]
    pub(crate) fn free_many(&self) -> FreeMany<'_, M> {
        FreeMany { frames: self, cpu: self.pcp.this(), lists: None, pages: 0, blocks: 0..0 }
    }

    /// Fills the empty `hot` stack and takes a page of it.
    #[doc(alias = "rmqueue_bulk")]
    #[cold]
    #[inline(never)]
    fn refill(&self, lists: &mut PcpLists, class: Class) -> Option<u32> {
        if lists.cold.len == 0 {
            lists.hot = self.with_buddy(|buddy| {
                let stack = self.fetch(buddy, class);
                self.note_peak(buddy, stack.len);
                stack
            });
        } else {
            core::mem::swap(&mut lists.hot, &mut lists.cold);
        }
        lists.hot.pop(&self.memmap)
    }

    /// The pages in the buddy lists that are no reserve.
    fn above_min(&self, buddy: &Buddy) -> u64 {
        u64::from(buddy.free()).saturating_sub(self.watermarks.min.0)
    }

    /// Takes up to a batch of pages, the first one on top.
    fn fetch(&self, buddy: &mut Buddy, class: Class) -> Stack {
        // A page of the reserve is for whoever asks, not for this CPU's list.
        let want = match self.above_min(buddy) {
            0 if class.may_use_reserve() => 1,
            above => above.min(u64::from(self.pcp_limits.batch)) as u32,
        };
        let mut stack = Stack::EMPTY;
        // Link of the page that the next one goes under.
        let mut last = NO_LINK;
        while stack.len < want {
            let Some(run) = buddy.take_run(&self.memmap, want - stack.len) else { break };
            stack.len += run.len() as u32;
            match last.checked_sub(1) {
                None => stack.head = run.start + 1,
                Some(last) => self.memmap.at(last).set_links(run.start + 1, NO_LINK),
            }
            last = run.end;
            for index in run {
                let meta = self.memmap.at(index);
                meta.flags.store(ON_PCP, Relaxed);
                // Of the last one it is set anew; behind the last frame of all there is no link.
                meta.set_links(index.wrapping_add(2), NO_LINK);
            }
        }
        if let Some(last) = last.checked_sub(1) {
            self.memmap.at(last).set_links(NO_LINK, NO_LINK);
        }
        stack
    }

    /// Makes room in the full `hot` stack.
    #[cold]
    #[inline(never)]
    fn spill(&self, lists: &mut PcpLists) {
        let mut old = core::mem::replace(&mut lists.cold, lists.hot);
        lists.hot = Stack::EMPTY;
        if old.len > 0 {
            self.with_buddy(|buddy| self.give_back(buddy, &mut old));
        }
    }

    /// Empties a stack. What was freed in order of address comes out adjacent and is merged right here.
    fn give_back(&self, buddy: &mut Buddy, stack: &mut Stack) {
        let mut run = 0..0;
        while let Some(index) = stack.pop(&self.memmap) {
            if index + 1 == run.start {
                run.start = index;
            } else if index == run.end && !run.is_empty() {
                run.end += 1;
            } else {
                buddy.put_run(&self.memmap, run);
                run = index..index + 1;
            }
        }
        buddy.put_run(&self.memmap, run);
    }

    /// Returns the pages on all CPUs' lists to the buddy lists, where they can merge.
    ///
    /// # Locks
    /// Takes each CPU's list lock and, inside, the zone lock.
    #[doc(alias = "drain_all_pages")]
    #[cold]
    #[inline(never)]
    pub fn drain_pcp(&self) {
        for cpu in self.pcp.iter() {
            let mut lists = cpu.lists.lock();
            if lists.len() > 0 {
                let PcpLists { hot, cold, fixed } = &mut *lists;
                self.with_buddy(|buddy| [hot, cold, fixed].map(|stack| self.give_back(buddy, stack)));
            }
        }
    }
}
