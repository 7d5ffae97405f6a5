//! What each CPU remembers of the page tables: translations of pages, and pointers to last-level tables.
//!
//! Entries are tagged by address space. Nothing leaves but by a flush, by another entry that takes its place,
//! or when hardware would confirm a denial.

use crate::random::next_random;
use anonmem_hal::{CpuId, CpuSet, FlushRange, Pfn, Present, Va, VaRange};
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

const SETS: usize = 64;
const WAYS: usize = 4;
/// Last-level tables that a CPU remembers.
const TABLES: usize = 16;
/// Leaves that a CPU remembers.
const LEAVES: usize = 8;

/// A cached translation of one page, or of the pages of a leaf.
#[derive(Clone, Copy)]
pub(crate) struct Translation {
    pub(crate) root: Pfn,
    /// The first page.
    pub(crate) page: u64,
    pub(crate) pages: u64,
    pub(crate) to: Present,
}

impl Translation {
    /// The frame of `va`, which it translates.
    pub(crate) fn frame_of(&self, va: Va) -> Pfn {
        self.to.pfn.offset(va.page() - self.page)
    }

    fn covers(&self, root: Pfn, page: u64) -> bool {
        self.root == root && self.page <= page && page - self.page < self.pages
    }
}

/// A cached pointer to the table that maps `span` (the address shifted by what the table covers).
#[derive(Clone, Copy)]
struct CachedTable {
    root: Pfn,
    span: u64,
    table: Pfn,
}

/// What one CPU remembers.
pub(crate) struct Tlb {
    sets: [[Option<Translation>; WAYS]; SETS],
    leaves: [Option<Translation>; LEAVES],
    tables: [Option<CachedTable>; TABLES],
    random: u64,
}

/// The translation caches of a machine, and counters of what became of them.
pub struct TlbModel {
    cpus: Box<[Mutex<Tlb>]>,
    flushes: AtomicU64,
    remote: AtomicU64,
    pages: AtomicU64,
    turns: AtomicU64,
}

/// What the MMU has done so far. A fast machine counts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MmuStats {
    /// Calls of `flush`.
    pub flushes: u64,
    /// CPUs other than the caller's that had to be told, summed over all flushes.
    pub interrupts: u64,
    /// Pages of the flushed ranges; a whole address space counts as none.
    pub pages: u64,
}

impl TlbModel {
    pub(crate) fn new(nr_cpus: usize) -> Self {
        let tlb = |cpu: usize| Tlb {
            sets: [[None; WAYS]; SETS],
            leaves: [None; LEAVES],
            tables: [None; TABLES],
            random: cpu as u64,
        };
        Self {
            cpus: (0..nr_cpus).map(|cpu| Mutex::new(tlb(cpu))).collect(),
            flushes: AtomicU64::new(0),
            remote: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            turns: AtomicU64::new(0),
        }
    }

    /// The counters.
    pub fn stats(&self) -> MmuStats {
        MmuStats {
            flushes: self.flushes.load(Relaxed),
            interrupts: self.remote.load(Relaxed),
            pages: self.pages.load(Relaxed),
        }
    }

    /// Whether `cpu` has a translation of `va` cached, right or not.
    pub fn caches(&self, cpu: CpuId, root: Pfn, va: Va) -> bool {
        self.lock(cpu).find(root, va.page()).is_some()
    }

    /// Makes `cpu` forget everything about `root`: what loading another root without a PCID does.
    pub(crate) fn forget(&self, cpu: CpuId, root: Pfn) {
        self.lock(cpu).drop_all(root);
    }

    pub(crate) fn lock(&self, cpu: CpuId) -> MutexGuard<'_, Tlb> {
        self.cpus[cpu.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is one of `one_in` times that it was asked.
    pub(crate) fn is_turn(&self, one_in: u64) -> bool {
        self.turns.fetch_add(1, Relaxed).is_multiple_of(one_in)
    }

    pub(crate) fn count(&self, targets: CpuSet<'_>, here: CpuId, what: FlushRange) {
        self.flushes.fetch_add(1, Relaxed);
        self.remote.fetch_add(u64::from(targets.len()) - u64::from(targets.contains(here)), Relaxed);
        if let FlushRange::Range(range) = what {
            self.pages.fetch_add(range.pages().0, Relaxed);
        }
    }
}

impl Tlb {
    /// The table that maps `span`, if the CPU remembers it.
    pub(crate) fn find_table(&self, root: Pfn, span: u64) -> Option<Pfn> {
        self.tables.iter().flatten().find(|t| t.root == root && t.span == span).map(|t| t.table)
    }

    /// Remembers the table that maps `span`, in the place of any other.
    pub(crate) fn insert_table(&mut self, root: Pfn, span: u64, table: Pfn) {
        let slot = next_random(&mut self.random) as usize % TABLES;
        self.tables[slot] = Some(CachedTable { root, span, table });
    }

    pub(crate) fn find(&self, root: Pfn, page: u64) -> Option<Translation> {
        let set = &self.sets[page as usize % SETS];
        set.iter().chain(&self.leaves).flatten().find(|t| t.covers(root, page)).copied()
    }

    /// Remembers a translation, in the place of an older one of the same addresses, or of any other.
    ///
    /// # Panics
    /// If translations of another size are remembered for some of the addresses.
    pub(crate) fn insert(&mut self, new: Translation) {
        self.assert_one_size(&new);
        if new.pages > 1 {
            let victim = next_random(&mut self.random) as usize % LEAVES;
            let same = self.leaves.iter().position(|t| t.is_some_and(|t| t.covers(new.root, new.page)));
            let way = same.or_else(|| self.leaves.iter().position(Option::is_none)).unwrap_or(victim);
            self.leaves[way] = Some(new);
            return;
        }
        let victim = next_random(&mut self.random) as usize % WAYS;
        let set = &mut self.sets[new.page as usize % SETS];
        let same = set.iter().position(|t| t.is_some_and(|t| t.root == new.root && t.page == new.page));
        let way = same.or_else(|| set.iter().position(Option::is_none)).unwrap_or(victim);
        set[way] = Some(new);
    }

    fn assert_one_size(&self, new: &Translation) {
        let (pages, leaves) = (self.sets.as_flattened().iter(), self.leaves.iter());
        let clash = if new.pages > 1 {
            pages.flatten().find(|t| new.covers(t.root, t.page))
        } else {
            leaves.flatten().find(|t| t.covers(new.root, new.page))
        };
        if let Some(old) = clash {
            panic!(
                "{:?} has translations of {} and of {} pages in the address space of root {:#x}: a leaf became \
                 a table, or a table a leaf, without a flush between",
                Va::from_page(new.page.max(old.page)),
                old.pages,
                new.pages,
                new.root.0
            );
        }
    }

    /// Forgets what translates the page: a leaf, too.
    pub(crate) fn drop_page(&mut self, root: Pfn, page: u64) {
        for slot in &mut self.leaves {
            if slot.is_some_and(|t| t.covers(root, page)) {
                *slot = None;
            }
        }
        for slot in &mut self.sets[page as usize % SETS] {
            if slot.is_some_and(|t| t.root == root && t.page == page) {
                *slot = None;
            }
        }
    }

    fn drop_tables(&mut self, root: Pfn) {
        for slot in &mut self.tables {
            if slot.is_some_and(|t| t.root == root) {
                *slot = None;
            }
        }
    }

    fn drop_all(&mut self, root: Pfn) {
        self.drop_tables(root);
        for slot in self.sets.as_flattened_mut().iter_mut().chain(&mut self.leaves) {
            if slot.is_some_and(|t| t.root == root) {
                *slot = None;
            }
        }
    }

    pub(crate) fn flush(&mut self, root: Pfn, what: FlushRange) {
        match what {
            FlushRange::All => self.drop_all(root),
            FlushRange::Range(range) => {
                // Like INVLPG: whatever the range, no table of the address space stays cached.
                self.drop_tables(root);
                self.drop_range(root, range);
            }
        }
    }

    fn drop_range(&mut self, root: Pfn, range: VaRange) {
        let pages = range.start.page()..range.end.page_up().unwrap_or(range.end).page();
        if pages.end - pages.start <= SETS as u64 {
            pages.for_each(|page| self.drop_page(root, page));
            return;
        }
        for slot in self.sets.as_flattened_mut().iter_mut().chain(&mut self.leaves) {
            let overlaps = |t: Translation| t.page < pages.end && pages.start < t.page + t.pages;
            if slot.is_some_and(|t| t.root == root && overlaps(t)) {
                *slot = None;
            }
        }
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        next_random(&mut self.random).is_multiple_of(n)
    }
}
