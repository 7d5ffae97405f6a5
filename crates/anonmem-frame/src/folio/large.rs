//! What only folios of several pages need: made without effort, split, and told from those that are mapped in
//! part.
//!
//! Nothing of it has a word of its own. Whether a folio is *partly mapped* follows from its count of mappings
//! and its order: fewer mappings than pages, and one at least. So there is no note that could be lost when
//! the folio is freed or moved, and none that could be stale. Where several address spaces map a folio, the
//! sum may hide an unmapped page. It shows as soon as they have let go of enough.
//!
//! A split needs to know how many mappings each page has, which no word says either. Whoever splits holds the
//! locks of all tables whose entries map the folio, and counts the entries. If they add up to the count of
//! the folio, nobody else can change it. Then the counts go from one word to many, frozen at 0 meanwhile:
//!
//! ```text
//!   head   counts  n MAP + REF ──cmpxchg──▶ 0 ··················· order, then counts ──Release──▶
//!   tail   index, mapping, counts are written while it is still a tail ── flags, one store ──▶ a folio
//! ```
//!
//! A look at a tail meanwhile finds the old head, whose counts admit nobody, or a word that is no frame. Or
//! it finds the new folio whole: kind, order and lock are one word.
//!
//! Linux: mm/huge_memory.c `__split_folio_to_order`. Differs: no migration entries, because the entries that
//! map the pages go on saying the same.

use super::{Folio, FolioGuard, FolioRef, NewFolio};
use crate::{
    Frames, OutOfMemory, SwapCounts,
    meta::{Counts, Kind, Mapping, MappingWord, Stamp, encode_entry, flags},
};
use anonmem_hal::{MAX_ORDER, Machine, NrPages, Order, Pfn, SwapEntry};
use anonmem_sync::{Atomic, Ordering, order::SplitTurn as SplitTurnLevel, spin::SpinGuard};
use core::fmt;

/// Why a folio is not split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SplitRefused {
    /// It may be pinned: a device's pages stay what they are.
    Pinned,
    /// Others have references, or mappings that are not under the caller's locks.
    Busy,
    /// It is not larger than the pieces would be, or no anonymous folio.
    NotLarge,
    /// It is a stable node's, as one: equal folios were merged into it (KSM).
    Merged,
}

impl fmt::Display for SplitRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "the folio may be pinned",
            Self::Busy => "others use the folio, or map it outside of the locks that are held",
            Self::NotLarge => "the folio is not larger than its pieces would be, or not anonymous",
            Self::Merged => "equal folios were merged into the folio",
        })
    }
}

impl core::error::Error for SplitRefused {}

/// Folios of one order at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LargeUsage {
    /// Anonymous folios.
    pub folios: u64,
    /// Those of which a page is known to be mapped nowhere.
    pub partly_mapped: u64,
    /// The pages of those that are mapped nowhere.
    pub unmapped: NrPages,
    /// Those that a leaf maps (Linux: `NR_ANON_THPS`).
    pub in_leaves: u64,
}

impl<M: Machine> Frames<M> {
    /// Allocates a folio that the caller can do without: no CPU's list is emptied for it.
    ///
    /// # Errors
    /// [`OutOfMemory`] if there is no free block of that size.
    pub fn alloc_gently(&self, order: Order) -> Result<NewFolio<'_, M>, OutOfMemory> {
        Ok(NewFolio::from_block(self, self.alloc_block_gently(order, Kind::New)?))
    }

    /// The anonymous folios of each order, as of now: looks at all frames.
    pub fn large_usage(&self) -> [LargeUsage; MAX_ORDER as usize + 1] {
        let mut usage = [LargeUsage::default(); MAX_ORDER as usize + 1];
        self.for_each_frame(|pfn, kind, order| {
            let Some(folio) = (kind == Kind::Folio).then(|| self.folio(pfn)).flatten() else { return };
            if !folio.is_anon() {
                return;
            }
            let of = &mut usage[usize::from(order.get())];
            of.folios += 1;
            of.unmapped.0 += folio.unmapped_pages();
            of.partly_mapped += u64::from(folio.unmapped_pages() > 0);
            of.in_leaves += u64::from(folio.whole_mappings() > 0);
        });
        usage
    }

    /// How many folios of an order have become partly mapped so far.
    #[doc(alias = "MTHP_STAT_SPLIT_DEFERRED")]
    pub fn times_partly_mapped(&self, order: Order) -> u64 {
        let of = |cpu: &[Atomic<u64, M>]| cpu.get(usize::from(order.get())).map_or(0, Atomic::peek);
        self.cpu_words.iter().map(|cpu| of(&cpu.became_partly_mapped)).sum()
    }

    /// Whether a folio became partly mapped since this was last asked: then memory may be had by splitting.
    pub fn take_partly_mapped_hint(&self) -> bool {
        self.partly_mapped.load(Ordering::Relaxed) != 0 && self.partly_mapped.swap(0, Ordering::Relaxed) != 0
    }

    /// The same, without taking the answer.
    #[inline]
    pub fn has_partly_mapped_hint(&self) -> bool {
        self.partly_mapped.peek() != 0
    }
}

impl<M: Machine> Folio<'_, M> {
    /// Whether it has more than one page.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.order() != Order::ZERO
    }

    /// Whether it has no more mappings than pages: of a page, exactly if it is mapped once; of a large folio,
    /// what is likely of one that a single address space maps.
    #[doc(alias = "folio_maybe_mapped_shared")]
    pub fn is_likely_alone(&self) -> bool {
        self.counts().maps() <= self.nr_pages().0
    }

    /// How many of its pages are known to be mapped nowhere, of a folio that is mapped.
    pub fn unmapped_pages(&self) -> u64 {
        match self.counts().maps() {
            0 => 0,
            maps => self.nr_pages().0.saturating_sub(maps),
        }
    }
}

impl<M: Machine> NewFolio<'_, M> {
    /// Copies as many pages as it has, from `first` on, of another folio, whose owner may be writing to them
    /// meanwhile.
    ///
    /// # Panics
    /// If there are not so many frames.
    pub fn copy_pages_from(&self, first: Pfn) {
        self.copy_block(first, self.order());
    }
}

impl<'f, M: Machine> FolioGuard<'f, M> {
    /// Makes `pages` of the folio exclusive and its anon_vma the given one, if they are all of its mappings
    /// and nobody else has a count of it. Returns whether they are.
    ///
    /// # Safety
    /// `mapped` entries, all of one address space and under a page-table lock that is held, own mappings of
    /// distinct pages of the folio, and `pages` are those.
    #[doc(alias = "__wp_can_reuse_large_anon_folio")]
    pub unsafe fn reuse_pages(&self, anon_vma: Stamp, mapped: u64, pages: impl Iterator<Item = Pfn>) -> bool {
        if !self.take_for(anon_vma, mapped) {
            return false;
        }
        for page in pages {
            self.folio().frames().meta(page).counts.fetch_or(Counts::EXCLUSIVE, Ordering::Relaxed);
        }
        true
    }

    /// [`reuse_pages`](Self::reuse_pages) of all pages of the folio.
    ///
    /// # Safety
    /// As many entries, all of one address space and under a page-table lock that is held, own a mapping of
    /// each page.
    pub unsafe fn reuse_all(&self, anon_vma: Stamp) -> bool {
        let (folio, pages) = (self.folio(), self.folio().owned_order().pages());
        if !self.take_for(anon_vma, pages) {
            return false;
        }
        folio.meta().counts.fetch_or(Counts::EXCLUSIVE, Ordering::Relaxed);
        for tail in folio.frames().metas(folio.pfn().offset(1), pages - 1) {
            // The bit is all that the word of a tail holds, and it changes under the lock of its entry's
            // table.
            tail.counts.store(Counts::EXCLUSIVE, Ordering::Relaxed);
        }
        true
    }

    /// Makes the folio's anon_vma the given one, if it has `mapped` mappings, all under a page-table lock
    /// that the caller holds, and nobody else has a count of it.
    fn take_for(&self, anon_vma: Stamp, mapped: u64) -> bool {
        let folio = self.folio();
        // Acquire pairs with the Release of the last `unmap`: what the former sharers did is over.
        let counts = Counts(folio.meta().counts.load(Ordering::Acquire));
        let alone = counts.maps() == mapped && counts.refs() == 0 && counts.pins() == 0;
        if !alone || !matches!(folio.mapping(), Mapping::Anon(_)) {
            return false;
        }
        // From here on nobody can add a mapping: fork needs one of these entries, a fault on a swap entry the
        // folio lock.
        folio.set_mapping(Mapping::Anon(anon_vma), folio.index());
        true
    }

    /// Splits the folio into folios of 2^`to` pages, those that nobody has into free memory. The reference
    /// goes on as one to the first, which stays locked.
    ///
    /// `cached` has a count of every slot that a page of the folio is the cached page of. So none of them can
    /// lose its page meanwhile, and each piece keeps the references that are its slots'.
    ///
    /// # Errors
    /// [`SplitRefused`]; nothing has changed.
    ///
    /// # Safety
    /// `mapped` tells the page of each entry for one of the folio's, in tables whose locks are held
    /// throughout, present ones and those of migration.
    #[doc(alias = "__split_folio_to_order")]
    pub unsafe fn split(
        &self,
        only: &FolioRef<'f, M>,
        to: Order,
        cached: &SwapCounts<'f, M>,
        mapped: &mut EachMapping<'_>,
    ) -> Result<(), SplitRefused> {
        let folio = self.folio();
        assert!(only.folio() == folio, "a split of another folio than the one that is locked");
        let order = folio.order();
        let anon_vma = match folio.mapping() {
            Mapping::Anon(anon_vma) => anon_vma,
            // Its entries lie in several families, and no lock keeps all of them.
            Mapping::Ksm(_) if order > to => return Err(SplitRefused::Merged),
            Mapping::Ksm(_) | Mapping::None | Mapping::Shm(_) => return Err(SplitRefused::NotLarge),
        };
        if order <= to {
            return Err(SplitRefused::NotLarge);
        }
        let maps = folio.count_mappings(mapped);
        let exclusive = folio.counts().0 & Counts::EXCLUSIVE;
        // AcqRel pairs with the Releases of everybody who had a count; from here on nobody gets one.
        let frozen = folio.meta().counts.compare_exchange(
            maps.all * Counts::MAP + (1 + cached.len()) * Counts::REF + exclusive,
            0,
            Ordering::AcqRel,
        );
        if let Err(now) = frozen {
            folio.uncount(folio.pfn(), order);
            return Err(if Counts(now).pins() != 0 { SplitRefused::Pinned } else { SplitRefused::Busy });
        }
        let pieces = Pieces { folio, anon_vma, index: folio.index(), order: to, cached };
        // The highest first: what is below is still what it was when a look goes from a tail to its head.
        for nth in (1..order.pages() >> to.get()).rev() {
            let first = folio.pfn().offset(nth << to.get());
            pieces.publish(first, folio.counted(first, to));
        }
        pieces.shrink_head(maps.head + folio.counted(folio.pfn(), to), exclusive);
        Ok(())
    }
}

/// Tells the page of each entry that maps one of a folio's.
pub type EachMapping<'a> = dyn FnMut(&mut dyn FnMut(Pfn)) + 'a;

/// How many entries map a folio.
struct Mappings {
    all: u64,
    /// Those of its first page; those of the others, their own words say.
    head: u64,
}

impl<M: Machine> Folio<'_, M> {
    /// Counts the mappings of each page. The word of a tail in which a folio has its swap entry is 0 and
    /// nobody's until the tail is a folio: it takes the count, until [`uncount`](Self::uncount).
    fn count_mappings(&self, mapped: &mut EachMapping<'_>) -> Mappings {
        let mut found = Mappings { all: 0, head: 0 };
        mapped(&mut |page| {
            found.all += 1;
            if page == self.head {
                found.head += 1;
            } else {
                // Nobody else writes it: the folio is locked.
                let count = &self.frames.meta(page).private;
                count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
        });
        found
    }

    /// Forgets what was counted of the 2^`order` pages from `first` on but of `first` itself.
    fn uncount(&self, first: Pfn, order: Order) {
        for tail in (1..order.pages()).map(|nth| first.offset(nth)) {
            self.frames.meta(tail).private.store(0, Ordering::Relaxed);
        }
    }

    /// What was counted of the 2^`order` pages from `first` on, without the folio's first page.
    fn counted(&self, first: Pfn, order: Order) -> u64 {
        let tails = (0..order.pages()).map(|nth| first.offset(nth)).filter(|&page| page != self.head);
        tails.map(|page| self.frames.meta(page).private.load(Ordering::Relaxed)).sum()
    }
}

impl<M: Machine> Frames<M> {
    /// The right to list the tables that map one folio, through their metadata ([`SplitTurn`]); `None` while
    /// somebody else has it.
    pub fn split_turn(&self) -> Option<SplitTurn<'_, M>> {
        Some(SplitTurn { frames: self, _turn: self.split_turn.try_lock()? })
    }
}

/// Who lists the tables that map one folio.
pub struct SplitTurn<'f, M: Machine> {
    frames: &'f Frames<M>,
    _turn: SpinGuard<'f, M, SplitTurnLevel, ()>,
}

impl<'f, M: Machine> SplitTurn<'f, M> {
    /// The frames that the tables are of.
    pub const fn frames(&self) -> &'f Frames<M> {
        self.frames
    }
}

impl<M: Machine> core::fmt::Debug for SplitTurn<'_, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the turn to split a folio of many tables")
    }
}

/// A folio whose counts are frozen, and what it falls into.
struct Pieces<'c, 'f, M: Machine> {
    folio: Folio<'f, M>,
    anon_vma: Stamp,
    index: u64,
    order: Order,
    cached: &'c SwapCounts<'f, M>,
}

impl<M: Machine> Pieces<'_, '_, M> {
    /// How many references the slots have to the piece that begins with the `nth` page, and what it says of
    /// the first of them.
    fn slots(&self, nth: u64) -> (u64, u64) {
        let refs = self.cached.in_run(nth, self.order.pages());
        let SwapEntry { device, offset } = self.cached.first();
        let entry = SwapEntry { device, offset: offset + nth };
        (refs, if refs == 0 { 0 } else { encode_entry(entry) })
    }

    /// Makes the tails from `first` on a folio that has `maps` mappings, or free.
    fn publish(&self, first: Pfn, maps: u64) {
        let frames = self.folio.frames();
        let meta = frames.meta(first);
        for page in (1..self.order.pages()).map(|i| first.offset(i)) {
            frames.meta(page).mapping.store(first.0, Ordering::Relaxed);
        }
        let (refs, entry) = self.slots(first.0 - self.folio.pfn().0);
        meta.private.store(0, Ordering::Relaxed);
        self.folio.uncount(first, self.order);
        if maps + refs == 0 {
            meta.mapping.store(0, Ordering::Relaxed);
            // Release pairs with the Acquire of a look at the kind: the head of a tail is no longer ours.
            meta.flags.store(Kind::New.bits(self.order), Ordering::Release);
            drop(NewFolio::from_block(frames, first));
            return;
        }
        let index = self.index + (first.0 - self.folio.pfn().0);
        meta.aux.store(index as u32, Ordering::Relaxed);
        meta.private.store(entry, Ordering::Relaxed);
        let word = MappingWord::encode(Mapping::Anon(self.anon_vma), index);
        meta.mapping.store(word.0, Ordering::Relaxed);
        // The bit that says whether the page is exclusive is this page's own and stays. Nobody adds a count
        // to a tail, and nobody takes one away whose page-table lock we hold.
        let own = meta.counts.load(Ordering::Relaxed) & Counts::EXCLUSIVE;
        // Release pairs with the Acquire of whoever takes a count: he finds all that is written above.
        meta.counts.store(maps * Counts::MAP + refs * Counts::REF + own, Ordering::Release);
        let state = self.folio.meta().flags.load(Ordering::Relaxed) & flags::INHERITED;
        // One store: it is a tail, or a whole folio that is not locked. Release: the counts come before it.
        meta.flags.store(Kind::Folio.bits(self.order) | state, Ordering::Release);
    }

    /// Makes the head one of the pieces and lets others have it again.
    fn shrink_head(&self, maps: u64, exclusive: u64) {
        let meta = self.folio.meta();
        let (refs, entry) = self.slots(0);
        self.folio.uncount(self.folio.pfn(), self.order);
        meta.private.store(entry, Ordering::Relaxed);
        // The lock bit and those who wait for it are in the same word.
        let _ = meta
            .flags
            .fetch_update(Ordering::Relaxed, |bits| Some(bits & flags::STATE | Kind::Folio.bits(self.order)));
        // Release pairs with the Acquire of the next who takes a count: he sees the new order.
        meta.counts.store(maps * Counts::MAP + (1 + refs) * Counts::REF + exclusive, Ordering::Release);
    }
}
