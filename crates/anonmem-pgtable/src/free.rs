//! Freeing page tables.

use crate::words::{TableWords as _, used_of};
use crate::{
    deposit::Deposits,
    gather::MmuGather,
    space::{AddressSpace, CanInstall},
    table::{entries, span},
    walk::{entry_of, next_table},
};
use anonmem_frame::{Frames, OutOfMemory};
use anonmem_hal::{Arch, Entry, FlushRange, Machine, Pfn, Va, VaRange};
use anonmem_sync::{
    Atomic, Ordering,
    order::{Pmd, Ptl},
    spin::RawSpinGuard,
};

impl<M: Machine> AddressSpace<M> {
    /// Unlinks the tables that only `range` used and gives them to `gather`.
    ///
    /// `limits` is what the neighbours leave: from the end of the VMA below (0 if there is none) to the start
    /// of the VMA above (`u64::MAX` if there is none). A table goes if all that it covers lies within the
    /// limits; a neighbour's faults may be filling any other. The caller holds the mmap lock for writing, the
    /// range's VMAs are out of the tree and unlinked from their anon_vmas, and all entries are cleared.
    ///
    /// # Panics
    /// If an entry of a table that goes is in use.
    #[doc(alias = "free_pgtables")]
    pub fn free_tables(
        &self,
        gather: &mut MmuGather<'_, M>,
        frames: &Frames<M>,
        range: VaRange,
        limits: VaRange,
    ) {
        anonmem_hal::debug_check!(M, limits.covers(range));
        self.free_below(gather, frames, self.root(), M::Arch::LEVELS - 1, Va(0), range, limits);
    }

    /// Frees the tables below the entries of `table` (at `level`, covering from `base`) that `range` touches.
    #[allow(clippy::too_many_arguments)]
    fn free_below(
        &self,
        gather: &mut MmuGather<'_, M>,
        frames: &Frames<M>,
        table: Pfn,
        level: u32,
        base: Va,
        range: VaRange,
        limits: VaRange,
    ) {
        let size = 1u64 << M::Arch::shift(level);
        let first = (range.start.0.max(base.0) - base.0) / size;
        let end = (range.end.0 - base.0).div_ceil(size).min(M::Arch::ENTRIES as u64);
        let slots = &entries(frames, table)[..end as usize];
        // Entries in use. Neighbours' faults may add some, none that goes: those were all there when the VMAs
        // were locked.
        let mut left = used_of(frames.table_used(table).peek());
        let mut i = first as usize;
        while left > 0 {
            let in_use = |slot: &Atomic<u64, M>| slot.load(Ordering::Relaxed) != 0;
            let Some(n) = slots[i..].iter().position(in_use) else { break };
            let at = Va(base.0 + (i + n) as u64 * size);
            i += n + 1;
            // A leaf is in nobody's VMA but its own. One that was forgotten is found with the table above.
            let Some(next) = next_table::<M>(frames, table, at, level) else { continue };
            let covered = VaRange { start: at, end: Va(at.0.saturating_add(size)) };
            if level > 1 {
                self.free_below(gather, frames, next, level - 1, at, range, limits);
            }
            if limits.start <= covered.start && covered.end <= limits.end {
                self.unlink_table(gather, frames, table, next, at, level);
                left -= 1;
            }
        }
    }

    fn unlink_table(
        &self,
        gather: &mut MmuGather<'_, M>,
        frames: &Frames<M>,
        upper: Pfn,
        table: Pfn,
        at: Va,
        level: u32,
    ) {
        anonmem_hal::debug_check!(M, span::<M>() <= 1 << M::Arch::shift(level));
        let used = used_of(frames.table_used(table).peek());
        assert_eq!(used, 0, "a table at {at:?} is freed with {used} entries in use");
        {
            let _guard = frames.table_lock::<Pmd>(upper).lock();
            entries(frames, upper)[M::Arch::index(at, level)].store(0, Ordering::Relaxed);
            frames.table_used(upper).update(|n| n - 1);
        }
        gather.table(at, table);
    }

    /// Makes the tables above the last level that [`move_table`](Self::move_table) to `to` needs, so that it
    /// cannot fail any more.
    ///
    /// # Errors
    /// [`OutOfMemory`]; tables that were added stay, empty, until their range is unmapped.
    #[doc(alias = "alloc_new_pmd")]
    pub fn prepare_move_table<G: CanInstall<M>>(
        &self,
        frames: &Frames<M>,
        stable: &G,
        to: Va,
    ) -> Result<(), OutOfMemory> {
        assert!(stable.opens(self), "a guard of another address space");
        self.upper_alloc(frames, to).map(drop)
    }

    /// Moves a whole last-level table, or a leaf, from the addresses at `from` to those at `to`, both aligned
    /// to what one covers (mremap). Returns whether it could: there was one at `from`, and nothing at `to`.
    ///
    /// The old addresses are flushed before the locks of the table and of those above are let go, so that
    /// nobody who finds the pages at their new addresses can take them away while an old translation lives.
    ///
    /// The caller holds the mmap lock for writing and the rmap locks of the VMA, so that no walk meets the
    /// pages at neither address.
    ///
    /// # Errors
    /// [`OutOfMemory`], unless [`prepare_move_table`](Self::prepare_move_table) came before.
    #[doc(alias("move_normal_pmd", "move_huge_pmd"))]
    pub fn move_table(&self, frames: &Frames<M>, from: Va, to: Va) -> Result<bool, OutOfMemory> {
        anonmem_hal::debug_check!(M, from.0.is_multiple_of(span::<M>()) && to.0.is_multiple_of(span::<M>()));
        let Some(source) = self.upper(frames, from) else { return Ok(false) };
        if entry_of::<M>(frames, source, from, 1) == Entry::None {
            return Ok(false);
        }
        let target = self.upper_alloc(frames, to)?;
        let (source_lock, target_lock) = lock_uppers(frames, source, target);
        let word = &entries(frames, source)[M::Arch::index(from, 1)];
        let place = &entries(frames, target)[M::Arch::index(to, 1)];
        if place.load(Ordering::Relaxed) != 0 {
            return Ok(false);
        }
        // A speculative fault that has checked its VMA fills its entry first; one that has not finds it
        // changed. Of a leaf, it needs the lock that is held.
        let _entries = match M::Arch::decode_entry(word.load(Ordering::Relaxed), 1) {
            Entry::None => return Ok(false),
            Entry::Table(table) => Some(frames.table_lock::<Ptl>(table).lock()),
            Entry::Leaf(_) | Entry::Migration { .. } => {
                // The table that is kept for the leaf goes along.
                if let Some(target_lock) = &target_lock {
                    let kept = Deposits::of(frames, source, &source_lock).pop();
                    Deposits::of(frames, target, target_lock).push(kept);
                }
                None
            }
        };
        // A swap, because the hardware may be setting bits of a leaf just now.
        let raw = word.swap(0, Ordering::Relaxed);
        frames.table_used(source).update(|n| n - 1);
        // Release: as when an entry is filled.
        place.store(raw, Ordering::Release);
        frames.table_used(target).update(|n| n + 1);
        let old = VaRange { start: from, end: Va(from.0.saturating_add(span::<M>())) };
        self.flush(frames, FlushRange::Range(old));
        Ok(true)
    }
}

pub(crate) type UpperLock<'a, M> = RawSpinGuard<'a, M, Pmd>;

/// Locks two tables above the last level by address; the same one is locked once.
pub(crate) fn lock_uppers<M: Machine>(
    frames: &Frames<M>,
    one: Pfn,
    two: Pfn,
) -> (UpperLock<'_, M>, Option<UpperLock<'_, M>>) {
    let (first, second) = (frames.table_lock::<Pmd>(one), frames.table_lock::<Pmd>(two));
    match one.cmp(&two) {
        core::cmp::Ordering::Less => {
            let first = first.lock();
            (first, Some(second.lock_nested(1)))
        }
        core::cmp::Ordering::Equal => (first.lock(), None),
        core::cmp::Ordering::Greater => {
            let second = second.lock();
            (first.lock_nested(1), Some(second))
        }
    }
}
