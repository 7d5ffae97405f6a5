//! What is measured with and what comes out: the sides, their samples, the outcome.
//!
//! The nouns that the driver (`run.rs`), the experiments and the reports share; none of the three is known
//! here.

use crate::{
    REGION_PAGES,
    host::{about::Machine, child::Blackboard, entry::Entry, folios::Folios, load::Load},
    ours::{FaultCounts, World},
    rows::{self, Row},
    series::Series,
};
use anonmem::{FolioMode, FolioPolicy, LockMode};
use anonmem_hal::Order;
use std::{collections::BTreeMap, io, sync::OnceLock};

/// Who was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// anonmem.
    Ours,
    /// anonmem with folios of this size, which is more than a page.
    OursLarge(Folios),
    /// The host's Linux, with folios of this size.
    Host(Folios),
    /// The Rust peer.
    Peer,
}

/// Samples by row and side.
#[derive(Debug, Default)]
pub struct Samples {
    series: BTreeMap<(&'static str, Side), Series>,
    faults: BTreeMap<&'static str, FaultCounts>,
    /// Whether this turn only warms up, so that its samples do not count.
    pub warming: bool,
    /// The folios that our side has in this turn; its samples are of that size.
    pub ours: Folios,
}

impl Samples {
    /// Adds a sample, in the row's unit.
    pub fn add(&mut self, row: &'static str, side: Side, value: f64) {
        debug_assert!(rows::find(row).is_some(), "no row {row}");
        let side = match (side, self.ours) {
            (Side::Ours, Folios::Kib64 | Folios::Mib2) => Side::OursLarge(self.ours),
            (side, _) => side,
        };
        if !self.warming {
            self.series.entry((row, side)).or_default().0.push(value);
        }
    }

    /// Adds samples of one side, each in nanoseconds for a whole region.
    pub fn per_page(&mut self, side: Side) -> impl FnMut(&'static str, f64) {
        move |row, ns| self.add(row, side, ns / REGION_PAGES as f64)
    }

    /// Adds a sample of ours, and how the faults went that `world` resolved for it.
    pub fn add_with_faults(&mut self, row: &'static str, world: &World, measure: impl FnOnce() -> f64) {
        let before = FaultCounts::so_far(world);
        self.add(row, Side::Ours, measure());
        if !self.warming && self.ours == Folios::Base {
            self.faults.entry(row).or_default().add_since(&before, world);
        }
    }

    /// How the faults of a row went, where that was counted.
    pub fn faults_of(&self, row: &'static str) -> Option<&FaultCounts> {
        self.faults.get(row)
    }

    /// The samples of one side of a row.
    pub fn of(&self, row: &'static str, side: Side) -> Option<&Series> {
        self.series.get(&(row, side))
    }
}

/// What the sides work with.
pub struct Bench {
    /// Our memory manager and its memory, in lock mode mmap.
    pub world: World,
    /// The same in the other lock modes, made when they are first wanted.
    modes: [OnceLock<World>; 2],
    /// Where children of this process leave their times.
    pub board: Blackboard,
    /// Host CPUs that may be used.
    pub cpus: Vec<usize>,
}

impl Bench {
    /// The sides' memory, for a host whose `cpus` may be used.
    ///
    /// # Errors
    /// The host has no memory for the times of children.
    pub fn new(cpus: Vec<usize>) -> io::Result<Self> {
        let modes = [OnceLock::new(), OnceLock::new()];
        Ok(Self { world: World::new(), modes, board: Blackboard::new()?, cpus })
    }

    /// Lets our side have folios of this size from now on.
    pub fn set_folios(&self, folios: Folios) {
        let policy = match folios {
            Folios::Base => FolioPolicy::default(),
            Folios::Kib64 | Folios::Mib2 => {
                let order = Order::new(folios.pages().ilog2() as u8);
                FolioPolicy::default().with(order, FolioMode::Always)
            }
        };
        let made = self.modes.iter().filter_map(OnceLock::get);
        made.chain([&self.world]).for_each(|world| world.vm.set_folio_policy(policy));
    }

    /// The world whose faults hold what `mode` says.
    pub fn world_in(&self, mode: LockMode) -> &World {
        let other = match mode {
            LockMode::Mmap => return &self.world,
            LockMode::Vma => &self.modes[0],
            LockMode::Speculative => &self.modes[1],
        };
        other.get_or_init(|| World::in_mode(mode))
    }
}

/// Why a side of a row was not measured.
pub type Cannot = BTreeMap<(&'static str, Side), String>;

/// Everything that was found out.
pub struct Outcome {
    /// The machine.
    pub machine: Machine,
    /// What the host's entries cost.
    pub entry: Entry,
    /// How many samples were asked for.
    pub runs: u32,
    /// The rows that were measured, in order.
    pub rows: Vec<&'static Row>,
    /// The rows that wait for something.
    pub not_yet: Vec<&'static rows::NotYet>,
    /// The samples.
    pub samples: Samples,
    /// Why a side of a row was not measured.
    pub cannot: Cannot,
    /// What others did meanwhile.
    pub load: Load,
    /// Seconds that it took.
    pub seconds: f64,
}
