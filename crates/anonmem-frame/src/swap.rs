//! Swap slots: one word each says who needs the slot and which folio is its page in memory.
//!
//! | bits | meaning |
//! |---|---|
//! | 0-23 | entries (and other owners of a slot count) that need the contents |
//! | 24-55 | the cached page: frame, relative to the first, plus one; 0 if none |
//! | 56 | the contents are zeroes: nothing was written |
//! | 57 | the device has something to discard |
//! | 58 | being freed: the device is told, then the word becomes 0 |
//! | 59-63 | when the contents left memory: [`EvictionStamp`] |
//!
//! 0 is a free slot. The swap cache *is* these words. A slot's word decides whether a folio is in it, and the
//! entry in the folio's metadata only says which word that is. Count and cached page change together. So the
//! last one to need a slot takes the page out of the cache with the same compare-exchange that frees the
//! slot. That needs no lock.
//!
//! A cached page owns one reference, which is the word's. Three rules keep the races out:
//!
//! - *One reader per slot.* A page that is to be read is put into the word first, locked; others find it and
//!   wait.
//! - *Whoever writes a slot owns a count of it*, so that it cannot be freed and reused under the write.
//! - *Under the page-table lock, the word is asked again.* An entry that compares equal after a sleep may be
//!   a later use of the same slot (ABA); then another page is cached, or none.
//!
//! Whoever has only read an entry, and owns no count, may ask about a slot that is not there. While the
//! reader slept, swapoff and swapon of a smaller device may have come by. `lookup`, `cached_page`, `caches`,
//! `cache`, `recache` and `dup_if_cached` ask the length first.
//!
//! Linux: mm/swapfile.c `swap_map`, mm/swap_state.c. Differs: count and cache in one word; 2^24 owners
//! instead of a chain of continuation pages.

use crate::{FolioRef, FrameArray, Frames, OutOfMemory, SwapCount, SwapCounts};
use anonmem_hal::{Machine, Pfn, SwapEntry};
use anonmem_sync::{Atomic, Ordering};
use core::fmt;

const CACHE_SHIFT: u32 = 24;
const COUNT: u64 = (1 << CACHE_SHIFT) - 1;
const CACHE: u64 = (u32::MAX as u64) << CACHE_SHIFT;
const ZERO: u64 = 1 << 56;
const STORED: u64 = 1 << 57;
const FREEING: u64 = 1 << 58;
const STAMP_SHIFT: u32 = 59;

/// A slot's word, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotState {
    /// Who needs the contents.
    pub count: u64,
    /// The page in memory.
    pub cached: Option<Pfn>,
    /// The contents are zeroes.
    pub zero: bool,
    /// The device has the contents, or had them.
    pub stored: bool,
    /// When they left.
    pub evicted: EvictionStamp,
}

/// When a page left memory, in units that reclaim chooses, modulo 32.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EvictionStamp(u8);

impl EvictionStamp {
    const MASK: u64 = u64::MAX >> STAMP_SHIFT;

    /// The stamp of a time.
    pub const fn of(time: u64) -> Self {
        Self((time & Self::MASK) as u8)
    }

    /// Units from here to `now`, modulo 32.
    pub const fn age_at(self, now: Self) -> u64 {
        now.0.wrapping_sub(self.0) as u64 & Self::MASK
    }

    const fn bits(self) -> u64 {
        (self.0 as u64) << STAMP_SHIFT
    }
}

/// The slot has as many owners as can be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotCountOverflow;

impl fmt::Display for SlotCountOverflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a swap slot has as many owners as can be counted")
    }
}

impl core::error::Error for SlotCountOverflow {}

/// What is left of a slot when a count of it was dropped.
#[must_use = "a slot that is free must be finished"]
pub enum SlotPut<'f, M: Machine> {
    /// Others need it.
    InUse,
    /// Nobody does: tell the device, drop the page, then [`SwapSlots::finish_free`].
    Free {
        /// The slot, which nobody else can touch.
        slot: FreedSlot,
        /// Whether the device has something to discard.
        stored: bool,
        /// The cache's reference, if a page was cached.
        page: Option<FolioRef<'f, M>>,
    },
}

/// A slot whose last count was dropped, and which cannot be claimed yet.
#[must_use = "a slot that is free must be finished"]
#[derive(Debug)]
pub struct FreedSlot(u64);

impl FreedSlot {
    /// Its number.
    pub(crate) const fn offset(&self) -> u64 {
        self.0
    }
}

/// The slots of one device.
pub struct SwapSlots<M> {
    device: u8,
    words: FrameArray<M>,
}

impl<M: Machine> SwapSlots<M> {
    /// No slots of a device with this number.
    pub const fn new(device: u8) -> Self {
        Self { device, words: FrameArray::new() }
    }

    /// The number of the device.
    pub(crate) const fn device(&self) -> u8 {
        self.device
    }

    /// The device of a slot, which is one of these.
    #[track_caller]
    pub(crate) fn device_of(&self, slot: SwapEntry) -> u8 {
        assert_eq!(slot.device, self.device, "a slot of another device");
        self.device
    }

    /// The slot that an owner has a count of.
    #[track_caller]
    fn owned<'f>(&self, count: &SwapCount<'f, M>) -> (&'f Frames<M>, u64) {
        let SwapEntry { device, offset } = count.entry();
        assert_eq!(device, self.device, "a count of another device's slot");
        (count.frames(), offset)
    }

    /// Makes `len` free slots.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn alloc(&self, frames: &Frames<M>, len: u64) -> Result<(), OutOfMemory> {
        self.words.alloc(frames, len)
    }

    /// Frees the words.
    ///
    /// # Safety
    /// All slots are free, and nobody looks at one.
    pub unsafe fn free(&self, frames: &Frames<M>) {
        // SAFETY: the caller's promise.
        unsafe { self.words.free(frames) };
    }

    /// The number of slots.
    pub fn len(&self) -> u64 {
        self.words.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn word<'f>(&self, frames: &'f Frames<M>, slot: u64) -> &'f Atomic<u64, M> {
        self.words.get(frames, slot)
    }

    fn cached(frames: &Frames<M>, word: u64) -> Option<Pfn> {
        let relative = (word & CACHE) >> CACHE_SHIFT;
        relative.checked_sub(1).map(|r| frames.machine().base_pfn().offset(r))
    }

    /// The bits of a word that owns `page`.
    #[track_caller]
    fn cached_bits(frames: &Frames<M>, page: &FolioRef<'_, M>) -> u64 {
        assert!(core::ptr::eq(page.folio().frames(), frames), "a page of another machine");
        Self::cache_bits(frames, page.pfn())
    }

    /// The same for the `nth` page of the folio.
    #[track_caller]
    fn nth_bits(frames: &Frames<M>, page: &FolioRef<'_, M>, nth: u64) -> u64 {
        assert!(nth < page.folio().owned_order().pages(), "page {nth} of {page:?}");
        Self::cached_bits(frames, page) + (nth << CACHE_SHIFT)
    }

    /// The reference that a word owned whose cached page was `page`.
    ///
    /// # Safety
    /// As for [`FolioRef::from_raw`]; the word was replaced by one that does not own the reference.
    unsafe fn reference(frames: &Frames<M>, page: Pfn) -> FolioRef<'_, M> {
        // The reference keeps the folio, and whoever splits it finds one that he does not know, and leaves it
        // alone.
        let head = frames.folio_of_owned(page).pfn();
        // SAFETY: the caller's promise.
        unsafe { FolioRef::from_raw(frames, head) }
    }

    fn cache_bits(frames: &Frames<M>, page: Pfn) -> u64 {
        (page.0 - frames.machine().base_pfn().0 + 1) << CACHE_SHIFT
    }

    /// The word of a slot that the caller owns no count of: the device that has the number now may be a
    /// smaller one.
    fn word_if_there<'f>(&self, frames: &'f Frames<M>, slot: u64) -> Option<&'f Atomic<u64, M>> {
        (slot < self.len()).then(|| self.word(frames, slot))
    }

    /// The slot's cached page, if there is such a slot and it has one.
    pub fn cached_page(&self, frames: &Frames<M>, slot: u64) -> Option<Pfn> {
        // Acquire pairs with the Releases below.
        Self::cached(frames, self.word_if_there(frames, slot)?.load(Ordering::Acquire))
    }

    /// What the slot's word says now. The slot is there: the caller owns a count of it, or has found it
    /// cached.
    pub fn state(&self, frames: &Frames<M>, slot: u64) -> SlotState {
        // Acquire pairs with the Releases below.
        let word = self.word(frames, slot).load(Ordering::Acquire);
        SlotState {
            count: word & COUNT,
            cached: Self::cached(frames, word),
            zero: word & ZERO != 0,
            stored: word & STORED != 0,
            evicted: EvictionStamp::of(word >> STAMP_SHIFT),
        }
    }

    /// Whether the slot is free.
    pub fn is_free(&self, frames: &Frames<M>, slot: u64) -> bool {
        self.word(frames, slot).load(Ordering::Relaxed) == 0
    }

    /// Takes the slot if it is free, for the page of `page`, which becomes its cached page; returns the
    /// slot's one count.
    ///
    /// # Errors
    /// The reference, if the slot is not free.
    pub fn claim<'f>(
        &self,
        frames: &'f Frames<M>,
        slot: u64,
        page: FolioRef<'f, M>,
    ) -> Result<SwapCount<'f, M>, FolioRef<'f, M>> {
        let word = Self::cached_bits(frames, &page) | 1;
        // AcqRel: the former use of the slot is over; whoever finds the page finds it complete.
        match self.word(frames, slot).compare_exchange(0, word, Ordering::AcqRel) {
            Ok(_) => {
                page.into_raw();
                Ok(self.count_of(frames, slot))
            }
            Err(_) => Err(page),
        }
    }

    /// The owner of a count of `slot` that was just added.
    fn count_of<'f>(&self, frames: &'f Frames<M>, slot: u64) -> SwapCount<'f, M> {
        SwapCount::new(frames, SwapEntry { device: self.device, offset: slot })
    }

    /// Takes slots in a row from `first` on, one for each page of the folio that `page` is a reference to, if
    /// all of them are free. Each page becomes the cached page of its slot, which has a reference of its own.
    /// Returns the slots' counts.
    #[doc(alias = "folio_alloc_swap")]
    pub fn claim_run<'f>(
        &self,
        frames: &'f Frames<M>,
        first: u64,
        page: &FolioRef<'f, M>,
    ) -> Option<SwapCounts<'f, M>> {
        let pages = page.folio().owned_order().pages();
        let mut counts = SwapCounts::none(frames, SwapEntry { device: self.device, offset: first });
        for nth in 0..pages {
            let word = Self::nth_bits(frames, page, nth) | 1;
            // AcqRel: as in `claim`.
            if self.word(frames, first + nth).compare_exchange(0, word, Ordering::AcqRel).is_err() {
                // Nobody has seen an entry for them: they go as they came.
                while let Some(count) = counts.pop() {
                    let slot = count.entry().offset;
                    if let SlotPut::Free { slot: freed, .. } = self.put(count) {
                        anonmem_hal::debug_check_eq!(M, slot, freed.0);
                        self.finish_free(frames, freed);
                    }
                }
                return None;
            }
            page.clone().into_raw();
            counts.push(self.count_of(frames, first + nth));
        }
        Some(counts)
    }

    /// Makes the `nth` page of the folio of `page` the cached page of a slot that is needed and has none: it
    /// is going to be read.
    ///
    /// # Errors
    /// The reference, if somebody was faster or nobody needs the slot any more.
    pub fn cache<'f>(
        &self,
        frames: &'f Frames<M>,
        slot: u64,
        page: FolioRef<'f, M>,
        nth: u64,
    ) -> Result<(), FolioRef<'f, M>> {
        let Some(word) = self.word_if_there(frames, slot) else { return Err(page) };
        let bits = Self::nth_bits(frames, &page, nth);
        // AcqRel: as in `claim`.
        let cached = word.fetch_update(Ordering::AcqRel, |word| {
            (word & COUNT != 0 && word & (CACHE | FREEING) == 0).then_some(word | bits)
        });
        match cached {
            Ok(_) => {
                page.into_raw();
                Ok(())
            }
            Err(_) => Err(page),
        }
    }

    /// The cached page of the slot, with a reference of the caller's own.
    #[doc(alias = "swap_cache_get_folio")]
    pub fn lookup<'f>(&self, frames: &'f Frames<M>, slot: u64) -> Option<FolioRef<'f, M>> {
        loop {
            let page = self.cached_page(frames, slot)?;
            // Fails while the page is being taken out and its counts are frozen: then the word changes.
            let Some(found) = frames.try_get(page) else {
                M::relax();
                continue;
            };
            if self.cached_page(frames, slot) == Some(page) {
                return Some(found);
            }
        }
    }

    /// Whether `page` is the slot's cached page.
    pub fn caches(&self, frames: &Frames<M>, slot: u64, page: Pfn) -> bool {
        self.cached_page(frames, slot) == Some(page)
    }

    /// Counts one more owner of a slot.
    ///
    /// # Errors
    /// [`SlotCountOverflow`] before the count would overflow.
    #[doc(alias = "swap_duplicate")]
    pub fn dup<'f>(&self, count: &SwapCount<'f, M>) -> Result<SwapCount<'f, M>, SlotCountOverflow> {
        let (frames, slot) = self.owned(count);
        let counted = self.word(frames, slot).fetch_update(Ordering::Relaxed, |word| {
            anonmem_hal::debug_check!(M, word & COUNT != 0, "a count added to a slot that nobody needs");
            (word & COUNT < COUNT).then_some(word + 1)
        });
        counted.map(|_| self.count_of(frames, slot)).map_err(|_| SlotCountOverflow)
    }

    /// Counts owners of a slot in use that nobody is, so that `room` more fit; returns how many. For tests.
    ///
    /// # Safety
    /// The slot is in use, and [`unforge`](Self::unforge) takes the same number away while it still is.
    #[doc(hidden)]
    pub unsafe fn forge(&self, frames: &Frames<M>, slot: u64, room: u64) -> u64 {
        let word = self.word(frames, slot);
        let forged = COUNT - room - (word.load(Ordering::Relaxed) & COUNT);
        word.fetch_add(forged, Ordering::Relaxed);
        forged
    }

    /// Takes the count of owners away that [`forge`](Self::forge) has made.
    ///
    /// # Safety
    /// [`forge`](Self::forge) has counted so many, and they are taken away once.
    #[doc(hidden)]
    pub unsafe fn unforge(&self, frames: &Frames<M>, slot: u64, forged: u64) {
        self.word(frames, slot).fetch_sub(forged, Ordering::Relaxed);
    }

    /// Counts one more owner, if `page` is the slot's cached page and somebody needs it.
    pub fn dup_if_cached<'f>(&self, frames: &'f Frames<M>, slot: u64, page: Pfn) -> Option<SwapCount<'f, M>> {
        // A folio's entry may be older than the device that has its number now.
        let word = self.word_if_there(frames, slot)?;
        let bits = Self::cache_bits(frames, page);
        let counted = word.fetch_update(Ordering::Relaxed, |word| {
            let fits = word & CACHE == bits && word & FREEING == 0 && (1..COUNT).contains(&(word & COUNT));
            fits.then_some(word + 1)
        });
        counted.ok().map(|_| self.count_of(frames, slot))
    }

    /// Notes what was written, the contents or that they are zeroes, and when.
    pub fn set_stored(&self, count: &SwapCount<'_, M>, contents: Stored, now: EvictionStamp) {
        let (frames, slot) = self.owned(count);
        let (clear, set) = match contents {
            Stored::OnDevice => (ZERO, STORED),
            Stored::Zeroes => (0, ZERO),
        };
        let word = self.word(frames, slot);
        word.fetch_and(!(clear | EvictionStamp::MASK << STAMP_SHIFT), Ordering::Relaxed);
        // Release pairs with the Acquire of `state`: the contents are there.
        word.fetch_or(set | now.bits(), Ordering::Release);
    }

    /// Drops a count. The last one takes the page out of the cache.
    #[doc(alias = "swap_free")]
    pub fn put<'f>(&self, count: SwapCount<'f, M>) -> SlotPut<'f, M> {
        let (frames, slot) = self.owned(&count);
        // What the owner had is taken off the slot's word here.
        count.into_entry();
        // AcqRel: the last one sees what the others did.
        let old = self.word(frames, slot).fetch_update(Ordering::AcqRel, |word| {
            anonmem_hal::debug_check!(
                M,
                word & COUNT != 0 && word & FREEING == 0,
                "a count too many was dropped"
            );
            Some(if word & COUNT == 1 { word & STORED | FREEING } else { word - 1 })
        });
        let old = old.unwrap_or_else(|word| word);
        if old & COUNT != 1 {
            return SlotPut::InUse;
        }
        let page = Self::cached(frames, old).map(|pfn| {
            // SAFETY: `claim` or `cache` took the reference apart; the word that owned it was replaced by
            // ours, which does not, and only one compare-exchange can do that.
            unsafe { Self::reference(frames, pfn) }
        });
        SlotPut::Free { slot: FreedSlot(slot), stored: old & STORED != 0, page }
    }

    /// Ends the freeing of a slot: it may be claimed again.
    pub fn finish_free(&self, frames: &Frames<M>, slot: FreedSlot) {
        anonmem_hal::debug_check_eq!(M, self.word(frames, slot.0).peek() & !STORED, FREEING);
        // Release pairs with the Acquire of `claim`.
        self.word(frames, slot.0).store(0, Ordering::Release);
    }

    /// Makes the page at the same place of `new` the cached one instead of `old`, which moves there; returns
    /// the cache's reference to the folio of `old`. The caller has both locked, and keeps the device.
    ///
    /// # Errors
    /// The reference to `new`, if `old` is not the slot's cached page, or no longer.
    #[doc(alias = "__swap_cache_replace_folio")]
    pub fn recache<'f>(
        &self,
        frames: &'f Frames<M>,
        slot: u64,
        old: Pfn,
        new: FolioRef<'f, M>,
    ) -> Result<FolioRef<'f, M>, FolioRef<'f, M>> {
        let Some(word) = self.word_if_there(frames, slot) else { return Err(new) };
        let nth = old.0 - frames.folio_of_owned(old).pfn().0;
        let (from, to) = (Self::cache_bits(frames, old), Self::nth_bits(frames, &new, nth));
        // AcqRel: as in `claim`, and as in `put`.
        let replaced = word.fetch_update(Ordering::AcqRel, |word| {
            (word & CACHE == from && word & FREEING == 0).then_some(word & !CACHE | to)
        });
        if replaced.is_err() {
            return Err(new);
        }
        new.into_raw();
        // SAFETY: as in `put`.
        Ok(unsafe { Self::reference(frames, old) })
    }

    /// Takes `page` out of the cache if it is the slot's page; the slot stays for those who need it. Returns
    /// the cache's reference.
    #[doc(alias = "__delete_from_swap_cache")]
    pub fn uncache<'f>(&self, frames: &'f Frames<M>, slot: u64, page: Pfn) -> Option<FolioRef<'f, M>> {
        let bits = Self::cache_bits(frames, page);
        // AcqRel: as in `put`.
        let taken = self.word(frames, slot).fetch_update(Ordering::AcqRel, |word| {
            (word & CACHE == bits && word & FREEING == 0).then_some(word & !CACHE)
        });
        taken.ok()?;
        // SAFETY: as in `put`.
        Some(unsafe { Self::reference(frames, page) })
    }
}

/// What became of the contents of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stored {
    /// They are on the device.
    OnDevice,
    /// They are zeroes, and were not written.
    Zeroes,
}
