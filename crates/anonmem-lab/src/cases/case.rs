//! What a case is made of, and how it is explored.

use crate::{Exploration, Inject, Model, Program, Report, Search, explore, explore_bounded};
use core::time::Duration;

/// One case.
#[derive(Debug)]
pub struct Case {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line.
    pub title: &'static str,
    /// What happened, where, when.
    pub happened: &'static str,
    /// Which locks the callers hold, and who may run: part of the verdict.
    pub environment: &'static str,
    /// What must hold.
    pub rule: &'static str,
    /// The bugs that the case must find.
    pub mutants: &'static [Mutant],
    /// How it is explored.
    pub runs: &'static [Run],
    /// Builds the scenario: as it is, or with a [`Mutant::Variant`].
    pub program: fn(variant: Option<&str>) -> Box<dyn Program>,
}

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// `mutants/NAME.patch`, against the production source.
    Patch {
        /// The file's name without `.patch`.
        name: &'static str,
        /// The bug in one line.
        what: &'static str,
    },
    /// A variant of the case's own model.
    Variant {
        /// Its name, as given to [`Case::program`].
        name: &'static str,
        /// The bug in one line.
        what: &'static str,
        /// The memory models under which it shows.
        shows_under: &'static [Model],
    },
}

impl Mutant {
    /// Its name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Patch { name, .. } | Self::Variant { name, .. } => name,
        }
    }

    /// The bug in one line.
    pub const fn what(&self) -> &'static str {
        match self {
            Self::Patch { what, .. } | Self::Variant { what, .. } => what,
        }
    }
}

/// How far to search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Everything.
    Exhaust,
    /// Everything with at most so many preemptions, raised from zero.
    Bound(u32),
    /// So many executions of probabilistic concurrency testing.
    Sample(u64),
}

/// One way in which a case is explored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The memory model.
    pub model: Model,
    /// How far.
    pub extent: Extent,
    /// What the environment may do.
    pub inject: Inject,
}

impl Run {
    /// A run without misfortune.
    pub const fn new(model: Model, extent: Extent) -> Self {
        Self { model, extent, inject: Inject::NONE }
    }

    /// The same where the environment may misbehave.
    #[must_use]
    pub const fn with(self, inject: Inject) -> Self {
        Self { inject, ..self }
    }

    /// Explores `program` within `budget`.
    pub fn explore(&self, program: &dyn Program, budget: Duration) -> Report {
        let config = Exploration { model: self.model, inject: self.inject, budget, ..Exploration::default() };
        match self.extent {
            Extent::Exhaust => explore(program, &config.search(Search::Dpor)),
            Extent::Bound(most) => explore_bounded(program, &config, most),
            Extent::Sample(executions) => {
                explore(program, &config.search(Search::Pct { seed: 1, depth: 4, executions }))
            }
        }
    }
}

impl Case {
    /// Explores the case in all its ways, `budget` for each; stops at the first failure.
    pub fn check(&self, variant: Option<&str>, budget: Duration) -> Vec<Report> {
        let program = (self.program)(variant);
        let mut reports = Vec::new();
        for run in self.runs {
            reports.push(run.explore(&*program, budget));
            if reports.last().is_some_and(|r| r.found.is_some()) {
                break;
            }
        }
        reports
    }
}
