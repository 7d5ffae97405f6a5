//! All pairs of some operations, in some modes, and what they come to.

use super::{
    MODES, OPS, Op, Pair, Relation,
    pair::{self},
};
use anonmem::LockMode;

/// What was compared.
#[derive(Clone, Debug, Default)]
pub struct Study {
    /// Every pair that commutes, by relation, mode and operations.
    pub pairs: Vec<Pair>,
}

/// How many of the pairs of a relation and a mode are free of conflicts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share {
    /// Those without a conflict.
    pub free: usize,
    /// All that commute.
    pub all: usize,
}

impl Share {
    /// In percent.
    pub fn percent(self) -> f64 {
        if self.all == 0 { 100.0 } else { 100.0 * self.free as f64 / self.all as f64 }
    }
}

impl Study {
    /// The pairs of a relation in a mode.
    pub fn of(&self, relation: Relation, mode: LockMode) -> impl Iterator<Item = &Pair> {
        self.pairs.iter().filter(move |p| p.relation == relation && p.mode == mode)
    }

    /// The pair of two operations, in whatever order.
    pub fn pair(&self, relation: Relation, mode: LockMode, a: &Op, b: &Op) -> Option<&Pair> {
        let named = |p: &&Pair, a: &Op, b: &Op| p.ops[0].name == a.name && p.ops[1].name == b.name;
        self.of(relation, mode).find(|p| named(p, a, b) || named(p, b, a))
    }

    /// How many are free of conflicts.
    pub fn share(&self, relation: Option<Relation>, mode: LockMode) -> Share {
        let counted =
            self.pairs.iter().filter(|p| p.mode == mode && relation.is_none_or(|r| r == p.relation));
        counted.fold(Share::default(), |share, pair| Share {
            free: share.free + usize::from(pair.is_conflict_free()),
            all: share.all + 1,
        })
    }
}

/// Compares every pair of `ops` with one another that commutes, in `modes`; calls `progress` with how many of
/// how many are done.
pub fn study(ops: &[&'static Op], modes: &[LockMode], mut progress: impl FnMut(usize, usize)) -> Study {
    let todo = pairs(ops, modes);
    let mut study = Study::default();
    for (done, (relation, mode, ops)) in todo.iter().enumerate() {
        progress(done, todo.len());
        study.pairs.push(pair::compare(*relation, *mode, *ops));
    }
    study
}

/// The whole study, as the committed table has it.
pub fn whole() -> Study {
    study(&OPS.iter().collect::<Vec<_>>(), &MODES, |_, _| ())
}

/// The pairs to compare: each operation with itself and with those after it.
fn pairs(ops: &[&'static Op], modes: &[LockMode]) -> Vec<(Relation, LockMode, [&'static Op; 2])> {
    let mut all = Vec::new();
    for relation in Relation::ALL {
        for mode in modes {
            for (i, a) in ops.iter().enumerate() {
                let commuting = ops[i..].iter().filter(|b| a.commutes_with(b, relation));
                all.extend(commuting.map(|b| (relation, *mode, [*a, *b])));
            }
        }
    }
    all
}
