//! How to explore: the search, the memory model, what the environment may do, the limits.

use super::Broken;
use crate::memory::Model;
use core::time::Duration;

/// How to search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Search {
    /// All executions, one of each class of equivalent ones.
    Dpor,
    /// All executions, one by one.
    Plain,
    /// All executions with at most so many preemptions.
    Bounded {
        /// Times that a CPU is interrupted although it could go on.
        preemptions: u32,
    },
    /// Random walks.
    Random {
        /// Where the generator starts.
        seed: u64,
        /// How many.
        executions: u64,
    },
    /// Probabilistic concurrency testing.
    Pct {
        /// Where the generator starts.
        seed: u64,
        /// How many ordering constraints the failure may need.
        depth: u32,
        /// How many executions.
        executions: u64,
    },
    /// One execution, as a `Guide` says.
    Guided,
}

impl Search {
    pub(crate) fn seed(self) -> u64 {
        match self {
            Self::Random { seed, .. } | Self::Pct { seed, .. } => seed,
            Self::Dpor | Self::Plain | Self::Bounded { .. } | Self::Guided => 1,
        }
    }

    /// Its name in reports, with the bound.
    pub fn name(self) -> String {
        match self {
            Self::Dpor => "dpor".into(),
            Self::Plain => "plain".into(),
            Self::Bounded { preemptions } => format!("preemptions<={preemptions}"),
            Self::Random { seed, .. } => format!("random(seed {seed})"),
            Self::Pct { seed, depth, .. } => format!("pct(depth {depth}, seed {seed})"),
            Self::Guided => "replay".into(),
        }
    }
}

/// What the environment may do apart from scheduling. Everything is off by default, because each multiplies
/// the executions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Inject {
    /// At most this many of the following per execution.
    pub at_most: u32,
    /// An allocation of frames may fail.
    pub allocation: bool,
    /// A try-lock may fail although the lock is free.
    pub try_lock: bool,
    /// A parked task may wake up without being woken.
    pub wake_up: bool,
    /// A user access may fault although its translation allows it.
    pub fault: bool,
    /// The MMU may drop the translation that a user access is about to use.
    pub mmu: bool,
    /// The MMU may, at any user access, translate the next page, too (which sets its accessed bit and fills
    /// the TLB), and begin a walk at a table that it remembers from an earlier one.
    pub speculation: bool,
    /// A transfer of a swap device may fail.
    pub device: bool,
}

impl Inject {
    /// Nothing happens that was not asked for.
    pub const NONE: Self = Self {
        at_most: 0,
        allocation: false,
        try_lock: false,
        wake_up: false,
        fault: false,
        mmu: false,
        speculation: false,
        device: false,
    };

    /// Up to two tasks wake up for no reason.
    pub const WAKE_UPS: Self = Self { at_most: 2, wake_up: true, ..Self::NONE };

    /// A try-lock fails for no reason.
    pub const TRY_LOCK: Self = Self { at_most: 1, try_lock: true, ..Self::NONE };

    /// As reports show it: nothing, or ` +2 of fault, mmu`.
    pub fn name(self) -> String {
        let all = [
            (self.allocation, "allocation"),
            (self.try_lock, "try-lock"),
            (self.wake_up, "wake-up"),
            (self.fault, "fault"),
            (self.mmu, "mmu"),
            (self.speculation, "speculation"),
            (self.device, "device"),
        ];
        let names: Vec<_> = all.iter().filter_map(|(on, name)| on.then_some(*name)).collect();
        if names.is_empty() { String::new() } else { format!(" +{} of {}", self.at_most, names.join(", ")) }
    }
}

/// How to explore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exploration {
    /// The search.
    pub search: Search,
    /// The memory model.
    pub model: Model,
    /// What the environment may do.
    pub inject: Inject,
    /// More steps than this in one execution are a livelock.
    pub max_steps: usize,
    /// Stop after so many executions.
    pub max_executions: u64,
    /// Stop after so much processor time of the thread that explores.
    pub budget: Duration,
    /// How long to look for a shorter trace of a failure.
    pub minimise: Duration,
    /// Test only: explore with a wrong independence relation.
    #[doc(hidden)]
    pub broken: Broken,
    /// Test only: a deadlock is an end like any other.
    #[doc(hidden)]
    pub deadlock_is_an_end: bool,
    /// Test only: what one CPU alone touches takes turns too.
    #[doc(hidden)]
    pub every_step: bool,
}

impl Default for Exploration {
    fn default() -> Self {
        Self {
            search: Search::Dpor,
            model: Model::Sc,
            inject: Inject::default(),
            max_steps: 20_000,
            max_executions: u64::MAX,
            budget: Duration::from_secs(60),
            minimise: Duration::from_secs(3),
            broken: Broken::Not,
            deadlock_is_an_end: false,
            every_step: false,
        }
    }
}

impl Exploration {
    /// The same with another search.
    #[must_use]
    pub fn search(self, search: Search) -> Self {
        Self { search, ..self }
    }

    /// The same under another memory model.
    #[must_use]
    pub fn model(self, model: Model) -> Self {
        Self { model, ..self }
    }
}
