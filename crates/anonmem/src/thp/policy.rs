//! Which sizes of folio a fault may take, as of now.
//!
//! The modes are one word, and what follows from them another, which every first touch reads. For each order
//! it has one bit that says "everywhere", one that says "where the program asked", and one that says "auto".
//!
//! Linux: include/linux/huge_mm.h `thp_vma_allowable_orders`.

use crate::{
    thp::mode::{FolioPolicy, ThpDisable},
    vma::flags::VmFlags,
};
use anonmem_hal::Machine;
use anonmem_sync::{Atomic, Ordering};

/// The orders that a fault may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Orders {
    /// Without asking.
    pub(crate) free: u16,
    /// If the memory beside is in use.
    pub(crate) auto: u16,
}

impl Orders {
    /// Whether there is none.
    pub(crate) const fn is_empty(self) -> bool {
        self.free | self.auto == 0
    }

    /// The largest order that is allowed one way or the other; 0 if there is none.
    pub(crate) const fn largest(self) -> u8 {
        let all = self.free | self.auto;
        if all == 0 { 0 } else { all.ilog2() as u8 }
    }

    /// Whether it has `order`.
    pub(crate) const fn has(self, order: u8) -> bool {
        (self.free | self.auto) >> order & 1 != 0
    }

    /// Whether `order` needs no proof.
    pub(crate) const fn is_free(self, order: u8) -> bool {
        self.free >> order & 1 != 0
    }
}

/// The policy of a `Vm`, as it is now.
pub(crate) struct FolioPolicyNow<M> {
    modes: Atomic<u64, M>,
    allowed: Atomic<u64, M>,
}

impl<M: Machine> FolioPolicyNow<M> {
    pub(crate) fn new(policy: FolioPolicy) -> Self {
        Self { modes: Atomic::new(policy.encode()), allowed: Atomic::new(policy.allowed()) }
    }

    /// The modes.
    pub(crate) fn get(&self) -> FolioPolicy {
        FolioPolicy::decode(self.modes.load(Ordering::Relaxed))
    }

    /// Changes the modes.
    pub(crate) fn set(&self, policy: FolioPolicy) {
        self.modes.store(policy.encode(), Ordering::Relaxed);
        self.allowed.store(policy.allowed(), Ordering::Relaxed);
    }

    /// Whether any order is allowed anywhere: the one question that a fault of a single page asks.
    #[inline(always)]
    pub(crate) fn is_on(&self) -> bool {
        self.allowed.peek() != 0
    }

    /// The orders for a fault in a VMA with `flags`.
    pub(crate) fn orders(&self, disable: ThpDisable, flags: VmFlags) -> Orders {
        let word = self.allowed.load(Ordering::Relaxed);
        let advised = flags.contains(VmFlags::HUGEPAGE);
        let disabled = match disable {
            ThpDisable::No => false,
            ThpDisable::Yes => true,
            ThpDisable::ExceptAdvised => !advised,
        };
        // Who watches a mapping wants to be told of each page.
        if disabled || flags.intersects(VmFlags::NOHUGEPAGE.union(VmFlags::UFFD)) {
            return Orders::default();
        }
        let advised = if advised { (word >> 16) as u16 } else { 0 };
        let free = word as u16 | advised;
        Orders { free, auto: (word >> 32) as u16 & !free }
    }
}
