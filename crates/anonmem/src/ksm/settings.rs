//! What KSM is told: how much may share a page, who with whom, and what is worth a look.
//!
//! Linux: /sys/kernel/mm/ksm. Differs: merge domains.

use anonmem_hal::Machine;
use anonmem_sync::{Atomic, Ordering};

/// Whose pages may be merged with whose.
///
/// A page that was merged tells, by how long a write to it takes, that somebody else has the same bytes. So
/// programs that do not trust each other share nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MergeDomains {
    /// Those of programs that descend from one another by fork: a new address space ([`Vm::new_mm`]) begins a
    /// domain of its own.
    ///
    /// [`Vm::new_mm`]: crate::Vm::new_mm
    #[default]
    Families,
    /// Everybody's with everybody's, as in Linux.
    One,
}

/// What KSM is told; see [`Vm::set_ksm`](crate::Vm::set_ksm).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KsmSettings {
    /// The most mappings of one page that merging makes; then the next equal page begins another. At least 2.
    pub max_page_sharing: u32,
    /// Whether pages of zeroes are given up for the zero page.
    pub use_zero_pages: bool,
    /// Whether a page of which nothing came is passed over for some sweeps.
    pub smart_scan: bool,
    /// Whose pages may be merged with whose.
    pub domains: MergeDomains,
}

impl Default for KsmSettings {
    fn default() -> Self {
        Self {
            max_page_sharing: 256,
            use_zero_pages: false,
            smart_scan: true,
            domains: MergeDomains::default(),
        }
    }
}

const ZERO_PAGES: u64 = 1 << 32;
const SMART: u64 = 1 << 33;
const ONE_DOMAIN: u64 = 1 << 34;

/// The settings as one word.
pub(crate) struct KsmSettingsNow<M>(Atomic<u64, M>);

impl<M: Machine> KsmSettingsNow<M> {
    pub(crate) fn new(settings: KsmSettings) -> Self {
        Self(Atomic::new(encode(settings)))
    }

    pub(crate) fn get(&self) -> KsmSettings {
        let bits = self.0.load(Ordering::Relaxed);
        KsmSettings {
            max_page_sharing: bits as u32,
            use_zero_pages: bits & ZERO_PAGES != 0,
            smart_scan: bits & SMART != 0,
            domains: if bits & ONE_DOMAIN == 0 { MergeDomains::Families } else { MergeDomains::One },
        }
    }

    pub(crate) fn set(&self, settings: KsmSettings) {
        self.0.store(encode(settings), Ordering::Relaxed);
    }
}

fn encode(settings: KsmSettings) -> u64 {
    let KsmSettings { max_page_sharing, use_zero_pages, smart_scan, domains } = settings;
    let bit = |on: bool, bit: u64| if on { bit } else { 0 };
    u64::from(max_page_sharing)
        | bit(use_zero_pages, ZERO_PAGES)
        | bit(smart_scan, SMART)
        | bit(domains == MergeDomains::One, ONE_DOMAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anonmem_testkit::VecMachine;

    #[test]
    fn settings_come_back_as_they_were_set() {
        let now = KsmSettingsNow::<VecMachine>::new(KsmSettings::default());
        for bits in 0..8 {
            let settings = KsmSettings {
                max_page_sharing: u32::MAX - bits,
                use_zero_pages: bits & 1 != 0,
                smart_scan: bits & 2 != 0,
                domains: if bits & 4 != 0 { MergeDomains::One } else { MergeDomains::Families },
            };
            now.set(settings);
            assert_eq!(now.get(), settings);
        }
    }
}
