//! Which sizes of folio a fault may take.
//!
//! Every order from 1 to 9 has a mode of its own, as in Linux's
//! `/sys/kernel/mm/transparent_hugepage/hugepages-*kB/enabled`; `inherit` is what the mode for all says.
//! `auto` is this project's own: a large folio only beside memory that is in use already, and never more that
//! nobody has touched than a tenth of all.
//!
//! The modes are one word, and what follows from them another, which every first touch reads: for each order
//! one bit that says "everywhere", one that says "where the program asked", one that says "auto".
//!
//! Linux: include/linux/huge_mm.h `thp_vma_allowable_orders`; mm/huge_memory.c `huge_anon_orders_always`.

use crate::{
    mm::{Mm, slot::MmSlot},
    objects::Objects,
    vma::flags::VmFlags,
};
use anonmem_hal::{Machine, Order};
use anonmem_sync::{Atomic, Ordering};

/// The largest order of a folio behind entries of the last level: as many pages as a table has entries.
pub const MAX_FOLIO_ORDER: u8 = 9;

/// When folios of one order are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum FolioMode {
    /// Not at all.
    #[default]
    Never = 0,
    /// Where a program asked for them (`MADV_HUGEPAGE`).
    Madvise = 1,
    /// Everywhere, but where a program asked for none (`MADV_NOHUGEPAGE`).
    Always = 2,
    /// As the mode for all orders says.
    Inherit = 3,
    /// Beside memory that is in use, within a bound.
    Auto = 4,
}

impl FolioMode {
    const ALL: [Self; 5] = [Self::Never, Self::Madvise, Self::Always, Self::Inherit, Self::Auto];
}

/// The modes of all orders: what a [`Vm`](crate::Vm) is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FolioPolicy {
    modes: [FolioMode; MAX_FOLIO_ORDER as usize + 1],
    all: FolioMode,
}

impl Default for FolioPolicy {
    /// Pages of 4 KiB only.
    fn default() -> Self {
        Self { modes: [FolioMode::Never; MAX_FOLIO_ORDER as usize + 1], all: FolioMode::Madvise }
    }
}

impl FolioPolicy {
    /// The same, with another mode for `order`.
    ///
    /// # Panics
    /// If `order` is 0 or exceeds [`MAX_FOLIO_ORDER`].
    #[must_use]
    pub const fn with(mut self, order: Order, mode: FolioMode) -> Self {
        assert!(order.get() > 0 && order.get() <= MAX_FOLIO_ORDER, "an order from 1 to 9 has a mode");
        self.modes[order.get() as usize] = mode;
        self
    }

    /// The same mode for all orders from 1 to `most`.
    #[must_use]
    pub const fn up_to(most: Order, mode: FolioMode) -> Self {
        let mut policy =
            Self { modes: [FolioMode::Never; MAX_FOLIO_ORDER as usize + 1], all: FolioMode::Madvise };
        let mut order = 1;
        while order <= most.get() {
            policy = policy.with(Order::new(order), mode);
            order += 1;
        }
        policy
    }

    /// The same, with another mode for all orders that inherit.
    #[must_use]
    pub const fn with_all(mut self, mode: FolioMode) -> Self {
        self.all = mode;
        self
    }

    /// The mode of `order`; of order 0, that of all that inherit.
    pub const fn mode(&self, order: Order) -> FolioMode {
        if order.get() == 0 { self.all } else { self.modes[order.get() as usize] }
    }

    const fn encode(self) -> u64 {
        let (mut word, mut order) = (self.all as u64, 1);
        while order < self.modes.len() {
            word |= (self.modes[order] as u64) << (4 * order);
            order += 1;
        }
        word
    }

    fn decode(word: u64) -> Self {
        let mode = |order: usize| FolioMode::ALL[(word >> (4 * order) & 15) as usize];
        let mut policy = Self { modes: core::array::from_fn(mode), all: mode(0) };
        policy.modes[0] = FolioMode::Never;
        policy
    }

    /// What follows for a fault.
    fn allowed(self) -> u64 {
        (1..self.modes.len()).fold(0, |bits, order| {
            let mode = match self.modes[order] {
                FolioMode::Inherit => self.all,
                mode => mode,
            };
            let field = match mode {
                FolioMode::Never | FolioMode::Inherit => return bits,
                FolioMode::Always => 0,
                FolioMode::Madvise => 16,
                FolioMode::Auto => 32,
            };
            bits | 1 << (field + order)
        })
    }
}

/// What a program has said of itself (`prctl(PR_SET_THP_DISABLE)`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum ThpDisable {
    /// Nothing.
    #[default]
    No = 0,
    /// It wants no large folios.
    Yes = 1,
    /// It wants none but where it asks for them (`PR_THP_DISABLE_EXCEPT_ADVISED`).
    ExceptAdvised = 3,
}

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

    /// Whether any order is allowed anywhere: the one question that a fault of a single page asks.
    #[inline(always)]
    pub(crate) fn is_on(&self) -> bool {
        self.allowed.peek() != 0
    }

    /// The orders for a fault in a VMA with `flags`.
    pub(crate) fn orders(&self, slot: &MmSlot<M>, flags: VmFlags) -> Orders {
        let word = self.allowed.load(Ordering::Relaxed);
        let advised = flags.contains(VmFlags::HUGEPAGE);
        let disabled = match slot.thp_disable.load(Ordering::Relaxed) {
            0 => false,
            1 => true,
            _ => !advised,
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

impl<M: Machine> Objects<M> {
    /// The sizes of folios that faults take.
    pub fn folio_policy(&self) -> FolioPolicy {
        FolioPolicy::decode(self.folio_policy.modes.load(Ordering::Relaxed))
    }

    /// Changes the sizes of folios that faults take from now on. Folios that are there stay what they are.
    #[doc(alias = "anon_enabled_store")]
    pub fn set_folio_policy(&self, policy: FolioPolicy) {
        let now = &self.folio_policy;
        now.modes.store(policy.encode(), Ordering::Relaxed);
        now.allowed.store(policy.allowed(), Ordering::Relaxed);
    }
}

impl<M: Machine> Mm<'_, M> {
    /// What the program has said of large folios.
    #[doc(alias = "PR_GET_THP_DISABLE")]
    pub fn thp_disable(&self) -> ThpDisable {
        match self.slot().thp_disable.load(Ordering::Relaxed) {
            0 => ThpDisable::No,
            1 => ThpDisable::Yes,
            _ => ThpDisable::ExceptAdvised,
        }
    }

    /// Lets the program have no large folios from now on, or have them again. A child inherits it.
    #[doc(alias = "PR_SET_THP_DISABLE")]
    pub fn set_thp_disable(&self, disable: ThpDisable) {
        self.slot().thp_disable.store(disable as u32, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn modes_survive_their_word_and_say_what_is_allowed() {
        let policy = FolioPolicy::up_to(Order::new(4), FolioMode::Always)
            .with(Order::new(2), FolioMode::Inherit)
            .with(Order::new(9), FolioMode::Auto)
            .with(Order::new(3), FolioMode::Madvise);
        for all in FolioMode::ALL {
            let policy = policy.with_all(all);
            assert_eq!(FolioPolicy::decode(policy.encode()), policy);
            assert_eq!(policy.mode(Order::ZERO), all);
        }
        let allowed = policy.with_all(FolioMode::Always).allowed();
        assert_eq!(allowed, 1 << 1 | 1 << 2 | 1 << 4 | 1 << (16 + 3) | 1 << (32 + 9));
        assert_eq!(FolioPolicy::default().allowed(), 0);
    }
}
