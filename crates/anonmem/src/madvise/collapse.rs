//! `MADV_COLLAPSE`: the pages of a range become folios that are as large as the range allows.
//!
//! Windows of a leaf's size come first, as on Linux: whether they could be made is what the call says. What
//! the range has beside them becomes smaller folios, if that can be. A range without a window of that size is
//! asked for smaller ones, and the call says whether they could be made; Linux refuses it.
//!
//! Linux: mm/khugepaged.c `madvise_collapse`.

use crate::{
    error::Error,
    migrate::Effort,
    mm::Mm,
    rmap::machine::Machine,
    thp::collapse::{BlockEffort, CollapseLimits, NotCollapsed},
};
use anonmem_hal::{Arch, Order, PAGE_SHIFT, Va, VaRange};
use anonmem_sync::yield_now;

/// The smallest folio that a range is worth.
const SMALLEST: u8 = 1;

impl<M: Machine> Mm<'_, M> {
    /// Collapses what is mapped in `range`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there was no block, [`Error::Again`] if pages were in use,
    /// [`Error::Invalid`] if a mapping has no window or may not collapse, [`Error::NotMapped`] at the end if
    /// there were holes, [`Error::Interrupted`] if the caller is to end.
    pub(super) fn madvise_collapse(&self, range: VaRange) -> Result<(), Error> {
        let (mut rest, mut mapped) = (range, 0);
        while let Some(part) = self.first_part(rest) {
            self.collapse_part(part)?;
            mapped += part.len();
            rest.start = part.end;
        }
        if mapped == range.len() { Ok(()) } else { Err(Error::NotMapped) }
    }

    /// The first addresses of `range` that one mapping has.
    fn first_part(&self, range: VaRange) -> Option<VaRange> {
        let guard = self.read();
        let (vma, _) = guard.slot().tree.find(self.vm.nodes(), range.start)?;
        vma.intersect(range)
    }

    fn collapse_part(&self, part: VaRange) -> Result<(), Error> {
        let leaf = M::Arch::LEAF_ORDER;
        let has_leaf = Windows { rest: part, most: leaf.get() }.any(|(_, order)| order == leaf);
        let (mut nr, mut failed) = (0, None);
        let mut windows = Windows { rest: part, most: leaf.get() };
        while let Some((start, order)) = windows.next() {
            if M::is_dying() {
                return Err(Error::Interrupted);
            }
            // The range may be all that a program has.
            yield_now::<M>();
            let effort = if order == leaf || !has_leaf {
                BlockEffort::Compact(Effort::Full)
            } else {
                BlockEffort::Free
            };
            let done = self.collapse(start, order, CollapseLimits::ANY, effort);
            if has_leaf && order != leaf {
                continue;
            }
            nr += 1;
            match done {
                Ok(_) => {}
                Err(NotCollapsed::Empty) => {
                    failed = Some(NotCollapsed::Empty);
                    // Those behind it that have no table say the same.
                    let next = self.first_tabled(windows.rest);
                    windows.rest.start = next.map_or(windows.rest.end, |part| part.start);
                }
                // A mapping that may not collapse says so of each of its windows.
                Err(why @ (NotCollapsed::NoMemory | NotCollapsed::Mapping)) => return Err(why.into()),
                Err(why) => failed = Some(why),
            }
        }
        match failed {
            Some(why) => Err(why.into()),
            None if nr == 0 => Err(NotCollapsed::Mapping.into()),
            None => Ok(()),
        }
    }
}

/// The aligned windows of a range, the largest that fit one after the other.
struct Windows {
    rest: VaRange,
    most: u8,
}

impl Iterator for Windows {
    type Item = (Va, Order);

    fn next(&mut self) -> Option<(Va, Order)> {
        while !self.rest.is_empty() {
            let start = self.rest.start;
            let fits = |order: &u8| {
                let bytes = 1u64 << (PAGE_SHIFT + u32::from(*order));
                start.0.is_multiple_of(bytes) && self.rest.len() >= bytes
            };
            let order = (SMALLEST..=self.most).rev().find(fits);
            self.rest.start = start.page_after(order.map_or(1, |order| 1 << order));
            if let Some(order) = order {
                return Some((start, Order::new(order)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pages;
    use std::vec::Vec;

    #[test]
    fn a_range_is_cut_into_the_largest_windows() {
        let windows = |first, n| {
            let all = Windows { rest: pages(first, n), most: 9 };
            all.map(|(va, order)| (va.page(), order.get())).collect::<Vec<_>>()
        };
        assert_eq!(windows(512, 512), [(512, 9)]);
        assert_eq!(windows(508, 1032), [(508, 2), (512, 9), (1024, 9), (1536, 2)]);
        assert_eq!(windows(511, 1), []);
        assert_eq!(windows(1, 6), [(2, 1), (4, 1)]);
    }
}
