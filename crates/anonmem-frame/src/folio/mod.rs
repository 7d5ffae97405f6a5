//! Folios and what one may hold of them. Each count has exactly one owner type.
//!
//! | you hold | type | it owns | comes from | ends by |
//! |---|---|---|---|---|
//! | a page nobody else can see | [`NewFolio`] | the frames | allocator | `into_*`, drop = free |
//! | a reference | [`FolioRef`] | 1 reference | `try_get`, clone, `unmap` | drop = put |
//! | a pin | [`FolioPin`] | 1 pin | `pin` on an [`Exclusive`] page, `try_pin` | drop = unpin |
//! | pins of many pages | [`PinList`] | 1 pin a run of pages of one folio | pins, pushed | drop = unpin |
//! | a mapping | [`Exclusive`], [`Shared`], [`ShmMap`] | 1 mapping | the adds of `rmap` | installed into an entry, or `unmap` |
//! | mappings of a run of entries | [`MapRun`] | n mappings of one folio | single ones, joined | `unmap`: one reference |
//! | a page that is on its way to another frame | [`MigrationHold`] | 1 mapping of the old frame | [`Shared::hold`] | a migration entry, `release`, or `unmap` |
//! | the folio lock | [`FolioGuard`] | `PG_locked` | `lock`, `try_lock` | drop |
//! | the counts frozen at 0 | [`FrozenFolio`] | the only reference | [`FolioGuard::freeze`] | `unfreeze`, drop = put |
//!
//! A [`Folio`] is a look at the metadata and owns nothing: what it says may be old by the time it is used,
//! and nothing can be changed through it. What changes a folio's state is asked of an owner ([`FolioOwner`]).
//!
//! Linux: include/linux/mm.h `folio_get`, `folio_put`; include/linux/rmap.h.

mod lock;
mod owner;
pub mod pin_protocol;
mod pins;
mod rmap;
mod run;

pub use lock::{FolioGuard, FrozenFolio};
pub use owner::{FolioOwner, KeptFolio};
pub use pins::{PinList, PinListError, PinNodes, PinTag, PinnedRun};
pub use rmap::{
    DupError, Exclusive, ExclusiveRef, MigrationHold, MigrationHoldRef, Shared, SharedRef, ShmMap,
    TooManySharers,
};

pub use run::{MapRun, NewAnonPages, try_dup_page, try_dup_run};

use crate::{
    Frames, OutOfMemory,
    handle::RawHandle,
    meta::{Counts, Kind, Mapping, MappingWord, Meta, decode_entry, flags},
};
use anonmem_hal::{Machine, NrPages, Order, Pfn, SwapEntry};
use anonmem_sync::Ordering;
use core::{fmt, mem::ManuallyDrop};

/// A look at the folio that holds a frame. Owns no count.
pub struct Folio<'f, M: Machine> {
    frames: &'f Frames<M>,
    head: Pfn,
}

impl<M: Machine> Clone for Folio<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Machine> Copy for Folio<'_, M> {}

impl<M: Machine> PartialEq for Folio<'_, M> {
    fn eq(&self, other: &Self) -> bool {
        self.head == other.head && core::ptr::eq(self.frames, other.frames)
    }
}

impl<M: Machine> Frames<M> {
    /// The folio that `pfn` is a page of, if the frame belongs to one just now.
    #[doc(alias = "page_folio")]
    #[inline]
    pub fn folio(&self, pfn: Pfn) -> Option<Folio<'_, M>> {
        let meta = self.meta(pfn);
        if meta.is(Kind::Folio) {
            Some(Folio { frames: self, head: pfn })
        } else if meta.is(Kind::Tail) {
            self.folio_of_tail(pfn, meta)
        } else {
            None
        }
    }

    /// The folio of a tail that nobody holds. What a tail says outlives its folio, and its words may change
    /// one by one under this look, so the head has to agree.
    fn folio_of_tail(&self, pfn: Pfn, tail: &Meta<M>) -> Option<Folio<'_, M>> {
        let head = self.head_of_tail(tail);
        let meta = self.memmap.get(self.memmap.find(head)?)?;
        let inside = meta.kind() == Kind::Folio && pfn.0.wrapping_sub(head.0) < meta.order().pages();
        inside.then_some(Folio { frames: self, head })
    }

    fn head_of_tail(&self, tail: &Meta<M>) -> Pfn {
        Pfn(tail.mapping.load(Ordering::Relaxed))
    }

    /// Whether the page, which somebody owns a count of, is a folio of its own: no batch of entries is longer
    /// than one.
    #[inline(always)]
    pub fn is_one_page(&self, page: Pfn) -> bool {
        self.meta(page).is_one_page()
    }

    /// The folio of a page that somebody owns a count of, so that it cannot go away.
    #[inline]
    fn folio_of_owned(&self, page: Pfn) -> Folio<'_, M> {
        let meta = self.meta(page);
        let head = if meta.is(Kind::Tail) { self.head_of_tail(meta) } else { page };
        anonmem_hal::debug_check_eq!(
            M,
            self.meta(head).kind(),
            Kind::Folio,
            "an owner of a frame that is no folio"
        );
        Folio { frames: self, head }
    }

    /// Whether the page is marked exclusive (Linux: `PageAnonExclusive`).
    #[inline]
    pub fn page_is_exclusive(&self, page: Pfn) -> bool {
        Counts(self.meta(page).counts.load(Ordering::Relaxed)).is_exclusive()
    }

    /// Takes a reference to the folio of `page`, if it has an owner.
    #[doc(alias = "folio_try_get")]
    pub fn try_get(&self, page: Pfn) -> Option<FolioRef<'_, M>> {
        let folio = self.folio(page)?;
        // Acquire pairs with the Release with which the folio was published: its fields are seen.
        let got = folio.meta().counts.fetch_update(Ordering::Acquire, |c| {
            let counts = Counts(c);
            (counts.is_counted() && counts.has_room()).then_some(c + Counts::REF)
        });
        got.ok()?;
        let reference = FolioRef { frames: self, head: folio.head };
        // The frame may have been freed and become part of another folio before the count was taken.
        (self.folio(page) == Some(folio)).then_some(reference)
    }

    /// Frees a folio whose counts reached 0. The caller is the one who brought them there.
    #[inline(never)]
    fn free_folio(&self, head: Pfn) {
        let meta = self.meta(head);
        assert_freeable(meta);
        self.free_block(head, meta.order());
    }
}

impl<M: Machine> Frames<M> {
    /// Puts many references at once. What that frees goes to this CPU's list under one hold of its lock.
    ///
    /// # Safety
    /// Each of `heads` came from [`FolioRef::into_raw`] of the same `frames`, and is taken back once.
    #[doc(alias = "free_pages_and_swap_cache")]
    pub unsafe fn put_many(&self, heads: impl Iterator<Item = Pfn>) {
        let mut freed = self.free_many();
        for head in heads {
            let meta = self.meta(head);
            // AcqRel as for a single reference: pairs with the other drops, so that the last one sees what
            // they did.
            let old = meta.counts.fetch_sub(Counts::REF, Ordering::AcqRel);
            anonmem_hal::debug_check!(M, Counts(old).refs() > 0, "a reference too many was dropped");
            if old == Counts::REF {
                assert_freeable(meta);
                freed.add(head);
            }
        }
    }
}

/// What must hold of a folio whose counts have reached 0.
#[inline]
fn assert_freeable<M: Machine>(meta: &Meta<M>) {
    anonmem_hal::debug_check_eq!(M, meta.kind(), Kind::Folio);
    // In every build: whoever has the lock would unlock what the frame has become.
    assert!(meta.flags.peek() & flags::LOCKED == 0, "freeing a locked folio");
    anonmem_hal::debug_check_eq!(M, meta.private.peek(), 0, "freeing a folio in the swap cache");
}

impl<M: Machine> Frames<M> {
    /// Allocates 2^order frames for a folio. Their bytes are whatever they were.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    #[doc(alias = "folio_alloc")]
    #[inline]
    pub fn alloc(&self, order: Order) -> Result<NewFolio<'_, M>, OutOfMemory> {
        Ok(NewFolio::from_block(self, self.alloc_block(order, Kind::New)?))
    }
}

impl<'f, M: Machine> Folio<'f, M> {
    #[inline]
    pub(crate) fn meta(&self) -> &'f Meta<M> {
        self.frames.meta(self.head)
    }

    /// The allocator that the folio is from.
    pub fn frames(&self) -> &'f Frames<M> {
        self.frames
    }

    /// Its first frame.
    pub fn pfn(&self) -> Pfn {
        self.head
    }

    /// Its size.
    pub fn order(&self) -> Order {
        self.meta().order()
    }

    /// Its size in pages.
    pub fn nr_pages(&self) -> NrPages {
        NrPages(self.order().pages())
    }

    /// How many pages it has from `page` on, which is one of them.
    #[inline]
    pub fn pages_from(&self, page: Pfn) -> u64 {
        self.head.0 + self.nr_pages().0 - page.0
    }

    /// Its counts.
    #[inline]
    pub fn counts(&self) -> Counts {
        Counts(self.meta().counts.load(Ordering::Relaxed))
    }

    /// Whether any page of it is mapped. Acquire pairs with the Release of the adds of `rmap`, so that
    /// a `mapping` word loaded afterwards is at least as new as the mapping that was seen (the order that
    /// `folio_lock_anon_vma_read` needs).
    #[doc(alias = "folio_mapped")]
    #[inline]
    pub fn is_mapped(&self) -> bool {
        Counts(self.meta().counts.load(Ordering::Acquire)).maps() != 0
    }

    /// Whether it may be pinned. Exact if the caller holds the page-table lock of its only mapping and
    /// has closed the door to GUP-fast.
    #[doc(alias = "folio_maybe_dma_pinned")]
    pub fn maybe_pinned(&self) -> bool {
        self.counts().pins() != 0
    }

    /// The mapping word as it is now, for lock-and-recheck.
    #[inline]
    pub fn mapping_word(&self) -> MappingWord {
        // Acquire pairs with the Release of `set_mapping`: the object named is seen initialised.
        MappingWord(self.meta().mapping.load(Ordering::Acquire))
    }

    /// What it belongs to, as of now.
    pub fn mapping(&self) -> Mapping {
        self.mapping_word().decode()
    }

    /// Whether it belongs to an anon_vma or a KSM stable node.
    #[doc(alias = "folio_test_anon")]
    #[inline]
    pub fn is_anon(&self) -> bool {
        self.mapping_word().is_anon()
    }

    /// Its index in pages (for anonymous memory: the linear page index in its anon_vma). Stable under the
    /// anon_vma lock or the folio lock.
    pub fn index(&self) -> u64 {
        self.mapping_word().index_high() | u64::from(self.meta().aux.load(Ordering::Relaxed))
    }

    /// The swap slot that it is or was the cached page of; the slot's word says which.
    #[inline]
    pub fn swap_entry(&self) -> Option<SwapEntry> {
        // Acquire pairs with the Release of `FolioGuard::set_swap_entry`.
        decode_entry(self.meta().private.load(Ordering::Acquire))
    }

    /// How many sweeps of reclaim in a row found it unused, up to 3.
    pub fn idle(&self) -> u32 {
        self.meta().flags.load(Ordering::Relaxed) >> flags::IDLE_SHIFT & 3
    }

    /// Whether it may be dropped instead of swapped (`MADV_FREE`) unless written since.
    pub fn is_lazyfree(&self) -> bool {
        self.meta().flags.load(Ordering::Relaxed) & flags::LAZYFREE != 0
    }

    fn set_mapping(&self, mapping: Mapping, index: u64) {
        let meta = self.meta();
        meta.aux.store(index as u32, Ordering::Relaxed);
        // Release pairs with the Acquire of `mapping_word`.
        meta.mapping.store(MappingWord::encode(mapping, index).0, Ordering::Release);
    }
}

impl<M: Machine> fmt::Debug for Folio<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folio {:#x} ({:?}, {:?})", self.head.0, self.counts(), self.mapping())
    }
}

/// Frames that nobody else can see. Dropping it frees them.
pub struct NewFolio<'f, M: Machine> {
    frames: &'f Frames<M>,
    head: Pfn,
}

impl<'f, M: Machine> NewFolio<'f, M> {
    /// Takes over a block of kind [`Kind::New`].
    pub(crate) fn from_block(frames: &'f Frames<M>, head: Pfn) -> Self {
        anonmem_hal::debug_check_eq!(M, frames.meta(head).kind(), Kind::New);
        Self { frames, head }
    }

    /// The first frame.
    pub fn pfn(&self) -> Pfn {
        self.head
    }

    /// The size.
    pub fn order(&self) -> Order {
        self.frames.meta(self.head).order()
    }

    /// Fills it with zeroes.
    pub fn zero(&self) {
        self.frames.machine().zero(self.head, self.order());
    }

    /// Copies one page of another folio, whose owner may be writing to it meanwhile.
    pub fn copy_from(&self, page: Pfn) {
        anonmem_hal::debug_check_eq!(M, self.order(), Order::ZERO);
        self.frames.machine().copy(self.head, page, Order::ZERO);
    }

    /// Makes it an anonymous page, mapped once and exclusive: `folio_add_new_anon_rmap`.
    ///
    /// `anon_vma` finds the mapping that is about to be installed; `index` is the page's linear index in it.
    #[doc(alias = "folio_add_new_anon_rmap")]
    #[inline]
    pub fn into_exclusive_anon(self, anon_vma: RawHandle, index: u64) -> Exclusive<'f, M> {
        anonmem_hal::debug_check_eq!(M, self.order(), Order::ZERO);
        let (frames, head) = self.publish(Mapping::Anon(anon_vma), index, Counts::MAP + Counts::EXCLUSIVE);
        Exclusive { frames, page: head }
    }

    /// Makes it an anonymous folio whose pages are all mapped once and exclusive: the mappings, in order.
    #[doc(alias = "folio_add_new_anon_rmap")]
    pub fn into_exclusive_anon_pages(self, anon_vma: RawHandle, index: u64) -> NewAnonPages<'f, M> {
        let pages = self.order().pages();
        for page in (1..pages).map(|i| self.head.offset(i)) {
            // Nobody sees the folio yet: the Release of `publish` comes after it.
            self.frames.meta(page).counts.store(Counts::EXCLUSIVE, Ordering::Relaxed);
        }
        let counts = pages * Counts::MAP + Counts::EXCLUSIVE;
        let (frames, head) = self.publish(Mapping::Anon(anon_vma), index, counts);
        NewAnonPages::new(frames, head, pages)
    }

    /// Makes it a page of a shared object.
    pub fn into_shm(self, object: RawHandle, index: u64) -> FolioRef<'f, M> {
        let (frames, head) = self.publish(Mapping::Shm(object), index, Counts::REF);
        FolioRef { frames, head }
    }

    /// Makes it a page that belongs to nothing, held by one reference: the zero page.
    pub fn into_reference(self) -> FolioRef<'f, M> {
        let (frames, head) = self.publish(Mapping::None, 0, Counts::REF);
        FolioRef { frames, head }
    }

    #[inline]
    fn publish(self, mapping: Mapping, index: u64, counts: u64) -> (&'f Frames<M>, Pfn) {
        let this = ManuallyDrop::new(self);
        let folio = Folio { frames: this.frames, head: this.head };
        let meta = folio.meta();
        meta.flags.store(Kind::Folio.bits(meta.order()), Ordering::Relaxed);
        folio.set_mapping(mapping, index);
        // Release pairs with the Acquire of `try_get` and of `is_mapped`: whoever finds the folio alive
        // finds it complete.
        meta.counts.store(counts, Ordering::Release);
        (this.frames, this.head)
    }
}

impl<M: Machine> Drop for NewFolio<'_, M> {
    fn drop(&mut self) {
        self.frames.free_block(self.head, self.order());
    }
}

/// One reference to a folio.
pub struct FolioRef<'f, M: Machine> {
    frames: &'f Frames<M>,
    head: Pfn,
}

impl<'f, M: Machine> FolioRef<'f, M> {
    /// The folio.
    #[inline]
    pub fn folio(&self) -> Folio<'f, M> {
        Folio { frames: self.frames, head: self.head }
    }

    /// Its first frame.
    pub fn pfn(&self) -> Pfn {
        self.head
    }

    /// Gives up the type; [`from_raw`](Self::from_raw) takes the reference back.
    pub fn into_raw(self) -> Pfn {
        ManuallyDrop::new(self).head
    }

    /// Takes back a reference that [`into_raw`](Self::into_raw) gave up.
    ///
    /// # Safety
    /// `head` came from `into_raw` of the same `frames`, and is taken back once.
    pub unsafe fn from_raw(frames: &'f Frames<M>, head: Pfn) -> Self {
        Self { frames, head }
    }

    /// Adds a mapping of a shared object's page, the `nth` of its folio, for an entry to own.
    ///
    /// # Errors
    /// [`TooManySharers`] before the count would overflow.
    ///
    /// # Panics
    /// If the folio is smaller, or is no shared object's.
    pub fn map_shm(&self, nth: u64) -> Result<ShmMap<'f, M>, TooManySharers> {
        let folio = self.folio();
        assert!(matches!(folio.mapping(), Mapping::Shm(_)), "{folio:?} belongs to no object");
        assert!(nth < folio.nr_pages().0, "page {nth} of {folio:?}");
        rmap::add_map(folio)?;
        Ok(ShmMap { frames: self.frames, page: self.head.offset(nth) })
    }
}

impl<M: Machine> Clone for FolioRef<'_, M> {
    fn clone(&self) -> Self {
        let old = Counts(self.folio().meta().counts.fetch_add(Counts::REF, Ordering::Relaxed));
        assert!(old.has_room(), "2^20 references to one folio");
        Self { ..*self }
    }
}

impl<M: Machine> Drop for FolioRef<'_, M> {
    #[inline]
    fn drop(&mut self) {
        // AcqRel pairs with itself: whoever brings the word to 0 sees all that the others did.
        let old = self.folio().meta().counts.fetch_sub(Counts::REF, Ordering::AcqRel);
        anonmem_hal::debug_check!(M, Counts(old).refs() > 0, "a reference too many was dropped");
        if old == Counts::REF {
            self.frames.free_folio(self.head);
        }
    }
}

impl<M: Machine> fmt::Debug for FolioRef<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.folio().fmt(f)
    }
}

impl<M: Machine> Frames<M> {
    /// Pins the folio of `page`, if it has an owner and room for a pin, without any lock: the caller goes on
    /// as [`pin_protocol`] says, and keeps the pin only if the page turns out to be the one that it meant,
    /// and exclusive.
    #[doc(alias = "try_grab_folio_fast")]
    #[inline]
    pub fn try_pin(&self, page: Pfn) -> Option<FolioPin<'_, M>> {
        let folio = self.folio(page)?;
        if !pin_protocol::try_count(&folio.meta().counts) {
            return None;
        }
        let pin = FolioPin { frames: self, page: folio.head };
        // The frame may have been freed and become part of another folio before the pin was counted.
        if self.folio(page) != Some(folio) {
            return None;
        }
        let _ = ManuallyDrop::new(pin);
        Some(FolioPin { frames: self, page })
    }
}

/// One pin: the page's bytes may be read or written by a device at any time. It is kept only of pages that
/// were exclusive, or a shared object's, when it was taken; while it exists, fork copies and reclaim leaves
/// the page alone.
pub struct FolioPin<'f, M: Machine> {
    frames: &'f Frames<M>,
    page: Pfn,
}

impl<'f, M: Machine> FolioPin<'f, M> {
    /// The pinned page.
    pub fn pfn(&self) -> Pfn {
        self.page
    }

    /// The folio that holds it.
    pub fn folio(&self) -> Folio<'f, M> {
        self.frames.folio_of_owned(self.page)
    }
}

impl<'f, M: Machine> Folio<'f, M> {
    /// Pins a page of a folio that is pinned: the caller has a pin of it.
    fn pin_again(self, page: Pfn) -> Result<FolioPin<'f, M>, TooManySharers> {
        anonmem_hal::debug_check!(M, self.counts().pins() > 0, "another pin of a folio that has none");
        if pin_protocol::try_count(&self.meta().counts) {
            Ok(FolioPin { frames: self.frames, page })
        } else {
            Err(TooManySharers)
        }
    }
}

impl<M: Machine> Drop for FolioPin<'_, M> {
    fn drop(&mut self) {
        let folio = self.folio();
        // AcqRel as for a reference; the Release also pairs with the pin check of fork.
        let old = folio.meta().counts.fetch_sub(Counts::PIN, Ordering::AcqRel);
        anonmem_hal::debug_check!(M, Counts(old).pins() > 0, "a pin too many was dropped");
        if old == Counts::PIN {
            self.frames.free_folio(folio.head);
        }
    }
}
