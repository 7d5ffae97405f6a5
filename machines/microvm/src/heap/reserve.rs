//! The kernel's own pages: a bit per page, first fit.

use core::ops::Range;

use crate::arch::lock::SpinLock;
use crate::arch::mem::{PAGE, PhysAddr, page_down, page_up};

const MAX_PAGES: usize = 4096;

struct Reserve {
    base: PhysAddr,
    pages: usize,
    used: usize,
    /// A set bit is a page in use.
    map: [u64; MAX_PAGES / 64],
}

static RESERVE: SpinLock<Reserve> =
    SpinLock::new(Reserve { base: 0, pages: 0, used: 0, map: [0; MAX_PAGES / 64] });

/// Gives the reserve its pages.
pub(super) fn init(range: Range<PhysAddr>) {
    let mut reserve = RESERVE.lock();
    reserve.base = page_up(range.start);
    let pages = (page_down(range.end).saturating_sub(reserve.base) / PAGE) as usize;
    reserve.pages = pages.min(MAX_PAGES);
}

/// Pages used and free.
pub(super) fn counters() -> (usize, usize) {
    let reserve = RESERVE.lock();
    (reserve.used, reserve.pages - reserve.used)
}

impl Reserve {
    fn is_used(&self, page: usize) -> bool {
        self.map[page / 64] >> (page % 64) & 1 == 1
    }

    fn flip(&mut self, first: usize, count: usize) {
        for page in first..first + count {
            self.map[page / 64] ^= 1 << (page % 64);
        }
    }
}

/// A naturally aligned block.
pub(super) fn alloc(order: u32) -> Option<PhysAddr> {
    let mut reserve = RESERVE.lock();
    let count = 1usize << order;
    let first_page = (reserve.base / PAGE) as usize;
    let mut page = first_page.next_multiple_of(count) - first_page;
    while page + count <= reserve.pages {
        match (page..page + count).find(|page| reserve.is_used(*page)) {
            None => {
                reserve.flip(page, count);
                reserve.used += count;
                return Some(reserve.base + page as u64 * PAGE);
            }
            Some(_) => page += count,
        }
    }
    None
}

/// Takes a block back if it is from here.
pub(super) fn free(block: PhysAddr, order: u32) -> bool {
    let mut reserve = RESERVE.lock();
    let end = reserve.base + reserve.pages as u64 * PAGE;
    if !(reserve.base..end).contains(&block) {
        return false;
    }
    let page = ((block - reserve.base) / PAGE) as usize;
    debug_assert!(reserve.is_used(page), "a page of the heap's reserve is freed twice");
    reserve.flip(page, 1 << order);
    reserve.used -= 1 << order;
    true
}
