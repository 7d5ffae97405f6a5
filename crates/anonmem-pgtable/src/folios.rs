//! Large folios behind runs of entries: filled at once, taken for one's own at once, and split under the
//! locks of all that map them.
//!
//! A folio's mappings are counted in one word, and its entries lie in few tables: in one, if its address
//! space has it alone. So two questions need no counts of their own. *Are all mappings mine?*
//! ([`PteGuard::reuse_folio`]), and *how many has each page?* ([`TableSet::split`]). The entries are counted
//! under the locks of their tables. If they add up to the folio's count, there are no others, and none can
//! come. If they do not, the answer is "no", which is always safe.
//!
//! Linux: mm/memory.c `__wp_can_reuse_large_anon_folio`, with a count for each of two owners;
//! mm/huge_memory.c `__folio_split`, with migration entries.

use crate::words::TableWords as _;
use crate::{
    batch::{Batch, alike},
    guard::PteGuard,
    owned::Attrs,
    space::{CanInstall, StableVma},
    table::{PteTable, entries},
    word::{change_equal, change_word},
};
use anonmem_frame::{FolioGuard, FolioRef, NewAnonPages, SplitRefused, SplitTurn, Stamp, SwapCounts};
use anonmem_hal::{Arch, Machine, Order, PAGE_SHIFT, Pfn, Protection, Pte, SoftLeaf, Va, VaRange};
use anonmem_sync::{Atomic, Ordering, order::Ptl};
use core::{fmt, marker::PhantomData};

/// Tables that a [`TableSet`] has places for. More of them are a list ([`ManyTables`]).
pub const MAX_TABLES: usize = 12;

/// The page that an entry owns a mapping of, in whatever form.
fn page_of<M: Machine>(word: &Atomic<u64, M>) -> Option<Pfn> {
    match M::Arch::decode_pte(word.load(Ordering::Relaxed)) {
        Pte::Present(present) => (!present.special).then_some(present.pfn),
        Pte::Soft(SoftLeaf::Migration { pfn, .. }) => Some(pfn),
        Pte::None | Pte::Soft(SoftLeaf::Swap { .. } | SoftLeaf::Marker(_)) => None,
    }
}

/// The page that an entry maps.
fn present_page_of<M: Machine>(word: &Atomic<u64, M>) -> Option<Pfn> {
    match M::Arch::decode_pte(word.load(Ordering::Relaxed)) {
        Pte::Present(present) => (!present.special).then_some(present.pfn),
        Pte::None | Pte::Soft(_) => None,
    }
}

impl<'a, M: Machine, G: StableVma<M>> PteGuard<'a, M, G> {
    /// Whether nothing is mapped in `range`, which the table covers: its entries are empty, or say that the
    /// zero page was read there.
    pub fn is_vacant(&self, range: VaRange) -> bool {
        self.table().is_vacant(range)
    }

    /// Makes the pages of the folio that the entry for `va` maps exclusive, if nobody else has a count of it:
    /// the entries for `within`, which are of this table and one VMA, are all of its mappings. `lock` is the
    /// folio's lock, and `anon_vma` that of the VMA. Returns whether it did.
    ///
    /// With a protection, that of a VMA, the entries become writable that may be.
    ///
    /// # Panics
    /// If another folio is locked.
    #[doc(alias = "__wp_can_reuse_large_anon_folio")]
    pub fn reuse_folio(
        &mut self,
        va: Va,
        within: VaRange,
        lock: &FolioGuard<'_, M>,
        anon_vma: Stamp,
        writable: Option<Protection>,
    ) -> bool {
        let folio = lock.folio();
        let (first, pages) = (folio.pfn(), folio.nr_pages().0);
        let here = page_of::<M>(self.table.word(va));
        let nth = here.map_or(u64::MAX, |page| page.0.wrapping_sub(first.0));
        assert!(nth < pages, "reuse of another folio");
        // More mappings than pages: others have some. That is what most are told, and costs one load.
        if folio.counts().maps() > pages {
            return false;
        }
        // A page of anonymous memory has one address in a VMA: the others are beside this one.
        let start = Va(va.page_down().0.saturating_sub(nth << PAGE_SHIFT));
        let beside = VaRange { start, end: va.page_down().page_after(pages - nth) };
        let Some(beside) = beside.intersect(within) else { return false };
        let words = self.table.words_of(beside);
        let raw = words[0].load(Ordering::Relaxed);
        let whole = words.len() as u64 == pages && page_of::<M>(&words[0]) == Some(first);
        if whole && M::Arch::pte_present(raw) && alike(raw, words) == words.len() {
            // SAFETY: each of these entries owns a mapping of a page of the folio, all in a row, and their
            // table is locked.
            let reused = unsafe { lock.reuse_all(anon_vma) };
            if let Some(prot) = writable.filter(|_| reused) {
                allow_write(words, raw, prot);
            }
            return reused;
        }
        // One that a migration left behind has a hold, which is never exclusive: then it is somebody else's.
        let inside = |page: &Pfn| page.0.wrapping_sub(first.0) < pages;
        let mine = || words.iter().filter_map(present_page_of::<M>).filter(inside);
        let mapped = mine().count() as u64;
        // SAFETY: each of these entries owns a mapping of a page of the folio, and their table is locked.
        // They are those of one VMA, so that the pages are distinct.
        let reused = unsafe { lock.reuse_pages(anon_vma, mapped, mine()) };
        if let Some(prot) = writable.filter(|_| reused) {
            self.change_protection_range(beside, prot);
        }
        reused
    }

    /// The batch of shared pages that fills `window`, if there is one: what a copy of it would replace.
    pub fn shared_window(&self, window: VaRange) -> Option<Batch> {
        let batch = Batch::of(self.frames(), self.table.words_of(window), window)?;
        let exclusive = self.frames().page_is_exclusive(batch.present().pfn);
        (batch.range() == window && !exclusive && !batch.present().prot.write).then_some(batch)
    }
}

impl<'a, M: Machine, G: StableVma<M>> PteTable<'a, M, G> {
    /// [`PteGuard::is_vacant`], as of now.
    pub fn is_vacant(&self, range: VaRange) -> bool {
        self.words_of(range).iter().all(|word| {
            let raw = word.load(Ordering::Relaxed);
            raw == 0 || matches!(M::Arch::decode_pte(raw), Pte::Present(present) if present.special)
        })
    }
}

impl<M: Machine, G: CanInstall<M>> PteGuard<'_, M, G> {
    /// Fills the empty entries from `first` on with the pages of a new folio. Each says `says`, but the one
    /// that was `touched`.
    ///
    /// # Panics
    /// If the pages are of other frames than the table, or the one that was touched is none of them.
    #[doc(alias = "set_ptes")]
    pub fn install_pages(
        &mut self,
        first: Va,
        pages: NewAnonPages<'_, M>,
        says: Attrs,
        touched: Option<(Va, Attrs)>,
    ) {
        assert!(core::ptr::eq(pages.frames(), self.frames()), "pages of another machine's frames");
        let (page, len) = pages.into_entries();
        let words = self.table.words_of(VaRange { start: first, end: first.page_after(len) });
        let entry =
            |says: Attrs, nth: u64| M::Arch::encode_pte(Pte::Present(says.of_page::<M>(page.offset(nth))));
        match touched {
            None => fill_words(words, entry(says, 0)),
            Some((va, touched)) => {
                let nth = VaRange { start: first, end: va }.pages().0;
                let (before, rest) = words.split_at(nth as usize);
                fill_words(before, entry(says, 0));
                fill_words(&rest[..1], entry(touched, nth));
                fill_words(&rest[1..], entry(says, nth + 1));
            }
        }
        self.count_used(len as i64);
    }
}

/// Lets the owner of exclusive pages write without another fault, where the entries, of which the first holds
/// `raw`, may say so.
#[inline(always)]
fn allow_write<M: Machine>(words: &[Atomic<u64, M>], raw: u64, prot: Protection) {
    let done = match M::Arch::pte_settled(raw) && M::Arch::pte_can_mkwrite(raw) {
        true => change_equal(words, raw, M::Arch::pte_modify(raw, prot)),
        false => 0,
    };
    for word in &words[done..] {
        let raw = word.load(Ordering::Relaxed);
        if M::Arch::pte_can_mkwrite(raw) {
            change_word(word, raw, move |raw| M::Arch::pte_modify(raw, prot));
        }
    }
}

/// Fills empty entries with `first` and what it is for the frames after that.
#[inline(always)]
fn fill_words<M: Machine>(words: &[Atomic<u64, M>], first: u64) {
    let (step, mut raw) = (M::Arch::pte_step(first), first);
    for word in words {
        anonmem_hal::debug_check_eq!(M, word.load(Ordering::Relaxed), 0, "the entry is in use");
        // Release: the page's contents come before its mapping, as when one entry is filled.
        word.store(raw, Ordering::Release);
        raw = raw.wrapping_add(step);
    }
}

/// The tables whose entries map one folio.
pub struct TableSet<'a, M: Machine, G> {
    tables: [Option<PteTable<'a, M, G>>; MAX_TABLES],
}

/// There are more tables than a set holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyTables;

impl fmt::Display for TooManyTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("more tables map the folio than a set holds")
    }
}

impl core::error::Error for TooManyTables {}

impl<M: Machine, G> fmt::Debug for TableSet<'_, M, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tables.iter().flatten().map(|table| table.table)).finish()
    }
}

impl<M: Machine, G: StableVma<M>> Default for TableSet<'_, M, G> {
    fn default() -> Self {
        Self { tables: [const { None }; MAX_TABLES] }
    }
}

impl<'a, M: Machine, G: StableVma<M>> TableSet<'a, M, G> {
    /// Adds a table, unless it is there.
    ///
    /// # Errors
    /// [`TooManyTables`].
    pub fn add(&mut self, table: PteTable<'a, M, G>) -> Result<(), TooManyTables> {
        if self.tables.iter().flatten().any(|known| known.table == table.table) {
            return Ok(());
        }
        *self.tables.iter_mut().find(|place| place.is_none()).ok_or(TooManyTables)? = Some(table);
        Ok(())
    }

    /// Splits the folio that `lock` is the lock of into folios of 2^`to` pages, if these tables have all
    /// entries that map it, and `only` is the only reference beside those of the slots that `cached` has
    /// counts of. Entries do not change, and no translation does.
    ///
    /// # Locks
    /// Tries the locks of the tables.
    ///
    /// # Errors
    /// [`SplitRefused`]; nothing has changed.
    #[doc(alias = "split_folio_to_order")]
    pub fn split(
        &self,
        lock: &FolioGuard<'a, M>,
        only: &FolioRef<'a, M>,
        to: Order,
        cached: &SwapCounts<'a, M>,
    ) -> Result<(), SplitRefused> {
        let mut locked: [Option<PteGuard<'a, M, G>>; MAX_TABLES] = [const { None }; MAX_TABLES];
        for (place, table) in locked.iter_mut().zip(self.tables.iter().flatten()) {
            // Races with fork, which locks the parent's table before the child's, wherever they are.
            *place = Some(table.try_lock().ok_or(SplitRefused::Busy)?);
        }
        let inside = Inside::of(lock);
        let mut mapped = |tell: &mut dyn FnMut(Pfn)| {
            for entries in locked.iter().flatten() {
                inside.tell::<M>(entries.table.words_of(entries.table.range()), tell);
            }
        };
        // SAFETY: the tables differ, and all of them are locked until this returns.
        unsafe { lock.split(only, to, cached, &mut mapped) }
    }
}

/// The pages of a folio.
struct Inside {
    first: Pfn,
    pages: u64,
}

impl Inside {
    fn of<M: Machine>(lock: &FolioGuard<'_, M>) -> Self {
        Self { first: lock.folio().pfn(), pages: lock.folio().owned_order().pages() }
    }

    /// Tells the page of each entry for one of them.
    fn tell<M: Machine>(&self, words: &[Atomic<u64, M>], tell: &mut dyn FnMut(Pfn)) {
        let inside = |page: &Pfn| page.0.wrapping_sub(self.first.0) < self.pages;
        words.iter().filter_map(page_of::<M>).filter(inside).for_each(tell);
    }
}

/// Tables without number whose entries map one folio: a list through their own metadata, where tables in use
/// have nothing. One list at a time, by whoever has the turn.
pub struct ManyTables<'t, 'a, M: Machine, G> {
    turn: &'t SplitTurn<'a, M>,
    /// The first table; [`END`] if there is none.
    head: u64,
    stable: PhantomData<&'a G>,
}

/// What the last table of the list says: no frame has that number.
const END: u64 = u64::MAX;

impl<'t, 'a, M: Machine, G: StableVma<M>> ManyTables<'t, 'a, M, G> {
    /// None yet.
    pub fn new(turn: &'t mut SplitTurn<'a, M>) -> Self {
        Self { turn, head: END, stable: PhantomData }
    }

    /// Adds a table, unless it is there. It stays a table: the rmap lock under which it was found is held for
    /// as long as the list lives.
    ///
    /// # Panics
    /// If it is of other frames.
    pub fn add(&mut self, table: PteTable<'a, M, G>) {
        let frames = self.turn.frames();
        assert!(core::ptr::eq(frames, table.frames), "a table of another machine's frames");
        let link = frames.table_link(table.table);
        if link.load(Ordering::Relaxed) == 0 {
            link.store(self.head, Ordering::Relaxed);
            self.head = table.table.0;
        }
    }

    fn tables(&self) -> impl Iterator<Item = Pfn> {
        let frames = self.turn.frames();
        let place = |at: u64| (at != END).then_some(Pfn(at));
        core::iter::successors(place(self.head), move |&at| {
            place(frames.table_link(at).load(Ordering::Relaxed))
        })
    }

    /// As [`TableSet::split`].
    ///
    /// # Locks
    /// Tries the locks of the tables.
    ///
    /// # Errors
    /// [`SplitRefused`]; nothing has changed.
    pub fn split(
        &self,
        lock: &FolioGuard<'a, M>,
        only: &FolioRef<'a, M>,
        to: Order,
        cached: &SwapCounts<'a, M>,
    ) -> Result<(), SplitRefused> {
        let frames = self.turn.frames();
        let table_lock = |table: Pfn| frames.table_lock::<Ptl>(table);
        let all = self.tables().count();
        let locked = self.tables().take_while(|&table| table_lock(table).try_lock_unnoted()).count();
        let inside = Inside::of(lock);
        let mut mapped = |tell: &mut dyn FnMut(Pfn)| {
            self.tables().for_each(|table| inside.tell::<M>(entries(frames, table), tell));
        };
        let result = match locked == all {
            // SAFETY: the tables differ, and all of them are locked until this returns.
            true => unsafe { lock.split(only, to, cached, &mut mapped) },
            false => Err(SplitRefused::Busy),
        };
        for table in self.tables().take(locked) {
            // SAFETY: it was locked above.
            unsafe { table_lock(table).unlock_unnoted() };
        }
        result
    }
}

impl<M: Machine, G> Drop for ManyTables<'_, '_, M, G> {
    fn drop(&mut self) {
        let frames = self.turn.frames();
        while self.head != END {
            let link = frames.table_link(Pfn(self.head));
            self.head = link.load(Ordering::Relaxed);
            link.store(0, Ordering::Relaxed);
        }
    }
}

impl<M: Machine, G> fmt::Debug for ManyTables<'_, '_, M, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManyTables").field("head", &self.head).finish_non_exhaustive()
    }
}
