//! Pages that are merged together: taken from their entries one after the other, flushed once, compared, and
//! replaced.
//!
//! A page that is found to have an equal waits here, locked, until there are enough of them. Its entries are
//! as they were meanwhile, and nobody waits for it who does not wait for folio locks.

use super::{
    merge::{Equal, NotMerged, Pending},
    state::add,
};
use crate::{ids::StableId, rmap::machine::Machine, vm::Vm};
use anonmem_hal::Pfn;
use anonmem_pgtable::TlbBatch;

/// Pages that are merged at once, at most.
const MOST: usize = 16;
/// Frames that the hand passes before those that wait are merged: they are locked.
const PASSED: u64 = 128;

/// Pages that are about to be merged.
pub(super) struct MergeBatch<'v, M: Machine> {
    vm: &'v Vm<M>,
    pending: [Option<Pending<'v, M>>; MOST],
    len: usize,
    /// Frames that the hand has passed since the last time.
    passed: u64,
    /// Pages that were given up.
    freed: u64,
}

impl<'v, M: Machine> MergeBatch<'v, M> {
    /// An empty one.
    pub(super) const fn new(vm: &'v Vm<M>) -> Self {
        Self { vm, pending: [const { None }; MOST], len: 0, passed: 0, freed: 0 }
    }

    /// Adds one, and merges all if there are enough.
    pub(super) fn add(&mut self, pending: Pending<'v, M>) {
        let is_large = pending.page.page.folio().is_large();
        self.pending[self.len] = Some(pending);
        self.len += 1;
        // Whoever faults on a large folio waits for the comparison of all of it, and for nobody else's.
        if self.len == MOST || is_large {
            self.finish();
        }
    }

    /// Notes that the hand has passed a frame.
    pub(super) fn pass(&mut self) {
        self.passed += 1;
        if self.passed > PASSED {
            self.finish();
        }
    }

    fn all(&self) -> impl Iterator<Item = &Pending<'v, M>> {
        self.pending[..self.len].iter().flatten()
    }

    /// Whether a page of this hash and domain is about to become a stable node's: then an equal one is to
    /// find it there.
    pub(super) fn makes_stable(&self, (hash, domain): (u64, u64)) -> bool {
        self.all().any(|pending| {
            matches!(pending.equal, Equal::Other(_)) && (pending.hash, pending.page.domain) == (hash, domain)
        })
    }

    /// How many pages are about to be merged into that of a node.
    pub(super) fn coming_to(&self, id: StableId) -> u64 {
        let comes = |equal: &Equal<'v, M>| matches!(equal, Equal::Stable(stable) if stable.id == id);
        self.all().filter(|pending| comes(&pending.equal)).count() as u64
    }

    /// Merges the rest; returns how many pages were given up in all.
    pub(super) fn into_freed(mut self) -> u64 {
        self.finish();
        self.freed
    }

    /// Merges all of them.
    pub(super) fn finish(&mut self) {
        self.passed = 0;
        if self.len == 0 {
            return;
        }
        let mut tlb = TlbBatch::new(&self.vm.frames);
        let mut taken = [false; MOST];
        for (pending, taken) in self.pending.iter().flatten().zip(&mut taken) {
            *taken = self.vm.take_from_entries(pending, &mut tlb);
        }
        // Nobody can write to any of them any more.
        tlb.flush();
        let len = core::mem::take(&mut self.len);
        for (pending, taken) in self.pending[..len].iter_mut().filter_map(Option::take).zip(taken) {
            self.freed += conclude(self.vm, pending, taken);
        }
    }
}

/// Merges a page, if its entries are taken, and counts what came of it; returns how many pages are free.
fn conclude<M: Machine>(vm: &Vm<M>, pending: Pending<'_, M>, taken: bool) -> u64 {
    let Pending { page, hash, equal } = pending;
    let (counts, pfn): (_, Pfn) = (&vm.ksm.counts, page.page.pfn());
    let pages = page.page.folio().owned_order().pages();
    let (merged, counter) = match equal {
        Equal::Zero => (vm.merge_with_zero_page(page, taken), &counts.zeroed),
        Equal::Stable(stable) => (vm.merge_into(page, stable, taken), &counts.merged),
        Equal::Other(other) => {
            let merged = vm.merge_two(page, other, hash, taken);
            if merged.is_err() {
                // The other one may be in use for long: the next equal page finds this one.
                vm.ksm.wait_for_equal(&vm.frames, hash, pfn.0 - vm.machine().base_pfn().0);
            }
            (merged, &counts.merged)
        }
    };
    match merged {
        Ok(()) => {
            add(counter, pages);
            pages
        }
        Err(NotMerged) => {
            add(&counts.refused, pages);
            0
        }
    }
}
