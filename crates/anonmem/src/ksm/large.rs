//! Large folios: merged whole with their equals; else one is split when at least half of it has equals.
//!
//! A folio that has an equal of its size is merged as it is, and neither is split. Both stay large, and their
//! programs keep their runs and leaves.
//!
//! A page of a large folio can be given up only if its folio is split. Then all of the folio's entries are
//! single ones for good. So the hand looks at the folio as a whole. It counts the pages that have an equal,
//! or are all zeroes. If these are half of the folio in two sweeps in a row, the folio is split, and its
//! pages are merged like any others. For less than that it stays, and nothing of it is merged.
//!
//! All that is seen here is a hint. Programs write to the pages meanwhile, and others take them away. What a
//! merge relies on is asked again (`merge`). A split changes no byte, and asks again whether it may.
//!
//! Linux: mm/ksm.c `try_to_merge_one_page`. Differs: Linux splits a folio for any one of its pages, and
//! merges none whole.

use super::{
    batch::MergeBatch,
    merge::{Candidate, Pending},
    scan::{KsmScanned, MAX_AGE, Note, PAID},
    state::add,
};
use crate::{rmap::machine::Machine, vm::Vm};
use anonmem_frame::{FolioOwner, FolioRef};
use anonmem_hal::{Order, Pfn};

/// A folio is split if one in this many of its pages has an equal.
const ONE_IN: u64 = 2;

/// What was seen of the pages of a folio.
struct Seen {
    /// Those that have an equal.
    with_equal: u64,
    /// Those that are all zeroes, if the zero page may be used.
    zeroes: u64,
    /// The hash of all.
    hash: u64,
}

/// The tag of a folio with this hash, never 0.
const fn tag(hash: u64) -> u32 {
    1 + ((hash >> 16) % (PAID as u64 - 1)) as u32
}

impl<M: Machine> Vm<M> {
    /// Looks at the large folio whose first page is in frame `at`, relative to the first of all. Returns
    /// whether it fell into pages, which are to be looked at.
    pub(super) fn look_at_large<'v>(
        &'v self,
        large: Candidate<'v, M>,
        at: u64,
        batch: &mut MergeBatch<'v, M>,
        done: &mut KsmScanned,
    ) -> bool {
        let (pages, domain, counts) = (large.lock.folio().nr_pages().0, large.domain, &self.ksm.counts);
        let note = Note::of(large.lock.folio().note());
        done.scanned += pages;
        if self.ksm.settings.get().smart_scan && !note.is_due(self.ksm.sweep.get() + at) {
            add(&counts.skipped, pages);
            add(&counts.unshared, pages);
            return false;
        }
        // Nobody waits for as many looks. The reference keeps the folio as large as it is.
        let page = large.unlock();
        let seen = self.look_through(&page, pages, domain);
        // It may have gone elsewhere meanwhile, or be offered no longer.
        let Some(large) = self.candidate(page).filter(|large| large.domain == domain) else {
            return false;
        };
        // The zero page is a better equal. What is partly mapped is to be split when memory is short.
        if seen.zeroes == pages || large.page.folio().unmapped_pages() > 0 {
            return self.split_if_it_pays(&large, note, &seen);
        }
        let (hash, tag) = (seen.hash, tag(seen.hash));
        if note.tag & !PAID == tag {
            if batch.makes_stable((hash, domain)) {
                batch.finish();
            }
            if let Some(equal) = self.equal_folio_of(&large, hash, batch, tag) {
                self.ksm.forget(&self.frames, hash, at);
                batch.add(Pending { page: large, hash, equal });
                return false;
            }
        } else if self.ksm.waiting(&self.frames, hash).any(|other| other != at) {
            // It has become like another one, and is merged with that next time, if both stay so.
            self.ksm.wait_for_equal(&self.frames, hash, at);
            large.lock.set_note(Note { tag, age: 0 }.bits());
            add(&counts.changed, pages);
            return false;
        }
        self.ksm.wait_for_equal(&self.frames, hash, at);
        self.split_if_it_pays(&large, note, &seen)
    }

    /// Splits a folio, if enough of its pages can be given up then, and could the last time; returns whether
    /// it did.
    fn split_if_it_pays(&self, large: &Candidate<'_, M>, note: Note, seen: &Seen) -> bool {
        let (lock, counts) = (&large.lock, &self.ksm.counts);
        let (pages, tag) = (lock.folio().nr_pages().0, tag(seen.hash));
        let changed = note.tag & !PAID != tag;
        if seen.with_equal * ONE_IN < pages {
            let age = if changed { 0 } else { (note.age + 1).min(MAX_AGE) };
            lock.set_note(Note { tag, age }.bits());
            add(&counts.unshared, pages);
            return false;
        }
        if note.tag & PAID == 0 {
            lock.set_note(Note { tag: tag | PAID, age: 0 }.bits());
            add(&counts.changed, pages);
            return false;
        }
        if self.split_folio(lock, &large.page, Order::ZERO).is_err() {
            add(&counts.refused, 1);
            return false;
        }
        // It says something else of a single page.
        lock.set_note(Note { tag: 0, age: 0 }.bits());
        true
    }

    /// Looks at all pages of a large folio, which wait for others from now on.
    fn look_through(&self, page: &FolioRef<'_, M>, pages: u64, domain: u64) -> Seen {
        let (machine, base) = (self.machine(), self.machine().base_pfn());
        let use_zero_pages = self.ksm.settings.get().use_zero_pages;
        let (mut last, mut seen) = (None, Seen { with_equal: 0, zeroes: 0, hash: pages });
        for pfn in (0..pages).map(|nth| page.pfn().offset(nth)) {
            let hash = machine.hash_page(pfn, self.hash_key(domain));
            // Of hashes that are keyed already: what matters is that their order counts.
            seen.hash = (seen.hash.rotate_left(5) ^ hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if use_zero_pages && machine.same_bytes(pfn, self.frames.zero_page()) {
                seen.zeroes += 1;
                seen.with_equal += 1;
                continue;
            }
            seen.with_equal += u64::from(self.has_equal(pfn, hash, domain, &mut last));
            self.ksm.wait_for_equal(&self.frames, hash, pfn.0 - base.0);
        }
        seen
    }

    /// Whether a page of a large folio has an equal that is a page, as of now.
    fn has_equal(&self, pfn: Pfn, hash: u64, domain: u64, last: &mut Option<(Pfn, bool)>) -> bool {
        let base = self.machine().base_pfn();
        if self.ksm.has_stable(self, (hash, domain), pfn) {
            return true;
        }
        let mut waiting = self.ksm.waiting(&self.frames, hash).map(|at| base.offset(at));
        waiting.any(|other| other != pfn && self.is_like(other, pfn, domain, last))
    }

    /// Whether what is in frame `other` just now may be merged in this domain, and has the bytes of `pfn`.
    /// `last` is the folio that was asked before, whose pages come one after the other, and what it said.
    fn is_like(&self, other: Pfn, pfn: Pfn, domain: u64, last: &mut Option<(Pfn, bool)>) -> bool {
        let Some(page) = self.frames.try_get(other) else { return false };
        let folio = page.pfn();
        let may = match *last {
            Some((known, may)) if known == folio => may,
            _ => {
                let again = self.frames.try_get(other).and_then(|page| self.candidate(page));
                again.is_some_and(|other| other.domain == domain)
            }
        };
        *last = Some((folio, may));
        may && self.machine().same_bytes(other, pfn)
    }
}
