//! One pair of operations: the cache lines that both touch, and at least one of them writes.

use super::{Op, Relation, ops::Step, side, world};
use crate::{
    Names, Sim,
    accesses::{Access, LINE, Observer, Touch},
    cases::kernel::Kernel,
    observe::{list, observed},
};
use anonmem::LockMode;
use core::panic::Location;
use std::collections::BTreeMap;

/// What one side does to a line that both touch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Use {
    /// The field, with its object's number: `mm#1.lock_seq`.
    pub field: String,
    /// Whether it writes the line.
    pub writes: bool,
    /// How often it comes back to the line after others.
    pub visits: usize,
    /// The line of the production code: `fault/anon.rs:92`.
    pub at: String,
}

/// A cache line that one of the two writes and the other one touches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The fields without numbers, that of the writer if they differ: what the committed table has.
    pub name: String,
    /// What each operation does with it, in the order of the pair.
    pub uses: [Use; 2],
}

/// What an operation does, for the model.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Accesses to shared memory, of any kind.
    pub accesses: usize,
    /// CPUs that it interrupts.
    pub interrupts: usize,
    /// For each line in conflict: how often it is fetched.
    pub visits: Vec<usize>,
    /// For each lock in conflict that is held alone: accesses while it is held, and how many of them fetch a
    /// line.
    pub held: Vec<(usize, usize)>,
}

/// A pair of operations that commute.
#[derive(Clone, Debug)]
pub struct Pair {
    /// How the two sides are related.
    pub relation: Relation,
    /// The lock mode.
    pub mode: LockMode,
    /// The two operations.
    pub ops: [&'static Op; 2],
    /// The lines in conflict, in either order, by name.
    pub conflicts: Vec<Conflict>,
    /// What the second operation costs where both are the same.
    pub cost: Cost,
}

impl Pair {
    /// Whether the two can run without talking to one another.
    pub fn is_conflict_free(&self) -> bool {
        self.conflicts.is_empty()
    }
}

/// Runs both operations in both orders. What panics there is a bug of the operation's preparation.
pub fn compare(relation: Relation, mode: LockMode, ops: [&'static Op; 2]) -> Pair {
    let (forward, cost) = in_order(relation, mode, ops, [0, 1]);
    let (backward, _) = in_order(relation, mode, ops, [1, 0]);
    let mut conflicts: BTreeMap<String, Conflict> = BTreeMap::new();
    for conflict in forward.into_iter().chain(backward) {
        conflicts.entry(conflict.name.clone()).or_insert(conflict);
    }
    Pair { relation, mode, ops, conflicts: conflicts.into_values().collect(), cost }
}

/// Runs the two sides in the order given; the uses of a conflict are in the order of `ops`.
fn in_order(
    relation: Relation,
    mode: LockMode,
    ops: [&'static Op; 2],
    order: [usize; 2],
) -> (Vec<Conflict>, Cost) {
    observed(2, || {
        let kernel = world::build(relation, mode, ops);
        let sides = side::sides(relation);
        let run = |i: usize, observer| {
            let mut names = Names::default();
            kernel.names(&mut names);
            let step: Step = ops[i].run;
            list(sides[i].number, observer, names, || step(&kernel, sides[i]))
        };
        let first = run(order[0], Observer::default());
        let second = run(order[1], Observer::after(&first.accesses));
        let found = conflicts(&first, &second, order[0] == 1);
        let cost = cost(&first, &second);
        end(kernel);
        (found, cost)
    })
}

/// Recounts the world and frees it.
fn end(kernel: Kernel) {
    Sim::on_cpu(0, || kernel.check()).expect("the operations leave a right world");
    kernel.raze();
}

/// What a side does to a line: its accesses, in order.
fn by_line(accesses: &[Access]) -> BTreeMap<usize, Vec<&Access>> {
    let mut lines: BTreeMap<usize, Vec<&Access>> = BTreeMap::new();
    for access in accesses {
        lines.entry(access.line()).or_default().push(access);
    }
    lines
}

/// The lines that both touch and one writes, with the accesses of each side.
fn shared_lines<'a>(first: &'a Observer, second: &'a Observer) -> Vec<[Vec<&'a Access>; 2]> {
    let theirs = by_line(&second.accesses);
    let both =
        by_line(&first.accesses).into_iter().filter_map(|(line, a)| Some([a, theirs.get(&line)?.clone()]));
    both.filter_map(|uses| of_entries(uses, second)).filter(|uses| in_conflict(uses)).collect()
}

fn in_conflict([a, b]: &[Vec<&Access>; 2]) -> bool {
    let writes = |side: &[&Access]| side.iter().any(|access| access.touch.writes());
    !a.is_empty() && !b.is_empty() && (writes(a) || writes(b))
}

/// Entries of a table count as lines of their own. The tables of the simulated machine have eight entries,
/// one line; those of real ones 512, and the two operations are about pages that are far apart.
fn of_entries<'a>([a, b]: [Vec<&'a Access>; 2], names: &Observer) -> Option<[Vec<&'a Access>; 2]> {
    let is_entry = |access: &&Access| {
        names
            .called
            .get(&access.at)
            .is_some_and(|name| name.ends_with(']') && !name.contains('+') && is_table(name))
    };
    if !a.iter().chain(&b).all(is_entry) {
        return Some([a, b]);
    }
    let same = |access: &&&Access, others: &[&Access]| others.iter().any(|other| other.at == access.at);
    let of =
        |mine: &[&'a Access], others: &[&Access]| mine.iter().filter(|x| same(x, others)).copied().collect();
    Some([of(&a, &b), of(&b, &a)])
}

/// Whether a field is an entry of a page table.
fn is_table(name: &str) -> bool {
    name.starts_with("table") || name.contains(".pte[") || name.contains(".pmd[")
}

fn conflicts(first: &Observer, second: &Observer, swapped: bool) -> Vec<Conflict> {
    let lines = shared_lines(first, second);
    lines.into_iter().map(|[a, b]| conflict([(&a, first), (&b, second)], second, swapped)).collect()
}

fn conflict(sides: [(&[&Access], &Observer); 2], names: &Observer, swapped: bool) -> Conflict {
    let mut uses = sides.map(|(accesses, of)| {
        let shown = accesses.iter().find(|a| a.touch.writes()).unwrap_or(&accesses[0]);
        Use {
            field: names.called.get(&shown.at).cloned().unwrap_or_default(),
            writes: shown.touch.writes(),
            visits: visits(accesses, &of.accesses),
            at: place(shown.by),
        }
    });
    let name = name_of(&uses);
    if swapped {
        uses.reverse();
    }
    Conflict { name, uses }
}

/// The fields without numbers; those of both, if both write and they differ.
fn name_of(uses: &[Use; 2]) -> String {
    let [a, b] = uses.each_ref().map(|u| without_numbers(&u.field));
    match (uses[0].writes, uses[1].writes) {
        (true, false) => a,
        (false, true) => b,
        _ if a == b => a,
        _ if a < b => format!("{a} | {b}"),
        _ => format!("{b} | {a}"),
    }
}

/// `mm#1.pages.anon` is `mm.pages.anon`; `mm0.pte[16..24].lock` is `mm.pte.lock`.
fn without_numbers(field: &str) -> String {
    let field = field.split_once('+').map_or(field, |(field, _)| field);
    let mut out = String::new();
    let mut inside = false;
    for letter in field.chars() {
        match letter {
            '[' => inside = true,
            ']' => inside = false,
            '#' | '0'..='9' => {}
            _ if inside => {}
            letter => out.push(letter),
        }
    }
    out
}

/// How often the accesses of a line are not neighbours: each time the line may have gone.
fn visits(of_line: &[&Access], all: &[Access]) -> usize {
    let line = of_line[0].line();
    let mut visits = 0;
    let mut there = false;
    for access in all {
        visits += usize::from(access.line() == line && !there);
        there = access.line() == line;
    }
    visits
}

/// A line of the production code, as short as it is clear.
fn place(at: &Location<'_>) -> String {
    let file = at.file().rsplit_once("crates/").map_or(at.file(), |(_, file)| file);
    format!("{}:{}", file.replacen("/src/", "/", 1), at.line())
}

/// What the second operation costs.
fn cost(first: &Observer, second: &Observer) -> Cost {
    let lines: Vec<usize> = shared_lines(first, second).iter().map(|[_, b]| b[0].line()).collect();
    let visits = lines.iter().map(|line| {
        let of: Vec<_> = second.accesses.iter().filter(|a| a.line() == *line).collect();
        self::visits(&of, &second.accesses)
    });
    Cost {
        accesses: second.accesses.len(),
        interrupts: second.interrupts,
        visits: visits.collect(),
        held: held(&second.accesses, &lines),
    }
}

/// For each lock on one of `lines` that is taken alone: what happens until it is released.
fn held(accesses: &[Access], lines: &[usize]) -> Vec<(usize, usize)> {
    let mut all = Vec::new();
    for (i, lock) in accesses.iter().enumerate() {
        if lock.touch != Touch::Lock || !lines.contains(&(lock.at / LINE)) {
            continue;
        }
        let rest = &accesses[i + 1..];
        let end = rest.iter().position(|a| a.at == lock.at && a.touch == Touch::Unlock).unwrap_or(rest.len());
        let fetched: std::collections::BTreeSet<_> =
            rest[..end].iter().map(Access::line).filter(|line| lines.contains(line)).collect();
        all.push((end, fetched.len()));
    }
    all
}
