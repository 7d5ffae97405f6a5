//! How a page is pinned and how a page becomes shared, without a lock that both take. Both halves, and all
//! their fences.
//!
//! The rule: a page that is pinned stays exclusive. So whoever pins must not meet whoever shares half-way.
//! Three kinds of callers come together, and each pair has one order of events that the two sides force upon
//! one another:
//!
//! ```text
//!   GUP-fast (no lock)                        sharer: swap-out, KSM, migration (page-table lock)
//!   ------------------                        --------------------------------------------------
//!   B1  read the entry          (Acquire)     A1  clear the entry
//!   B2  may it be accessed so?                -- fence (SeqCst): `pinned_after_clearing` ------
//!   B3  count a pin             (Acquire)     A2  is the page pinned? then put the entry back
//!   -- fence (SeqCst): `pins_are_counted` --  A3  take the exclusive mark
//!   B4  read the entry again    (Acquire)     A4  fill the entry         (Release)
//!   B5  is the page exclusive?
//!       changed, or not: unpin, slow path
//!
//!   GUP-fast                                  fork (page-table lock, mmap lock for writing)
//!   --------                                  ---------------------------------------------
//!   C1  read fork's sequence; odd: slow path  F1  make the sequence odd
//!   ..  B1 to B3                              -- fence (SeqCst): `before_looking_for_pins` ----
//!   -- fence (SeqCst): `pins_are_counted` --  F2  is the page pinned? then copy it for the child
//!   ..  B4, B5                                F3  take the exclusive mark, write-protect the entry
//!   C2  read the sequence again;              F4  make the sequence even     (Release)
//!       changed: unpin, slow path
//! ```
//!
//! * B3, B4 against A1, A2: each side writes its word, then reads the other's. Between the two fences either
//!   B4 sees the cleared entry or A2 sees the pin. Without either fence both may miss.
//! * B5 is for the entry that A4 fills in with the same bits as before. A page marked for lazy freeing that
//!   was written stays, read-only and shared. B4 (Acquire) reads what A4 (Release) wrote, so B5 sees what A3
//!   did.
//! * F1, F2 against B3, C2: the same with the sequence in the entry's place, because fork clears no entry. A
//!   page that the section pins for a moment and lets go of costs fork a copy, and nothing else.
//! * `clear_refs` write-protects entries (A1), and calls a page written that F2 finds pinned: B4 sees that
//!   the entry has changed, or F2 sees the pin. It takes no mark.
//! * The slow path pins under the page-table lock of the entry, which every sharer and fork hold, too: it
//!   needs no fence.
//!
//! A pin that is not kept is nobody's business. The counts of all other owners are in the same word. So
//! whoever asks "am I alone" finds one count too many and is on the safe side.
//!
//! Linux: include/linux/rmap.h, the comment above `__folio_try_share_anon_rmap`; mm/gup.c `gup_fast`.

use crate::meta::Counts;
use anonmem_hal::Machine;
use anonmem_sync::{Atomic, Ordering, fence};

/// B3: counts a pin of whatever folio the word is of, if it has an owner and room. Returns whether it did;
/// whether the folio is the one that was meant, the caller asks then.
#[inline]
pub(super) fn try_count<M: Machine>(counts: &Atomic<u64, M>) -> bool {
    // Acquire pairs with the Release with which the folio was published: its fields are seen.
    let counted = counts.fetch_update(Ordering::Acquire, |bits| {
        let now = Counts(bits);
        (now.is_counted() && now.has_room()).then_some(bits + Counts::PIN)
    });
    counted.is_ok()
}

/// Between B3 and B4, and between B3 and C2; once for all pins that were counted before.
#[inline]
pub fn pins_are_counted<M: Machine>() {
    // SeqCst pairs with the fences in `pinned_after_clearing` and `before_looking_for_pins`.
    fence::<M>(Ordering::SeqCst);
}

/// A2: whether the page may be pinned whose only entry the caller has just cleared.
#[inline]
pub(super) fn pinned_after_clearing<M: Machine>(counts: &Atomic<u64, M>) -> bool {
    // SeqCst pairs with the fence in `pins_are_counted`.
    fence::<M>(Ordering::SeqCst);
    // Acquire pairs with the Release of the last unpin: what was noted before (that the page was written) is
    // seen.
    Counts(counts.load(Ordering::Acquire)).pins() != 0
}

/// Between F1, or the last A1 of `clear_refs`, and the first F2.
#[inline]
pub fn before_looking_for_pins<M: Machine>() {
    // SeqCst pairs with the fence in `pins_are_counted`.
    fence::<M>(Ordering::SeqCst);
}
