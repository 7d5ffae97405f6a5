//! Leaves above the last level: the only place where they are installed, changed, taken and split.
//!
//! A leaf maps one whole folio, and lies within one VMA. It changes under the lock of the table that it is in
//! (`Pmd` in the lock order). What it owns is one owner for all its pages; a table to split it into is kept
//! ready ([`Deposit`]), so that splitting cannot fail.
//!
//! **Splitting breaks before it makes.** The leaf first loses all permissions, so that it traps. Then its
//! range is flushed, and only then the table takes its place. Without the flush a CPU could hold translations
//! of both sizes for one address. Which of them an access uses is undefined (Intel SDM volume 3A, 5.10.2.3),
//! and some processors take a machine check (AMD family 10h erratum 383). And the accessed and dirty bits are
//! final only when no walk can find the leaf. A walk that began before sets them in the entry that it has
//! read, by compare-exchange, and finds it changed.
//!
//! In the moment between, whoever meets the leaf without the lock sees one that allows nothing. It comes for
//! the lock: a program by a fault, GUP-fast by the slow way.
//!
//! Linux: mm/huge_memory.c `__split_huge_pmd_locked`, `zap_huge_pmd`, `change_huge_pmd`, `copy_huge_pmd`,
//! `move_huge_pmd`; include/linux/pgtable.h `pmdp_invalidate`. Differs: no huge zero page; a child's leaf is
//! shared under the lock of the parent's, as entries are.

use crate::words::TableWords as _;
use crate::{
    deposit::{Deposit, Deposits},
    guard::{PteGuard, Writes},
    owned::address_of,
    owned_leaf::{ClearedLeaf, LeafOwner, MappedLeaf},
    space::{AddressSpace, CanInstall, StableVma},
    table::{PteTable, entries, span},
};
use anonmem_frame::Frames;
use anonmem_hal::{
    Arch, Entry, FlushRange, Machine, MigrationBits, Pfn, Present, Protection, Pte, Va, VaRange,
};
use anonmem_sync::{Atomic, Ordering, order::Pmd, spin::RawSpinGuard};
use core::marker::PhantomData;

/// Where a leaf is, or was, or may be: the entry above the last level for some addresses, not locked. `G` is
/// what keeps its table allocated.
pub struct LeafPlace<'a, M: Machine, G> {
    pub(crate) space: &'a AddressSpace<M>,
    pub(crate) frames: &'a Frames<M>,
    /// The table that the entry is in.
    pub(crate) upper: Pfn,
    pub(crate) word: &'a Atomic<u64, M>,
    /// The first address that the entry covers.
    base: Va,
    stable: PhantomData<&'a G>,
}

impl<M: Machine, G> Clone for LeafPlace<'_, M, G> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Machine, G> Copy for LeafPlace<'_, M, G> {}

/// What is at a [`LeafPlace`].
pub enum Locked<'a, M: Machine, G> {
    /// A leaf, locked.
    Leaf(LeafGuard<'a, M, G>),
    /// A table, not locked.
    Table(PteTable<'a, M, G>),
    /// Nothing.
    None,
}

impl<'a, M: Machine, G> LeafPlace<'a, M, G> {
    pub(crate) fn new(space: &'a AddressSpace<M>, frames: &'a Frames<M>, upper: Pfn, va: Va) -> Self {
        let word = &entries(frames, upper)[M::Arch::index(va, 1)];
        Self { space, frames, upper, word, base: va.align_down(span::<M>()), stable: PhantomData }
    }

    /// The addresses that a leaf here maps.
    pub fn range(&self) -> VaRange {
        VaRange { start: self.base, end: Va(self.base.0.saturating_add(span::<M>())) }
    }

    /// What the entry says just now, without the lock.
    #[doc(alias = "pmdp_get_lockless")]
    pub fn peek(&self) -> Entry {
        // Acquire: as in a walk.
        M::Arch::decode_entry(self.word.load(Ordering::Acquire), 1)
    }

    /// Whether what the entry says just now, without the lock, is a leaf that `f` wants, or a table. That it
    /// has become one since the walk is no reason to pass it over.
    pub fn has_leaf(&self, f: impl FnOnce(Entry) -> bool) -> bool {
        match self.peek() {
            Entry::Table(_) => true,
            entry @ (Entry::None | Entry::Leaf(_) | Entry::Migration { .. }) => f(entry),
        }
    }

    /// What the last level says of the page at `va`, or would if the leaf were a table, without the lock. As
    /// [`PteTable::peek`].
    pub fn peek_page(&self, va: Va) -> Pte {
        match self.peek() {
            Entry::Table(table) => PteTable::<M, G>::new(self.frames, table, va).peek(va),
            entry @ (Entry::None | Entry::Leaf(_) | Entry::Migration { .. }) => {
                entry.nth_page(va.page() - self.base.page()).unwrap_or(Pte::None)
            }
        }
    }
}

impl<'a, M: Machine, G: StableVma<M>> LeafPlace<'a, M, G> {
    /// Locks the leaf, if there still is one.
    #[doc(alias = "pmd_trans_huge_lock")]
    #[track_caller]
    pub fn lock(self) -> Locked<'a, M, G> {
        self.locked(self.frames.table_lock::<Pmd>(self.upper).lock())
    }

    /// Locks the leaf while the one of a parent is locked: fork.
    #[track_caller]
    pub fn lock_nested(self) -> Locked<'a, M, G> {
        self.locked(self.frames.table_lock::<Pmd>(self.upper).lock_nested(1))
    }

    fn locked(self, lock: RawSpinGuard<'a, M, Pmd>) -> Locked<'a, M, G> {
        match M::Arch::decode_entry(self.word.load(Ordering::Relaxed), 1) {
            Entry::Leaf(_) | Entry::Migration { .. } => Locked::Leaf(LeafGuard { place: self, lock }),
            Entry::Table(table) => Locked::Table(PteTable::new(self.frames, table, self.base)),
            Entry::None => Locked::None,
        }
    }

    /// Locks the leaf for whoever treats all addresses of `part` alike: if that is not all of the leaf, the
    /// leaf becomes a table.
    #[doc(alias = "split_huge_pmd")]
    pub fn lock_covered(self, part: VaRange) -> Locked<'a, M, G> {
        match self.lock() {
            Locked::Leaf(leaf) if !part.covers(self.range()) => Locked::Table(leaf.split()),
            other @ (Locked::Leaf(_) | Locked::Table(_) | Locked::None) => other,
        }
    }

    /// The table that is there, or that the leaf becomes; `None` if there is nothing.
    #[doc(alias = "split_huge_pmd")]
    #[cold]
    pub fn table(self) -> Option<PteTable<'a, M, G>> {
        match self.lock() {
            Locked::Leaf(leaf) => Some(leaf.split()),
            Locked::Table(table) => Some(table),
            Locked::None => None,
        }
    }
}

impl<'a, M: Machine, G: CanInstall<M>> LeafPlace<'a, M, G> {
    /// Locks the entry to be filled, if it is empty.
    pub fn lock_empty(self) -> Option<LeafVacancy<'a, M, G>> {
        let lock = self.frames.table_lock::<Pmd>(self.upper).lock();
        self.is_empty().then_some(LeafVacancy { place: self, lock })
    }

    /// The same while the leaf of a parent is locked: fork.
    pub fn lock_empty_nested(self) -> Option<LeafVacancy<'a, M, G>> {
        let lock = self.frames.table_lock::<Pmd>(self.upper).lock_nested(1);
        self.is_empty().then_some(LeafVacancy { place: self, lock })
    }

    fn is_empty(&self) -> bool {
        self.word.load(Ordering::Relaxed) == 0
    }
}

/// A leaf, or a migration entry for one, whose lock is held. `G` is the guard that keeps the VMA stable.
#[must_use = "the lock is released when the guard drops"]
pub struct LeafGuard<'a, M: Machine, G> {
    place: LeafPlace<'a, M, G>,
    lock: RawSpinGuard<'a, M, Pmd>,
}

impl<'a, M: Machine, G: StableVma<M>> LeafGuard<'a, M, G> {
    /// The leaf at `place`, which was looked at under `lock`, the one of its table.
    pub(crate) const fn new(place: LeafPlace<'a, M, G>, lock: RawSpinGuard<'a, M, Pmd>) -> Self {
        Self { place, lock }
    }

    /// Where it is.
    pub fn place(&self) -> LeafPlace<'a, M, G> {
        self.place
    }

    /// The addresses that it maps.
    pub fn range(&self) -> VaRange {
        self.place.range()
    }

    /// What it says.
    #[doc(alias = "pmdp_get")]
    pub fn get(&self) -> Entry {
        self.decoded(self.place.word.load(Ordering::Relaxed))
    }

    fn decoded(&self, raw: u64) -> Entry {
        M::Arch::decode_entry(raw, 1)
    }

    /// What it says, with a view of what it owns.
    pub fn mapped(&self) -> MappedLeaf<'_, 'a, M> {
        // SAFETY: the lock of the leaf's table is held for the life of the returned value.
        unsafe { MappedLeaf::of_entry(self.place.frames, self.get()) }
    }

    /// The number of pages that it maps.
    pub fn pages(&self) -> u64 {
        self.range().pages().0
    }

    pub(crate) fn frames(&self) -> &'a Frames<M> {
        self.place.frames
    }

    pub(crate) fn deposits(&self) -> Deposits<'_, 'a, M> {
        Deposits::of(self.place.frames, self.place.upper, &self.lock)
    }

    /// Clears it and returns what it owned, with the table that was kept for it and the place, still locked.
    /// The caller owes the TLB a flush of the leaf's range, before the place is filled with another folio and
    /// before what comes out is freed.
    #[doc(alias = "pmdp_huge_get_and_clear")]
    pub fn take(mut self) -> (ClearedLeaf<'a, M>, Deposit<'a, M>, LeafVacancy<'a, M, G>) {
        let (entry, deposit) = self.empty();
        let Self { place, lock } = self;
        // SAFETY: the entry was part of this live table and is cleared; nobody else clears it under the lock.
        let cleared = unsafe { ClearedLeaf::from_entry(place.frames, entry) };
        (cleared, deposit, LeafVacancy { place, lock })
    }

    /// Empties the entry; returns what it said, and the table that was kept for it. What it owned is the
    /// caller's.
    pub(crate) fn empty(&mut self) -> (Entry, Deposit<'a, M>) {
        // A swap, because the hardware may be setting the accessed or dirty bit just now.
        let entry = self.decoded(self.place.word.swap(0, Ordering::Relaxed));
        self.place.frames.table_used(self.place.upper).update(|n| n - 1);
        (entry, self.deposits().take(self.place.space))
    }

    /// Clears it for good, and returns what it owned. The caller owes the TLB a flush.
    pub fn clear(self) -> ClearedLeaf<'a, M> {
        let (cleared, _deposit, _vacancy) = self.take();
        cleared
    }

    /// Puts another owner in the place of what a migration entry owns, or of what a leaf owns that has lost
    /// all permissions and is flushed ([`make_trap`](Self::make_trap)). There is no moment at which what the
    /// entry said has no owner.
    ///
    /// # Panics
    /// If a CPU may be using the leaf.
    pub fn exchange<O: LeafOwner>(&mut self, owner: O, says: O::Says) -> ClearedLeaf<'a, M> {
        let old = self.get();
        let traps = match old {
            Entry::Leaf(leaf) => !leaf.prot.read,
            Entry::Migration { .. } => true,
            Entry::None | Entry::Table(_) => false,
        };
        assert!(traps, "an exchange of {old:?}, which a CPU may be using");
        let new = self.place.entry_of(owner, says);
        // Release: as when an entry is filled. A plain store: the hardware sets no bits of what traps.
        self.place.word.store(M::Arch::encode_entry(new, 1), Ordering::Release);
        // SAFETY: the entry was part of this live table and was replaced; nobody else changes it under the
        // lock.
        unsafe { ClearedLeaf::from_entry(self.place.frames, old) }
    }

    /// Takes all permissions away, and flushes: from here on nobody uses the leaf, and its accessed and dirty
    /// bits are final. Returns what it said before.
    #[doc(alias = "pmdp_invalidate")]
    pub fn make_trap(&mut self) -> Entry {
        let old = self.change(|leaf| Present { prot: Protection::NONE, ..leaf });
        // Of one without permissions, too: whoever took them away may not have flushed yet.
        if matches!(old, Entry::Leaf(_)) {
            self.place.space.flush(self.place.frames, FlushRange::Range(self.range()));
        }
        old
    }

    /// Makes it a table whose entries say of each page what it said, and own each a mapping of it.
    #[doc(alias = "__split_huge_pmd_locked")]
    pub fn split(self) -> PteTable<'a, M, G> {
        self.split_under_lock().0
    }

    /// [`split`](Self::split), and locks the table before anybody else can.
    pub fn split_locked(self) -> PteGuard<'a, M, G> {
        let (table, _lock) = self.split_under_lock();
        table.lock()
    }

    /// The table, which nobody has locked yet while the lock of the one above is held.
    fn split_under_lock(mut self) -> (PteTable<'a, M, G>, RawSpinGuard<'a, M, Pmd>) {
        let entry = self.make_trap();
        let LeafPlace { frames, word, upper: _, space: _, base, stable: _ } = self.place;
        let table = self.deposits().pop();
        for (nth, page) in entries(frames, table).iter().enumerate() {
            let pte = entry.nth_page(nth as u64).unwrap_or(Pte::None);
            // Relaxed: the Release below comes after it.
            page.store(M::Arch::encode_pte(pte), Ordering::Relaxed);
        }
        frames.table_used(table).set(M::Arch::ENTRIES as u64);
        // SAFETY: the entry is part of a live table, and is replaced below, under its lock.
        unsafe { ClearedLeaf::from_entry(frames, entry) }.into_page_entries();
        // Release: the table, and the marks of exclusive pages, are complete before a walk finds them (pairs
        // with the Acquire of `entry_of`).
        word.store(M::Arch::encode_entry(Entry::Table(table), 1), Ordering::Release);
        (PteTable::new(frames, table, base), self.lock)
    }

    /// Removes write permission. The caller owes the TLB a flush if it was writable.
    #[doc(alias = "pmdp_set_wrprotect")]
    pub fn write_protect(&mut self) {
        self.change(Present::write_protected);
    }

    /// Clears the accessed bit and returns what it was. Without a flush: a translation that is cached may
    /// hide later accesses, which costs precision and nothing else.
    #[doc(alias = "pmdp_clear_flush_young")]
    pub fn test_and_clear_young(&mut self) -> bool {
        matches!(self.change(|leaf| Present { young: false, ..leaf }), Entry::Leaf(leaf) if leaf.young)
    }

    /// Clears the dirty bit. The caller owes the TLB a flush, so that a later store sets it again.
    pub fn clear_dirty(&mut self) {
        self.change(|leaf| Present { dirty: false, ..leaf });
    }

    /// Lets the next write to any of it be noticed, as [`PteGuard::soft_clean`](crate::PteGuard::soft_clean)
    /// does of a page. The caller owes the TLB a flush.
    #[doc(alias = "clear_soft_dirty_pmd")]
    pub fn soft_clean(&mut self) {
        let clean = |leaf: Present| Present { soft_clean: true, ..leaf.write_protected() };
        if let Entry::Migration { pfn, bits } = self.change(clean) {
            let bits = MigrationBits { soft_clean: true, ..bits.write_protected() };
            self.store(Entry::Migration { pfn, bits });
        }
    }

    /// Says that it was written. The next write fault makes it writable.
    #[doc(alias = "move_soft_dirty_pmd")]
    pub fn soft_dirty(&mut self) {
        if let Entry::Migration { pfn, bits } = self.change(|leaf| Present { soft_clean: false, ..leaf }) {
            self.store(Entry::Migration { pfn, bits: MigrationBits { soft_clean: false, ..bits } });
        }
    }

    /// Changes the permissions to no more than the VMA's `prot`, as
    /// [`PteGuard::change_protection`](crate::PteGuard::change_protection) does of a page. Returns what must
    /// be flushed.
    #[doc(alias = "change_huge_pmd")]
    pub fn change_protection(&mut self, prot: Protection) -> VaRange {
        let nothing = VaRange { start: self.range().start, end: self.range().start };
        match self.mapped() {
            MappedLeaf::Migration(hold, bits) => {
                if !prot.write {
                    let pfn = hold.pfn();
                    self.store(Entry::Migration { pfn, bits: bits.write_protected() });
                }
                nothing
            }
            MappedLeaf::Exclusive(_, leaf) => {
                let asked = leaf.uffd_wp || leaf.soft_clean;
                let write = prot.write && !asked && (leaf.dirty || leaf.prot.write);
                self.modify(Protection { write, ..prot }).unwrap_or(nothing)
            }
            MappedLeaf::Shared(..) => self.modify(prot.write_protected()).unwrap_or(nothing),
        }
    }

    /// Changes what a migration entry says.
    pub(crate) fn store(&mut self, entry: Entry) {
        // A plain store: the hardware sets no bits of a migration entry. Relaxed: nothing is published.
        self.place.word.store(M::Arch::encode_entry(entry, 1), Ordering::Relaxed);
    }

    /// Gives it other permissions; returns its range if it has lost any.
    fn modify(&mut self, prot: Protection) -> Option<VaRange> {
        let old = self.change(|leaf| Present { prot, ..leaf });
        let Entry::Leaf(Present { prot: old, .. }) = old else { return None };
        let reduced = (old.read && !prot.read) || (old.write && !prot.write) || (old.exec && !prot.exec);
        reduced.then_some(self.range())
    }

    /// Changes a leaf, keeping what the hardware sets meanwhile; a migration entry stays as it is. Returns
    /// what it was.
    pub(crate) fn change(&mut self, f: impl Fn(Present) -> Present) -> Entry {
        let changed = |raw| match M::Arch::decode_entry(raw, 1) {
            Entry::Leaf(leaf) => M::Arch::encode_entry(Entry::Leaf(f(leaf)), 1),
            Entry::None | Entry::Table(_) | Entry::Migration { .. } => raw,
        };
        // Release: a walk without the lock may read this, and not the store that filled the entry; it has to
        // see the pages' contents all the same (pairs with the hardware's walk).
        let old = self.place.word.fetch_update(Ordering::Release, |raw| Some(changed(raw)));
        self.decoded(old.unwrap_or_else(|raw| raw))
    }
}

impl<'a, M: Machine, G: CanInstall<M>> LeafGuard<'a, M, G> {
    /// Makes a leaf accessed and, for a write to a folio whose owner allows it, dirty and writable. Returns
    /// whether anything changed; if not, the fault was spurious.
    #[doc(alias = "pmdp_set_access_flags")]
    pub fn upgrade(&mut self, writes: Writes) -> bool {
        let writes = writes == Writes::Yes;
        if writes {
            anonmem_hal::debug_check!(M, matches!(self.mapped(), MappedLeaf::Exclusive(..)));
        }
        let upgraded = |leaf: Present| Present {
            young: true,
            dirty: leaf.dirty || writes,
            soft_clean: leaf.soft_clean && !writes,
            prot: Protection { write: leaf.prot.write || writes && leaf.prot.read, ..leaf.prot },
            ..leaf
        };
        let old = self.change(upgraded);
        matches!(old, Entry::Leaf(leaf) if upgraded(leaf) != leaf)
    }
}

impl<'a, M: Machine, G> LeafPlace<'a, M, G> {
    /// The entry that owns what `owner` does.
    ///
    /// # Panics
    /// If the owner is of other frames than the table, or of a folio of another size.
    pub(crate) fn entry_of<O: LeafOwner>(&self, owner: O, says: O::Says) -> Entry {
        assert!(owner.home() == address_of(self.frames), "an owner of another machine's frames");
        assert_eq!(owner.order(), M::Arch::LEAF_ORDER, "a leaf maps a folio of its size");
        owner.into_entry(says)
    }
}

/// A place without a leaf, locked: an empty one to be filled, or one whose leaf was just taken.
#[must_use = "a place that stays empty loses its folio"]
pub struct LeafVacancy<'a, M: Machine, G> {
    place: LeafPlace<'a, M, G>,
    lock: RawSpinGuard<'a, M, Pmd>,
}

impl<'a, M: Machine, G: StableVma<M>> LeafVacancy<'a, M, G> {
    /// Fills it: what is owned belongs to the leaf from now on, and the table is kept for it.
    ///
    /// # Panics
    /// If mappings may not be writable and the attributes say so.
    #[doc(alias("set_pmd_at", "set_huge_pmd"))]
    pub fn fill<O: LeafOwner>(self, owner: O, says: O::Says, kept: Deposit<'a, M>) -> LeafGuard<'a, M, G> {
        let Self { place, lock } = self;
        let raw = M::Arch::encode_entry(place.entry_of(owner, says), 1);
        Deposits::of(place.frames, place.upper, &lock).put(place.space, kept);
        // Release: the pages' contents come before their mapping (pairs with the hardware's walk and with
        // walks without the lock).
        place.word.store(raw, Ordering::Release);
        place.frames.table_used(place.upper).update(|n| n + 1);
        LeafGuard { place, lock }
    }

    /// Leaves it empty.
    pub fn leave_empty(self) {}
}
