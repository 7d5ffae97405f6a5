//! Walks, from the root to where they end: at a last-level table, or at a leaf above it.
//!
//! What an entry above the last level is, a walk reads without its lock. A table that is seen under a guard
//! stays one. A leaf may become a table, or go, at any moment. So a walk that ends there says only *where*
//! ([`LeafPlace`]), and what is there is asked under the lock.
//!
//! Linux: include/linux/pgtable.h `pmd_offset`, `pte_offset_map`; mm/pagewalk.c.

use crate::words::TableWords as _;
use crate::{
    leaf::{LeafPlace, Locked},
    space::{AddressSpace, CanInstall, StableVma},
    table::{PteTable, entries},
};
use anonmem_frame::{Frames, OutOfMemory};
use anonmem_hal::{Arch, Entry, Machine, Pfn, Pte, Va, VaRange};
use anonmem_sync::{Ordering, order::Pmd};

/// Where a walk ends.
pub enum Walked<'a, M: Machine, G> {
    /// At a last-level table.
    Table(PteTable<'a, M, G>),
    /// At an entry above it that was a leaf, or a migration entry for one, when it was read.
    Leaf(LeafPlace<'a, M, G>),
}

impl<M: Machine, G> Clone for Walked<'_, M, G> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Machine, G> Copy for Walked<'_, M, G> {}

impl<'a, M: Machine, G: StableVma<M>> Walked<'a, M, G> {
    /// What is there for whoever treats all addresses of `part` alike: a leaf, locked, if `part` covers all
    /// of it. One that it covers in part becomes a table.
    pub fn covered(self, part: VaRange) -> Locked<'a, M, G> {
        match self {
            Self::Table(table) => Locked::Table(table),
            Self::Leaf(place) => place.lock_covered(part),
        }
    }

    /// The addresses that it covers.
    pub fn range(&self) -> VaRange {
        match self {
            Self::Table(table) => table.range(),
            Self::Leaf(place) => place.range(),
        }
    }

    /// What the last level says of the page at `va`, or would if a leaf were a table, without the lock.
    #[inline]
    pub fn peek(&self, va: Va) -> Pte {
        match self {
            Self::Table(table) => table.peek(va),
            Self::Leaf(place) => place.peek_page(va),
        }
    }

    /// As [`peek`](Self::peek), for whoever tells others that nothing is there. Whoever exchanges what is in
    /// an entry empties it first, under its lock: so an entry that is empty is asked again under that lock.
    ///
    /// # Locks
    /// Takes the page-table lock.
    pub fn look(self, va: Va) -> Pte {
        match (self.peek(va), self) {
            (Pte::None, Self::Table(table)) => table.lock().get(va),
            (Pte::None, Self::Leaf(place)) => match place.lock() {
                Locked::Leaf(_) => place.peek_page(va),
                Locked::Table(table) => table.lock().get(va),
                Locked::None => Pte::None,
            },
            (pte @ (Pte::Present(_) | Pte::Soft(_)), _) => pte,
        }
    }

    /// The table, for whoever treats pages one by one: a leaf becomes one. `None` if it has gone.
    #[doc(alias = "split_huge_pmd")]
    #[inline]
    pub fn table(self) -> Option<PteTable<'a, M, G>> {
        match self {
            Self::Table(table) => Some(table),
            Self::Leaf(place) => place.table(),
        }
    }
}

impl<M: Machine> AddressSpace<M> {
    /// The last-level table for `va`, or the leaf; `None` if there is neither.
    #[doc(alias = "pte_offset_map")]
    #[inline]
    pub fn walk<'a, G: StableVma<M>>(
        &'a self,
        frames: &'a Frames<M>,
        stable: &'a G,
        va: Va,
    ) -> Option<Walked<'a, M, G>> {
        self.walk_inlined(frames, stable, va)
    }

    /// The same in line, for a loop that does little else.
    #[inline(always)]
    pub fn walk_inlined<'a, G: StableVma<M>>(
        &'a self,
        frames: &'a Frames<M>,
        stable: &'a G,
        va: Va,
    ) -> Option<Walked<'a, M, G>> {
        let mut table = self.root_for(frames, stable)?;
        for level in (1..M::Arch::LEVELS).rev() {
            match entry_of::<M>(frames, table, va, level) {
                Entry::Table(next) => table = next,
                Entry::None => return None,
                Entry::Leaf(_) | Entry::Migration { .. } => {
                    return Some(Walked::Leaf(self.leaf_at(frames, table, va, level)));
                }
            }
        }
        Some(Walked::Table(PteTable::new(frames, table, va)))
    }

    /// The last-level table for `va`, or the leaf. If there is neither, a table is made, and what is missing
    /// on the way.
    ///
    /// # Errors
    /// [`OutOfMemory`]; tables that were added stay, empty, until their range is unmapped.
    #[doc(alias = "pte_alloc")]
    #[inline]
    pub fn walk_alloc<'a, G: CanInstall<M>>(
        &'a self,
        frames: &'a Frames<M>,
        stable: &'a G,
        va: Va,
    ) -> Result<Walked<'a, M, G>, OutOfMemory> {
        let mut table =
            self.root_for(frames, stable).expect("a space without a root has no tables to add to");
        for level in (1..M::Arch::LEVELS).rev() {
            table = loop {
                match entry_of::<M>(frames, table, va, level) {
                    Entry::Table(next) => break next,
                    Entry::None => self.add_table(frames, table, va, level)?,
                    Entry::Leaf(_) | Entry::Migration { .. } => {
                        return Ok(Walked::Leaf(self.leaf_at(frames, table, va, level)));
                    }
                }
            };
        }
        Ok(Walked::Table(PteTable::new(frames, table, va)))
    }

    /// As [`walk_alloc`](Self::walk_alloc), for whoever treats pages one by one: a leaf becomes a table.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    #[inline(always)]
    pub fn table_alloc<'a, G: CanInstall<M>>(
        &'a self,
        frames: &'a Frames<M>,
        stable: &'a G,
        va: Va,
    ) -> Result<PteTable<'a, M, G>, OutOfMemory> {
        // Nearly always it is there.
        match self.walk_inlined(frames, stable, va) {
            Some(Walked::Table(table)) => Ok(table),
            Some(Walked::Leaf(_)) | None => self.make_table(frames, stable, va),
        }
    }

    #[inline(never)]
    fn make_table<'a, G: CanInstall<M>>(
        &'a self,
        frames: &'a Frames<M>,
        stable: &'a G,
        va: Va,
    ) -> Result<PteTable<'a, M, G>, OutOfMemory> {
        loop {
            // A leaf that has gone left nothing: a table is made.
            if let Some(table) = self.walk_alloc(frames, stable, va)?.table() {
                return Ok(table);
            }
        }
    }

    /// The place of the leaf for `va`, whatever is there now, with the tables above it.
    ///
    /// # Errors
    /// [`OutOfMemory`], as in [`walk_alloc`](Self::walk_alloc).
    #[doc(alias = "pmd_alloc")]
    pub fn leaf_alloc<'a, G: CanInstall<M>>(
        &'a self,
        frames: &'a Frames<M>,
        stable: &'a G,
        va: Va,
    ) -> Result<LeafPlace<'a, M, G>, OutOfMemory> {
        assert!(stable.opens(self), "a guard of another address space");
        let table = self.upper_alloc(frames, va)?;
        Ok(self.leaf_at(frames, table, va, 1))
    }

    #[cold]
    fn leaf_at<'a, G>(
        &'a self,
        frames: &'a Frames<M>,
        table: Pfn,
        va: Va,
        level: u32,
    ) -> LeafPlace<'a, M, G> {
        if level > 1 {
            no_folio_fills(va);
        }
        LeafPlace::new(self, frames, table, va)
    }

    /// Puts a new table into the entry for `va` of `upper`, unless somebody else has filled it meanwhile.
    #[cold]
    fn add_table(&self, frames: &Frames<M>, upper: Pfn, va: Va, level: u32) -> Result<(), OutOfMemory> {
        let new = frames.alloc_table()?;
        let guard = frames.table_lock::<Pmd>(upper).lock();
        let word = &entries(frames, upper)[M::Arch::index(va, level)];
        if word.load(Ordering::Relaxed) != 0 {
            drop(guard);
            return Ok(());
        }
        // Release: the table is empty before it can be walked (pairs with the Acquire of `entry_of`).
        word.store(M::Arch::encode_entry(Entry::Table(new.into_pfn()), level), Ordering::Release);
        frames.table_used(upper).update(|n| n + 1);
        self.count_tables(1);
        Ok(())
    }

    /// The last-level tables and leaves that exist for `range`, ascending, each with the part of the range
    /// that it covers.
    pub fn parts<'a, G: StableVma<M>>(
        &'a self,
        frames: &'a Frames<M>,
        stable: &'a G,
        range: VaRange,
    ) -> impl Iterator<Item = (Walked<'a, M, G>, VaRange)> {
        let mut va = range.start;
        core::iter::from_fn(move || {
            while va < range.end {
                let (found, next) = self.walk_or_skip(frames, stable, va);
                let part = VaRange { start: va, end: next.min(range.end) };
                va = next;
                if let Some(found) = found {
                    return Some((found, part));
                }
            }
            None
        })
    }

    /// As [`parts`](Self::parts), for whoever treats pages one by one: leaves become tables.
    pub fn tables<'a, G: StableVma<M>>(
        &'a self,
        frames: &'a Frames<M>,
        stable: &'a G,
        range: VaRange,
    ) -> impl Iterator<Item = (PteTable<'a, M, G>, VaRange)> {
        self.parts(frames, stable, range).filter_map(|(found, part)| Some((found.table()?, part)))
    }

    /// What a walk to `va` ends at, and the first address that it, or the hole that is there instead, does
    /// not cover.
    fn walk_or_skip<'a, G: StableVma<M>>(
        &'a self,
        frames: &'a Frames<M>,
        stable: &'a G,
        va: Va,
    ) -> (Option<Walked<'a, M, G>>, Va) {
        let end_of = |level: u32| Va((va.0 | ((1 << M::Arch::shift(level)) - 1)).saturating_add(1));
        let Some(mut table) = self.root_for(frames, stable) else { return (None, Va(u64::MAX)) };
        for level in (1..M::Arch::LEVELS).rev() {
            match entry_of::<M>(frames, table, va, level) {
                Entry::Table(next) => table = next,
                Entry::None => return (None, end_of(level)),
                Entry::Leaf(_) | Entry::Migration { .. } => {
                    return (Some(Walked::Leaf(self.leaf_at(frames, table, va, level))), end_of(level));
                }
            }
        }
        (Some(Walked::Table(PteTable::new(frames, table, va))), end_of(1))
    }

    /// Makes a leaf a table that maps addresses on both sides of `at`, if there is one: a VMA is about to end
    /// there, and a leaf lies within one VMA.
    #[doc(alias = "vma_adjust_trans_huge")]
    pub fn split_leaf_at<G: StableVma<M>>(&self, frames: &Frames<M>, stable: &G, at: Va) {
        if at.0.is_multiple_of(1 << M::Arch::shift(1)) {
            return;
        }
        match self.walk(frames, stable, at) {
            None | Some(Walked::Table(_)) => {}
            Some(Walked::Leaf(place)) => drop(place.table()),
        }
    }

    /// The level-1 table for `va`; `None` if there is none.
    pub(crate) fn upper(&self, frames: &Frames<M>, va: Va) -> Option<Pfn> {
        (2..M::Arch::LEVELS)
            .rev()
            .try_fold(self.root(), |table, level| next_table::<M>(frames, table, va, level))
    }

    /// The same; makes what is missing.
    pub(crate) fn upper_alloc(&self, frames: &Frames<M>, va: Va) -> Result<Pfn, OutOfMemory> {
        let mut table = self.root();
        for level in (2..M::Arch::LEVELS).rev() {
            table = loop {
                match entry_of::<M>(frames, table, va, level) {
                    Entry::Table(next) => break next,
                    Entry::None => self.add_table(frames, table, va, level)?,
                    Entry::Leaf(_) | Entry::Migration { .. } => no_folio_fills(va),
                }
            };
        }
        Ok(table)
    }
}

/// No folio is as large as what an entry of level 2 covers.
#[cold]
fn no_folio_fills(va: Va) -> ! {
    panic!("a leaf at {va:?} of a level that no folio fills")
}

/// What the entry for `va` of `table`, at `level`, says just now.
#[inline(always)]
pub(crate) fn entry_of<M: Machine>(frames: &Frames<M>, table: Pfn, va: Va, level: u32) -> Entry {
    // Acquire pairs with the Release of whoever put a table there: it is complete.
    let raw = entries(frames, table)[M::Arch::index(va, level)].load(Ordering::Acquire);
    M::Arch::decode_entry(raw, level)
}

/// The table that the entry for `va` of `table`, at `level`, points to.
#[inline]
pub(crate) fn next_table<M: Machine>(frames: &Frames<M>, table: Pfn, va: Va, level: u32) -> Option<Pfn> {
    match entry_of::<M>(frames, table, va, level) {
        Entry::Table(next) => Some(next),
        Entry::None | Entry::Leaf(_) | Entry::Migration { .. } => None,
    }
}
