//! Operations on many entries of a locked table: those that programs spend their time in.
//!
//! Linux: mm/mprotect.c `change_pte_range`; mm/mremap.c `move_ptes`; mm/memory.c `copy_present_ptes`.

use crate::{
    batch::{Batch, alike, batch_len_of},
    guard::PteGuard,
    owned::{Mapped, NotShared},
    space::{CanInstall, StableVma, Teardown},
    word::{change_word, pages_of, take},
};
use anonmem_frame::{Frames, MapRun, try_dup_page, try_dup_run};
use anonmem_hal::{Arch, Machine, Pfn, Protection, Pte, SoftLeaf, Va, VaRange};
use anonmem_sync::{Atomic, Ordering};

/// What became of entries that go on with a folio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClearedRun {
    /// The address after the last.
    pub end: Va,
    /// How many of them, without the first, nobody has accessed or written.
    pub untouched: u64,
}

impl<'a, M: Machine, G: StableVma<M>> PteGuard<'a, M, G> {
    /// The same for all present entries of `range`; returns what must be flushed.
    #[doc(alias = "change_pte_range")]
    pub fn change_protection_range(&mut self, range: VaRange, prot: Protection) -> VaRange {
        // Entries in use: a sparse table is left early, an empty one at once.
        let mut left = self.used();
        if left == 0 {
            return VaRange { start: range.start, end: range.start };
        }
        let (mut first, mut end) = (usize::MAX, 0);
        for (i, word) in self.table.words_of(range).iter().enumerate() {
            let raw = word.load(Ordering::Relaxed);
            if raw == 0 {
                continue;
            }
            let reduced = if M::Arch::pte_plain(raw) {
                self.change_one(word, raw, prot)
            } else {
                self.change_unusual(word, raw, prot)
            };
            if reduced {
                (first, end) = (first.min(i), i + 1);
            }
            left -= 1;
            if left == 0 {
                break;
            }
        }
        pages_of(range, first.min(end), end)
    }

    /// Changes the permissions of an entry that holds `raw`; returns whether it has lost any.
    // Inlined twice: of a plain entry the compiler knows what it need not ask.
    #[inline(always)]
    fn change_one(&self, word: &Atomic<u64, M>, raw: u64, prot: Protection) -> bool {
        // Asking the page costs a look at its metadata: only if it matters.
        let write = prot.write && self.may_write(raw);
        // What the hardware may set meanwhile is no permission: the entry as it was seen tells.
        let new = change_word(word, raw, move |raw| M::Arch::pte_modify(raw, Protection { write, ..prot }));
        M::Arch::pte_reduced(raw, new)
    }

    #[inline(never)]
    fn change_unusual(&self, word: &Atomic<u64, M>, raw: u64, prot: Protection) -> bool {
        if M::Arch::pte_present(raw) {
            return self.change_one(word, raw, prot);
        }
        match M::Arch::decode_pte(raw) {
            // The page comes back with what the entry says by then.
            Pte::Soft(SoftLeaf::Migration { pfn, bits }) if !prot.write => {
                let leaf = SoftLeaf::Migration { pfn, bits: bits.write_protected() };
                word.store(M::Arch::encode_pte(Pte::Soft(leaf)), Ordering::Relaxed);
            }
            // A page comes back from swap with what the VMA says by then.
            Pte::Soft(SoftLeaf::Migration { .. } | SoftLeaf::Swap { .. } | SoftLeaf::Marker(_)) => {}
            Pte::None | Pte::Present(_) => {}
        }
        // No TLB has it.
        false
    }

    /// Whether the owner of an entry that holds `raw` may write without another fault.
    #[inline(always)]
    fn may_write(&self, raw: u64) -> bool {
        let Some(page) = M::Arch::pte_page(raw) else { return false };
        M::Arch::pte_can_mkwrite(raw) && (self.table.frames.page_is_exclusive(page) || self.is_shm(raw))
    }

    /// Whether an entry that holds `raw` owns a page of a shared object.
    #[cold]
    fn is_shm(&self, raw: u64) -> bool {
        // SAFETY: the entry is part of this table, whose lock is held.
        matches!(unsafe { Mapped::of_bits(self.table.frames, raw) }, Mapped::Shm(_))
    }

    /// Write-protects the entries of `range` that say something of a page for userfaultfd; returns what must
    /// be flushed.
    #[doc(alias = "change_pte_range")]
    pub fn uffd_wp_range(&mut self, range: VaRange) -> VaRange {
        let (mut first, mut end) = (range.end, range.start);
        let mut va = self.next_used(range);
        while va < range.end {
            if self.uffd_wp(va) {
                (first, end) = (first.min(va), va.next_page());
            }
            va = self.next_used(VaRange { start: va.next_page(), end: range.end });
        }
        VaRange { start: first.min(end), end }
    }

    /// Moves the entries of `range` to another table (or within this one, with `to` = `None`), to the empty
    /// ones from `target` on. Returns what of `range` the caller must flush before it lets go of the locks.
    #[doc(alias = "move_ptes")]
    pub fn move_range(&mut self, range: VaRange, to: Option<&mut Self>, target: Va) -> VaRange {
        let source = self.table.words_of(range);
        let dest = to.as_deref().map_or(self.table, |to| to.table);
        let dest = dest.words_of(VaRange { start: target, end: Va(target.0 + range.len()) });
        let mut moved = 0;
        let (mut first, mut end) = (usize::MAX, 0);
        for (i, (from, to)) in source.iter().zip(dest).enumerate() {
            let raw = take(from);
            if raw == 0 {
                continue;
            }
            anonmem_hal::debug_check_eq!(
                M,
                to.load(Ordering::Relaxed),
                0,
                "the entry that takes page {i} of {range:?} is in use"
            );
            // Release: as when an entry is filled.
            to.store(raw, Ordering::Release);
            moved += 1;
            if M::Arch::pte_present(raw) {
                (first, end) = (first.min(i), i + 1);
            }
        }
        if let Some(to) = to {
            self.count_used(-moved);
            to.count_used(moved);
        }
        pages_of(range, first.min(end), end)
    }

    /// The batch that starts at the start of `within`; `None` if there is no page there.
    ///
    /// `within` is part of one VMA, and may end beyond the table.
    pub fn batch(&self, within: VaRange) -> Option<Batch> {
        let within = VaRange { start: within.start, end: within.end.min(self.table().range().end) };
        Batch::of(self.frames(), self.table().words_of(within), within)
    }

    /// Clears the entries after the one at `range.start`, whose mapping was just taken into `run`, as long as
    /// they go on with the same folio.
    #[doc(alias = "clear_full_ptes")]
    pub fn clear_on(&mut self, run: &mut MapRun<'a, M>, range: VaRange, teardown: Teardown) -> ClearedRun {
        let words = self.table.words_of(range);
        let (mut at, mut untouched) = (1, 0);
        while at < words.len()
            && let Some(page) = run.next()
        {
            let first = words[at].load(Ordering::Relaxed);
            if M::Arch::pte_page(first) != Some(page) {
                break;
            }
            // What differs in its permissions is cleared in another round.
            let most = words.len().min(at + run.room() as usize);
            let len = alike(first, &words[at..most]);
            untouched += clear_words(&words[at..at + len], teardown);
            // SAFETY: these entries owned mappings of the next pages of the run's folio, and were cleared
            // under the lock of their table.
            unsafe { run.push_pages(len as u64) };
            at += len;
        }
        self.count_used(1 - at as i64);
        ClearedRun { end: range.start.page_after(at as u64), untouched }
    }
}

/// Clears entries that are present; returns how many of them nobody has accessed or written.
#[inline(always)]
fn clear_words<M: Machine>(words: &[Atomic<u64, M>], teardown: Teardown) -> u64 {
    let untouched = |raw| u64::from(M::Arch::pte_untouched(raw));
    match teardown {
        Teardown::Range => words.iter().map(|word| untouched(take(word))).sum(),
        // No hardware can be setting bits just now.
        Teardown::WholeSpace => words
            .iter()
            .map(|word| {
                let raw = word.load(Ordering::Relaxed);
                word.store(0, Ordering::Relaxed);
                untouched(raw)
            })
            .sum(),
    }
}

impl<M: Machine, G: CanInstall<M>> PteGuard<'_, M, G> {
    /// Shares the pages of the parent's entries for `range` with the empty entries for the same addresses:
    /// fork. Both are shared and without write permission from now on; the child's are not yet accessed. The
    /// caller owes the parent's TLBs a flush.
    ///
    /// Returns where it stopped, and if that is not the end of the range, why the page there is not shared.
    #[doc(alias = "copy_present_ptes")]
    #[inline(never)]
    pub fn share_range(&mut self, parent: &mut Self, range: VaRange) -> (Va, Result<(), NotShared>) {
        let frames = self.table.frames;
        let (from, to) = (parent.table.words_of(range), self.table.words_of(range));
        let (mut shared, mut result) = (0, Ok(()));
        let mut pairs = from.iter().zip(to);
        while let Some((source, target)) = pairs.next() {
            let raw = source.load(Ordering::Relaxed);
            let Some(page) = M::Arch::pte_page(raw) else {
                result = Err(NotShared::NoPage);
                break;
            };
            // SAFETY: the entry is part of a table of the parent's, whose lock is held.
            match unsafe { share_page(frames, page, &from[shared..]) } {
                Ok(1) => inherit(source, raw, target),
                Ok(pages) => {
                    inherit_batch(&from[shared..shared + pages], &to[shared..]);
                    pairs.nth(pages - 2);
                    shared += pages - 1;
                }
                Err(why) => {
                    result = Err(why);
                    break;
                }
            }
            shared += 1;
        }
        self.count_used(shared as i64);
        (pages_of(range, 0, shared).end, result)
    }
}

/// Adds mappings to the anonymous pages of the batch that `words` start with, whose first one maps `page`,
/// for as many other entries to own. Returns how many.
///
/// # Errors
/// Why the pages are not shared.
///
/// # Safety
/// The entries are part of a live table of `frames` whose lock is held.
#[inline(always)]
unsafe fn share_page<M: Machine>(
    frames: &Frames<M>,
    page: Pfn,
    words: &[Atomic<u64, M>],
) -> Result<usize, NotShared> {
    if !frames.is_one_page(page) {
        // SAFETY: the caller's promise.
        return unsafe { share_batch(frames, page, words) };
    }
    // SAFETY: the entry owns a mapping and cannot change while it is locked.
    match unsafe { try_dup_page(frames, page) } {
        Some(Ok(())) => Ok(1),
        Some(Err(why)) => Err(NotShared::Refused(why)),
        None => Err(NotShared::NoPage),
    }
}

/// The same for pages of a large folio.
///
/// # Safety
/// As for [`share_page`].
#[cold]
#[inline(never)]
unsafe fn share_batch<M: Machine>(
    frames: &Frames<M>,
    page: Pfn,
    words: &[Atomic<u64, M>],
) -> Result<usize, NotShared> {
    let folio = frames.folio_of_owned(page);
    if !folio.is_anon() {
        return Err(NotShared::NoPage);
    }
    let pages = batch_len_of(folio, page, words[0].load(Ordering::Relaxed), words);
    // SAFETY: the entries of the batch own mappings of pages of one folio.
    unsafe { try_dup_run(frames, page, pages as u64) }.map_err(NotShared::Refused)?;
    Ok(pages)
}

/// Gives the child's empty entry the mapping that was added to the page of the parent's, which holds `raw`.
#[inline(always)]
fn inherit<M: Machine>(source: &Atomic<u64, M>, raw: u64, target: &Atomic<u64, M>) {
    let now = change_word(source, raw, M::Arch::pte_wrprotect);
    anonmem_hal::debug_check_eq!(M, target.load(Ordering::Relaxed), 0, "an entry of the child is in use");
    // Release: as when an entry is filled.
    target.store(M::Arch::pte_inherited(now), Ordering::Release);
}

/// The same for entries that say the same, whatever of the accessed and dirty bits.
#[cold]
#[inline(never)]
fn inherit_batch<M: Machine>(from: &[Atomic<u64, M>], to: &[Atomic<u64, M>]) {
    let mut raw = from[0].load(Ordering::Relaxed);
    if !M::Arch::pte_settled(raw) {
        let pairs = from.iter().zip(to);
        return pairs.for_each(|(source, target)| inherit(source, source.load(Ordering::Relaxed), target));
    }
    // What the entries of a folio say that is in use is the first's, a frame further each.
    let (step, mut protected) = (M::Arch::pte_step(raw), M::Arch::pte_wrprotect(raw));
    let (changes, mut inherited) = (protected != raw, M::Arch::pte_inherited(protected));
    for (source, target) in from.iter().zip(to) {
        let now = source.load(Ordering::Relaxed);
        if now == raw {
            anonmem_hal::debug_check_eq!(M, target.load(Ordering::Relaxed), 0, "a child's entry is in use");
            if changes {
                // Release: as in `change_word`.
                source.store(protected, Ordering::Release);
            }
            // Release: as when an entry is filled.
            target.store(inherited, Ordering::Release);
        } else {
            inherit(source, now, target);
        }
        raw = raw.wrapping_add(step);
        protected = protected.wrapping_add(step);
        inherited = inherited.wrapping_add(step);
    }
}
