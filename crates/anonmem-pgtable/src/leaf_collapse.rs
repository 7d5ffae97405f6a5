//! A table whose entries map one whole folio becomes a leaf: collapse in place.
//!
//! Nothing is copied, and no page changes its frame. So whoever has pinned one goes on having it. The way
//! back is [`LeafGuard::split`](crate::LeafGuard::split).
//!
//! A walk may have read the table and not have looked at its entries yet. Walks under the mmap lock, a VMA's
//! lock or an rmap lock are locked out by the caller. GUP-fast and faults without a lock are in an RCU
//! section. They read the entry above again, and the table is freed a grace period later.
//!
//! Linux: mm/khugepaged.c `collapse_pte_mapped_thp`; for anonymous memory, Linux copies.

use crate::words::TableWords as _;
use crate::{
    DeadTables,
    deposit::{Deposit, Deposits},
    leaf::LeafPlace,
    owned::Attrs,
    space::{AddressSpace, CanInstall},
    table::entries,
    walk::entry_of,
};
use anonmem_frame::{ExclusiveWhole, Folio, Frames};
use anonmem_hal::{Arch, Entry, FlushRange, Machine, Pfn, Present, Protection, Pte, Va};
use anonmem_sync::{
    Atomic, Ordering, Rcu,
    order::{Pmd, Ptl},
};
use core::fmt;

/// The table does not map one folio of a leaf's size, of this address space alone, as a leaf would: nothing
/// has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotOneFolio;

impl fmt::Display for NotOneFolio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the table does not map one folio as a leaf would")
    }
}

impl core::error::Error for NotOneFolio {}

impl<M: Machine> AddressSpace<M> {
    /// Makes the table for the addresses from `at` on, which a leaf would map, a leaf, if it maps `folio`.
    ///
    /// # Locks
    /// The caller holds the mmap lock for writing, has write-locked the VMA, which has all of these addresses
    /// and allows `vma`, and has locked out the walks of the reverse map. Flushes under spin locks.
    ///
    /// # Errors
    /// [`NotOneFolio`].
    pub fn collapse_table<'a, G: CanInstall<M>>(
        &'a self,
        (frames, rcu, dead): (&'a Frames<M>, &Rcu<M>, &DeadTables<M>),
        stable: &'a G,
        (at, folio): (Va, Folio<'_, M>),
        vma: Protection,
        kept: Deposit<'a, M>,
    ) -> Result<(), NotOneFolio> {
        assert!(stable.opens(self), "a guard of another address space");
        let upper = self.upper(frames, at).ok_or(NotOneFolio)?;
        let lock = frames.table_lock::<Pmd>(upper).lock();
        let Entry::Table(table) = entry_of::<M>(frames, upper, at, 1) else { return Err(NotOneFolio) };
        let ptl = frames.table_lock::<Ptl>(table).lock();
        let words = entries(frames, table);
        // The caller's reference keeps it here: who moves or splits it looks at the count, and gives up. It
        // is asked all the same, because what follows relies on the locks of this one.
        let head = one_folio(frames, words).filter(|&head| head == folio.pfn()).ok_or(NotOneFolio)?;
        let place = LeafPlace::<M, G>::new(self, frames, upper, at);
        let trap = Present {
            pfn: head,
            prot: Protection::NONE,
            young: false,
            dirty: false,
            special: false,
            uffd_wp: false,
            soft_clean: false,
        };
        // It traps while the table may still be used: never empty, because nobody may take it for a hole.
        // Release pairs with the Acquire of walks: as when a leaf is installed.
        place.word.store(M::Arch::encode_entry(Entry::Leaf(trap), 1), Ordering::Release);
        // All: what CPUs know of the table itself, too.
        self.flush(frames, FlushRange::All);
        // Accessed and dirty bits are final: no CPU sets them any more, so that no exchange is needed.
        let is_clean = |word: &Atomic<u64, M>| {
            let pte = M::Arch::decode_pte(word.load(Ordering::Relaxed));
            matches!(pte, Pte::Present(present) if present.soft_clean)
        };
        // Asked before: it ends at the first page that was written.
        let soft_clean = words.iter().all(is_clean);
        let (mut said, mut write) = (Present { soft_clean, ..trap }, false);
        // One that says the same of the page after it says nothing new.
        let (mut next, mut step) = (0, 0);
        for word in words {
            let raw = word.load(Ordering::Relaxed);
            word.store(0, Ordering::Relaxed);
            if raw != next
                && let Pte::Present(present) = M::Arch::decode_pte(raw)
            {
                step = M::Arch::pte_step(raw);
                said.young |= present.young;
                said.dirty |= present.dirty;
                write |= present.prot.write;
            }
            next = raw.wrapping_add(step);
        }
        frames.table_used(table).set(0);
        // SAFETY: each entry owned an exclusive mapping of a page of this folio, as `one_folio` has seen
        // under the lock, and they are cleared.
        let whole = unsafe { ExclusiveWhole::from_page_entries(frames, head) };
        let prot = Protection { write: write && vma.write, ..vma };
        let leaf = place.entry_of(whole, Attrs { prot, ..Attrs::from(said) });
        Deposits::of(frames, upper, &lock).put(self, kept);
        self.forget_tables(1);
        // Release: as when a leaf is installed.
        place.word.store(M::Arch::encode_entry(leaf, 1), Ordering::Release);
        drop((ptl, lock));
        dead.push(frames, rcu, table);
        Ok(())
    }
}

/// The first page of the folio that all of `words` map, in order and exclusively, if there is one.
fn one_folio<M: Machine>(frames: &Frames<M>, words: &[Atomic<u64, M>]) -> Option<Pfn> {
    let page = |raw: u64| match M::Arch::decode_pte(raw) {
        Pte::Present(present) if !present.special && !present.uffd_wp => Some(present),
        Pte::Present(_) | Pte::None | Pte::Soft(_) => None,
    };
    let said = words[0].load(Ordering::Relaxed);
    let first = page(said)?;
    let folio = frames.folio_of_owned(first.pfn);
    let whole = folio.pfn() == first.pfn && folio.owned_order() == M::Arch::LEAF_ORDER && folio.is_anon();
    let reads = first.prot.read;
    let may_follow = |nth: u64, present: Present| {
        present.pfn == first.pfn.offset(nth) && present.prot.exec == first.prot.exec && present.prot.read
    };
    let alike = |(nth, word): (u64, &Atomic<u64, M>)| {
        let raw = word.load(Ordering::Relaxed);
        // Most say what the first one does, and are not decoded.
        M::Arch::pte_follows(raw, said, nth) || page(raw).is_some_and(|present| may_follow(nth, present))
    };
    let alone = || {
        let pages = words.len() as u64;
        frames.page_is_exclusive(first.pfn) && frames.exclusive_alike(first.pfn, pages) == pages
    };
    (whole && reads && (0..).zip(words).all(alike) && alone()).then_some(first.pfn)
}
