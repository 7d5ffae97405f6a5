//! Large folios: one is split when at least half of it has equals.
//!
//! Single pages are merged. A page of a large folio can be given up only if its folio is split. Then all of
//! the folio's entries are single ones for good. So the hand looks at the folio as a whole. It counts the
//! pages that have an equal, or are all zeroes. If these are half of the folio in two sweeps in a row, the
//! folio is split, and its pages are merged like any others. For less than that it stays, and nothing of it
//! is merged.
//!
//! All that is seen here is a hint. Programs write to the pages meanwhile, and others take them away. What is
//! decided is only whether to split, which changes no byte and asks again whether it may.
//!
//! Linux: mm/ksm.c `try_to_merge_one_page`. Differs: Linux splits a folio for any one of its pages.

use super::{
    merge::Candidate,
    scan::{KsmScanned, MAX_AGE, Note},
    state::add,
};
use crate::{rmap::machine::Machine, vm::Vm};
use anonmem_frame::{FolioOwner, FolioRef};
use anonmem_hal::{Order, Pfn};

/// A folio is split if one in this many of its pages has an equal.
const ONE_IN: u64 = 2;

impl<M: Machine> Vm<M> {
    /// Looks at the large folio whose first page is in frame `at`, relative to the first of all. Returns
    /// whether it was split, because enough of its pages can be given up then.
    pub(super) fn split_if_alike(&self, large: Candidate<'_, M>, at: u64, done: &mut KsmScanned) -> bool {
        let Candidate { lock, page, domain, .. } = large;
        let (pages, counts) = (lock.folio().nr_pages().0, &self.ksm.counts);
        let note = Note::of(lock.folio().note());
        done.scanned += pages;
        if self.ksm.settings.get().smart_scan && !note.is_due(self.ksm.sweep.get() + at) {
            add(&counts.skipped, pages);
            add(&counts.unshared, pages);
            return false;
        }
        // Nobody waits for as many looks. The reference keeps the folio as large as it is.
        drop(lock);
        let pays = self.pages_with_equal(&page, pages, domain) * ONE_IN >= pages;
        let Some(lock) = page.try_lock() else { return false };
        let (paid, none) = (note.tag != 0, Note { tag: 0, age: 0 });
        if !pays {
            lock.set_note(Note { age: (note.age + 1).min(MAX_AGE), ..none }.bits());
            add(&counts.unshared, pages);
            return false;
        }
        if !paid {
            lock.set_note(Note { tag: 1, ..none }.bits());
            add(&counts.changed, pages);
            return false;
        }
        if self.split_folio(&lock, &page, Order::ZERO).is_err() {
            add(&counts.refused, 1);
            return false;
        }
        // It says something else of a single page.
        lock.set_note(none.bits());
        true
    }

    /// How many pages of a large folio have an equal, as of now. They wait for others from now on.
    fn pages_with_equal(&self, page: &FolioRef<'_, M>, pages: u64, domain: u64) -> u64 {
        let (machine, base) = (self.machine(), self.machine().base_pfn());
        let use_zero_pages = self.ksm.settings.get().use_zero_pages;
        let mut last = None;
        let has_equal = |pfn: &Pfn| {
            if use_zero_pages && machine.same_bytes(*pfn, self.frames.zero_page()) {
                return true;
            }
            let hash = machine.hash_page(*pfn, self.hash_key(domain));
            if self.ksm.find_stable(self, (hash, domain), *pfn, |_| 0).is_some() {
                return true;
            }
            let mut waiting = self.ksm.waiting(&self.frames, hash).map(|at| base.offset(at));
            let found = waiting.any(|other| other != *pfn && self.is_like(other, *pfn, domain, &mut last));
            self.ksm.wait_for_equal(&self.frames, hash, pfn.0 - base.0);
            found
        };
        (0..pages).map(|nth| page.pfn().offset(nth)).filter(has_equal).count() as u64
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
