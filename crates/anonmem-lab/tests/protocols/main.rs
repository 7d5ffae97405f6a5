//! Protocols that are known to be right or wrong: the explorer says so of each, under both memory models.
//!
//! Each is explored with reduction, with reduction where what one CPU alone touches takes no turns, and with
//! up to four preemptions; where plain exhaustive search ends soon, its verdict is compared, too.

mod exclusion;
mod litmus;
mod objects;
mod reclamation;

use anonmem_lab::{Exploration, Model, Report, Scenario, Search, Sim, explore};
use anonmem_sync::{
    Atomic, Plain, RawSpin, Rcu, RwSem, WaitQueue,
    order::{MmapLock, Ptl},
};
use std::time::Duration;

/// What the protocols are made of.
struct World {
    a: [Atomic<u64, Sim>; 8],
    p: [Plain<u64, Sim>; 4],
    spin: RawSpin<Sim, Ptl>,
    rwsem: RwSem<Sim, MmapLock, ()>,
    queue: WaitQueue<Sim>,
    rcu: Rcu<Sim>,
}

impl World {
    fn new() -> Self {
        Self {
            a: Default::default(),
            p: [const { Plain::new(0) }; 4],
            spin: RawSpin::new(),
            rwsem: RwSem::new(()),
            queue: WaitQueue::new(),
            rcu: Rcu::new(),
        }
    }
}

/// What is known of a protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Right,
    /// Under any model.
    Wrong,
    /// Under `c11` only.
    WrongIfWeak,
}

struct Protocol {
    name: &'static str,
    known: Known,
    cpus: &'static [fn(&World)],
    check: fn(&World) -> bool,
}

impl Protocol {
    const fn new(name: &'static str, known: Known, cpus: &'static [fn(&World)]) -> Self {
        Self { name, known, cpus, check: |_| true }
    }

    /// The same with a rule for the end.
    const fn ends(self, check: fn(&World) -> bool) -> Self {
        Self { check, ..self }
    }

    fn scenario(&self) -> Scenario<World> {
        let mut scenario = Scenario::new(self.name, 1, World::new);
        for cpu in self.cpus {
            scenario = scenario.cpu("", *cpu);
        }
        let check = self.check;
        scenario.check(move |w| check(w).then_some(()).ok_or_else(|| "the end is wrong".into()))
    }

    /// Whether a failure is to be found under `model`.
    fn fails(&self, model: Model) -> bool {
        match self.known {
            Known::Right => false,
            Known::Wrong => true,
            Known::WrongIfWeak => model == Model::C11,
        }
    }

    fn judge(&self, what: &str, model: Model, report: &Report, wrong: &mut Vec<String>) {
        let found = report.found.is_some();
        if found != self.fails(model) || !found && !report.exhausted {
            wrong.push(format!("{} is known to be {:?}; {what}: {report}", self.name, self.known));
        }
    }
}

/// More executions of plain search than this tell nothing that is worth their time.
const PLAIN: u64 = 150_000;

fn check(protocols: &[Protocol]) {
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for protocol in protocols {
        for model in [Model::Sc, Model::C11] {
            let config = Exploration {
                budget: Duration::from_secs(20),
                minimise: Duration::ZERO,
                ..Exploration::default()
            };
            let config = config.model(model);
            let in_place = protocol.scenario().in_place();
            protocol.judge("reduced", model, &explore(&protocol.scenario(), &config), &mut wrong);
            protocol.judge("private steps left out", model, &explore(&in_place, &config), &mut wrong);
            let bounded = config.search(Search::Bounded { preemptions: 3 });
            protocol.judge("three preemptions", model, &explore(&in_place, &bounded), &mut wrong);
            let plain = Exploration { max_executions: PLAIN, ..config.search(Search::Plain) };
            let plain = explore(&protocol.scenario(), &plain);
            if plain.exhausted || plain.found.is_some() {
                protocol.judge("plain", model, &plain, &mut wrong);
                compared += 1;
            }
        }
    }
    println!("{} protocols, {compared} explorations compared with plain search", protocols.len());
    assert!(wrong.is_empty(), "{} verdicts are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn litmus_shapes() {
    check(litmus::ALL);
}

#[test]
fn mutual_exclusion() {
    check(exclusion::ALL);
}

#[test]
fn shared_objects() {
    check(objects::ALL);
}

#[test]
fn reclamation_of_memory() {
    check(reclamation::ALL);
}

#[test]
fn there_are_enough_of_them_and_their_names_differ() {
    let all = [litmus::ALL, exclusion::ALL, objects::ALL, reclamation::ALL];
    let names: std::collections::BTreeSet<_> = all.iter().flat_map(|a| a.iter()).map(|p| p.name).collect();
    assert_eq!(names.len(), all.iter().map(|a| a.len()).sum::<usize>());
    assert!(names.len() >= 50, "{}", names.len());
}
