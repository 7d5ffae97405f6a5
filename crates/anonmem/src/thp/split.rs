//! A folio falls into smaller ones.
//!
//! Pages that are in the swap cache stay there: each piece goes on as the cached folio of its own slots.
//! Whoever splits holds a count of each of them, so that none loses its page meanwhile.
//!
//! What maps the folio stays as it is: the entries of a run say of each page what they said before. Only the
//! metadata change, under the locks of the tables that map it ([`TableSet`]). So a split needs no migration
//! entries, and no flush but that of a leaf that becomes a table. No fault waits for it. It is refused while
//! anybody has a reference or a pin, and says so.
//!
//! When memory is short, folios of which a part was unmapped are split first of all, before any page leaves.
//! What nobody maps becomes free then, and nothing has to be written anywhere.
//!
//! Linux: mm/huge_memory.c `folio_split`, `deferred_split_scan`. Differs: no queue; the folios are found by
//! their counts, by a sweep that only begins when one has become partly mapped.

use crate::{
    objects::Objects,
    rmap::machine::Machine,
    rmap::{Rmap, hit::Form, reverse_map::ReverseMap},
    thp::stats::FolioEvent,
};
use anonmem_frame::{FolioGuard, FolioOwner, FolioRef, Kind, Mapping, SplitRefused};
use anonmem_hal::{NodeSet, Order};
use anonmem_pgtable::{ManyTables, TableSet, TooManyTables};
use core::ops::ControlFlow;

impl<M: Machine> Objects<M> {
    /// Splits a folio, which is locked, into folios of 2^`to` pages; what of it nobody maps becomes free.
    /// `page` is a reference to it, and the only one; it goes on as one to the first piece.
    ///
    /// # Locks
    /// The folio lock. Takes the anon_vma's lock, and tries those of the tables that map it.
    ///
    /// # Errors
    /// [`SplitRefused`]: it may be pinned, others have a reference, or many tables map it, and another such
    /// folio is being split.
    #[doc(alias = "split_folio_to_order")]
    pub fn split_folio<'v>(
        &'v self,
        lock: &FolioGuard<'v, M>,
        page: &FolioRef<'v, M>,
        to: Order,
    ) -> Result<(), SplitRefused> {
        let (folio, order) = (lock.folio(), lock.folio().order());
        // Without its device a folio is cached nowhere.
        let device = folio.swap_entry().map(|entry| self.swap_user(entry));
        if matches!(device, Some(None)) {
            return Err(SplitRefused::Busy);
        }
        let cached = self.swap_hold_cached(lock);
        let result = match Rmap::<M>::lock(self, folio) {
            Some(guard) => {
                let mut tables = TableSet::default();
                let mut found = ControlFlow::Continue(());
                for form in [Form::Present, Form::Migration] {
                    if found.is_break() {
                        break;
                    }
                    found = Rmap::<M>::walk(&guard, folio, form, |hit| {
                        match tables.add(hit.into_table().0.table()) {
                            Ok(()) => ControlFlow::Continue(()),
                            Err(TooManyTables) => ControlFlow::Break(()),
                        }
                    });
                }
                match found {
                    ControlFlow::Continue(()) => tables.split(lock, page, to, cached.counts()),
                    ControlFlow::Break(()) => {
                        let Some(mut turn) = self.frames.split_turn() else {
                            self.count_folio(order, FolioEvent::SplitShared);
                            return Err(SplitRefused::Busy);
                        };
                        let mut tables = ManyTables::new(&mut turn);
                        for form in [Form::Present, Form::Migration] {
                            let _ = Rmap::<M>::walk(&guard, folio, form, |hit| {
                                tables.add(hit.into_table().0.table());
                                ControlFlow::<()>::Continue(())
                            });
                        }
                        tables.split(lock, page, to, cached.counts())
                    }
                }
            }
            // Cached for swap, and mapped by nobody: there are no tables. Whoever would map it waits for the
            // lock.
            None if !folio.is_mapped() => {
                let none = TableSet::<M, <Rmap<M> as ReverseMap<M>>::Locked<'v>>::default();
                none.split(lock, page, to, cached.counts())
            }
            None if matches!(folio.mapping(), Mapping::Ksm(_)) => Err(SplitRefused::Merged),
            None => Err(SplitRefused::Busy),
        };
        match result {
            Ok(()) => self.count_folio(order, FolioEvent::Split),
            Err(SplitRefused::Pinned) => self.count_folio(order, FolioEvent::SplitPinned),
            Err(SplitRefused::Busy) => self.count_folio(order, FolioEvent::SplitBusy),
            Err(SplitRefused::NotLarge | SplitRefused::Merged) => {}
        }
        result
    }

    /// Splits the folios that are partly mapped, if there may be any. Returns how many pages of `nodes` that
    /// freed. Those of others are split, too: it costs nobody anything.
    ///
    /// # Locks
    /// The caller holds no folio, anon_vma or spin lock.
    #[doc(alias = "deferred_split_scan")]
    pub(crate) fn split_partly_mapped(&self, nodes: NodeSet) -> u64 {
        if !self.frames.has_partly_mapped_hint() || !self.frames.take_partly_mapped_hint() {
            return 0;
        }
        let mut freed = 0;
        self.frames.for_each_frame(|pfn, kind, order| {
            if kind != Kind::Folio || order == Order::ZERO {
                return;
            }
            let Some(page) = self.frames.try_get(pfn).filter(|page| page.pfn() == pfn) else { return };
            let pages = self.split_if_partly_mapped(page);
            freed += if self.nodes_of_memory.have(&self.frames, nodes, pfn) { pages } else { 0 };
        });
        freed
    }

    /// Splits one folio, if a part of it is mapped nowhere; returns the pages that became free.
    fn split_if_partly_mapped(&self, page: FolioRef<'_, M>) -> u64 {
        let (folio, order) = (page.folio(), page.folio().order());
        // What is in the swap cache waits for the entries that ask for it.
        let unmapped = folio.unmapped_pages().saturating_sub(self.swap_references(folio));
        // What is merged leaves whole, and is not split.
        if unmapped == 0 || order == Order::ZERO || !matches!(folio.mapping(), Mapping::Anon(_)) {
            return 0;
        }
        let split = page.try_lock().is_some_and(|lock| self.split_folio(&lock, &page, Order::ZERO).is_ok());
        if !split {
            // Somebody is using it just now: the next one who needs memory tries again.
            self.frames.set_partly_mapped_hint();
            return 0;
        }
        self.count_folio(order, FolioEvent::SplitPartly);
        unmapped
    }
}
