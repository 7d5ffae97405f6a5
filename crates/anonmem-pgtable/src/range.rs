//! Operations on many entries of a locked table: those that programs spend their time in.
//!
//! Linux: mm/mprotect.c `change_pte_range`; mm/mremap.c `move_ptes`; mm/memory.c `copy_present_ptes`.

use crate::{
    batch::{Batch, alike, batch_len_of},
    guard::PteGuard,
    owned::{Mapped, NotShared},
    space::{CanInstall, StableVma, Teardown},
    word::{change_equal, change_word, equal, pages_of, take},
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

/// What became of entries that went to another place.
struct Moved {
    /// How many there are.
    entries: i64,
    /// The first of them that was present; [`usize::MAX`] if none was.
    first: usize,
    /// The one after the last of those.
    end: usize,
}

/// What became of entries in a row that were changed alike.
struct Changed {
    /// How many there are.
    entries: usize,
    /// Whether they have lost permissions.
    reduced: bool,
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
        let words = self.table.words_of(range);
        let mut i = 0;
        while i < words.len() {
            let raw = words[i].load(Ordering::Relaxed);
            if raw == 0 {
                i += 1;
                continue;
            }
            let Changed { entries, reduced } = if M::Arch::pte_plain(raw) {
                self.change_plain(&words[i..], raw, prot)
            } else {
                Changed { entries: 1, reduced: self.change_unusual(&words[i], raw, prot) }
            };
            i += entries;
            if reduced {
                (first, end) = (first.min(i - entries), i);
            }
            left -= entries as u64;
            if left == 0 {
                break;
            }
        }
        pages_of(range, first.min(end), end)
    }

    /// Changes the permissions of the plain entry that `words` start with, which holds `raw`, and of those
    /// behind it that say exactly the same of the frames that follow: what becomes of the first is decided
    /// for all of them.
    #[inline(always)]
    fn change_plain(&self, words: &[Atomic<u64, M>], raw: u64, prot: Protection) -> Changed {
        let frames = self.table.frames;
        // Asking the page costs a look at its metadata: only if it matters.
        let asked = M::Arch::pte_page(raw).filter(|_| prot.write && M::Arch::pte_can_mkwrite(raw));
        let exclusive = asked.is_some_and(|page| frames.page_is_exclusive(page));
        let write = exclusive || asked.is_some() && self.is_shm(raw);
        let new = M::Arch::pte_modify(raw, Protection { write, ..prot });
        let reduced = M::Arch::pte_reduced(raw, new);
        if new == raw {
            return Changed { entries: 1, reduced };
        }
        let entries = match asked {
            None => change_equal(words, raw, new),
            Some(page) if exclusive => self.change_exclusive(words, page, raw, new),
            // What is neither exclusive nor left alone is asked one by one.
            Some(_) => change_equal(&words[..1], raw, new),
        };
        Changed { entries, reduced }
    }

    /// [`change_equal`], as far as the pages from `page` on are exclusive, as the first is.
    #[inline(always)]
    fn change_exclusive(&self, words: &[Atomic<u64, M>], page: Pfn, raw: u64, new: u64) -> usize {
        let (step, new_step) = (M::Arch::pte_step(raw), M::Arch::pte_step(new));
        let (mut old, mut new, mut page) = (raw, new, page);
        for (nth, word) in words.iter().enumerate() {
            if word.load(Ordering::Relaxed) != old || !self.table.frames.page_is_exclusive(page) {
                return nth;
            }
            // Release: as in `change_word`.
            word.store(new, Ordering::Release);
            (old, new) = (old.wrapping_add(step), new.wrapping_add(new_step));
            page = page.offset(1);
        }
        words.len()
    }

    /// Changes the permissions of an entry that holds `raw`, which the hardware may be changing; returns
    /// whether it has lost any.
    fn change_one(&self, word: &Atomic<u64, M>, raw: u64, prot: Protection) -> bool {
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
        let Moved { entries, first, end } = move_words(source, dest);
        if let Some(to) = to {
            self.count_used(-entries);
            to.count_used(entries);
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
            let (len, idle) = clear_alike(first, &words[at..most], teardown);
            untouched += idle;
            // SAFETY: these entries owned mappings of the next pages of the run's folio, and were cleared
            // under the lock of their table.
            unsafe { run.push_pages(len as u64) };
            at += len;
        }
        self.count_used(1 - at as i64);
        ClearedRun { end: range.start.page_after(at as u64), untouched }
    }
}

/// Moves the entries of `source` that are in use to as many empty ones of `dest`.
// A function of its own: the compiler keeps what the loop needs in registers.
#[inline(never)]
fn move_words<M: Machine>(source: &[Atomic<u64, M>], dest: &[Atomic<u64, M>]) -> Moved {
    let mut moved = Moved { entries: 0, first: usize::MAX, end: 0 };
    for (i, (from, to)) in source.iter().zip(dest).enumerate() {
        let raw = take(from);
        if raw == 0 {
            continue;
        }
        anonmem_hal::debug_check_eq!(M, to.load(Ordering::Relaxed), 0, "what takes entry {i} is in use");
        // Release: as when an entry is filled.
        to.store(raw, Ordering::Release);
        moved.entries += 1;
        if M::Arch::pte_present(raw) {
            (moved.first, moved.end) = (moved.first.min(i), i + 1);
        }
    }
    moved
}

/// Clears the present entry `first`, which `words` start with, and those behind it for frames in a row that
/// say the same, whatever of the accessed and dirty bits. Returns how many there are, and how many of them
/// nobody has accessed or written.
#[inline(always)]
fn clear_alike<M: Machine>(first: u64, words: &[Atomic<u64, M>], teardown: Teardown) -> (usize, u64) {
    let quiet = match teardown {
        Teardown::Range => M::Arch::pte_settled(first),
        // No hardware can be setting bits just now.
        Teardown::WholeSpace => true,
    };
    let len = if quiet { clear_equal(first, words) } else { 0 };
    let idle = if M::Arch::pte_untouched(first) { len as u64 } else { 0 };
    if len == words.len() {
        return (len, idle);
    }
    let next = words[len].load(Ordering::Relaxed);
    let on = first.wrapping_add(M::Arch::pte_step(first).wrapping_mul(len as u64));
    if !M::Arch::pte_alike(next, on) {
        return (len, idle);
    }
    let rest = alike(next, &words[len..]);
    (len + rest, idle + clear_words(&words[len..len + rest], teardown))
}

/// Clears those of `words`, which start with `first`, that say exactly what it does of frames in a row, and
/// that no hardware changes. Returns how many there are.
#[inline(always)]
fn clear_equal<M: Machine>(first: u64, words: &[Atomic<u64, M>]) -> usize {
    let (step, mut next) = (M::Arch::pte_step(first), first);
    for (nth, word) in words.iter().enumerate() {
        if word.load(Ordering::Relaxed) != next {
            return nth;
        }
        word.store(0, Ordering::Relaxed);
        next = next.wrapping_add(step);
    }
    words.len()
}

/// Clears entries that are present; returns how many of them nobody has accessed or written.
fn clear_words<M: Machine>(words: &[Atomic<u64, M>], teardown: Teardown) -> u64 {
    let untouched = |raw| u64::from(M::Arch::pte_untouched(raw));
    match teardown {
        Teardown::Range => words.iter().map(|word| untouched(take(word))).sum(),
        // As above.
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
    let raw = from[0].load(Ordering::Relaxed);
    let done = if M::Arch::pte_settled(raw) { inherit_equal(raw, from, to) } else { 0 };
    for (source, target) in from.iter().zip(to).skip(done) {
        inherit(source, source.load(Ordering::Relaxed), target);
    }
}

/// The same for those of `from` that say exactly what the first, `raw`, does, a frame further each: what the
/// entries of a folio say that is in use. The hardware has no bit of them left to set. Returns how many there
/// are.
#[inline(always)]
fn inherit_equal<M: Machine>(raw: u64, from: &[Atomic<u64, M>], to: &[Atomic<u64, M>]) -> usize {
    let step = M::Arch::pte_step(raw);
    let mut protected = M::Arch::pte_wrprotect(raw);
    let (mut expected, mut inherited) = (raw, M::Arch::pte_inherited(protected));
    let mut give = |target: &Atomic<u64, M>| {
        anonmem_hal::debug_check_eq!(M, target.load(Ordering::Relaxed), 0, "a child's entry is in use");
        // Release: as when an entry is filled.
        target.store(inherited, Ordering::Release);
        inherited = inherited.wrapping_add(step);
    };
    let to = &to[..from.len()];
    if protected == raw {
        let equal = equal(from, raw);
        to[..equal].iter().for_each(give);
        return equal;
    }
    anonmem_hal::debug_check!(M, M::Arch::pte_settled(raw), "the hardware may be setting bits of {raw:#x}");
    // What `change_equal` does, and the child's entries in the same pass.
    for (nth, source) in from.iter().enumerate() {
        if source.load(Ordering::Relaxed) != expected {
            return nth;
        }
        // Release: as in `change_word`.
        source.store(protected, Ordering::Release);
        give(&to[nth]);
        (expected, protected) = (expected.wrapping_add(step), protected.wrapping_add(step));
    }
    from.len()
}
