//! What each CPU keeps for itself, so that operations that commute write no line that both touch.
//!
//! *Pages of an address space* are counted here first. A word has the address space whose pages this CPU
//! counted last, and by how many its shared counter is behind ([`Credit`]). The owner is the CPU, by
//! compare-exchange, because the end of the address space takes the credit from all CPUs. A count that is
//! read is the shared counter and all credits: exact while nobody counts.
//!
//! *The most pages* that it had are noted here, too ([`Peak`]). The peak is the largest note of all CPUs.
//!
//! *The last VMA* spares faults the tree and the lock sequence of the address space, which whoever maps
//! changes. A VMA that was unlocked at a version is so until its version changes.
//!
//! *Promises* are the sum of all CPUs' words. The word of one may be less than 0.
//!
//! Linux: include/linux/percpu_counter.h, and `SPLIT_RSS_COUNTING` until 6.2. Differs: an address space has
//! no memory of its own for each CPU.

use crate::ids::{MmId, MmTag, VmaId, VmaTag};
use anonmem_frame::{Handle, Link, RawHandle};
use anonmem_hal::Machine;
use anonmem_sync::{Atomic, Ordering};

/// Pages that an address space counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum PageKind {
    /// Mapped anonymous pages (`MM_ANONPAGES`).
    Anon,
    /// Mapped pages of shared objects (`MM_SHMEMPAGES`).
    Shared,
    /// Pages in swap (`MM_SWAPENTS`).
    Swap,
}

impl PageKind {
    pub(crate) const ALL: [Self; 3] = [Self::Anon, Self::Shared, Self::Swap];
}

/// No version of a VMA.
const UNKNOWN: u64 = u64::MAX;

/// A VMA that a CPU remembers.
pub(crate) struct LastVma<M> {
    vma: Atomic<Link<VmaTag>, M>,
    /// Its version when this CPU found that no writer has it; [`UNKNOWN`] if it never looked.
    version: Atomic<u64, M>,
}

impl<M: Machine> LastVma<M> {
    const fn new() -> Self {
        Self { vma: Atomic::new(Link::NONE), version: Atomic::new(UNKNOWN) }
    }

    /// The VMA that this CPU found last.
    #[inline]
    pub(crate) fn vma(&self) -> Option<VmaId> {
        self.vma.load(Ordering::Relaxed).get()
    }

    /// Remembers the VMA that this CPU has found.
    pub(crate) fn note_vma(&self, id: VmaId) {
        // Versions of other VMAs say nothing of this one.
        self.version.store(UNKNOWN, Ordering::Relaxed);
        self.vma.store(id.into(), Ordering::Relaxed);
    }

    /// Whether this CPU has found that no writer has the last VMA at `version`. That stays true: a writer
    /// changes the version.
    #[inline]
    pub(crate) fn is_known_unlocked(&self, version: u64) -> bool {
        self.version.load(Ordering::Relaxed) == version
    }

    /// Remembers that no writer has the last VMA at `version`, and that all that the writers before wrote is
    /// seen by this CPU.
    #[inline]
    pub(crate) fn note_unlocked(&self, version: u64) {
        self.version.store(version, Ordering::Relaxed);
    }
}

/// A CPU's words: all on its own cache lines.
pub(crate) struct CpuWords<M> {
    /// The VMA that this CPU found last: a fault's, or a fill's destination.
    pub(crate) last: LastVma<M>,
    /// The same of the source of a move.
    pub(crate) last_source: LastVma<M>,
    /// Pages that were promised here, less those whose promise was taken back here.
    pub(crate) committed: Atomic<i64, M>,
    /// Credits, by [`PageKind`].
    pub(crate) pages: [Atomic<u64, M>; PageKind::ALL.len()],
    /// The most pages of an address space that this CPU has seen ([`Peak`]).
    pub(crate) peak: Atomic<u64, M>,
    /// Reclaim's batches that began here and are under way.
    pub(crate) batches: Atomic<u32, M>,
    /// Pages that reclaim has freed here, ever.
    pub(crate) freed: Atomic<u64, M>,
    /// Pages that left here, and that reclaim's clock does not know of (`workingset.rs`).
    pub(crate) evicted: Atomic<u64, M>,
}

impl<M: Machine> CpuWords<M> {
    pub(crate) const fn new() -> Self {
        Self {
            last: LastVma::new(),
            last_source: LastVma::new(),
            committed: Atomic::new(0),
            pages: [const { Atomic::new(0) }; PageKind::ALL.len()],
            peak: Atomic::new(0),
            batches: Atomic::new(0),
            freed: Atomic::new(0),
            evicted: Atomic::new(0),
        }
    }

    /// Adds `pages` to the credit if it is `mm`'s, and stays small.
    #[inline(always)]
    pub(crate) fn add_to_credit(&self, mm: u32, kind: PageKind, pages: i64) -> bool {
        let word = &self.pages[kind as usize];
        let seen = word.load(Ordering::Relaxed);
        let more = seen.wrapping_add(pages as u64);
        is_credit_of(more, mm) && word.compare_exchange(seen, more, Ordering::Relaxed).is_ok()
    }

    /// What this CPU has counted of `mm`'s pages, and nobody has added to the shared counter.
    #[inline(always)]
    pub(crate) fn credit_of(&self, mm: u32, kind: PageKind) -> i64 {
        let seen = self.pages[kind as usize].load(Ordering::Relaxed);
        if is_credit_of(seen, mm) { Credit::of(seen).pages } else { 0 }
    }

    /// The same without the probe seeing it, for a recount at rest.
    pub(crate) fn peek_credit_of(&self, mm: u32, kind: PageKind) -> i64 {
        let seen = self.pages[kind as usize].peek();
        if is_credit_of(seen, mm) { Credit::of(seen).pages } else { 0 }
    }

    /// Puts `new` in the place of the credit that is there, and returns that. The caller adds it to its
    /// address space's counter.
    pub(crate) fn exchange_credit(&self, kind: PageKind, new: Credit) -> Credit {
        Credit::of(self.pages[kind as usize].swap(new.bits(), Ordering::Relaxed))
    }

    /// Takes the credit of `mm`, if this CPU has one.
    pub(crate) fn take_credit_of(&self, mm: u32, kind: PageKind) -> i64 {
        let ours = |bits| is_credit_of(bits, mm).then_some(0);
        self.pages[kind as usize]
            .fetch_update(Ordering::Relaxed, ours)
            .map_or(0, |bits| Credit::of(bits).pages)
    }
}

/// Pages of a credit at which it goes to the shared counter: one fault in so many writes that.
pub(crate) const MOST_CREDIT: u64 = 64;

/// By how much an address space's counter is behind.
///
/// A word has the address space's name above, and the pages plus [`MOST_CREDIT`] below. So one comparison
/// says whether it is a small credit of this address space. 0 is nobody's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Credit {
    pub(crate) mm: Option<MmId>,
    pub(crate) pages: i64,
}

/// Whether a word is a credit of `mm` that is small enough.
#[inline(always)]
const fn is_credit_of(bits: u64, mm: u32) -> bool {
    bits.wrapping_sub((mm as u64) << 32).wrapping_sub(1) < 2 * MOST_CREDIT - 1
}

impl Credit {
    fn of(bits: u64) -> Self {
        let mm = RawHandle::new((bits >> 32) as u32).map(Handle::<MmTag>::from_raw);
        let pages = i64::from(bits as u32) - MOST_CREDIT as i64;
        Self { mm, pages: if mm.is_some() { pages } else { 0 } }
    }

    fn bits(self) -> u64 {
        let mm = self.mm.map_or(0, |mm| mm.raw().get());
        (u64::from(mm) << 32).wrapping_add_signed(self.pages + MOST_CREDIT as i64)
    }
}

/// The most pages that a CPU saw an address space have: its name above, the pages below. 0 is nobody's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Peak(pub(crate) u64);

impl Peak {
    /// As much as a word holds: beyond it, the peak is the address space's own word alone.
    pub(crate) const MOST: u64 = u32::MAX as u64;

    pub(crate) const fn new(mm: u32, pages: u64) -> Self {
        Self((mm as u64) << 32 | pages)
    }

    /// The pages, if they are `mm`'s.
    pub(crate) const fn of(self, mm: u32) -> u64 {
        if (self.0 >> 32) as u32 == mm { self.0 as u32 as u64 } else { 0 }
    }

    /// Whose it is.
    pub(crate) fn mm(self) -> Option<MmId> {
        RawHandle::new((self.0 >> 32) as u32).map(Handle::<MmTag>::from_raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::M;

    fn mm(number: u32) -> MmId {
        Handle::from_raw(RawHandle::new(number).expect("not 0"))
    }

    #[test]
    fn a_credit_is_of_one_address_space_and_small() {
        let words = CpuWords::<M>::new();
        let (anon, most) = (PageKind::Anon, MOST_CREDIT as i64);
        assert!(!words.add_to_credit(7, anon, 1), "nobody's yet");
        let none = words.exchange_credit(anon, Credit { mm: Some(mm(7)), pages: -2 });
        assert_eq!(none, Credit { mm: None, pages: 0 });
        assert!(words.add_to_credit(7, anon, 1));
        assert_eq!(
            (words.credit_of(7, anon), words.credit_of(8, anon), words.credit_of(6, anon)),
            (-1, 0, 0)
        );
        assert!(!words.add_to_credit(8, anon, 1), "another one's");
        assert!(words.add_to_credit(7, anon, 1));
        let steps = [(most - 1, true), (1, false), (-2 * (most - 1), true), (-1, false), (most - 1, true)];
        for (pages, fits) in steps {
            assert_eq!(
                words.add_to_credit(7, anon, pages),
                fits,
                "{pages}; now {}",
                words.credit_of(7, anon)
            );
        }
        assert_eq!(words.take_credit_of(8, anon), 0);
        assert_eq!((words.take_credit_of(7, anon), words.peek_credit_of(7, anon)), (0, 0));
        assert!(!words.add_to_credit(7, anon, 1), "taken");
    }
}
