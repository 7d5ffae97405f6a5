//! Litmus tests: what each memory model shows, and what it cannot.
//!
//! | test | relaxed | acquire/release | seq-cst | under `sc` |
//! |---|---|---|---|---|
//! | SB, store buffering: both read 0 | yes | yes | no (accesses or fences) | no |
//! | MP, message passing: flag seen, data not | yes | no | no | no |
//! | LB, load buffering: both read 1 | **not shown**, C11 allows it | no | no | no |
//! | IRIW: two readers disagree on the order of two stores | yes | yes | no | no |
//! | CoRR: a CPU reads new, then old | no | no | no | no |
//! | 2+2W: both first stores win | yes | yes | no | no |
//!
//! Load buffering would need a load that returns a store which has not been executed; `c11` here is C11 with
//! `po` and `rf` acyclic, so nothing comes out of thin air either. See [`crate::memory::c11`] for the other
//! two points in which it is stronger than C11.
//!
//! A test is a [`Tiny`] program; [`outcomes`] explores it and returns the register values that were seen.

use crate::{
    Exploration, Sim,
    explorer::{Guide, Search, search},
    memory::Model,
    scenario::Scenario,
    sim::SimProbe,
};
use anonmem_hal::{LockKind, Probe, Sched};
use anonmem_sync::{Atomic, Ordering, fence, spin_until};
use core::cell::{Cell, RefCell};
use std::{collections::BTreeSet, rc::Rc};

/// Words of a tiny program.
pub const VARS: usize = 4;
/// Locks of a tiny program.
pub const LOCKS: usize = 2;
/// Registers of each CPU.
const REGISTERS: usize = 12;

/// One instruction. Loads, try-locks and exchanges append to the CPU's registers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Instr {
    /// Loads a word.
    Load(usize, Ordering),
    /// Stores a value to a word.
    Store(usize, u64, Ordering),
    /// Adds to a word; the old value is a register.
    Add(usize, u64, Ordering),
    /// A fence.
    Fence(Ordering),
    /// Runs the instructions with a lock held.
    Locked(usize, LockKind, Vec<Instr>),
    /// Runs the instructions if a lock is to be had; a register says whether.
    Try(usize, LockKind, Vec<Instr>),
    /// Tries a lock until it is to be had, spins in between, and runs the instructions with it held.
    Spin(usize, LockKind, Vec<Instr>),
    /// Waits until a word is not zero.
    WaitFor(usize),
    /// Waits until the first word is not zero or the second one is; the condition looks at the second only if
    /// it must.
    WaitForEither(usize, usize),
}

/// A program for each CPU.
pub type Tiny = Vec<Vec<Instr>>;

/// The registers of all CPUs, then the final values of the words.
pub type Outcome = Vec<u64>;

/// The state of a tiny program.
pub(crate) struct World {
    vars: [Atomic<u64, Sim>; VARS],
    locks: [u64; LOCKS],
    registers: Vec<[Cell<u64>; REGISTERS]>,
    used: Vec<Cell<usize>>,
}

impl World {
    fn new(nr_cpus: usize) -> Self {
        Self {
            vars: Default::default(),
            locks: [0; LOCKS],
            registers: (0..nr_cpus).map(|_| Default::default()).collect(),
            used: (0..nr_cpus).map(|_| Cell::new(0)).collect(),
        }
    }

    fn push(&self, cpu: usize, value: u64) {
        let used = self.used[cpu].get();
        self.registers[cpu][used].set(value);
        self.used[cpu].set(used + 1);
    }

    fn outcome(&self) -> Outcome {
        let registers = self.registers.iter().zip(&self.used);
        let registers = registers.flat_map(|(r, used)| r[..used.get()].iter().map(Cell::get));
        registers.chain(self.vars.iter().map(Atomic::peek)).collect()
    }

    fn run(&self, cpu: usize, code: &[Instr]) {
        for instr in code {
            match instr {
                Instr::Load(var, order) => self.push(cpu, self.vars[*var].load(*order)),
                Instr::Store(var, value, order) => self.vars[*var].store(*value, *order),
                Instr::Add(var, value, order) => self.push(cpu, self.vars[*var].fetch_add(*value, *order)),
                Instr::Fence(order) => fence::<Sim>(*order),
                Instr::Locked(lock, mode, body) => {
                    let at = core::ptr::from_ref(&self.locks[*lock]).addr();
                    SimProbe::lock(at, *mode);
                    self.run(cpu, body);
                    SimProbe::unlock(at, *mode);
                }
                Instr::Try(lock, mode, body) => {
                    let at = core::ptr::from_ref(&self.locks[*lock]).addr();
                    let taken = SimProbe::try_lock(at, *mode);
                    self.push(cpu, taken.into());
                    if taken {
                        self.run(cpu, body);
                        SimProbe::unlock(at, *mode);
                    }
                }
                Instr::Spin(lock, mode, body) => {
                    let at = core::ptr::from_ref(&self.locks[*lock]).addr();
                    while !SimProbe::try_lock(at, *mode) {
                        Sim::relax();
                    }
                    self.run(cpu, body);
                    SimProbe::unlock(at, *mode);
                }
                Instr::WaitFor(var) => spin_until::<Sim>(&|| self.vars[*var].load(Ordering::Acquire) != 0),
                Instr::WaitForEither(a, b) => spin_until::<Sim>(&|| {
                    self.vars[*a].load(Ordering::Acquire) != 0 || self.vars[*b].load(Ordering::Acquire) != 0
                }),
            }
        }
    }
}

/// The scenario that runs `tiny` and calls `seen` with each outcome.
pub(crate) fn scenario(tiny: &Tiny, seen: impl Fn(Outcome) + 'static) -> Scenario<World> {
    let nr_cpus = tiny.len();
    let mut scenario = Scenario::new("tiny", 1, move || World::new(nr_cpus));
    for (cpu, code) in tiny.iter().cloned().enumerate() {
        scenario = scenario.cpu("", move |w| w.run(cpu, &code));
    }
    // Words and locks are arrays in the world; registers belong to one CPU each.
    scenario.in_place().check(move |w| {
        seen(w.outcome());
        Ok(())
    })
}

/// All outcomes of `tiny` under `model`.
pub fn outcomes(tiny: &Tiny, model: Model, search_kind: Search) -> BTreeSet<Outcome> {
    let config = Exploration::default().search(search_kind).model(model);
    outcomes_as(tiny, &config).expect("a litmus test is exhausted")
}

/// All outcomes that a search as in `config` reaches; `None` if it came to no end.
pub(crate) fn outcomes_as(tiny: &Tiny, config: &Exploration) -> Option<BTreeSet<Outcome>> {
    let all = Rc::new(RefCell::new(BTreeSet::new()));
    let sink = all.clone();
    let scenario = scenario(tiny, move |outcome| {
        sink.borrow_mut().insert(outcome);
    });
    let outcome = search(&scenario, config, Guide::default(), false, &mut |_| ());
    outcome.exhausted.then(|| all.take())
}

#[cfg(test)]
mod tests {
    use super::{
        Instr::{Add, Fence, Load, Store},
        *,
    };
    use Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

    const X: usize = 0;
    const Y: usize = 1;

    /// Whether an outcome starts with these registers.
    fn shows(tiny: &Tiny, model: Model, registers: &[u64]) -> bool {
        let dpor = outcomes(tiny, model, Search::Dpor);
        assert_eq!(dpor, outcomes(tiny, model, Search::Plain), "{tiny:?}");
        dpor.iter().any(|o| o.starts_with(registers))
    }

    /// The load order that goes with a store order.
    fn of_load(order: Ordering) -> Ordering {
        if order == Release { Acquire } else { order }
    }

    const ORDERS: [Ordering; 3] = [Relaxed, Release, SeqCst];

    fn sb(store: Ordering, load: Ordering, between: Option<Ordering>) -> Tiny {
        let fence = between.map(Fence);
        let cpu = |mine, other| {
            [Some(Store(mine, 1, store)), fence.clone(), Some(Load(other, load))]
                .into_iter()
                .flatten()
                .collect()
        };
        vec![cpu(X, Y), cpu(Y, X)]
    }

    #[test]
    fn store_buffering_shows_unless_everything_is_seq_cst() {
        for order in ORDERS {
            let tiny = sb(order, of_load(order), None);
            assert_eq!(shows(&tiny, Model::C11, &[0, 0]), order != SeqCst, "{order:?}");
            assert!(!shows(&tiny, Model::Sc, &[0, 0]));
        }
        assert!(!shows(&sb(Relaxed, Relaxed, Some(SeqCst)), Model::C11, &[0, 0]));
        assert!(shows(&sb(Relaxed, Relaxed, Some(AcqRel)), Model::C11, &[0, 0]));
        assert!(shows(&sb(SeqCst, Relaxed, None), Model::C11, &[0, 0]));
    }

    fn mp(store: Ordering, load: Ordering, fences: Option<(Ordering, Ordering)>) -> Tiny {
        let write = [Some(Store(X, 1, Relaxed)), fences.map(|f| Fence(f.0)), Some(Store(Y, 1, store))];
        let read = [Some(Load(Y, load)), fences.map(|f| Fence(f.1)), Some(Load(X, Relaxed))];
        vec![write.into_iter().flatten().collect(), read.into_iter().flatten().collect()]
    }

    #[test]
    fn message_passing_needs_both_sides() {
        let stale = &[1, 0];
        assert!(shows(&mp(Relaxed, Relaxed, None), Model::C11, stale));
        assert!(shows(&mp(Release, Relaxed, None), Model::C11, stale));
        assert!(shows(&mp(Relaxed, Acquire, None), Model::C11, stale));
        assert!(!shows(&mp(Release, Acquire, None), Model::C11, stale));
        assert!(!shows(&mp(SeqCst, SeqCst, None), Model::C11, stale));
        assert!(!shows(&mp(Relaxed, Relaxed, Some((Release, Acquire))), Model::C11, stale));
        assert!(shows(&mp(Relaxed, Relaxed, Some((Acquire, Release))), Model::C11, stale));
        assert!(!shows(&mp(Relaxed, Relaxed, None), Model::Sc, stale));
    }

    #[test]
    fn load_buffering_is_never_shown() {
        for order in ORDERS {
            let cpu = |a, b| vec![Load(a, of_load(order)), Store(b, 1, order)];
            for model in [Model::Sc, Model::C11] {
                assert!(!shows(&vec![cpu(X, Y), cpu(Y, X)], model, &[1, 1]));
            }
        }
    }

    #[test]
    fn readers_disagree_on_independent_writes_unless_seq_cst() {
        for order in ORDERS {
            let read = |a, b| vec![Load(a, of_load(order)), Load(b, of_load(order))];
            let tiny = vec![vec![Store(X, 1, order)], vec![Store(Y, 1, order)], read(X, Y), read(Y, X)];
            let disagree = &[1, 0, 1, 0];
            let dpor = outcomes(&tiny, Model::C11, Search::Dpor);
            assert_eq!(dpor.iter().any(|o| o.starts_with(disagree)), order != SeqCst, "{order:?}");
            let sc = outcomes(&tiny, Model::Sc, Search::Dpor);
            assert!(!sc.iter().any(|o| o.starts_with(disagree)));
        }
        // With fences between the loads it is forbidden too.
        let read = |a, b| vec![Load(a, Relaxed), Fence(SeqCst), Load(b, Relaxed)];
        let tiny = vec![vec![Store(X, 1, Relaxed)], vec![Store(Y, 1, Relaxed)], read(X, Y), read(Y, X)];
        let dpor = outcomes(&tiny, Model::C11, Search::Dpor);
        assert!(!dpor.iter().any(|o| o.starts_with(&[1, 0, 1, 0])));
    }

    #[test]
    fn a_cpu_never_reads_new_and_then_old() {
        for model in [Model::Sc, Model::C11] {
            for order in ORDERS {
                let read = vec![Load(X, of_load(order)), Load(X, of_load(order))];
                assert!(!shows(&vec![vec![Store(X, 1, order)], read], model, &[1, 0]));
            }
        }
    }

    #[test]
    fn both_first_stores_win_unless_seq_cst() {
        for order in ORDERS {
            let cpu = |a, b| vec![Store(a, 1, order), Store(b, 2, order)];
            let tiny = vec![cpu(X, Y), cpu(Y, X)];
            assert_eq!(shows(&tiny, Model::C11, &[1, 1]), order != SeqCst, "{order:?}");
            assert!(!shows(&tiny, Model::Sc, &[1, 1]));
        }
    }

    #[test]
    fn a_release_sequence_goes_on_through_read_modify_writes_only() {
        let reader = vec![Load(Y, Acquire), Load(X, Relaxed)];
        let writer = vec![Store(X, 1, Relaxed), Store(Y, 1, Release)];
        let through_add = vec![writer.clone(), vec![Add(Y, 1, Relaxed)], reader.clone()];
        assert!(!outcomes(&through_add, Model::C11, Search::Dpor).iter().any(|o| o[0..3] == [1, 2, 0]));
        let mut own_store = writer;
        own_store.push(Store(Y, 2, Relaxed));
        assert!(shows(&vec![own_store, reader], Model::C11, &[2, 0]));
    }

    #[test]
    fn increments_are_never_lost() {
        let tiny = vec![vec![Add(X, 1, Relaxed)], vec![Add(X, 1, Relaxed)]];
        let all = outcomes(&tiny, Model::C11, Search::Dpor);
        assert_eq!(all.into_iter().collect::<Vec<_>>(), [vec![0, 1, 2, 0, 0, 0], vec![1, 0, 2, 0, 0, 0]]);
    }
}
