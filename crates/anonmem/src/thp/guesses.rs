//! What `auto` gave a program before it was touched.
//!
//! An address space remembers the last windows that it filled by a guess, until all of their pages were
//! written. So the pages that nobody has touched are counted, not estimated. The next guess is made only if
//! all of them together stay within the bound.
//!
//! A window that has to make room for another leaves what is untouched of it as a debt. A debt lasts, though
//! the pages may be written later: it errs on the safe side. Of what is unmapped, the debt takes its share
//! along. What lies in another VMA cannot be asked here, and is forgotten.
//!
//! Faults of several threads may guess at once. Each sees what the others have noted. Two that note at the
//! same moment may each be within the bound alone; then a window more than allowed is untouched.

use anonmem_hal::{Machine, PAGE_SHIFT, Va, VaRange};
use anonmem_sync::{Atomic, Ordering};

/// Windows that are remembered.
const WINDOWS: usize = 8;

/// The windows of one address space: where each starts, with its order in the low bits; 0 for none.
pub(crate) struct Guesses<M> {
    windows: [Atomic<u64, M>; WINDOWS],
    /// What was untouched of windows that are no longer remembered.
    debt: Atomic<u64, M>,
    /// How many pages there were when the debt was counted last.
    debt_of: Atomic<u64, M>,
}

impl<M: Machine> Guesses<M> {
    pub(crate) const fn new() -> Self {
        let windows = [const { Atomic::new(0) }; WINDOWS];
        Self { windows, debt: Atomic::new(0), debt_of: Atomic::new(0) }
    }

    /// Forgets all of them: the address space is new.
    pub(crate) fn clear(&self) {
        self.windows
            .iter()
            .chain([&self.debt, &self.debt_of])
            .for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// The pages that are untouched of `mine`, all that the address space has: of the windows as `untouched`
    /// says, and the debt. Windows of which none is are forgotten.
    pub(crate) fn outstanding(&self, mine: u64, untouched: impl Fn(VaRange) -> u64) -> u64 {
        let mut pages = self.debt(mine);
        for place in &self.windows {
            let word = place.load(Ordering::Relaxed);
            if word == 0 {
                continue;
            }
            let left = untouched(decode(word));
            if left == 0 {
                // Fails if another fault has taken the place meanwhile.
                let _ = place.compare_exchange(word, 0, Ordering::Relaxed);
            }
            pages += left;
        }
        pages
    }

    fn debt(&self, mine: u64) -> u64 {
        let (debt, of) = (self.debt.load(Ordering::Relaxed), self.debt_of.load(Ordering::Relaxed));
        if mine >= of {
            return debt;
        }
        let left = debt * mine / of;
        self.debt.store(left, Ordering::Relaxed);
        self.debt_of.store(mine, Ordering::Relaxed);
        left
    }

    /// Remembers a window of 2^`order` pages, in the place of the one of which least is untouched.
    pub(crate) fn note(&self, start: Va, order: u8, mine: u64, untouched: impl Fn(VaRange) -> u64) {
        let left = |place: &&Atomic<u64, M>| match place.load(Ordering::Relaxed) {
            0 => 0,
            word => untouched(decode(word)),
        };
        let least = self.windows.iter().map(|place| (left(&place), place)).min_by_key(|(left, _)| *left);
        let Some((left, place)) = least else { return };
        let debt = self.debt(mine) + left;
        self.debt.store(debt, Ordering::Relaxed);
        self.debt_of.store(mine, Ordering::Relaxed);
        place.store(start.0 | u64::from(order), Ordering::Relaxed);
    }
}

fn decode(word: u64) -> VaRange {
    let (start, order) = (word & !15, word & 15);
    VaRange { start: Va(start), end: Va(start + (1 << (u64::from(PAGE_SHIFT) + order))) }
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::testing::{M, pages};

    #[test]
    fn windows_are_remembered_until_they_are_touched_and_leave_a_debt() {
        let guesses = Guesses::<M>::new();
        assert_eq!(guesses.outstanding(100, |_| unreachable!("there is none")), 0);
        let all = |window: VaRange| window.pages().0;
        (1..=8).for_each(|nth| guesses.note(pages(16 * nth, 1).start, 4, 1000, all));
        assert_eq!(guesses.outstanding(1000, all), 8 * 16);
        guesses.note(pages(512, 1).start, 9, 1000, |window| if window == pages(16, 16) { 3 } else { 16 });
        assert_eq!(guesses.outstanding(1000, all), 7 * 16 + 512 + 3, "three pages of the first are a debt");
        assert_eq!(guesses.outstanding(1000, |_| 0), 3);
        assert_eq!(guesses.outstanding(1000, |_| 1), 3, "what is touched is forgotten");
        assert_eq!(guesses.outstanding(500, |_| 1), 1, "half of all went, and half of the debt");
        guesses.clear();
        assert_eq!(guesses.outstanding(1000, |_| 1), 0);
    }
}
