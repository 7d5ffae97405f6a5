//! Recounting the frames: lists, marks and counters must tell the same story.
//!
//! For tests and for the end of a run; nothing may be allocating or freeing meanwhile.

use crate::{
    class::{Class, Counters},
    frames::Frames,
    memmap::NO_LINK,
    meta::Kind,
};
use anonmem_hal::{MAX_ORDER, Machine, Order, Pfn};
use core::fmt;

/// Something that does not add up, and the frame where it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inconsistency {
    /// The frame, or the first of all for a sum.
    pub pfn: Pfn,
    /// What is wrong.
    pub what: &'static str,
}

impl fmt::Display for Inconsistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {:#x}: {}", self.pfn.0, self.what)
    }
}

impl core::error::Error for Inconsistency {}

/// Fails with a message unless the condition holds.
macro_rules! check {
    ($cond:expr, $pfn:expr, $what:expr) => {
        if !$cond {
            return Err(Inconsistency { pfn: $pfn, what: $what });
        }
    };
}

/// What the marks of all frames add up to.
#[derive(Default)]
struct Census {
    blocks: [u32; MAX_ORDER as usize + 1],
    buddy: u64,
    fresh: u64,
    pcp: u32,
    used: [u64; Class::ALL.len()],
}

impl<M: Machine> Frames<M> {
    /// Checks that free lists, marks and counters agree for every frame.
    ///
    /// # Errors
    /// The first thing that does not add up.
    pub fn validate(&self) -> Result<(), Inconsistency> {
        let census = self.census()?;
        let first = self.memmap.pfn(0);
        let free = self.check_buddy_lists(&census)?;
        check!(free == census.buddy + census.fresh, first, "the buddy lists do not hold every free block");
        check!(free == self.buddy_free.peek(), first, "the number of free frames is wrong");
        check!(self.check_pcp_lists()? == census.pcp, first, "the CPUs' lists do not hold every free page");
        for class in Class::ALL {
            let counted: i64 =
                self.pcp.iter().map(|cpu| &cpu.used).map(|c: &Counters<M>| c.peek(class)).sum();
            let counted = counted + self.used_large.peek(class);
            check!(counted == census.used[class as usize] as i64, first, wrong_counter(class));
        }
        Ok(())
    }

    /// Counts by the marks alone.
    fn census(&self) -> Result<Census, Inconsistency> {
        let mut census = Census::default();
        let mut index = 0;
        while let Some(meta) = self.memmap.get(index) {
            let (pfn, kind) = (self.memmap.pfn(index), meta.owned().kind());
            check!(Kind::order_of(meta.flags.peek()) <= MAX_ORDER, pfn, "the order is out of range");
            let order = meta.owned().order();
            check!(self.memmap.is_block(index, order), pfn, "the block is not aligned or too long");
            if kind == Kind::Reserved
                && let Some(unused) = self.memmap.never_used(index)
            {
                if unused.start >= self.memmap.first_free() {
                    census.fresh += u64::from(unused.end - unused.start);
                }
                index = unused.end;
                continue;
            }
            match Class::of(kind) {
                Some(class) => census.used[class as usize] += order.pages(),
                None if kind == Kind::Buddy => {
                    census.blocks[usize::from(order.get())] += 1;
                    census.buddy += order.pages();
                }
                None if pfn == self.zero_page() => {
                    check!(kind == Kind::Reserved, pfn, "the zero page is used for something else");
                }
                None if index < self.memmap.first_free() => {
                    check!(kind == Kind::Reserved, pfn, "a frame that is set aside is no slab's");
                }
                None => {
                    check!(kind == Kind::Pcp && order == Order::ZERO, pfn, "no block starts where one must");
                    census.pcp += 1;
                }
            }
            self.check_tails(index, order, kind)?;
            index += order.pages() as u32;
        }
        Ok(census)
    }

    fn check_tails(&self, head: u32, order: Order, of: Kind) -> Result<(), Inconsistency> {
        let head_pfn = self.memmap.pfn(head).0;
        for index in head + 1..head + order.pages() as u32 {
            let (pfn, meta) = (self.memmap.pfn(index), self.memmap.at(index));
            let kind = meta.owned().kind();
            if of == Kind::Buddy {
                let leftover = matches!(kind, Kind::Reserved | Kind::BuddyTail | Kind::Tail);
                check!(leftover, pfn, "a head inside a free block");
            } else {
                check!(kind == Kind::Tail, pfn, "not a tail inside an allocated block");
                check!(meta.mapping.peek() == head_pfn, pfn, "a tail of another block");
            }
        }
        Ok(())
    }

    /// Follows the buddy lists; returns the number of frames on them.
    fn check_buddy_lists(&self, census: &Census) -> Result<u64, Inconsistency> {
        self.with_buddy(|buddy| {
            let mut free = 0;
            for order in (0..=MAX_ORDER).map(Order::new) {
                let (mut link, mut prev, mut len) = (buddy.head(order), NO_LINK, 0);
                while let Some(index) = link.checked_sub(1) {
                    let pfn = Pfn(self.memmap.pfn(index).0);
                    check!(len < buddy.blocks(order), pfn, "a buddy list is longer than it says");
                    let Some(meta) = self.memmap.get(index) else {
                        return Err(Inconsistency { pfn, what: "a buddy list leaves memory" });
                    };
                    check!(
                        meta.flags.peek() == Kind::Buddy.bits(order),
                        pfn,
                        "on a buddy list, but not free of that order"
                    );
                    check!(meta.links().1 == prev, pfn, "a buddy list's backward link is wrong");
                    check!(!self.could_merge(index, order), pfn, "two free buddies were not merged");
                    (prev, link, len) = (link, meta.links().0, len + 1);
                }
                let first = self.memmap.pfn(0);
                check!(len == buddy.blocks(order), first, "a buddy list is shorter than it says");
                check!(len == census.blocks[usize::from(order.get())], first, "a free block is on no list");
                free += u64::from(len) << order.get();
            }
            free += u64::from(buddy.fresh());
            check!(free == u64::from(buddy.free()), self.memmap.pfn(0), "the buddy lists' sum is wrong");
            Ok(free)
        })
    }

    fn could_merge(&self, index: u32, order: Order) -> bool {
        order != Order::MAX
            && self
                .memmap
                .buddy_of(index, order.get())
                .is_some_and(|buddy| self.memmap.at(buddy).flags.peek() == Kind::Buddy.bits(order))
    }

    /// Follows the CPUs' lists; returns the number of pages on them.
    fn check_pcp_lists(&self) -> Result<u32, Inconsistency> {
        let mut total = 0;
        for cpu in self.pcp.iter() {
            let (mut seen, mut wrong) = (0, None);
            let limit = self.memmap.nr();
            let claimed = cpu.for_each_free(&self.memmap, limit, |index| {
                let ok = self.memmap.get(index).is_some_and(|meta| meta.owned().kind() == Kind::Pcp);
                if !ok {
                    wrong = wrong.or(Some(index));
                }
                seen += 1;
            });
            if let Some(index) = wrong {
                let pfn = self.memmap.pfn(index);
                return Err(Inconsistency { pfn, what: "on a CPU's list, but not free" });
            }
            check!(seen == claimed, self.memmap.pfn(0), "a CPU's list is not as long as it says");
            total += seen;
        }
        Ok(total)
    }
}

const fn wrong_counter(class: Class) -> &'static str {
    match class {
        Class::Folio => "the number of folio pages is wrong",
        Class::Table => "the number of page tables is wrong",
        Class::Slab => "the number of slab pages is wrong",
        Class::Kernel => "the number of the kernel's own pages is wrong",
        Class::Offline => "the number of pages out of use is wrong",
    }
}
