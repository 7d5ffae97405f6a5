//! Large folios are split because somebody says so.
//!
//! Locks: the mmap lock for reading, for a few pages at a time; the folio lock of each.
//!
//! Linux: mm/huge_memory.c `split_huge_pages_pid`, `split_huge_pages_all`.

use crate::{mm::Mm, rmap::machine::Machine, vm::Vm};
use anonmem_frame::{FolioOwner, FolioRef, Kind};
use anonmem_hal::{Order, Pfn, VaRange};
use anonmem_sync::yield_now;

/// Pages that are looked at together.
const PAGES: usize = 64;

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Splits {
    /// Folios that were larger than they were to be.
    pub found: u64,
    /// Those of them that were split.
    pub split: u64,
}

impl<M: Machine> Mm<'_, M> {
    /// Splits the large folios that are mapped in `range` into folios of 2^`to` pages.
    ///
    /// # Locks
    /// The mmap lock for reading, and the folios' locks.
    #[doc(alias = "split_huge_pages_pid")]
    pub fn split_folios(&self, range: VaRange, to: Order) -> Splits {
        let mut splits = Splits::default();
        // A folio that stays is behind many pages, and counts once.
        let mut last = None;
        let mut rest = VaRange { start: range.start.page_down(), end: range.end };
        while let Some(part) = self.first_tabled(rest) {
            let mut frames = [None; PAGES];
            let mut found = frames.iter_mut();
            self.for_each_page(part, &mut |_, page| {
                if let Some(slot) = found.next() {
                    *slot = page.pfn;
                }
            });
            for pfn in frames.into_iter().flatten() {
                self.vm.split_one(pfn, to, &mut last, &mut splits);
            }
            rest.start = part.end;
            // The range may be all that a program has.
            yield_now::<M>();
        }
        splits
    }

    /// The first addresses of `range` that a table or a leaf is there for, a few pages of them.
    pub(crate) fn first_tabled(&self, range: VaRange) -> Option<VaRange> {
        let (slot, guard) = (self.slot(), self.read());
        let mut vmas = slot.tree.cursor(range);
        while let Some((mapped, _)) = vmas.next(&slot.tree, self.vm.nodes()) {
            let Some(inside) = mapped.intersect(range) else { continue };
            if let Some((_, part)) = slot.space.parts(&self.vm.frames, &guard, inside).next() {
                let most = part.start.page_after(PAGES as u64);
                return Some(VaRange { end: part.end.min(most), ..part });
            }
        }
        None
    }
}

impl<M: Machine> Vm<M> {
    /// Splits all large folios into single pages.
    ///
    /// # Locks
    /// The folios' locks.
    #[doc(alias = "split_huge_pages_all")]
    pub fn split_all_folios(&self) -> Splits {
        let mut splits = Splits::default();
        self.frames().for_each_frame(|pfn, kind, order| {
            if kind == Kind::Folio && order != Order::ZERO {
                self.split_one(pfn, Order::ZERO, &mut None, &mut splits);
            }
        });
        splits
    }

    /// Splits the folio of a page, unless it is the `last` one that was looked at.
    fn split_one(&self, pfn: Pfn, to: Order, last: &mut Option<Pfn>, splits: &mut Splits) {
        let Some(page) = self.frames().try_get(pfn) else { return };
        if page.folio().order() <= to || !page.folio().is_anon() {
            return;
        }
        if last.replace(page.pfn()) == Some(page.pfn()) {
            return;
        }
        splits.found += 1;
        splits.split += u64::from(self.try_split(&page, to).is_some());
    }

    fn try_split(&self, page: &FolioRef<'_, M>, to: Order) -> Option<()> {
        // As on Linux: who is working on a folio just now is not waited for.
        let lock = page.try_lock()?;
        self.split_folio(&lock, page, to).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Config, FolioPolicy,
        testing::{P, RW, World, pages},
        vma::{Backing, VmFlags},
    };
    use anonmem_hal::Va;

    #[test]
    fn what_is_mapped_in_a_range_is_split_and_what_is_smaller_stays() {
        let folios: FolioPolicy = "16K-64K:always".parse().unwrap();
        World::run_with(Config { folios, ..Config::default() }, |w| {
            let mm = w.vm.new_mm().unwrap();
            for first in [64, 128] {
                mm.map_raw(pages(first, 16), RW, Backing::Anonymous);
                (first..first + 16).for_each(|page| mm.store(page * P, page as u8).unwrap());
            }
            let order = |page: u64| {
                let pfn = mm.pagemap(Va(page * P)).pfn.unwrap();
                w.vm.frames().folio(pfn).unwrap().order().get()
            };
            assert_eq!([order(64), order(128)], [4, 4]);
            // Mostly holes, which cost nothing.
            let all = VaRange { start: Va(0), end: Va(1 << 46) };
            let unpromised = RW.difference(VmFlags::ACCOUNT);
            mm.map_raw(pages(1 << 20, 1 << 30), unpromised, Backing::Anonymous);
            let kept = w.vm.frames().try_get(mm.pagemap(Va(64 * P)).pfn.unwrap()).unwrap();
            assert_eq!(mm.split_folios(all, Order::new(3)), Splits { found: 2, split: 1 });
            drop(kept);
            assert_eq!([order(64), order(128)], [4, 3]);
            assert_eq!(mm.split_folios(pages(68, 4), Order::new(2)), Splits { found: 1, split: 1 });
            assert_eq!([order(64), order(79), order(128)], [2, 2, 3]);
            assert_eq!(mm.split_folios(all, Order::new(2)), Splits { found: 2, split: 2 });
            assert_eq!(mm.split_folios(all, Order::ZERO), Splits { found: 8, split: 8 });
            assert_eq!(w.vm.split_all_folios(), Splits::default());
            for page in (64..80).chain(128..144) {
                assert_eq!((order(page), mm.load(page * P)), (0, Ok(page as u8)));
            }
        });
    }
}
