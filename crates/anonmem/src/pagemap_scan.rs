//! Which pages of a range are in which state, and write protection of those that were written.
//!
//! Whoever follows what a program writes (a snapshot, a collector, a migration) asks for pages that were
//! written and protects them in the same look. Under the lock of its table, an entry is looked at, told and
//! protected, and its old translation is flushed. So a write is told by this look or by the next one.
//!
//! A page counts as written unless it is protected. So does an entry that is empty in a table that exists: a
//! page that was dropped has changed. What no table covers counts as written only where it may be protected.
//! There a table is made for it, and what is in that table under its lock decides.
//!
//! Locks: the mmap lock for reading; a page-table lock for one table at a time.
//!
//! Linux: fs/proc/task_mmu.c `do_pagemap_scan`. Differs: no file pages, because a private mapping of a source
//! has none. A hole that fills while it is protected is told as what it is then. Protection makes leaves
//! tables, whose pages are told one by one.

use crate::{
    clear_refs::{is_soft_dirty, is_soft_dirty_leaf, is_soft_dirty_vma},
    error::Error,
    mm::{Mm, mmap_lock::MmapReadGuard},
    rmap::machine::Machine,
    userfaultfd::{context::UffdFeatures, is_protected},
    vma::{flags::VmFlags, vma::Vma},
};
use anonmem_hal::{Marker, Va, VaRange};
use anonmem_pgtable::{Locked, Mapped, MappedLeaf, PteTable, Walked};

bitflags::bitflags! {
    /// What a page can be. The values are Linux's (`PAGE_IS_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PageCategories: u64 {
        /// Its mapping is watched so that a look may protect it.
        const WP_ALLOWED = 1 << 0;
        /// It is not protected: it was written since it was, or never was.
        const WRITTEN = 1 << 1;
        /// A page of a shared object.
        const FILE = 1 << 2;
        /// In memory.
        const PRESENT = 1 << 3;
        /// In swap, or the entry says something else of a page that is not there.
        const SWAPPED = 1 << 4;
        /// The zero page.
        const PFN_ZERO = 1 << 5;
        /// Mapped by a leaf.
        const HUGE = 1 << 6;
        /// Written, or mapped, since [`ClearRefs::SoftDirty`](crate::ClearRefs::SoftDirty).
        const SOFT_DIRTY = 1 << 7;
        /// `MADV_GUARD_INSTALL`.
        const GUARD = 1 << 8;
    }
}

bitflags::bitflags! {
    /// What a look does beside looking. The values are Linux's (`PM_SCAN_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ScanFlags: u64 {
        /// What is told and was written is protected.
        const PROTECT = 1 << 0;
        /// A mapping that may not be protected so is an error.
        const CHECK_ASYNC = 1 << 1;
    }
}

/// What is asked of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageScan {
    /// Whole pages.
    pub range: VaRange,
    /// What is done beside looking.
    pub flags: ScanFlags,
    /// These categories count the other way round in the next two.
    pub inverted: PageCategories,
    /// A page has all of these.
    pub all_of: PageCategories,
    /// A page has one of these, if any are named.
    pub any_of: PageCategories,
    /// These are told.
    pub told: PageCategories,
    /// The most pages that are told.
    pub max_pages: u64,
}

impl PageScan {
    /// All pages of `range`, with all that they are.
    pub const fn all(range: VaRange) -> Self {
        let none = PageCategories::empty();
        let told = PageCategories::all();
        Self {
            range,
            flags: ScanFlags::empty(),
            inverted: none,
            all_of: none,
            any_of: none,
            told,
            max_pages: u64::MAX,
        }
    }

    /// Whether a page of these categories is asked for.
    #[doc(alias = "pagemap_scan_is_interesting_page")]
    fn wants(&self, page: PageCategories) -> bool {
        let page = page.symmetric_difference(self.inverted);
        page.contains(self.all_of) && (self.any_of.is_empty() || page.intersects(self.any_of))
    }

    /// Whether pages of a mapping of these categories may be asked for.
    #[doc(alias = "pagemap_scan_is_interesting_vma")]
    fn wants_vma(&self, vma: PageCategories) -> bool {
        let vma = vma.symmetric_difference(self.inverted);
        vma.contains(self.all_of & PageCategories::WP_ALLOWED)
    }
}

/// Neighbouring pages that are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageRegion {
    /// The pages.
    pub range: VaRange,
    /// What they are, as far as it was asked for.
    pub categories: PageCategories,
}

/// Why a look ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScanEnd {
    /// All of the range was looked at.
    Range,
    /// There is no room for the next region.
    Room,
    /// There is a page more than were asked for.
    Pages,
}

/// How far a look came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scanned {
    /// The regions that were told.
    pub regions: usize,
    /// Their pages.
    pub pages: u64,
    /// Whoever goes on starts here.
    pub next: Va,
    /// Why it ended.
    pub end: ScanEnd,
}

impl<M: Machine> Mm<'_, M> {
    /// Looks at the pages of a range, and tells `regions` of those that are asked for. Without a place to
    /// tell them, and with [`ScanFlags::PROTECT`], all pages are protected that a table covers.
    ///
    /// # Locks
    /// The mmap lock for reading. Sleeps.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] at a mapping that may not be protected, with [`ScanFlags::CHECK_ASYNC`];
    /// [`Error::OutOfMemory`] for tables of what is to be protected. What was told before is protected.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|_, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(4 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.store(Va(start.0 + 4096), 7)?;
    /// let range = VaRange { start, end: Va(start.0 + 4 * 4096) };
    /// let present = PageScan { all_of: PageCategories::PRESENT, ..PageScan::all(range) };
    /// let mut regions = [PageRegion::default(); 4];
    /// assert_eq!(mm.pagemap_scan(&present, Some(&mut regions))?.regions, 1);
    /// assert_eq!(regions[0].range.start, Va(start.0 + 4096));
    /// # Ok(())
    /// # });
    /// ```
    #[doc(alias("PAGEMAP_SCAN", "do_pagemap_scan"))]
    pub fn pagemap_scan(
        &self,
        scan: &PageScan,
        regions: Option<&mut [PageRegion]>,
    ) -> Result<Scanned, Error> {
        let mut told = Told { scan, regions, used: 0, pages: 0, next: scan.range.start };
        // Memory that is missing is looked for without the lock, and the look goes on where it was.
        let end = self.vm.reclaiming(|| told.rest(&self.read()))?;
        if end == ScanEnd::Range {
            told.next = scan.range.end;
        }
        Ok(Scanned { regions: told.used, pages: told.pages, next: told.next, end })
    }
}

/// What came of a part: on to the next one, or the end of the look.
type Step = Result<Option<ScanEnd>, Error>;

/// What was told so far.
struct Told<'a> {
    scan: &'a PageScan,
    regions: Option<&'a mut [PageRegion]>,
    /// Regions in use.
    used: usize,
    pages: u64,
    /// What comes before was looked at.
    next: Va,
}

impl Told<'_> {
    fn protects(&self) -> bool {
        self.scan.flags.contains(ScanFlags::PROTECT)
    }

    /// How many of the first pages of `range` can be told; and why not all.
    fn room(&self, range: VaRange, categories: PageCategories) -> (VaRange, Option<ScanEnd>) {
        let Some(regions) = &self.regions else { return (range, None) };
        if self.used == regions.len() && self.last_before(range.start, categories).is_none() {
            return (VaRange { end: range.start, ..range }, Some(ScanEnd::Room));
        }
        let left = self.scan.max_pages - self.pages;
        if range.pages().0 > left {
            return (VaRange { end: range.start.page_after(left), ..range }, Some(ScanEnd::Pages));
        }
        (range, None)
    }

    /// The last region, if `categories` from `start` on continue it.
    fn last_before(&self, start: Va, categories: PageCategories) -> Option<usize> {
        let last = self.used.checked_sub(1)?;
        let region = self.regions.as_ref()?[last];
        (region.range.end == start && region.categories == (categories & self.scan.told)).then_some(last)
    }

    /// Tells what there is room for.
    #[doc(alias = "pagemap_scan_push_range")]
    fn tell(&mut self, range: VaRange, categories: PageCategories) {
        self.next = range.end;
        let last = self.last_before(range.start, categories);
        let Some(regions) = &mut self.regions else { return };
        self.pages += range.pages().0;
        match last {
            Some(last) => regions[last].range.end = range.end,
            None if !range.is_empty() => {
                regions[self.used] = PageRegion { range, categories: categories & self.scan.told };
                self.used += 1;
            }
            None => {}
        }
    }

    /// Looks at what is left.
    fn rest<M: Machine>(&mut self, guard: &MmapReadGuard<'_, M>) -> Result<ScanEnd, Error> {
        let (tree, nodes) = (&guard.slot().tree, guard.objects.nodes());
        let rest = VaRange { start: self.next, end: self.scan.range.end };
        let mut vmas = tree.cursor(rest);
        while let Some((whole, id)) = vmas.next(tree, nodes) {
            let Some(part) = whole.intersect(rest) else { break };
            let allowed = may_protect(guard, guard.objects.vma(id));
            if !allowed && self.scan.flags.contains(ScanFlags::CHECK_ASYNC) {
                return Err(Error::NotPermitted);
            }
            let mut categories = PageCategories::empty();
            categories.set(PageCategories::WP_ALLOWED, allowed);
            let flags = guard.objects.vma(id).flags();
            categories.set(PageCategories::SOFT_DIRTY, is_soft_dirty_vma::<M>(flags));
            if (self.protects() && !allowed) || !self.scan.wants_vma(categories) {
                continue;
            }
            if let Some(end) = self.of_vma(guard, part, categories)? {
                return Ok(end);
            }
        }
        Ok(ScanEnd::Range)
    }

    /// Looks at `part` of a VMA of these categories.
    #[doc(alias = "pagemap_scan_pmd_entry")]
    fn of_vma<M: Machine>(
        &mut self,
        guard: &MmapReadGuard<'_, M>,
        part: VaRange,
        vma: PageCategories,
    ) -> Step {
        let space = &guard.slot().space;
        let mut looked = part.start;
        for (found, part) in space.parts(&guard.objects.frames, guard, part) {
            if let Some(end) = self.hole(guard, VaRange { start: looked, end: part.start }, vma)? {
                return Ok(Some(end));
            }
            let end = match found {
                Walked::Table(table) => self.table(guard, table, part, vma),
                Walked::Leaf(_) if self.protects() => {
                    let table = space.table_alloc(&guard.objects.frames, guard, part.start)?;
                    self.table(guard, table, part, vma)
                }
                Walked::Leaf(place) => match place.lock() {
                    Locked::Leaf(leaf) => self.alike(part, vma | leaf_categories(&leaf.mapped())),
                    Locked::Table(table) => self.table(guard, table, part, vma),
                    // It went meanwhile: a hole, of which the mapping says whether it counts as written.
                    Locked::None => self.hole(guard, part, vma)?,
                },
            };
            if end.is_some() {
                return Ok(end);
            }
            looked = part.end;
        }
        self.hole(guard, VaRange { start: looked, end: part.end }, vma)
    }

    /// Tells of pages that are alike and stay as they are.
    fn alike(&mut self, range: VaRange, categories: PageCategories) -> Option<ScanEnd> {
        if range.is_empty() || !self.scan.wants(categories) {
            return None;
        }
        let (some, end) = self.room(range, categories);
        self.tell(some, categories);
        end
    }

    /// Looks at what no table covers.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    #[doc(alias = "pagemap_scan_pte_hole")]
    fn hole<M: Machine>(
        &mut self,
        guard: &MmapReadGuard<'_, M>,
        range: VaRange,
        vma: PageCategories,
    ) -> Step {
        let mut hole = vma;
        hole.set(PageCategories::WRITTEN, vma.contains(PageCategories::WP_ALLOWED));
        if !self.protects() || range.is_empty() || !self.scan.wants(hole) {
            return Ok(self.alike(range, hole));
        }
        let space = &guard.slot().space;
        let mut rest = range;
        while !rest.is_empty() {
            let table = space.table_alloc(&guard.objects.frames, guard, rest.start)?;
            let part = VaRange { start: rest.start, end: rest.end.min(table.range().end) };
            let mut entries = table.lock();
            let end = if entries.is_empty() {
                let (some, end) = self.room(part, hole);
                some.iter_pages().for_each(|va| entries.install(va, Marker::UffdWp, ()));
                self.tell(some, hole);
                drop(entries);
                end
            } else {
                // Somebody has filled it meanwhile.
                drop(entries);
                self.table(guard, table, part, vma)
            };
            if end.is_some() {
                return Ok(end);
            }
            rest.start = part.end;
        }
        Ok(None)
    }

    /// Looks at the pages of `part`, which a table covers.
    fn table<'a, M: Machine>(
        &mut self,
        guard: &MmapReadGuard<'_, M>,
        table: PteTable<'a, M, MmapReadGuard<'a, M>>,
        part: VaRange,
        vma: PageCategories,
    ) -> Option<ScanEnd> {
        // Whoever tells nobody does not ask what a page is.
        let (protects, all) = (self.protects(), self.protects() && self.regions.is_none());
        let mut entries = table.lock();
        let (mut first, mut last) = (part.end, part.start);
        let mut stopped = None;
        for va in part.iter_pages() {
            let categories = vma | page_categories(&entries.mapped(va));
            if !all && !self.scan.wants(categories) {
                continue;
            }
            let (some, end) = self.room(VaRange::page(va), categories);
            self.tell(some, categories);
            if end.is_some() {
                stopped = end;
                break;
            }
            if !protects || !categories.contains(PageCategories::WRITTEN) {
                continue;
            }
            if entries.is_none(va) {
                entries.install(va, Marker::UffdWp, ());
            } else if entries.uffd_wp(va) {
                (first, last) = (first.min(va), va.next_page());
            }
        }
        // Before the lock is let go: whoever finds a page protected may copy it.
        if protects {
            let deferred = entries.is_flush_deferred();
            guard.flush(if deferred { part } else { VaRange { start: first.min(last), end: last } });
        }
        stopped
    }
}

/// Whether pages of a mapping may be protected by a look: writes to them end their protection themselves.
#[doc(alias = "userfaultfd_wp_async")]
fn may_protect<M: Machine>(guard: &MmapReadGuard<'_, M>, vma: &Vma<M>) -> bool {
    let features = vma.uffd().map(|uffd| guard.objects.uffd(uffd).features());
    vma.flags().contains(VmFlags::UFFD_WP) && features.is_some_and(|f| f.contains(UffdFeatures::WP_ASYNC))
}

fn leaf_categories<M: Machine>(mapped: &MappedLeaf<'_, '_, M>) -> PageCategories {
    let there = match mapped {
        MappedLeaf::Exclusive(..) | MappedLeaf::Shared(..) => PageCategories::PRESENT,
        MappedLeaf::Migration(..) => PageCategories::SWAPPED,
    };
    let mut categories = there | PageCategories::HUGE;
    // One that is protected is a table.
    categories |= PageCategories::WRITTEN;
    categories.set(PageCategories::SOFT_DIRTY, is_soft_dirty_leaf(mapped));
    categories
}

#[doc(alias = "pagemap_page_category")]
fn page_categories<M: Machine>(mapped: &Mapped<'_, '_, M>) -> PageCategories {
    let mut categories = match mapped {
        Mapped::None => PageCategories::empty(),
        Mapped::Zero(_) => PageCategories::PRESENT | PageCategories::PFN_ZERO,
        Mapped::Exclusive(..) | Mapped::Shared(..) => PageCategories::PRESENT,
        Mapped::Shm(_) => PageCategories::PRESENT | PageCategories::FILE,
        Mapped::Swap(..) | Mapped::Migration(..) => PageCategories::SWAPPED,
        Mapped::Marker(Marker::Guard) => PageCategories::SWAPPED | PageCategories::GUARD,
        Mapped::Marker(Marker::UffdWp | Marker::Poisoned) => PageCategories::SWAPPED,
    };
    categories.set(PageCategories::WRITTEN, !is_protected(mapped));
    categories.set(PageCategories::SOFT_DIRTY, is_soft_dirty(mapped));
    categories
}
