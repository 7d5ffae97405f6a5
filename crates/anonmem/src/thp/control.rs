//! The policy and the counters of a memory manager.
//!
//! Linux: mm/huge_memory.c `anon_enabled_store`, `count_mthp_stat`.

use crate::{
    objects::Objects,
    thp::{
        mode::{FolioPolicy, ThpDisable},
        stats::FolioEvent,
    },
    vma::flags::VmFlags,
};
use anonmem_hal::{Machine, Order, VaRange};

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

    /// Whether a mapping of these addresses has a window of a size that the policy allows. What is mapped
    /// there is not asked, nor who watches it.
    #[doc(alias = "thp_vma_allowable_orders")]
    pub(crate) fn has_window(&self, range: VaRange, flags: VmFlags, disable: ThpDisable) -> bool {
        let orders = self.folio_policy.orders(disable, flags - VmFlags::UFFD);
        (1..=orders.largest()).filter(|&order| orders.has(order)).any(|order| {
            let bytes = Order::new(order).bytes() as u64;
            range.end.align_down(bytes).0.checked_sub(bytes).is_some_and(|start| start >= range.start.0)
        })
    }

    /// Counts one event on this CPU.
    pub(crate) fn count_folio(&self, order: Order, event: FolioEvent) {
        self.folio_events.add(order, event, 1);
    }

    /// Counts `n` of them.
    pub(crate) fn add_folio(&self, order: Order, event: FolioEvent, n: u64) {
        self.folio_events.add(order, event, n);
    }

    /// How often `event` happened to folios of `order`, which is 9 at most.
    pub fn folio_event(&self, order: Order, event: FolioEvent) -> u64 {
        self.folio_events.total(order, event)
    }
}
