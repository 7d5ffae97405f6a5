//! Tables as arrays of words, and the last-level table that a walk ends at.

use anonmem_frame::Frames;
use anonmem_hal::{Arch, Machine, Pfn, Pte, Va, VaRange};
use anonmem_sync::{Atomic, Ordering};
use core::{marker::PhantomData, slice};

/// The entries of the table in frame `table`.
#[inline]
pub(crate) fn entries<M: Machine>(frames: &Frames<M>, table: Pfn) -> &[Atomic<u64, M>] {
    let first = frames.machine().direct_map(table).cast::<Atomic<u64, M>>();
    // SAFETY: `table` was allocated by `alloc_table` and is reached from a root or from a guard that keeps
    // it allocated (or is read inside an RCU section, before which it is not freed). The direct map is
    // valid for the frame, aligned to a page, and the words are only accessed atomically.
    unsafe { slice::from_raw_parts(first.as_ptr(), M::Arch::ENTRIES) }
}

/// Bytes of address space that a last-level table covers.
pub(crate) fn span<M: Machine>() -> u64 {
    1 << M::Arch::shift(1)
}

/// A last-level table, not locked. `G` is what keeps it allocated.
pub struct PteTable<'a, M: Machine, G> {
    pub(crate) frames: &'a Frames<M>,
    pub(crate) table: Pfn,
    words: &'a [Atomic<u64, M>],
    /// The first address that the table covers.
    base: Va,
    stable: PhantomData<&'a G>,
}

impl<M: Machine, G> Clone for PteTable<'_, M, G> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Machine, G> Copy for PteTable<'_, M, G> {}

impl<'a, M: Machine, G> PteTable<'a, M, G> {
    /// The table in frame `table`, which covers `va`.
    #[inline]
    pub(crate) fn new(frames: &'a Frames<M>, table: Pfn, va: Va) -> Self {
        let (words, base) = (entries(frames, table), va.align_down(span::<M>()));
        Self { frames, table, words, base, stable: PhantomData }
    }

    /// The addresses that the table covers.
    pub fn range(&self) -> VaRange {
        VaRange { start: self.base, end: Va(self.base.0.saturating_add(span::<M>())) }
    }

    /// What the entry says just now, without the lock.
    #[doc(alias = "ptep_get_lockless")]
    #[inline(always)]
    pub fn peek(&self, va: Va) -> Pte {
        M::Arch::decode_pte(self.word(va).load(Ordering::Relaxed))
    }

    /// The entries for `range`, which the table covers.
    #[inline]
    pub(crate) fn words_of(&self, range: VaRange) -> &'a [Atomic<u64, M>] {
        anonmem_hal::debug_check!(
            M,
            range.start >= self.base && range.end <= self.range().end,
            "addresses of another table"
        );
        let first = M::Arch::index(range.start, 0);
        &self.words[first..first + range.pages().0 as usize]
    }

    #[inline(always)]
    pub(crate) fn word(&self, va: Va) -> &'a Atomic<u64, M> {
        anonmem_hal::debug_check!(M, self.range().contains(va), "an address of another table");
        &self.words[M::Arch::index(va, 0)]
    }
}
