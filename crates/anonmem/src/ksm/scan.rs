//! The scanner: a hand over the frames, a few pages at a time.
//!
//! It comes by pages, not by address spaces: a mapping of terabytes in which little is touched costs nothing
//! (CVE-2025-68211 was a walk over one). Whose a page is, and whether they all agree to its being merged, the
//! reverse map says.
//!
//! Of a page that is only looked at, 14 bits stay in its metadata until the hand comes by again. They are a
//! piece of its hash, and how often nothing came of it. A page whose hash has changed is left alone for now.
//!
//! Linux: mm/ksm.c `ksm_do_scan`, `cmp_and_merge_page`, `should_skip_rmap_item`. Differs: no object for each
//! page, and no walk over address spaces.

use super::{
    batch::MergeBatch,
    candidates::Known,
    merge::{Candidate, Equal, Pending},
    node::MergedAt,
    settings::MergeDomains,
    state::{FRAMES_OF_GROUP, GROUP, add},
};
use crate::{
    error::Error,
    events::Event,
    ids::VmaId,
    objects::Objects,
    rmap::machine::Machine,
    rmap::{Rmap, hit::Form, reverse_map::ReverseMap},
    vm::Vm,
    vma::flags::VmFlags,
};
use anonmem_frame::{Folio, FolioGuard, FolioOwner, FolioRef, Mapping, NOTE_BITS};
use anonmem_hal::{Order, Pfn};
use anonmem_sync::Ordering;
use core::{cell::Cell, ops::ControlFlow};

/// Frames that the hand passes at most for each page that it looks at.
const PASSES: u64 = 64;

/// What a scan has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KsmScanned {
    /// Pages that were looked at.
    pub scanned: u64,
    /// Pages that were given up for an equal one, or for the zero page.
    pub freed: u64,
    /// Whether a sweep over all frames has ended.
    pub swept: bool,
}

impl<M: Machine> Vm<M> {
    /// Looks at up to `pages` pages that may be merged, and merges those that have an equal. Ends early where
    /// there are few, or a sweep over all frames ends: call it again.
    ///
    /// A page is merged in the second sweep that finds it unchanged. One task at a time scans; another waits.
    ///
    /// ```
    /// # use anonmem::*;
    /// # use anonmem_testkit::Program;
    /// # anonmem_testkit::example(|vm, mm| {
    /// let start = mm.mmap(MmapRequest::anonymous(2 * 4096, Prot::READ | Prot::WRITE))?;
    /// mm.madvise(start, 2 * 4096, Advice::Mergeable)?;
    /// mm.store(start, 7)?;
    /// mm.store(Va(start.0 + 4096), 7)?;
    /// while vm.ksm_stats().full_scans < 2 {
    ///     vm.ksm_scan(100)?;
    /// }
    /// assert_eq!((vm.stats().user, vm.ksm_stats().pages_shared), (1, 1));
    /// mm.store(start, 8)?;
    /// assert_eq!((mm.load(start)?, mm.load(Va(start.0 + 4096))?), (8, 7));
    /// # Ok(())
    /// # });
    /// ```
    ///
    /// # Locks
    /// The caller holds none. Takes the scanner's lock; tries folio locks. Sleeps.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the first scan finds no memory for its table, 12 bytes a frame.
    #[doc(alias = "ksm_do_scan")]
    pub fn ksm_scan(&self, pages: u64) -> Result<KsmScanned, Error> {
        let _scanning = self.ksm.lock.write();
        self.ksm.prepare(&self.frames)?;
        let (nr, mut done) = (self.machine().nr_frames(), KsmScanned::default());
        let mut batch = MergeBatch::new(self);
        for _ in 0..pages.saturating_mul(PASSES) {
            if done.scanned >= pages || done.swept {
                break;
            }
            let at = self.ksm.at.get();
            self.look_at(at, &mut batch, &mut done);
            batch.pass();
            self.prune_beside(at);
            done.swept = at + 1 == nr;
            self.ksm.at.set(if done.swept { 0 } else { at + 1 });
        }
        done.freed = batch.into_freed();
        if done.swept {
            self.end_sweep();
        }
        add(&self.ksm.counts.scanned, done.scanned);
        Ok(done)
    }

    /// Looks at the pages in `frames` alone, wherever the hand is: for who knows which pages have an equal.
    ///
    /// # Locks
    /// As [`ksm_scan`](Self::ksm_scan).
    ///
    /// # Errors
    /// As [`ksm_scan`](Self::ksm_scan).
    ///
    /// # Panics
    /// If there is no such frame.
    pub fn ksm_scan_frames(&self, frames: impl IntoIterator<Item = Pfn>) -> Result<KsmScanned, Error> {
        let _scanning = self.ksm.lock.write();
        self.ksm.prepare(&self.frames)?;
        let (mut done, mut batch) = (KsmScanned::default(), MergeBatch::new(self));
        for pfn in frames {
            let at = pfn.0.checked_sub(self.machine().base_pfn().0);
            let at = at.filter(|at| *at < self.machine().nr_frames()).expect("a frame of this machine");
            self.look_at(at, &mut batch, &mut done);
        }
        done.freed = batch.into_freed();
        add(&self.ksm.counts.scanned, done.scanned);
        Ok(done)
    }

    /// Frees all nodes at once whose pages are gone. A sweep does that in step with the frames.
    ///
    /// # Locks
    /// As [`ksm_scan`](Self::ksm_scan).
    #[doc(hidden)]
    pub fn ksm_forget_gone(&self) {
        let _scanning = self.ksm.lock.write();
        (0..self.ksm.buckets()).for_each(|bucket| _ = self.ksm.prune(self, bucket));
    }

    /// The buckets of nodes are looked through in step with the frames.
    fn prune_beside(&self, at: u64) {
        let first = at / FRAMES_OF_GROUP * GROUP;
        if at.is_multiple_of(FRAMES_OF_GROUP) && first < self.ksm.buckets() {
            self.ksm.prune_group(self, first);
        }
    }

    fn end_sweep(&self) {
        let counts = &self.ksm.counts;
        self.ksm.sweep.update(|sweep| sweep + 1);
        for (now, last) in
            [(&counts.unshared, &counts.last_unshared), (&counts.changed, &counts.last_changed)]
        {
            last.store(now.load(Ordering::Relaxed), Ordering::Relaxed);
            now.store(0, Ordering::Relaxed);
        }
    }

    /// Looks at the page in frame `at`, relative to the first, if there is one that may be merged. One that
    /// has not changed since the sweep before goes to the batch if an equal one is known. Else it waits.
    #[doc(alias = "cmp_and_merge_page")]
    fn look_at<'v>(&'v self, at: u64, batch: &mut MergeBatch<'v, M>, done: &mut KsmScanned) {
        let pfn = self.machine().base_pfn().offset(at);
        // Without a count first: most frames are none of ours, or their pages are merged already.
        if !self.frames.folio(pfn).is_some_and(|folio| folio.pfn() == pfn && is_anon(folio)) {
            return;
        }
        let Some(page) = self.frames.try_get(pfn).filter(|page| page.pfn() == pfn) else { return };
        let Some(page) = self.candidate(page) else { return };
        if page.lock.folio().order() != Order::ZERO {
            if self.look_at_large(page, at, batch, done) {
                self.look_at(at, batch, done);
            }
            return;
        }
        done.scanned += 1;
        let (note, counts) = (Note::of(page.lock.folio().note()), &self.ksm.counts);
        if self.ksm.settings.get().smart_scan && !note.is_due(self.ksm.sweep.get() + at) {
            add(&counts.skipped, 1);
            add(&counts.unshared, 1);
            return;
        }
        let hash = self.machine().hash_page(pfn, self.hash_key(page.domain));
        let now = Note::new(hash);
        if now.tag != note.tag {
            page.lock.set_note(now.bits());
            add(&counts.changed, 1);
            if self.ksm.hand_at(&self.frames, at).is_some() {
                self.ksm.note_new(&self.frames, hash, at);
            }
            return;
        }
        if batch.makes_stable((hash, page.domain)) {
            batch.finish();
        }
        match self.equal_of(&page, hash, batch) {
            Some(equal) => batch.add(Pending { page, hash, equal }),
            None => {
                self.ksm.wait_for_equal(&self.frames, hash, at);
                page.lock.set_note(Note { age: (note.age + 1).min(MAX_AGE), ..note }.bits());
                add(&counts.unshared, 1);
            }
        }
    }

    /// What a page is equal to, as of now.
    fn equal_of<'v>(
        &'v self,
        page: &Candidate<'v, M>,
        hash: u64,
        batch: &MergeBatch<'v, M>,
    ) -> Option<Equal<'v, M>> {
        let (zero, pfn) = (self.frames.zero_page(), page.page.pfn());
        if self.ksm.settings.get().use_zero_pages && self.machine().same_bytes(pfn, zero) {
            return Some(Equal::Zero);
        }
        self.equal_folio_of(page, hash, batch, Note::new(hash).tag)
    }

    /// What a folio of any size is equal to, as of now. Who waits for it has a note with this `tag` if it has
    /// not changed since.
    pub(super) fn equal_folio_of<'v>(
        &'v self,
        page: &Candidate<'v, M>,
        hash: u64,
        batch: &MergeBatch<'v, M>,
        tag: u32,
    ) -> Option<Equal<'v, M>> {
        let (ksm, pfn, folio) = (&self.ksm, page.page.pfn(), page.page.folio());
        let (key, order) = ((hash, page.domain), folio.owned_order());
        if let Some(stable) = ksm.find_stable(self, key, order, |id| batch.coming_to(id)) {
            return Some(Equal::Stable(stable));
        }
        let (base, pages) = (self.machine().base_pfn(), folio.owned_order().pages());
        let hand = ksm.hand_at(&self.frames, pfn.0 - base.0);
        for (at, known) in ksm.waiting_or_new(&self.frames, hash, hand) {
            let other_pfn = base.offset(at);
            if other_pfn == pfn {
                continue;
            }
            // A page of a larger folio waits until that is split; so does what of it nobody maps.
            let is_like = |other: &FolioRef<'_, M>| {
                let found = other.folio();
                found.pfn() == other_pfn
                    && found.owned_order() == folio.owned_order()
                    && found.unmapped_pages() == 0
            };
            let other = self.frames.try_get(other_pfn).filter(is_like);
            let Some(other) = other.and_then(|other| self.candidate(other)) else { continue };
            // The note is of the last time that it was looked at.
            let unchanged = tag_of(other.lock.folio()) == tag;
            if unchanged && other.domain == page.domain && self.same_folios(other.page.folio(), folio) {
                ksm.forget(&self.frames, hash, at);
                if other_pfn < pfn {
                    // It was counted in this sweep, as one without an equal or as one that had changed.
                    let counted = match known {
                        Known::Waits => &ksm.counts.unshared,
                        Known::New => &ksm.counts.changed,
                    };
                    let before = counted.load(Ordering::Relaxed);
                    counted.store(before.saturating_sub(pages), Ordering::Relaxed);
                }
                return Some(Equal::Other(other));
            }
        }
        None
    }

    /// The key under which pages of a domain are hashed: hashes of two domains have nothing to do with each
    /// other.
    pub(super) fn hash_key(&self, domain: u64) -> u64 {
        self.config.secret ^ domain.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    }

    /// The folio, locked, if its pages may be merged: anonymous, not pinned, not cached for swap, and all of
    /// its mappers agree.
    pub(super) fn candidate<'v>(&'v self, page: FolioRef<'v, M>) -> Option<Candidate<'v, M>> {
        let folio = page.folio();
        // Hints, all of them: what must hold is asked again when nobody can use the page.
        if folio.swap_entry().is_some() || !is_anon(folio) || folio.counts().maps() == 0 {
            return None;
        }
        if folio.maybe_pinned() {
            self.count(Event::KsmPinned);
            return None;
        }
        let lock = page.try_lock()?;
        let (place, domain) = agreed(self, &lock, self.ksm.settings.get().domains)?;
        Some(Candidate { page, lock, place, domain })
    }
}

/// Whether a folio is anonymous, and not a merged one, as of now.
fn is_anon<M: Machine>(folio: Folio<'_, M>) -> bool {
    matches!(folio.mapping(), Mapping::Anon(_))
}

/// Where a locked page has its mappers, and their merge domain, if all of them agree to its being merged.
fn agreed<M: Machine>(
    objects: &Objects<M>,
    lock: &FolioGuard<'_, M>,
    domains: MergeDomains,
) -> Option<(MergedAt, u64)> {
    let folio = lock.folio();
    let guard = Rmap::<M>::lock(objects, folio)?;
    let (domain, refused) = (Cell::new(None), Cell::new(false));
    let agrees = |id: VmaId| {
        let vma = objects.vma(id);
        let Some(slot) = vma.mm().map(|mm| objects.mm_slot(mm)) else { return true };
        let its = match domains {
            MergeDomains::Families => slot.merge_domain(),
            MergeDomains::One => 0,
        };
        let first = domain.get().unwrap_or(its);
        domain.set(Some(first));
        vma.flags().contains(VmFlags::MERGEABLE) && first == its
    };
    let refuses = |id: VmaId| {
        let refuses = !agrees(id);
        refused.set(refused.get() || refuses);
        refuses
    };
    let place = (folio, folio.index());
    let mut all = if !folio.is_large() && folio.counts().is_exclusive() {
        // One entry has it, and the walk ends there, however many others might.
        Rmap::<M>::walk(&guard, folio, Form::Present, |hit| match agrees(hit.vma) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        })
    } else {
        // Where all who may map the page agree, no page table says more.
        Rmap::<M>::walk_where(&guard, place, Form::Present, refuses, |_| ControlFlow::Break(()))
    };
    // Who refuses may have an entry that a move has left behind: no other one waits for a locked page.
    if all.is_continue() && refused.get() {
        all = Rmap::<M>::walk_where(
            &guard,
            place,
            Form::Migration,
            |id| !agrees(id),
            |_| ControlFlow::Break(()),
        );
    }
    let place = MergedAt { family: Rmap::<M>::family(&guard), index: folio.index() };
    domain.get().filter(|_| all.is_continue()).map(|domain| (place, domain))
}

/// What stays of a page until the hand comes by again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Note {
    /// A piece of the hash; 0 of a page that was not hashed yet. Of a large folio another one
    /// ([`large`](super::large)).
    pub(super) tag: u32,
    /// How often no equal page was known.
    pub(super) age: u32,
}

/// The tag in the note of a folio, without what it says of a large one beside its hash.
fn tag_of<M: Machine>(folio: Folio<'_, M>) -> u32 {
    let tag = Note::of(folio.note()).tag;
    if folio.is_large() { tag & !PAID } else { tag }
}

/// Bits of a note for the hash.
const TAG_BITS: u32 = 10;
/// In the tag of a large folio: splitting it paid in the last sweep. The other bits are of its hash.
pub(super) const PAID: u32 = 1 << (TAG_BITS - 1);
pub(super) const MAX_AGE: u32 = (1 << (NOTE_BITS - TAG_BITS)) - 1;

impl Note {
    fn new(hash: u64) -> Self {
        Self { tag: 1 + ((hash >> 16) % ((1 << TAG_BITS) - 1)) as u32, age: 0 }
    }

    pub(super) const fn of(bits: u32) -> Self {
        Self { tag: bits & ((1 << TAG_BITS) - 1), age: bits >> TAG_BITS }
    }

    pub(super) const fn bits(self) -> u32 {
        self.tag | self.age << TAG_BITS
    }

    /// Whether the page is looked at in this `turn`: the older it is, the fewer of them.
    #[doc(alias = "skip_age")]
    pub(super) const fn is_due(self, turn: u64) -> bool {
        let every = match self.age {
            0..=2 => 1,
            3..=4 => 2,
            5..=7 => 4,
            8.. => 8,
        };
        turn.is_multiple_of(every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_holds_its_two_parts_and_fits() {
        for hash in [0, 1, 1 << 16, u64::MAX, 0x1234_5678_9abc_def0] {
            for age in 0..=MAX_AGE {
                let note = Note { age, ..Note::new(hash) };
                assert!(note.tag != 0 && note.bits() < 1 << NOTE_BITS);
                assert_eq!(Note::of(note.bits()), note);
            }
        }
        assert_eq!(Note::of(0).tag, 0, "a new page");
    }

    #[test]
    fn an_old_page_is_looked_at_every_eighth_time() {
        let due = |age| (0..16).filter(|turn| Note { tag: 1, age }.is_due(*turn)).count();
        assert_eq!([0, 2, 3, 4, 5, 7, 8, 15].map(due), [16, 16, 8, 8, 4, 4, 2, 2]);
    }
}
