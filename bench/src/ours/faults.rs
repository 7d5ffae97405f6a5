//! How faults went: under which lock, refused for what, and how long threads waited.

use super::World;
use anonmem::Event;
use anonmem_sync::{Level, order};
use serde::Serialize;
use std::collections::BTreeMap;

/// Counts of the faults of a row, summed over its samples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FaultCounts {
    /// All of them.
    pub faults: u64,
    /// Resolved without any lock of a VMA.
    pub speculative: u64,
    /// Resolved under the VMA's lock.
    pub vma: u64,
    /// Resolved under the mmap lock.
    pub mmap: u64,
    /// Begun again from the entry.
    pub retries: u64,
    /// Sent on to a stronger lock, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// How often a thread waited for a sleeping lock, whatever it was doing.
    pub waits: u64,
    /// How long, together.
    pub waited_ns: u64,
}

impl FaultCounts {
    /// What `world` has counted so far.
    pub fn so_far(world: &World) -> Self {
        let stats = world.vm.stats();
        let levels = [order::MmapLock::RANK, order::VmaLock::RANK, order::FolioLock::RANK];
        let waits = levels.map(|level| world.vm.machine().cpus().lock_waits().of(level));
        let reasons = Event::ALL.iter().filter_map(|&e| Some((e.label().strip_prefix("refused_")?, e)));
        Self {
            faults: stats.event(Event::Fault),
            speculative: stats.event(Event::FaultSpeculative),
            vma: stats.event(Event::FaultVmaLock),
            mmap: stats.event(Event::FaultMmapLock),
            retries: stats.event(Event::FaultRetry),
            refused: reasons.map(|(name, event)| (name, stats.event(event))).collect(),
            waits: waits.iter().map(|waited| waited.times).sum(),
            waited_ns: waits.iter().map(|waited| waited.ns).sum(),
        }
    }

    /// Adds what `world` has counted since `before`.
    pub fn add_since(&mut self, before: &Self, world: &World) {
        let now = Self::so_far(world);
        self.faults += now.faults - before.faults;
        self.speculative += now.speculative - before.speculative;
        self.vma += now.vma - before.vma;
        self.mmap += now.mmap - before.mmap;
        self.retries += now.retries - before.retries;
        for (reason, n) in now.refused {
            *self.refused.entry(reason).or_default() += n - before.refused.get(reason).copied().unwrap_or(0);
        }
        self.waits += now.waits - before.waits;
        self.waited_ns += now.waited_ns - before.waited_ns;
    }

    /// The reasons for which faults were refused, in words.
    pub fn reasons(&self) -> String {
        let some = self.refused.iter().filter(|(_, n)| **n > 0);
        let words = some.map(|(reason, n)| format!("{} {n}", reason.replace('_', " ")));
        words.collect::<Vec<_>>().join(", ")
    }
}
