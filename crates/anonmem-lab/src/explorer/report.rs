//! What an exploration says about itself.

use super::{Exploration, Failure, search::Outcome};
use crate::{scenario::Program, trace::Trace};
use core::{fmt, time::Duration};

/// A failure, and how to see it again.
#[derive(Clone, Debug)]
pub struct Found {
    /// What went wrong.
    pub failure: Failure,
    /// Names the execution; see [`super::replay()`].
    pub replay: String,
    /// The execution, as columns.
    pub trace: Trace,
    /// With how many preemptions it was found, if a bounded search found it.
    pub preemptions: Option<u32>,
}

/// The verdict of an exploration: what was explored, and what came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// Its version.
    pub version: u64,
    /// The memory model.
    pub model: &'static str,
    /// The search and its bound.
    pub search: String,
    /// How many CPUs acted.
    pub nr_cpus: usize,
    /// How many executions were tried.
    pub executions: u64,
    /// How many of them ran to their end.
    pub complete: u64,
    /// How many were given up as redundant.
    pub redundant: u64,
    /// Steps in all.
    pub steps: u64,
    /// Those of them that took turns; the others concern one CPU alone.
    pub turns: u64,
    /// Steps of the longest execution.
    pub longest: usize,
    /// Whether everything within the bound was tried, and nothing left out.
    pub exhausted: bool,
    /// What the exploration left out although it could happen: then the verdict is a bounded one.
    pub cuts: Vec<&'static str>,
    /// Whether the search came to the end of what it was asked for. If it did not, and knows of a smaller
    /// bound, it speaks of that.
    pub ended: bool,
    /// The processor time of the executions, the checks at their ends included; not the first building of the
    /// world.
    pub elapsed: Duration,
    /// The failure, if one was found.
    pub found: Option<Found>,
    /// The trace of a replay that did not fail.
    pub representative: Option<Trace>,
}

impl Report {
    pub(crate) fn new(
        program: &dyn Program,
        config: &Exploration,
        outcome: &Outcome,
        found: Option<Found>,
    ) -> Self {
        Self {
            scenario: program.name().into(),
            version: program.version(),
            model: config.model.name(),
            search: config.search.name() + &config.inject.name(),
            nr_cpus: program.nr_cpus(),
            executions: outcome.counters.executions,
            complete: outcome.counters.complete,
            redundant: outcome.counters.redundant,
            steps: outcome.counters.steps,
            turns: outcome.counters.turns,
            longest: outcome.counters.longest,
            exhausted: outcome.exhausted && outcome.cuts.is_empty(),
            cuts: outcome.cuts.clone(),
            ended: outcome.exhausted,
            elapsed: outcome.elapsed,
            found,
            representative: None,
        }
    }

    /// Executions per second of [`elapsed`](Self::elapsed); `None` if that was too short to say.
    pub fn rate(&self) -> Option<f64> {
        let seconds = self.elapsed.as_secs_f64();
        (seconds >= 0.01).then(|| self.executions as f64 / seconds)
    }

    /// How far the exploration went, in a word or a few.
    pub fn extent(&self) -> String {
        match (self.exhausted, &self.cuts[..]) {
            (true, _) => "exhausted".into(),
            (false, []) => "not exhausted".into(),
            (false, cuts) => format!("bounded: {}", cuts.join(", ")),
        }
    }

    /// Panics with the failure and its columns, if there is one; for tests.
    ///
    /// # Panics
    /// If something was found.
    #[track_caller]
    pub fn assert_passed(&self) {
        if let Some(found) = &self.found {
            panic!("{self}\n{}", found.trace);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} CPUs, {}, {}: {} executions ({} redundant), {} steps ({} turns), longest {}, {:.3} s, {}{}",
            self.scenario,
            self.nr_cpus,
            self.model,
            self.search,
            self.executions,
            self.redundant,
            self.steps,
            self.turns,
            self.longest,
            self.elapsed.as_secs_f64(),
            self.rate().map(|rate| format!("{rate:.0}/s, ")).unwrap_or_default(),
            self.extent(),
        )?;
        match &self.found {
            Some(found) => write!(f, "\n  {}\n  replay {}", found.failure, found.replay),
            None => Ok(()),
        }
    }
}
