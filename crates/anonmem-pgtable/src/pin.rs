//! Pinning what entries map, under the lock of their table.
//!
//! Only pages that nobody else has are pinned: exclusive ones, and those of shared objects. What is shared,
//! or the zero page, has to be made the caller's own first, by a fault.
//!
//! That is under the lock; `pin_fast` does without.
//!
//! Linux: mm/gup.c `follow_page_pte`.

use crate::{guard::PteGuard, leaf::LeafGuard, owned::Mapped, owned_leaf::MappedLeaf, space::StableVma};
use anonmem_frame::FolioPin;
use anonmem_hal::{Machine, Va};

/// What came of pinning the page of an entry.
pub enum PinEntry<'f, M: Machine> {
    /// It is pinned.
    Pinned(FolioPin<'f, M>),
    /// It is the zero page, which nobody pins.
    Zero,
    /// Others may have it: it must be made the entry's own first.
    Shared,
    /// It is pinned as often as can be counted.
    TooManyPins,
    /// There is no page.
    NoPage,
}

impl<'a, M: Machine, G: StableVma<M>> PteGuard<'a, M, G> {
    /// Pins the page of the entry for `va`, if it is nobody else's. Whether the entry allows what the page is
    /// wanted for, the caller asks.
    #[doc(alias = "follow_page_pte")]
    pub fn pin(&self, va: Va) -> PinEntry<'a, M> {
        match self.mapped(va) {
            Mapped::Exclusive(page, _) => page.pin().map_or(PinEntry::TooManyPins, PinEntry::Pinned),
            // The entry has a mapping of it, so it has an owner: what may fail is only the count.
            Mapped::Shm(present) => {
                self.frames().try_pin(present.pfn).map_or(PinEntry::TooManyPins, PinEntry::Pinned)
            }
            Mapped::Zero(_) => PinEntry::Zero,
            Mapped::Shared(..) => PinEntry::Shared,
            Mapped::None | Mapped::Swap(..) | Mapped::Migration(..) | Mapped::Marker(_) => PinEntry::NoPage,
        }
    }
}

impl<'a, M: Machine, G: StableVma<M>> LeafGuard<'a, M, G> {
    /// The same of the page at `va`, which the leaf maps.
    #[doc(alias = "follow_trans_huge_pmd")]
    pub fn pin(&self, va: Va) -> PinEntry<'a, M> {
        match self.mapped() {
            MappedLeaf::Exclusive(folio, _) => {
                let nth = va.page() - self.range().start.page();
                folio.pin(nth).map_or(PinEntry::TooManyPins, PinEntry::Pinned)
            }
            MappedLeaf::Shared(..) => PinEntry::Shared,
            MappedLeaf::Migration(..) => PinEntry::NoPage,
        }
    }
}
