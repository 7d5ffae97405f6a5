//! A locked last-level table: the only place where entries change.

use crate::words::{TableWords as _, used_of};
use crate::{
    owned::{Attrs, Cleared, EntryOwner, Mapped, address_of},
    space::{CanInstall, StableVma, Teardown},
    table::PteTable,
    word::{change_word, take},
};
use anonmem_frame::Frames;
use anonmem_hal::{
    Arch, Machine, MigrationBits, PAGE_SIZE, Present, Protection, Pte, SoftLeaf, SwapBits, Va, VaRange,
};
use anonmem_sync::{Atomic, Ordering, Plain, order::Ptl, spin::RawSpinGuard};

/// A last-level table whose lock is held. `G` is the guard that keeps the VMA stable.
#[must_use = "the page-table lock is released when the guard drops"]
pub struct PteGuard<'a, M: Machine, G> {
    pub(crate) table: PteTable<'a, M, G>,
    /// Entries in use.
    used: &'a Plain<u64, M>,
    _lock: RawSpinGuard<'a, M, Ptl>,
}

impl<'a, M: Machine, G: StableVma<M>> PteTable<'a, M, G> {
    /// Locks the table.
    #[doc(alias = "pte_offset_map_lock")]
    #[inline(always)]
    #[track_caller]
    pub fn lock(self) -> PteGuard<'a, M, G> {
        let (lock, used) = self.frames.table_lock_used::<Ptl>(self.table);
        PteGuard { table: self, used, _lock: lock.lock() }
    }

    /// Locks the table while another one is locked: the child's in fork, the second by address in a move.
    #[inline(always)]
    #[track_caller]
    pub fn lock_nested(self) -> PteGuard<'a, M, G> {
        let (lock, used) = self.frames.table_lock_used::<Ptl>(self.table);
        PteGuard { table: self, used, _lock: lock.lock_nested(1) }
    }

    /// Locks the table if it is not locked: exempt from the order of locks.
    pub(crate) fn try_lock(self) -> Option<PteGuard<'a, M, G>> {
        let (lock, used) = self.frames.table_lock_used::<Ptl>(self.table);
        Some(PteGuard { table: self, used, _lock: lock.try_lock()? })
    }

    /// Locks this and another table, in the order of their addresses; the same one is locked once.
    #[inline(always)]
    pub fn lock_two(self, other: Self) -> (PteGuard<'a, M, G>, Option<PteGuard<'a, M, G>>) {
        if self.table == other.table {
            (self.lock(), None)
        } else if self.table < other.table {
            let first = self.lock();
            (first, Some(other.lock_nested()))
        } else {
            let second = other.lock();
            (self.lock_nested(), Some(second))
        }
    }
}

impl<'a, M: Machine, G: StableVma<M>> PteGuard<'a, M, G> {
    pub(crate) fn frames(&self) -> &'a Frames<M> {
        self.table.frames
    }

    /// The table that is locked.
    pub fn table(&self) -> PteTable<'a, M, G> {
        self.table
    }

    /// The entry for `va`.
    #[doc(alias = "ptep_get")]
    #[inline(always)]
    pub fn get(&self, va: Va) -> Pte {
        self.table.peek(va)
    }

    /// The entry for `va`, with a view of what it owns.
    #[inline(always)]
    pub fn mapped(&self, va: Va) -> Mapped<'_, 'a, M> {
        // SAFETY: the lock of this table is held for the life of the returned value.
        unsafe { Mapped::of_bits(self.table.frames, self.table.word(va).load(Ordering::Relaxed)) }
    }

    /// Whether the entry for `va` is empty.
    #[doc(alias = "pte_none")]
    #[inline(always)]
    pub fn is_none(&self, va: Va) -> bool {
        self.table.word(va).load(Ordering::Relaxed) == 0
    }

    /// The first entry of `range` in use; its end if there is none. What is empty is passed over at a word
    /// each.
    // Out of line: whoever asks has met an empty entry, in a loop made for those in use.
    #[inline(never)]
    pub fn next_used(&self, range: VaRange) -> Va {
        let used = |word: &Atomic<u64, M>| word.load(Ordering::Relaxed) != 0;
        let first = self.table.words_of(range).iter().position(used);
        first.map_or(range.end, |n| Va(range.start.0 + n as u64 * PAGE_SIZE as u64))
    }

    /// Whether no entry of the table is in use.
    pub fn is_empty(&self) -> bool {
        self.used() == 0
    }

    /// The number of entries in use.
    pub fn used(&self) -> u64 {
        used_of(self.used.get())
    }

    /// Whether entries of the table may have been cleared whose translations some CPU still uses: a swap
    /// entry does not mean yet that nobody reads or writes its page. Flush what you rely on.
    #[doc(alias = "flush_tlb_batched_pending")]
    #[inline]
    pub fn is_flush_deferred(&self) -> bool {
        self.table.frames.is_under_way(self.mark())
    }

    /// The mark of who put off a flush here last.
    #[inline]
    pub(crate) fn mark(&self) -> u32 {
        (self.used.get() >> u32::BITS) as u32
    }

    /// Notes that a batch puts off flushing entries that it clears, before the lock is let go.
    pub(crate) fn set_mark(&mut self, mark: u32) {
        self.used.update(|word| used_of(word) | u64::from(mark) << u32::BITS);
    }

    /// Clears the entry and returns what it owned. The caller owes the TLB a flush if it was present: give
    /// what comes out to an [`MmuGather`](crate::MmuGather), or flush before it is used.
    #[doc(alias = "ptep_get_and_clear")]
    #[inline(always)]
    pub fn clear(&mut self, va: Va) -> Cleared<'a, M> {
        let raw = take(self.table.word(va));
        self.cleared(raw)
    }

    /// [`clear`](Self::clear), for a gather: if all of an address space goes that no CPU runs, no hardware
    /// can be setting bits of the entry just now.
    #[doc(alias = "ptep_get_and_clear_full")]
    #[inline(always)]
    pub fn clear_for(&mut self, va: Va, teardown: Teardown) -> Cleared<'a, M> {
        let word = self.table.word(va);
        let raw = match teardown {
            Teardown::Range => take(word),
            Teardown::WholeSpace => {
                let raw = word.load(Ordering::Relaxed);
                if raw == 0 {
                    return Cleared::None;
                }
                word.store(0, Ordering::Relaxed);
                raw
            }
        };
        self.cleared(raw)
    }

    /// What an entry owned that held `raw` and was just cleared.
    #[inline(always)]
    fn cleared(&mut self, raw: u64) -> Cleared<'a, M> {
        if raw == 0 {
            return Cleared::None;
        }
        self.count_used(-1);
        // SAFETY: the entry was part of this live table and is cleared; nobody else clears it under the lock.
        unsafe { Cleared::from_bits(self.table.frames, raw) }
    }

    /// Clears the accessed bit of a present entry and returns what it was. Without a flush: a translation
    /// that is cached may hide later accesses, which costs precision and nothing else.
    #[doc(alias = "ptep_clear_young_notify")]
    #[inline]
    pub fn test_and_clear_young(&mut self, va: Va) -> bool {
        let old = self.change(va, |p| Present { young: false, ..p });
        matches!(old, Pte::Present(p) if p.young)
    }

    /// Clears the dirty bit of a present entry. The caller owes the TLB a flush, so that a later store sets
    /// it again.
    pub fn clear_dirty(&mut self, va: Va) {
        self.change(va, |p| Present { dirty: false, ..p });
    }

    /// Write-protects an entry that says something of a page for userfaultfd, whatever its form. Returns
    /// whether the TLB must be flushed.
    #[doc(alias("pte_mkuffd_wp", "pte_swp_mkuffd_wp"))]
    pub fn uffd_wp(&mut self, va: Va) -> bool {
        let protect = |p: Present| Present { uffd_wp: true, ..p.write_protected() };
        if let Pte::Present(old) = self.change(va, protect) {
            return old.prot.write;
        }
        self.change_soft(va, |leaf| match leaf {
            SoftLeaf::Swap { entry, bits } => {
                SoftLeaf::Swap { entry, bits: SwapBits { uffd_wp: true, ..bits } }
            }
            SoftLeaf::Migration { pfn, bits } => {
                let bits = MigrationBits { uffd_wp: true, ..bits.write_protected() };
                SoftLeaf::Migration { pfn, bits }
            }
            SoftLeaf::Marker(marker) => SoftLeaf::Marker(marker),
        });
        false
    }

    /// Ends that: the next write fault, or [`change_protection`](Self::change_protection), makes the entry
    /// writable. A marker stays.
    #[doc(alias("pte_clear_uffd_wp", "pte_swp_clear_uffd_wp"))]
    #[inline]
    pub fn clear_uffd_wp(&mut self, va: Va) {
        let (old, _) = self.change_bits(va, M::Arch::pte_clear_uffd_wp);
        if !M::Arch::pte_present(old) {
            self.clear_soft_uffd_wp(va);
        }
    }

    #[inline(never)]
    fn clear_soft_uffd_wp(&mut self, va: Va) {
        self.change_soft(va, |leaf| match leaf {
            SoftLeaf::Swap { entry, bits } => {
                SoftLeaf::Swap { entry, bits: SwapBits { uffd_wp: false, ..bits } }
            }
            SoftLeaf::Migration { pfn, bits } => {
                SoftLeaf::Migration { pfn, bits: MigrationBits { uffd_wp: false, ..bits } }
            }
            SoftLeaf::Marker(marker) => SoftLeaf::Marker(marker),
        });
    }

    /// Lets the next write through an entry that says something of a page be noticed, whatever its form: it
    /// is soft-clean, and allows no stores. The caller owes the TLB a flush.
    #[doc(alias("clear_soft_dirty", "pte_swp_clear_soft_dirty"))]
    pub fn soft_clean(&mut self, va: Va) {
        let clean = |p: Present| Present { soft_clean: true, ..p.write_protected() };
        if !matches!(self.change(va, clean), Pte::Present(_)) {
            self.mark_soft(va, true);
        }
    }

    /// Says that the page was written. The next write fault, or
    /// [`change_protection`](Self::change_protection), makes the entry writable.
    #[doc(alias("pte_mksoft_dirty", "pte_swp_mksoft_dirty"))]
    pub fn soft_dirty(&mut self, va: Va) {
        if !matches!(self.change(va, |p| Present { soft_clean: false, ..p }), Pte::Present(_)) {
            self.mark_soft(va, false);
        }
    }

    fn mark_soft(&mut self, va: Va, soft_clean: bool) {
        self.change_soft(va, |leaf| match leaf {
            SoftLeaf::Swap { entry, bits } => SoftLeaf::Swap { entry, bits: SwapBits { soft_clean, ..bits } },
            SoftLeaf::Migration { pfn, bits } => {
                let bits = if soft_clean { bits.write_protected() } else { bits };
                SoftLeaf::Migration { pfn, bits: MigrationBits { soft_clean, ..bits } }
            }
            SoftLeaf::Marker(marker) => SoftLeaf::Marker(marker),
        });
    }

    /// Changes what a software entry says; what it owns stays the same.
    fn change_soft(&mut self, va: Va, f: impl FnOnce(SoftLeaf) -> SoftLeaf) {
        let word = self.table.word(va);
        let Pte::Soft(leaf) = M::Arch::decode_pte(word.load(Ordering::Relaxed)) else { return };
        // Relaxed: the lock orders this with other software, and nothing is published.
        word.store(M::Arch::encode_pte(Pte::Soft(f(leaf))), Ordering::Relaxed);
    }

    /// Changes the permissions of a present entry to no more than the VMA's `prot`. Write permission is given
    /// only to a page whose owner may write and which is dirty already or was writable: anything else is left
    /// to the next write fault. Returns whether the TLB must be flushed.
    #[doc(alias = "ptep_modify_prot_start")]
    #[inline(always)]
    pub fn change_protection(&mut self, va: Va, prot: Protection) -> bool {
        let flush = self.change_protection_range(VaRange::page(va), prot);
        !flush.is_empty()
    }

    /// The entry that owns what `owner` does.
    ///
    /// # Panics
    /// If the owner is of other frames than the table.
    #[inline(always)]
    pub(crate) fn entry_of<O: EntryOwner>(&self, owner: O, says: O::Says) -> Pte {
        let here = address_of(self.table.frames);
        assert!(owner.home().is_none_or(|home| home == here), "an owner of another machine's frames");
        owner.into_pte(says)
    }

    /// Empties an entry in use, for another owner to take its place under this hold of the lock.
    ///
    /// # Panics
    /// If the entry is empty.
    pub fn take(&mut self, va: Va) -> (Cleared<'a, M>, Vacancy<'_, 'a, M, G>) {
        let cleared = self.clear(va);
        assert!(!matches!(cleared, Cleared::None), "the entry for {va:?} is taken and is empty");
        (cleared, Vacancy { entries: self, va })
    }

    /// Puts another owner in the place of what a software entry owns, which comes back. There is no moment at
    /// which what the entry said has no owner, and none at which the entry says nothing.
    ///
    /// That fills no entry that was empty, so an rmap lock is enough: a mapping comes back after migration.
    ///
    /// # Panics
    /// If the entry is empty or present: a present entry is cleared and flushed before another page takes its
    /// place.
    pub fn exchange<O: EntryOwner>(&mut self, va: Va, owner: O, says: O::Says) -> Cleared<'a, M> {
        let word = self.table.word(va);
        let raw = word.load(Ordering::Relaxed);
        assert!(raw != 0 && !M::Arch::pte_present(raw), "an exchange of what is no software entry");
        let new = M::Arch::encode_pte(self.entry_of(owner, says));
        // Release: as when an entry is filled. A plain store, because the hardware sets no bits of a software
        // entry.
        word.store(new, Ordering::Release);
        // SAFETY: the entry was part of this live table and was replaced; nobody else changes it under the
        // lock.
        unsafe { Cleared::from_bits(self.table.frames, raw) }
    }

    /// What a swap or migration entry owns is not its own alone any more, because another entry was given the
    /// same: fork.
    #[doc(alias = "pte_swp_clear_exclusive")]
    pub fn share_soft(&mut self, va: Va) {
        let word = self.table.word(va);
        let leaf = match M::Arch::decode_pte(word.load(Ordering::Relaxed)) {
            Pte::Soft(SoftLeaf::Swap { entry, bits }) => SoftLeaf::Swap { entry, bits: bits.shared() },
            Pte::Soft(SoftLeaf::Migration { pfn, bits }) => SoftLeaf::Migration { pfn, bits: bits.shared() },
            Pte::None | Pte::Present(_) | Pte::Soft(SoftLeaf::Marker(_)) => return,
        };
        // Relaxed: the lock orders this with other software, and nothing is published.
        word.store(M::Arch::encode_pte(Pte::Soft(leaf)), Ordering::Relaxed);
    }

    /// Drops the lock; the snapshot is the only way back.
    #[inline]
    pub fn unlock(self, va: Va) -> PteSnapshot<'a, M, G> {
        let raw = self.table.word(va).load(Ordering::Relaxed);
        PteSnapshot { table: self.table, va, raw }
    }

    /// Changes a present entry, keeping what the hardware sets meanwhile; returns what it was.
    #[inline(always)]
    fn change(&mut self, va: Va, f: impl Fn(Present) -> Present + Copy) -> Pte {
        let (old, _) = self.change_bits(va, move |raw| match M::Arch::decode_pte(raw) {
            Pte::Present(p) => M::Arch::encode_pte(Pte::Present(f(p))),
            Pte::None | Pte::Soft(_) => raw,
        });
        M::Arch::decode_pte(old)
    }

    /// Changes an entry, if it is present, keeping what the hardware sets meanwhile; returns what it was and
    /// what `f` made of that.
    #[inline(always)]
    fn change_bits(&mut self, va: Va, f: impl Fn(u64) -> u64 + Copy) -> (u64, u64) {
        let word = self.table.word(va);
        // Relaxed: the lock orders this with other software.
        let raw = word.load(Ordering::Relaxed);
        (raw, change_word(word, raw, f))
    }

    #[inline]
    pub(crate) fn count_used(&mut self, by: i64) {
        self.used.update(|n| n.wrapping_add_signed(by));
    }

    #[inline(always)]
    pub(crate) fn fill(&mut self, va: Va, pte: Pte) {
        let raw = M::Arch::encode_pte(pte);
        let word = self.table.word(va);
        anonmem_hal::debug_check_eq!(M, word.load(Ordering::Relaxed), 0, "the entry for {va:?} is in use");
        // Release: the page's contents come before its mapping (pairs with the hardware's walk and with
        // walks without the lock).
        word.store(raw, Ordering::Release);
        self.count_used(1);
    }
}

impl<M: Machine, G: CanInstall<M>> PteGuard<'_, M, G> {
    /// Fills the empty entry: what is owned belongs to the page table from now on.
    ///
    /// # Panics
    /// If a mapping may not be writable and the attributes say so.
    #[doc(alias = "set_pte_at")]
    #[inline(always)]
    pub fn install<O: EntryOwner>(&mut self, va: Va, owner: O, says: O::Says) {
        self.fill(va, self.entry_of(owner, says));
    }

    /// Fills the empty entry with the zero page, read-only. It owns nothing, and nobody has written it.
    #[inline]
    pub fn install_zero(&mut self, va: Va, prot: Protection) {
        let present = Present {
            pfn: self.table.frames.zero_page(),
            prot: prot.write_protected(),
            young: true,
            dirty: false,
            special: true,
            uffd_wp: false,
            soft_clean: M::Arch::SOFT_DIRTY,
        };
        self.fill(va, Pte::Present(present));
    }

    /// Makes a present entry accessed and, for a write to a page whose owner allows it, dirty and writable.
    /// Returns whether anything changed; if not, the fault was spurious.
    #[doc(alias = "ptep_set_access_flags")]
    #[inline]
    pub fn upgrade(&mut self, va: Va, writes: Writes) -> bool {
        if writes == Writes::Yes {
            anonmem_hal::debug_check!(M, matches!(self.mapped(va), Mapped::Exclusive(..) | Mapped::Shm(_)));
        }
        let (old, new) = match writes {
            Writes::Yes => self.change_bits(va, M::Arch::pte_mkwritten),
            Writes::No => self.change_bits(va, M::Arch::pte_mkyoung),
        };
        old != new
    }
}

/// An entry that was emptied under the hold of the lock that goes on. Filling it fills no entry that was
/// empty before, so an rmap lock is enough: whoever unmaps the VMA has not come by yet.
#[must_use = "an entry that stays empty loses its page"]
pub struct Vacancy<'e, 'a, M: Machine, G> {
    entries: &'e mut PteGuard<'a, M, G>,
    va: Va,
}

impl<M: Machine, G: StableVma<M>> Vacancy<'_, '_, M, G> {
    /// Gives the entry to another owner, or back to the one that it had.
    ///
    /// # Panics
    /// As [`PteGuard::install`].
    pub fn fill<O: EntryOwner>(self, owner: O, says: O::Says) {
        let pte = self.entries.entry_of(owner, says);
        self.entries.fill(self.va, pte);
    }

    /// Puts the zero page there, read-only, in the place of a page that was all zeroes (KSM). The entry is
    /// dirty, which no other entry of the zero page is: so whoever counts can tell.
    #[doc(alias = "ksm_map_zero_page")]
    pub fn fill_zero(self, says: Attrs) {
        let zero = self.entries.table.frames.zero_page();
        let present = Present {
            pfn: zero,
            prot: says.prot.write_protected(),
            young: says.young,
            dirty: true,
            special: true,
            uffd_wp: says.uffd_wp,
            soft_clean: says.soft_clean,
        };
        self.entries.fill(self.va, Pte::Present(present));
    }

    /// Leaves the entry empty.
    pub fn leave_empty(self) {}
}

/// Whether an access writes: an entry that it upgrades becomes dirty and writable, and not only accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writes {
    /// It writes.
    Yes,
    /// It only reads.
    No,
}

/// What an entry was when its lock was dropped. [`lock_if_same`](Self::lock_if_same) is the only way back to
/// a guard, and consumes it.
#[must_use = "an entry that was unlocked must be locked again through its snapshot, or the fault retried"]
pub struct PteSnapshot<'a, M: Machine, G> {
    table: PteTable<'a, M, G>,
    va: Va,
    raw: u64,
}

impl<'a, M: Machine, G: StableVma<M>> PteSnapshot<'a, M, G> {
    /// What the entry was.
    pub fn pte(&self) -> Pte {
        M::Arch::decode_pte(self.raw)
    }

    /// Locks the table again, if the entry is still the same but for the accessed and dirty bits, which
    /// the hardware sets on its own.
    ///
    /// That it compares equal does not say that nothing happened in between: the page may have left and
    /// another come back under the same number. What must hold besides is the caller's to re-check.
    ///
    /// # Errors
    /// What the entry is now: the fault retries.
    #[doc(alias = "pte_same")]
    #[inline]
    pub fn lock_if_same(self) -> Result<PteGuard<'a, M, G>, Pte> {
        let guard = self.table.lock();
        let now = guard.table.word(self.va).load(Ordering::Relaxed);
        if same_but_for_hardware::<M>(self.raw, now) { Ok(guard) } else { Err(M::Arch::decode_pte(now)) }
    }
}

fn same_but_for_hardware<M: Machine>(a: u64, b: u64) -> bool {
    a == b || M::Arch::pte_present(a) && M::Arch::pte_present(b) && M::Arch::pte_alike(a, b)
}
