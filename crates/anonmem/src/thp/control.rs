//! The policy and the counters of a memory manager.
//!
//! Linux: mm/huge_memory.c `anon_enabled_store`, `count_mthp_stat`.

use crate::{
    objects::Objects,
    thp::{mode::FolioPolicy, stats::FolioEvent},
};
use anonmem_hal::{Machine, Order};

impl<M: Machine> Objects<M> {
    /// The sizes of folios that faults take.
    pub fn folio_policy(&self) -> FolioPolicy {
        self.folio_policy.get()
    }

    /// Changes the sizes of folios that faults take from now on. Folios that are there stay what they are.
    #[doc(alias = "anon_enabled_store")]
    pub fn set_folio_policy(&self, policy: FolioPolicy) {
        self.folio_policy.set(policy);
    }

    /// Counts one event on this CPU.
    pub(crate) fn count_folio(&self, order: Order, event: FolioEvent) {
        self.folio_events.count(order, event);
    }

    /// How often `event` happened to folios of `order`, which is 9 at most.
    pub fn folio_event(&self, order: Order, event: FolioEvent) -> u64 {
        self.folio_events.total(order, event)
    }
}
