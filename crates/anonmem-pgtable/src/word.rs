//! The words of a locked table: emptied and changed while the hardware may be setting bits of them.

use anonmem_hal::{Arch, Machine, PAGE_SIZE, Va, VaRange};
use anonmem_sync::{Atomic, Ordering};

/// From the page `first` to the page `end` of `range`.
pub(crate) fn pages_of(range: VaRange, first: usize, end: usize) -> VaRange {
    let at = |i: usize| Va(range.start.0 + (i * PAGE_SIZE) as u64);
    VaRange { start: at(first), end: at(end) }
}

/// Empties an entry of a locked table and returns what it was.
#[inline(always)]
pub(crate) fn take<M: Machine>(word: &Atomic<u64, M>) -> u64 {
    // An empty entry stays empty under the lock.
    let raw = word.load(Ordering::Relaxed);
    if raw == 0 { 0 } else { take_seen(word, raw) }
}

/// The same for an entry in use that was seen to hold `raw` under the lock.
#[inline(always)]
pub(crate) fn take_seen<M: Machine>(word: &Atomic<u64, M>, raw: u64) -> u64 {
    if M::Arch::pte_settled(raw) {
        word.store(0, Ordering::Relaxed);
        raw
    } else {
        // A swap, because the hardware may be setting the accessed or dirty bit just now.
        word.swap(0, Ordering::Relaxed)
    }
}

/// Changes an entry of a locked table that was seen to hold `raw`, if it is present, keeping what the
/// hardware sets meanwhile; returns what it is now.
#[inline(always)]
pub(crate) fn change_word<M: Machine>(word: &Atomic<u64, M>, raw: u64, f: impl Fn(u64) -> u64 + Copy) -> u64 {
    if !M::Arch::pte_present(raw) {
        return raw;
    }
    let new = f(raw);
    if new != raw {
        if !M::Arch::pte_settled(raw) {
            // A copy of `f`, so that what it holds need not be in memory where nobody races.
            return change_racing(word, &{ f });
        }
        // Release: a walk without the lock may read this, and not the store that filled the entry; it has to
        // see the page's contents all the same (pairs with the hardware's walk).
        word.store(new, Ordering::Release);
    }
    new
}

/// How many of `words` say exactly `raw`, a frame further each.
#[inline(always)]
pub(crate) fn equal<M: Machine>(words: &[Atomic<u64, M>], raw: u64) -> usize {
    let (step, mut next) = (M::Arch::pte_step(raw), raw);
    for (nth, word) in words.iter().enumerate() {
        if word.load(Ordering::Relaxed) != next {
            return nth;
        }
        next = next.wrapping_add(step);
    }
    words.len()
}

/// Changes those of `words`, entries of a locked table, that say exactly `old`, a frame further each, to
/// `new`, a frame further each. The hardware has no bit of `old` left to set. Returns how many there are.
#[inline(always)]
pub(crate) fn change_equal<M: Machine>(words: &[Atomic<u64, M>], old: u64, new: u64) -> usize {
    anonmem_hal::debug_check!(M, M::Arch::pte_settled(old), "the hardware may be setting bits of {old:#x}");
    let (step, new_step) = (M::Arch::pte_step(old), M::Arch::pte_step(new));
    let (mut old, mut new) = (old, new);
    for (nth, word) in words.iter().enumerate() {
        if word.load(Ordering::Relaxed) != old {
            return nth;
        }
        // Release: as in `change_word`.
        word.store(new, Ordering::Release);
        (old, new) = (old.wrapping_add(step), new.wrapping_add(new_step));
    }
    words.len()
}

/// Changes an entry whose accessed or dirty bit the hardware may be setting just now; returns what it is now.
#[inline(never)]
pub(crate) fn change_racing<M: Machine>(word: &Atomic<u64, M>, f: &dyn Fn(u64) -> u64) -> u64 {
    let mut new = 0;
    let _ = word.fetch_update(Ordering::Relaxed, |raw| {
        new = f(raw);
        Some(new)
    });
    new
}
