//! Shared anonymous memory: an object of pages that several address spaces map.
//!
//! An object is a page table of its own: the entry for offset `i` owns one *mapping* of page `i`. So the
//! machinery of entries, locks and walks serves here too. No CPU ever loads it. Pages stay until the last VMA
//! that maps the object is gone; rmap does not find them.
//!
//! A page may leave for a swap device. Then the object's entry owns a count of the slot, the only one but for
//! that of whoever writes the page. What could not be read back is a marker.
//!
//! Linux: mm/shmem.c `shmem_zero_setup`. Differs: no file.

pub(crate) mod object;
pub(crate) mod owned;
mod page;
mod swap;

use crate::{
    error::Error,
    ids::ShmId,
    objects::Objects,
    shm::object::{NO_WRITERS, ShmObject, VISIT},
    swap::slot::SwapRef,
};
use anonmem_frame::FolioRef;
use anonmem_hal::{Arch, Machine, PAGE_SHIFT, Protection, Pte, SoftLeaf, SwapEntry, Va, VaRange};
use anonmem_pgtable::{Attrs, Cleared, Mapped, PteTable, Teardown};
use anonmem_sync::Ordering;
use core::ops::Range;

/// When the pages of an object are promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Promise {
    /// All of them when it is made.
    InFull,
    /// Each when it is made: the object may be larger than all memory.
    PageByPage,
}

/// What an object has at an index.
pub(crate) enum Found<'a, M: Machine> {
    /// Nothing: it reads as zeroes.
    Nothing,
    /// A page.
    Page(FolioRef<'a, M>),
    /// A page that is in this slot.
    Swapped(SwapEntry),
    /// A page that could not be read from its swap device.
    Lost,
}

/// How many pages there are of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ShmPages {
    /// In memory.
    pub(crate) present: u64,
    /// In swap.
    pub(crate) swapped: u64,
    /// Nowhere: they could not be read from their swap device.
    pub(crate) lost: u64,
}

impl ShmPages {
    /// All of them.
    pub(crate) const fn all(self) -> u64 {
        self.present + self.swapped + self.lost
    }
}

/// What the entry of an object says of its page. No CPU looks at it.
pub(crate) const OBJECT_ENTRY: Attrs =
    Attrs { prot: Protection::RW, young: false, dirty: false, uffd_wp: false, soft_clean: false };

/// Keeps an object's tables: its user count. The object's pages are filled under it.
pub(crate) struct ShmUser<'a, M: Machine>(&'a ShmObject<M>);

impl<'a, M: Machine> ShmUser<'a, M> {
    /// Of an object that the caller uses.
    pub(crate) const fn of(object: &'a ShmObject<M>) -> Self {
        Self(object)
    }

    pub(crate) fn object(&self) -> &ShmObject<M> {
        self.0
    }
}

pub(crate) fn offset(index: u64) -> Va {
    Va(index << PAGE_SHIFT)
}

impl<M: Machine> Objects<M> {
    /// Makes an object of `pages` pages, with one user; they are promised, not allocated. Does not reclaim.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Limit`] beyond the commit limit, [`Error::Invalid`] if it is larger
    /// than the page-table format can name.
    pub(crate) fn shm_make(&self, pages: u64, promise: Promise) -> Result<ShmId, Error> {
        if pages > M::Arch::USER_END.page() {
            return Err(Error::Invalid("a shared object larger than an address space"));
        }
        let promised = if promise == Promise::InFull { pages } else { 0 };
        self.commit(promised)?;
        let made = self.shm_alloc();
        match made {
            Ok(id) => {
                let object = self.shm(id);
                object.pages.store(pages, Ordering::Relaxed);
                object.reach.store(pages, Ordering::Relaxed);
                object.sparse.store(u32::from(promise == Promise::PageByPage), Ordering::Relaxed);
                object.writers.store(0, Ordering::Relaxed);
                object.stays.store(0, Ordering::Relaxed);
                // Release pairs with the AcqRel of the last user, who frees what this object holds.
                object.users.store(1, Ordering::Release);
                Ok(id)
            }
            Err(e) => {
                self.uncommit(promised);
                Err(e)
            }
        }
    }

    fn shm_alloc(&self) -> Result<ShmId, Error> {
        let id = self.shm_objects.alloc(&self.frames)?;
        match self.shm(id).space.alloc_root(&self.frames) {
            Ok(()) => Ok(id),
            Err(e) => {
                self.shm_objects.free(&self.frames, id);
                Err(e.into())
            }
        }
    }

    /// Adds a user of an object that somebody uses. `false` if nobody does, or there is none of this name:
    /// names can be made up, and outlive what they named.
    pub(crate) fn shm_try_get(&self, id: ShmId) -> bool {
        self.shm_try_add(id, 1)
    }

    /// The same for a moment, so that nobody takes it for a mapping.
    fn shm_try_visit(&self, id: ShmId) -> bool {
        self.shm_try_add(id, VISIT)
    }

    fn shm_try_add(&self, id: ShmId, uses: u64) -> bool {
        let Some(id) = self.shm_objects.resolve(&self.frames, id.raw()) else { return false };
        // Acquire pairs with the Release of `shm_make`: the object is complete.
        let got =
            self.shm(id).users.fetch_update(Ordering::Acquire, |users| (users != 0).then_some(users + uses));
        got.is_ok()
    }

    /// Adds a user of an object that the caller uses.
    pub(crate) fn shm_get(&self, id: ShmId) {
        self.shm(id).users.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a VMA that may store, of an object that the caller uses.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] if the object refuses writers.
    #[doc(alias = "mapping_map_writable")]
    pub(crate) fn shm_add_writer(&self, id: ShmId) -> Result<(), Error> {
        let object = self.shm(id);
        if !object.is_sparse() {
            return Ok(());
        }
        // Relaxed: nothing is read because of it. The two words that meet here are one.
        // The largest number is an object that refuses.
        let more = |n: u32| n.checked_add(1);
        object.writers.fetch_update(Ordering::Relaxed, more).map(drop).map_err(|_| Error::NotPermitted)
    }

    /// Takes back what [`shm_add_writer`](Self::shm_add_writer) has counted.
    #[doc(alias = "mapping_unmap_writable")]
    pub(crate) fn shm_drop_writer(&self, id: ShmId) {
        let object = self.shm(id);
        if object.is_sparse() {
            object.writers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Refuses writers from now on; `false`, and nothing has changed, if there is one.
    #[doc(alias = "mapping_deny_writable")]
    pub(crate) fn shm_deny_writers(&self, id: ShmId) -> bool {
        let none = |n| (n == 0 || n == NO_WRITERS).then_some(NO_WRITERS);
        self.shm(id).writers.fetch_update(Ordering::Relaxed, none).is_ok()
    }

    /// Takes writers again.
    #[doc(alias = "mapping_allow_writable")]
    pub(crate) fn shm_allow_writers(&self, id: ShmId) {
        let none = |n| (n == NO_WRITERS).then_some(0);
        let _ = self.shm(id).writers.fetch_update(Ordering::Relaxed, none);
    }

    /// Whether somebody holds a page of the object beside those who map it: a pin, or a reference.
    #[doc(alias = "memfd_wait_for_pins")]
    pub(crate) fn shm_is_held(&self, id: ShmId) -> bool {
        let object = self.shm(id);
        let all = VaRange { start: Va(0), end: offset(object.reach()) };
        object.space.tables(&self.frames, &ShmUser(object), all).any(|(table, part)| {
            let entries = table.lock();
            part.iter_pages().any(|va| {
                let Mapped::Shm(present) = entries.mapped(va) else { return false };
                let counts = self.frames.folio_of_owned(present.pfn).counts();
                counts.refs() + counts.pins() > 0
            })
        })
    }

    /// The VMAs that map an object which the caller has `handles` uses of.
    pub(crate) fn shm_mappings(&self, id: ShmId, handles: u32) -> u32 {
        let users = self.shm(id).users.load(Ordering::Relaxed);
        (users as u32) - (users >> 32) as u32 - handles
    }

    /// Drops a user; the last one frees the pages. No entry maps them any more.
    pub(crate) fn shm_put(&self, id: ShmId) {
        self.shm_put_uses(id, 1);
    }

    fn shm_put_uses(&self, id: ShmId, uses: u64) {
        let object = self.shm(id);
        // AcqRel: the last user sees all that the others did.
        if object.users.fetch_sub(uses, Ordering::AcqRel) != uses {
            return;
        }
        let mut promised = if object.is_sparse() { 0 } else { object.pages() };
        let all = VaRange { start: Va(0), end: offset(object.reach()) };
        let mut gather = self.gather(&object.space, Teardown::WholeSpace);
        for (table, part) in object.space.tables(&self.frames, &ShmUser(object), all) {
            let mut entries = table.lock();
            // Nobody translates through this space: no need to gather.
            let gone: u64 = part.iter_pages().map(|va| self.shm_drop(entries.clear(va))).sum();
            promised += if object.is_sparse() { gone } else { 0 };
        }
        object.space.free_tables(&mut gather, &self.frames, all, VaRange { start: Va(0), end: Va(u64::MAX) });
        gather.finish();
        object.space.free_root(&self.frames);
        self.uncommit(promised);
        self.shm_objects.free(&self.frames, id);
    }

    /// Lets go of what an entry of an object had; returns how many pages that were, none or one.
    fn shm_drop<'v>(&'v self, cleared: Cleared<'v, M>) -> u64 {
        match cleared.unmap() {
            Ok(page) => drop(page),
            Err(Cleared::Swap(count, _)) => drop(SwapRef::own(self, count)),
            // A page that was lost: the marker owns nothing.
            Err(Cleared::Marker(_)) => {}
            Err(_) => return 0,
        }
        1
    }

    /// The table of an object that has the entry for `va`.
    fn shm_table<'a>(&'a self, user: &'a ShmUser<'a, M>, va: Va) -> Option<PteTable<'a, M, ShmUser<'a, M>>> {
        user.0.space.walk(&self.frames, user, va)?.table()
    }

    /// What an object has at `va`.
    pub(super) fn shm_find<'a>(&'a self, object: &'a ShmObject<M>, va: Va) -> Found<'a, M> {
        let user = ShmUser(object);
        let Some(table) = object.space.walk(&self.frames, &user, va).and_then(|found| found.table()) else {
            return Found::Nothing;
        };
        let entries = table.lock();
        match entries.mapped(va) {
            Mapped::Shm(present) => self.frames.try_get(present.pfn).map_or(Found::Nothing, Found::Page),
            Mapped::Swap(owned, _) => Found::Swapped(owned.entry()),
            Mapped::Marker(_) => Found::Lost,
            Mapped::None
            | Mapped::Zero(_)
            | Mapped::Exclusive(..)
            | Mapped::Shared(..)
            | Mapped::Migration(..) => Found::Nothing,
        }
    }

    /// How many pages there are of an object, which the caller uses, with these indices.
    pub(crate) fn shm_pages(&self, id: ShmId, within: Range<u64>) -> ShmPages {
        let object = self.shm(id);
        let end = within.end.min(object.reach());
        let range = VaRange { start: offset(within.start.min(end)), end: offset(end) };
        let mut pages = ShmPages::default();
        for (table, part) in object.space.tables(&self.frames, &ShmUser(object), range) {
            for va in part.iter_pages() {
                match table.peek(va) {
                    Pte::None => {}
                    Pte::Present(_) | Pte::Soft(SoftLeaf::Migration { .. }) => pages.present += 1,
                    Pte::Soft(SoftLeaf::Swap { .. }) => pages.swapped += 1,
                    Pte::Soft(SoftLeaf::Marker(_)) => pages.lost += 1,
                }
            }
        }
        pages
    }

    /// How many pages there are of an object, which the caller uses.
    pub(crate) fn shm_all_pages(&self, id: ShmId) -> ShmPages {
        self.shm_pages(id, 0..u64::MAX)
    }

    /// Whether the object has a page with this index, wherever that is.
    pub(crate) fn shm_has_page(&self, id: ShmId, index: u64) -> bool {
        !matches!(self.shm_find(self.shm(id), offset(index)), Found::Nothing)
    }

    /// Whether an access to the page with this index would find it in memory.
    pub(crate) fn shm_in_core(&self, id: ShmId, index: u64) -> bool {
        match self.shm_find(self.shm(id), offset(index)) {
            Found::Page(_) => true,
            Found::Swapped(entry) => self.swap_has_page(entry),
            Found::Nothing | Found::Lost => false,
        }
    }

    /// Makes a range of an object read as zeroes (`MADV_REMOVE`). Pages that only the object has are freed;
    /// those that somebody maps, or holds, are zeroed in place, because nothing finds their mappers.
    pub(crate) fn shm_punch(&self, id: ShmId, first: u64, pages: u64) {
        let object = self.shm(id);
        let range = VaRange { start: offset(first), end: offset(first + pages) };
        for (table, part) in object.space.tables(&self.frames, &ShmUser(object), range) {
            let mut entries = table.lock();
            for va in part.iter_pages() {
                let Mapped::Shm(present) = entries.mapped(va) else {
                    let gone = self.shm_drop(entries.clear(va));
                    self.uncommit(if object.is_sparse() { gone } else { 0 });
                    continue;
                };
                // New mappings start with a reference that is taken under this lock, so being the only one
                // lasts.
                if self.frames.folio_of_owned(present.pfn).counts().total() == 1 {
                    let gone = self.shm_drop(entries.clear(va));
                    self.uncommit(if object.is_sparse() { gone } else { 0 });
                } else {
                    // The entry is an owner; its page has room for one reference, as nobody can take 2^20.
                    self.frames.try_get(present.pfn).expect("the entry keeps its page").zero_of_object();
                }
            }
        }
    }

    /// Sets the length of an object whose pages are promised one by one; returns the old one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it was promised in full.
    pub(crate) fn shm_set_length(&self, id: ShmId, pages: u64) -> Result<u64, Error> {
        let object = self.shm(id);
        if !object.is_sparse() {
            return Err(Error::Invalid("an object that was promised in full keeps its length"));
        }
        object.reach.store(object.reach().max(pages), Ordering::Relaxed);
        let old = object.pages();
        object.pages.store(pages, Ordering::Relaxed);
        Ok(old)
    }

    /// Takes the pages from `first` up to `end` out of an object. Nobody maps them any more, or will not for
    /// long.
    pub(crate) fn shm_cut(&self, id: ShmId, first: u64, end: u64) {
        let object = self.shm(id);
        let range = VaRange { start: offset(first), end: offset(end) };
        for (table, part) in object.space.tables(&self.frames, &ShmUser(object), range) {
            let mut entries = table.lock();
            let gone: u64 = part.iter_pages().map(|va| self.shm_drop(entries.clear(va))).sum();
            self.uncommit(if object.is_sparse() { gone } else { 0 });
        }
    }
}
