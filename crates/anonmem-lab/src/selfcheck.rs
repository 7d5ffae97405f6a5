//! The explorer checks itself: on random small programs, reduction loses nothing.
//!
//! For each program the set of traces that partial-order reduction reaches is compared with that of plain
//! exhaustive search. A trace is what equivalent executions have in common: every step with the steps that
//! it must come after (its vector clock) and the choices. A trace that is missing means that the lab could
//! say "cannot happen" of something that can; a trace that comes twice means that sleep sets do not work.
//!
//! Steps on what one CPU alone touches take no turns in other explorations. Here they do while traces are
//! compared, so that the traces are complete; then the outcomes without those turns are compared with the
//! outcomes of plain search.

use crate::{
    Exploration,
    explorer::{Broken, Guide, Search, engine::Engine, op::Kind, random::Rng, search},
    litmus::{Instr, LOCKS, Tiny, VARS, outcomes_as, scenario},
    memory::Model,
    scenario::Program,
};
use anonmem_hal::LockKind;
use anonmem_sync::Ordering;
use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

/// What a self-check came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Programs that were compared.
    pub programs: u32,
    /// Executions of plain search.
    pub plain: u64,
    /// Executions of reduction that ran to their end.
    pub reduced: u64,
    /// Executions that reduction gave up as redundant.
    pub redundant: u64,
    /// Programs of which reduction missed a trace, or showed one that does not exist.
    pub mismatches: Vec<String>,
    /// Traces that reduction reached twice.
    pub duplicates: u64,
    /// The first program with such a trace.
    pub twice: Option<String>,
}

/// Compares on `programs` random programs under `model`.
pub fn run(seed: u64, programs: u32, model: Model, broken: Broken) -> Summary {
    let mut rng = Rng::new(seed);
    let mut summary = Summary::default();
    while summary.programs < programs {
        let tiny = random_program(&mut rng, model);
        let config = Exploration {
            model,
            deadlock_is_an_end: true,
            every_step: true,
            max_executions: 30_000,
            ..Exploration::default().search(Search::Plain)
        };
        // One scenario for both, so that its objects have the same addresses.
        let program = scenario(&tiny, |_| ());
        let Some((plain, executions, _)) = traces(&program, &config) else { continue };
        let reduced = Exploration { broken, ..config.search(Search::Dpor) };
        let Some((reached, complete, redundant)) = traces(&program, &reduced) else {
            summary.mismatches.push(format!("reduction needs more executions than plain search: {tiny:?}"));
            summary.programs += 1;
            continue;
        };
        summary.programs += 1;
        compare_outcomes(&tiny, &config, &reduced, &mut summary);
        summary.plain += executions;
        summary.reduced += complete;
        summary.redundant += redundant;
        let duplicates = complete - reached.len() as u64;
        summary.duplicates += duplicates;
        if duplicates != 0 {
            summary.twice.get_or_insert_with(|| format!("{duplicates} of {complete}: {tiny:?}"));
        }
        if plain != reached {
            let missed = plain.difference(&reached).count();
            let invented = reached.difference(&plain).count();
            summary
                .mismatches
                .push(format!("{missed} of {} missed, {invented} invented: {tiny:?}", plain.len()));
        }
    }
    summary
}

/// Compares the outcomes of plain search with those of reduction where private steps take no turns.
fn compare_outcomes(tiny: &Tiny, plain: &Exploration, reduced: &Exploration, summary: &mut Summary) {
    let all = outcomes_as(tiny, plain).unwrap_or_default();
    for search in [Search::Dpor, Search::Bounded { preemptions: 99 }] {
        let config = Exploration { every_step: false, max_executions: u64::MAX, ..reduced.search(search) };
        let reached = outcomes_as(tiny, &config).unwrap_or_default();
        if all != reached {
            let (missed, invented) = (all.difference(&reached).count(), reached.difference(&all).count());
            summary.mismatches.push(format!(
                "{search:?} without private steps: {missed} of {} outcomes missed, {invented} invented: {tiny:?}",
                all.len()
            ));
        }
    }
}

/// The traces of a program, how many executions ended, and how many were redundant; `None` if too many.
fn traces(program: &dyn Program, config: &Exploration) -> Option<(HashSet<u64>, u64, u64)> {
    let mut traces = HashSet::new();
    let (mut ended, mut restarts) = (0, 0);
    let outcome = search(program, config, Guide::default(), false, &mut |e| {
        if restarts != e.counters.restarts {
            (ended, restarts) = (0, e.counters.restarts);
            traces.clear();
        }
        traces.insert(signature(e));
        ended += 1;
    });
    assert!(outcome.failure.is_none(), "{:?}", outcome.failure);
    outcome.exhausted.then_some((traces, ended, outcome.counters.redundant))
}

/// What equivalent executions have in common.
fn signature(e: &Engine) -> u64 {
    let mut steps: Vec<_> = e.nodes[..e.depth]
        .iter()
        .enumerate()
        .map(|(i, n)| {
            let end = e.nodes.get(i + 1).map_or(e.choice, |next| next.first_choice);
            let choices: Vec<u16> = e.choices[n.first_choice..end].iter().map(|c| c.value).collect();
            let object = match n.op.kind {
                Kind::Wait => 0,
                _ => e.objects.get(n.op.object).address,
            };
            (n.cpu, n.clock, n.op.kind, object, choices)
        })
        .collect();
    steps.sort_by(|a, b| (a.0, a.1.0[usize::from(a.0)]).cmp(&(b.0, b.1.0[usize::from(b.0)])));
    let mut hasher = DefaultHasher::new();
    steps.hash(&mut hasher);
    hasher.finish()
}

fn random_program(rng: &mut Rng, model: Model) -> Tiny {
    let nr_cpus = 2 + rng.below(3);
    let (steps, vars) = match model {
        Model::Sc => (9, 1 + rng.below(3)),
        Model::C11 => (6, 1 + rng.below(2)),
    };
    let mut left: usize = steps;
    let mut tiny: Tiny = (0..nr_cpus).map(|_| Vec::new()).collect();
    while left > 0 {
        let cpu = rng.below(nr_cpus);
        let (instr, cost) = random_instr(rng, vars, model, true);
        tiny[cpu].push(instr);
        left = left.saturating_sub(cost);
    }
    tiny
}

fn random_instr(rng: &mut Rng, vars: usize, model: Model, nest: bool) -> (Instr, usize) {
    let var = rng.below(vars.min(VARS));
    let value = rng.below(2) as u64 + u64::from(rng.below(3) > 0);
    let orders = [Ordering::Relaxed, Ordering::Acquire, Ordering::Release, Ordering::SeqCst];
    let load_order = [Ordering::Relaxed, Ordering::Acquire, Ordering::SeqCst][rng.below(3)];
    let store_order = [Ordering::Relaxed, Ordering::Release, Ordering::SeqCst][rng.below(3)];
    let lock = rng.below(LOCKS);
    let mode = if rng.below(2) == 0 { LockKind::Exclusive } else { LockKind::Shared };
    match rng.below(if nest { 16 } else { 8 }) {
        0..=2 => (Instr::Load(var, load_order), 1),
        3..=4 => (Instr::Store(var, value, store_order), 1),
        5 => (Instr::Add(var, 1, orders[rng.below(4)]), 1),
        6 if model == Model::C11 => {
            (Instr::Fence([Ordering::SeqCst, Ordering::AcqRel, Ordering::Acquire][rng.below(3)]), 1)
        }
        6 | 7 => (Instr::Add(var, value, store_order), 1),
        8..=9 => {
            let (body, cost) = random_body(rng, vars, model);
            (Instr::Locked(lock, mode, body), cost + 2)
        }
        10..=11 => {
            let (body, cost) = random_body(rng, vars, model);
            (Instr::Try(lock, mode, body), cost + 2)
        }
        12..=13 => {
            let (body, cost) = random_body(rng, vars, model);
            (Instr::Spin(lock, mode, body), cost + 3)
        }
        14 => (Instr::WaitFor(var), 2),
        _ => (Instr::WaitForEither(var, (var + 1) % vars), 3),
    }
}

fn random_body(rng: &mut Rng, vars: usize, model: Model) -> (Vec<Instr>, usize) {
    match rng.below(5) {
        0 => (Vec::new(), 0),
        // Two locks, in either order: some programs deadlock.
        1 => {
            let mode = if rng.below(2) == 0 { LockKind::Exclusive } else { LockKind::Shared };
            let (inner, cost) = random_instr(rng, vars, model, false);
            (vec![Instr::Locked(rng.below(LOCKS), mode, vec![inner])], cost + 2)
        }
        _ => {
            let (inner, cost) = random_instr(rng, vars, model, false);
            (vec![inner], cost)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SELFCHECK_PROGRAMS=20000 SELFCHECK_SEED=7 cargo test -p anonmem-lab selfcheck` checks longer.
    fn number(variable: &str, default: u32) -> u32 {
        std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
    }

    fn compare(model: Model, programs: u32) {
        let seed = number("SELFCHECK_SEED", 1).into();
        let s = run(seed, number("SELFCHECK_PROGRAMS", programs), model, Broken::Not);
        println!("{} programs: {} executions reduced to {}", s.programs, s.plain, s.reduced);
        assert!(s.mismatches.is_empty(), "{} mismatches, such as {}", s.mismatches.len(), s.mismatches[0]);
        assert_eq!(s.duplicates, 0, "{:?}", s.twice);
    }

    #[test]
    fn reduction_reaches_exactly_the_traces_of_plain_search_under_sc() {
        compare(Model::Sc, 500);
    }

    #[test]
    fn reduction_reaches_exactly_the_traces_of_plain_search_under_c11() {
        compare(Model::C11, 500);
    }

    #[test]
    fn a_wrong_independence_relation_is_noticed() {
        for broken in
            [Broken::LoadStore, Broken::TryLock, Broken::ReaderWriter, Broken::Wait, Broken::Private]
        {
            let summary = run(3, 300, Model::Sc, broken);
            assert!(!summary.mismatches.is_empty(), "{broken:?} went unnoticed");
        }
    }
}
