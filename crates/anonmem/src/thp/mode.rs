//! When folios of a size are taken, and what a program says of itself.
//!
//! Every order from 1 to 9 has a mode of its own, as in Linux's
//! `/sys/kernel/mm/transparent_hugepage/hugepages-*kB/enabled`; `inherit` is what the mode for all says.
//! `auto` is this project's own: a large folio only beside memory that is in use already. Of all pages, a
//! tenth at most may be ones that nobody has touched.
//!
//! Linux: mm/huge_memory.c `anon_enabled_store`.

use anonmem_hal::Order;

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
    /// Beside memory that is in use, within a bound; without asking where a program asked for them.
    Auto = 4,
}

impl FolioMode {
    pub(super) const ALL: [Self; 5] = [Self::Never, Self::Madvise, Self::Always, Self::Inherit, Self::Auto];
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

    pub(super) const fn encode(self) -> u64 {
        let (mut word, mut order) = (self.all as u64, 1);
        while order < self.modes.len() {
            word |= (self.modes[order] as u64) << (4 * order);
            order += 1;
        }
        word
    }

    pub(super) fn decode(word: u64) -> Self {
        let mode = |order: usize| FolioMode::ALL[(word >> (4 * order) & 15) as usize];
        let mut policy = Self { modes: core::array::from_fn(mode), all: mode(0) };
        policy.modes[0] = FolioMode::Never;
        policy
    }

    /// What follows for a fault.
    pub(super) fn allowed(self) -> u64 {
        (1..self.modes.len()).fold(0, |bits, order| {
            let own = self.modes[order];
            let mode = if own == FolioMode::Inherit { self.all } else { own };
            let fields = match mode {
                FolioMode::Never | FolioMode::Inherit => 0,
                FolioMode::Always => 1,
                FolioMode::Madvise => 1 << 16,
                FolioMode::Auto => 1 << 16 | 1 << 32,
            };
            bits | fields << order
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

impl ThpDisable {
    /// The inverse of `as u32`.
    pub(crate) const fn decode(word: u32) -> Self {
        match word {
            0 => Self::No,
            1 => Self::Yes,
            _ => Self::ExceptAdvised,
        }
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
        assert_eq!(allowed, 1 << 1 | 1 << 2 | 1 << 4 | 1 << (16 + 3) | 1 << (16 + 9) | 1 << (32 + 9));
        assert_eq!(FolioPolicy::default().allowed(), 0);
    }
}
