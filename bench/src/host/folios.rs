//! The sizes of folios that the host can be told to use, and whether it did.

use clap::ValueEnum;
use std::{fs, io, path::Path};

/// The size of the folios of a measurement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, ValueEnum)]
pub enum Folios {
    /// Base pages of 4 KiB only.
    #[default]
    #[value(name = "4K")]
    Base,
    /// Folios of 64 KiB, mapped by base entries.
    #[value(name = "64K")]
    Kib64,
    /// 2 MiB, mapped by one entry.
    #[value(name = "2M")]
    Mib2,
}

/// All sizes.
pub const ALL: &[Folios] = &[Folios::Base, Folios::Kib64, Folios::Mib2];
/// The sizes that are larger than a page.
pub const LARGE: &[Folios] = &[Folios::Kib64, Folios::Mib2];
/// Base pages alone.
pub const BASE: &[Folios] = &[Folios::Base];

/// More than one in so many that the host had to make small instead is too much.
const FALLBACK_ONE_IN: u64 = 100;

impl Folios {
    /// As it is printed and asked for.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Base => "4K",
            Self::Kib64 => "64K",
            Self::Mib2 => "2M",
        }
    }

    /// Base pages in one.
    pub const fn pages(self) -> u64 {
        match self {
            Self::Base => 1,
            Self::Kib64 => 16,
            Self::Mib2 => 512,
        }
    }

    /// The directory of the size's settings; none for base pages.
    pub const fn dir(self) -> Option<&'static str> {
        match self {
            Self::Base => None,
            Self::Kib64 => Some("hugepages-64kB"),
            Self::Mib2 => Some("hugepages-2048kB"),
        }
    }
}

/// How many folios of a size the host has made, and how often it fell back to smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    made: u64,
    fallbacks: u64,
}

impl Made {
    /// The counts since boot; `None` for base pages and where the host does not count.
    pub fn now(root: &Path, folios: Folios) -> Option<Self> {
        let stats = root.join(folios.dir()?).join("stats");
        let count = |name| fs::read_to_string(stats.join(name)).ok()?.trim().parse().ok();
        Some(Self { made: count("anon_fault_alloc")?, fallbacks: count("anon_fault_fallback")? })
    }

    /// Whether the host has used the size since `before`.
    ///
    /// # Errors
    /// If it has not, or too often a smaller one.
    pub fn check_since(self, before: Self, folios: Folios) -> io::Result<()> {
        let made = self.made.saturating_sub(before.made);
        let fallbacks = self.fallbacks.saturating_sub(before.fallbacks);
        if made > 0 && fallbacks <= made / FALLBACK_ONE_IN {
            return Ok(());
        }
        let size = folios.label();
        Err(io::Error::other(format!(
            "the host made {made} folios of {size} and fell back to smaller ones {fallbacks} times: its memory is fragmented"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_falls_back_has_not_measured_large_folios() {
        let made = |made, fallbacks| Made { made, fallbacks };
        assert!(made(1100, 10).check_since(made(100, 0), Folios::Mib2).is_ok());
        assert!(made(1100, 11).check_since(made(100, 0), Folios::Mib2).is_err());
        assert!(made(100, 0).check_since(made(100, 0), Folios::Kib64).is_err());
    }
}
