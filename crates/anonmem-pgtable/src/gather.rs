//! What was unmapped, until no translation to it is left.
//!
//! Linux: mm/mmu_gather.c `tlb_gather_mmu`, `tlb_finish_mmu`. Differs: a fixed batch on the stack instead of
//! pages of pointers; when it is full, it is flushed and freed, and filling goes on.

use crate::words::TableWords as _;
use crate::{
    dead::DeadTables,
    owned::{Unmap, UnmapPage},
    space::{AddressSpace, Teardown},
};
use anonmem_frame::{FolioRef, Frames, MapRun};
use anonmem_hal::{FlushRange, Machine, Pfn, Va, VaRange};
use anonmem_sync::Rcu;
use core::mem::MaybeUninit;

/// Pages a batch holds.
const BATCH: usize = 512;

/// Owns the pages and tables that were unmapped until every CPU has forgotten them.
#[must_use = "finish() flushes and frees"]
pub struct MmuGather<'f, M: Machine> {
    frames: &'f Frames<M>,
    space: &'f AddressSpace<M>,
    rcu: &'f Rcu<M>,
    dead: &'f DeadTables<M>,
    teardown: Teardown,
    /// What must be flushed: empty if nothing.
    range: VaRange,
    /// Raw references, as frame numbers relative to the first.
    pages: [MaybeUninit<u32>; BATCH],
    /// How many of them are written.
    nr_pages: usize,
    /// Tables that were unlinked, linked through their metadata.
    tables: u64,
    nr_tables: u64,
}

impl<'f, M: Machine> MmuGather<'f, M> {
    /// Starts gathering from `space`.
    #[doc(alias = "tlb_gather_mmu")]
    #[inline]
    pub fn new(
        frames: &'f Frames<M>,
        space: &'f AddressSpace<M>,
        rcu: &'f Rcu<M>,
        dead: &'f DeadTables<M>,
        teardown: Teardown,
    ) -> Self {
        Self {
            frames,
            space,
            rcu,
            dead,
            teardown,
            range: VaRange::default(),
            pages: [const { MaybeUninit::uninit() }; BATCH],
            nr_pages: 0,
            tables: 0,
            nr_tables: 0,
        }
    }

    /// The address space.
    pub fn space(&self) -> &'f AddressSpace<M> {
        self.space
    }

    /// How much is being torn down.
    #[inline]
    pub fn teardown(&self) -> Teardown {
        self.teardown
    }

    /// Notes that the translation of the page at `va` must be flushed.
    #[inline]
    pub fn note(&mut self, va: Va) {
        self.note_range(VaRange::page(va));
    }

    /// The same for the translations of a leaf, or of several pages.
    #[inline]
    pub fn note_range(&mut self, range: VaRange) {
        self.range = if self.range.is_empty() {
            range
        } else {
            VaRange { start: self.range.start.min(range.start), end: self.range.end.max(range.end) }
        };
    }

    /// Takes the page that was unmapped from `va`.
    #[doc(alias = "tlb_remove_page")]
    #[inline]
    pub fn page(&mut self, va: Va, page: FolioRef<'f, M>) {
        assert!(core::ptr::eq(page.folio().frames(), self.frames), "a page of another machine");
        self.note(va);
        let base = self.frames.machine().base_pfn();
        self.pages[self.nr_pages].write((page.into_raw().0 - base.0) as u32);
        self.nr_pages += 1;
    }

    /// Takes the mapping that the entry for `va` owned.
    #[doc(alias = "tlb_remove_page")]
    #[inline]
    pub fn mapping(&mut self, va: Va, map: impl Unmap<'f, M>) {
        match self.teardown {
            Teardown::Range => self.page(va, map.unmap()),
            // No CPU runs it and none will: there is nothing to be flushed.
            Teardown::WholeSpace => {
                if let Some(page) = map.unmap_untranslated() {
                    self.page(va, page);
                }
            }
        }
    }

    /// [`mapping`](Self::mapping) of a page that is a folio of its own; of another, the caller makes a
    /// [`run`](Self::run).
    ///
    /// # Errors
    /// The mapping.
    #[doc(alias = "tlb_remove_page")]
    #[inline(always)]
    pub fn one_page<O: UnmapPage<'f, M>>(&mut self, va: Va, map: O) -> Result<(), O> {
        match self.teardown {
            Teardown::Range => self.page(va, map.unmap_one_page()?),
            // As in `mapping`.
            Teardown::WholeSpace => {
                if let Some(page) = map.unmap_untranslated_one_page()? {
                    self.page(va, page);
                }
            }
        }
        Ok(())
    }

    /// Takes the mappings that the entries for `range` owned: one reference, one slot.
    #[doc(alias = "tlb_remove_folio")]
    pub fn run(&mut self, range: VaRange, run: MapRun<'f, M>) {
        anonmem_hal::debug_check_eq!(M, range.pages().0, run.pages());
        self.mapping(range.start, run);
        if self.teardown == Teardown::Range {
            self.note(Va(range.end.0 - 1).page_down());
        }
    }

    /// Whether the next page would not fit: call [`flush`](Self::flush) once no page-table lock is held.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.nr_pages == BATCH
    }

    /// How many more pages fit.
    #[inline]
    pub fn room(&self) -> usize {
        BATCH - self.nr_pages
    }

    /// Takes a table that was unlinked from where `va` is.
    pub(crate) fn table(&mut self, va: Va, table: Pfn) {
        self.note(va);
        self.frames.table_link(table).store(self.tables, anonmem_sync::Ordering::Relaxed);
        self.tables = table.0;
        self.nr_tables += 1;
    }

    /// Flushes what was noted, without freeing: before a page-table lock is dropped under which entries lost
    /// permissions that others rely on.
    #[doc(alias = "tlb_flush_mmu_tlbonly")]
    pub fn flush_tlb(&mut self) {
        if self.range.is_empty() {
            return;
        }
        // Unlinked tables may be cached for addresses that have no page: forget everything.
        let what = if self.nr_tables > 0 { FlushRange::All } else { FlushRange::Range(self.range) };
        match self.teardown {
            Teardown::Range => self.space.flush(self.frames, what),
            Teardown::WholeSpace => {
                anonmem_hal::debug_check!(M, !self.space.runs_somewhere(), "torn down while it runs")
            }
        }
        self.range = VaRange::default();
    }

    /// Flushes, then frees what was gathered.
    #[doc(alias = "tlb_flush_mmu")]
    pub fn flush(&mut self) {
        self.flush_tlb();
        let base = self.frames.machine().base_pfn();
        // SAFETY: `page` has written that many.
        let page = |page: &MaybeUninit<u32>| u64::from(unsafe { page.assume_init() });
        let pages = self.pages[..self.nr_pages].iter().map(|raw| base.offset(page(raw)));
        // SAFETY: `page` took the references apart with `into_raw`; each is taken back once, because
        // `nr_pages` is reset below.
        unsafe { self.frames.put_many(pages) };
        self.nr_pages = 0;
        self.free_tables();
    }

    fn free_tables(&mut self) {
        let mut at = core::mem::take(&mut self.tables);
        self.space.forget_tables(core::mem::take(&mut self.nr_tables));
        while at != 0 {
            let table = Pfn(at);
            at = self.frames.table_link(table).load(anonmem_sync::Ordering::Relaxed);
            match self.teardown {
                Teardown::Range => self.dead.push(self.frames, self.rcu, table),
                // Nobody can be walking: walks without locks are those of the space's own threads.
                // SAFETY: the gather took it from the entry that owned it.
                Teardown::WholeSpace => drop(unsafe { self.frames.table_frame(table) }),
            }
        }
    }

    /// Flushes, frees, and ends the gathering: what is gathered later has to be flushed later.
    // By reference, so that two kilobytes are not moved to be dropped.
    #[doc(alias = "tlb_finish_mmu")]
    #[inline]
    pub fn finish(&mut self) {
        self.flush();
    }
}

impl<M: Machine> Drop for MmuGather<'_, M> {
    fn drop(&mut self) {
        let done = self.nr_pages == 0 && self.nr_tables == 0 && self.range.is_empty();
        assert!(
            done || M::unwinding(),
            "a gather was dropped with {} pages and {} tables unflushed",
            self.nr_pages,
            self.nr_tables
        );
    }
}
