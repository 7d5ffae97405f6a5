//! What is in a window that may become one folio: asked without locks, to find out what it would cost.

use super::outcome::{CollapseLimits, NotCollapsed};
use anonmem_frame::{Frames, Mapping};
use anonmem_hal::{Machine, Marker, Pfn, Present, Pte, SoftLeaf, VaRange};
use anonmem_pgtable::{PteTable, StableVma};
use core::ops::Range;

/// The pages of a window, by what they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Survey {
    /// Not there, or of zeroes.
    pub(super) none: u64,
    /// Of a larger folio, and never touched.
    pub(super) untouched: u64,
    /// There.
    pub(super) present: u64,
    /// There, and others' as well, or they may be.
    pub(super) shared: u64,
    /// In swap.
    pub(super) swapped: u64,
    /// Whether the window is one folio, or a part of one, already.
    one_folio: bool,
}

/// Whether an entry says that its page is in swap.
pub(super) const fn is_swapped(pte: Pte) -> bool {
    matches!(pte, Pte::Soft(SoftLeaf::Swap { .. }))
}

/// Whether a window maps one folio, or a part of one, in order: then nothing is asked of its pages.
fn is_one_folio<M: Machine, G: StableVma<M>>(
    frames: &Frames<M>,
    table: PteTable<'_, M, G>,
    window: VaRange,
) -> bool {
    let page = |va| match table.peek(va) {
        Pte::Present(present) if !present.special && !present.uffd_wp => Some(present.pfn),
        Pte::Present(_) | Pte::None | Pte::Soft(_) => None,
    };
    let Some(first) = page(window.start) else { return false };
    // The frame may be anything by now: only a hint, as all of this.
    let inside = frames.folio(first).is_some_and(|folio| {
        folio.is_large() && first.0 + window.pages().0 <= folio.pfn().0 + folio.nr_pages().0
    });
    inside && (0..).zip(window.iter_pages()).all(|(nth, va)| page(va) == Some(first.offset(nth)))
}

impl Survey {
    /// That of a window which is one folio.
    pub(super) fn one_folio() -> Self {
        Self { one_folio: true, ..Self::default() }
    }

    /// That of the entries for `window`.
    ///
    /// # Errors
    /// What cannot be a page of a folio.
    pub(super) fn of<M: Machine, G: StableVma<M>>(
        frames: &Frames<M>,
        table: PteTable<'_, M, G>,
        window: VaRange,
    ) -> Result<Self, NotCollapsed> {
        if is_one_folio(frames, table, window) {
            return Ok(Self::one_folio());
        }
        let mut found = Self { one_folio: true, ..Self::default() };
        let (mut first, mut known) = (None, 0..0);
        for (nth, va) in (0..).zip(window.iter_pages()) {
            match table.peek(va) {
                Pte::Present(present) if !present.special => {
                    let head = *first.get_or_insert(present.pfn);
                    found.one_folio &= nth == 0 || Some(present.pfn) == after(head, nth);
                    found.note(frames, present, &mut known)?;
                }
                other @ (Pte::None | Pte::Present(_) | Pte::Soft(_)) => found.note_other(other)?,
            }
        }
        let inside = |first: Pfn| {
            let folio = frames.folio(first);
            folio.is_some_and(|folio| first.0 + window.pages().0 <= folio.pfn().0 + folio.nr_pages().0)
        };
        found.one_folio &= first.is_some_and(inside);
        if found.present + found.swapped == 0 { Err(NotCollapsed::Empty) } else { Ok(found) }
    }

    /// Notes a page that is there. Of a large folio that is `known`, by its frames, only the page is asked.
    fn note<M: Machine>(
        &mut self,
        frames: &Frames<M>,
        present: Present,
        known: &mut Range<u64>,
    ) -> Result<(), NotCollapsed> {
        self.present += 1;
        if present.uffd_wp {
            return Err(NotCollapsed::Marked);
        }
        if !known.contains(&present.pfn.0) {
            // The frame may be anything by now: only a hint.
            let Some(folio) = frames.folio(present.pfn) else { return Ok(()) };
            if folio.maybe_pinned() {
                return Err(NotCollapsed::Pinned);
            }
            if matches!(folio.mapping(), Mapping::Ksm(_)) {
                // Who copies it undoes a merge: not unless he was told to take whatever there is.
                self.shared = u64::MAX;
                return Ok(());
            }
            if folio.is_large() {
                *known = folio.pfn().0..folio.pfn().0 + folio.nr_pages().0;
            }
        }
        if !frames.page_is_exclusive(present.pfn) {
            self.shared = self.shared.saturating_add(1);
        }
        if known.contains(&present.pfn.0) && !present.young && !present.dirty {
            self.untouched += 1;
        }
        Ok(())
    }

    fn note_other(&mut self, pte: Pte) -> Result<(), NotCollapsed> {
        self.one_folio = false;
        match pte {
            Pte::None | Pte::Present(_) => self.none += 1,
            Pte::Soft(SoftLeaf::Swap { bits, .. }) if bits.uffd_wp => return Err(NotCollapsed::Marked),
            Pte::Soft(SoftLeaf::Swap { .. }) => self.swapped += 1,
            Pte::Soft(SoftLeaf::Migration { .. }) => return Err(NotCollapsed::Busy),
            Pte::Soft(SoftLeaf::Marker(Marker::Guard | Marker::Poisoned | Marker::UffdWp)) => {
                return Err(NotCollapsed::Marked);
            }
        }
        Ok(())
    }

    /// What is to be done, if the limits allow it; `None` if nothing is.
    ///
    /// # Errors
    /// The limit.
    pub(super) fn within(self, limits: CollapseLimits) -> Result<Option<Self>, NotCollapsed> {
        if self.one_folio {
            return Ok(None);
        }
        if self.swapped > limits.swapped {
            return Err(NotCollapsed::Swapped);
        }
        if self.shared > limits.shared {
            return Err(NotCollapsed::Shared);
        }
        if limits.none != u64::MAX && self.none + self.untouched > limits.none {
            return Err(NotCollapsed::Holes);
        }
        Ok(Some(self))
    }
}

fn after(first: Pfn, nth: u64) -> Option<Pfn> {
    first.0.checked_add(nth).map(Pfn)
}
