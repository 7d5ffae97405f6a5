//! One look of the kernel's at what is used, and whether looks are shown.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One look of the kernel's; sizes are in bytes.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Sample {
    /// Milliseconds since boot.
    pub ms: u64,
    /// All memory.
    pub total: u64,
    /// What is free of it.
    pub free: u64,
    /// Pages of programs.
    pub user: u64,
    /// Page tables.
    pub tables: u64,
    /// Swap space in use.
    pub swap: u64,
    /// Page faults so far.
    pub faults: u64,
    /// Forks so far.
    pub forks: u64,
    /// Pages written to swap so far.
    pub swap_outs: u64,
    /// Pages read from swap so far.
    pub swap_ins: u64,
    /// How many large folios there are, by their size in KiB.
    pub folios: BTreeMap<u64, u64>,
    /// The processes that have most.
    pub processes: Vec<Process>,
}

/// A process in a look.
#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Bytes of memory.
    pub rss: u64,
    /// Bytes in swap.
    pub swap: u64,
    /// Page faults so far.
    pub faults: u64,
}

impl Sample {
    /// Bytes in large folios, by their size in KiB.
    #[must_use]
    pub fn large(&self) -> BTreeMap<u64, u64> {
        self.folios.iter().map(|(&kib, &count)| (kib, kib * 1024 * count)).collect()
    }

    /// How often something happened in a second since an earlier look.
    #[must_use]
    pub fn rate(&self, before: &Self, count: fn(&Self) -> u64) -> u64 {
        let ms = self.ms.saturating_sub(before.ms).max(1);
        count(self).saturating_sub(count(before)) * 1000 / ms
    }
}

/// Whether looks are shown while the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// They are: as a table that changes on a terminal, else as a line a second.
    Yes,
    /// They are not.
    No,
}
