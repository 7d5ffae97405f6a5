//! `anonmem bench --rmap-study`: what each reverse map costs, in memory and in steps.
//!
//! A *step* is an access of the memory manager to a word that it shares: a load, a store, or a
//! read-modify-write. A probe counts them, so that a busy machine changes nothing. Steps are not time: they
//! weigh a word in a cache like one in memory.
//!
//! Bytes are those of the objects, without what a slab adds to them, and without VMAs, tables and pages.

mod steps;
mod table;
mod world;

use self::{steps::Counted, world::World};
use anonmem::Machine;
use anonmem_hal::reverse_map::{AnonVmas, Families};
use anonmem_hosted::Hosted;

pub use table::markdown;

/// One line of the study: the same work over each reverse map.
#[derive(Debug)]
pub struct Line {
    /// What was done.
    pub what: String,
    /// What the numbers are of.
    pub unit: Unit,
    /// Over anon_vmas, and over families.
    pub found: [u64; 2],
}

/// What a number is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of objects.
    Bytes,
    /// Steps.
    Steps,
}

/// Does all the work over both. It takes a minute, most of it for the endless chain.
pub fn study() -> Vec<Line> {
    let (ours, other) = (all::<AnonVmas>(), all::<Families>());
    ours.into_iter()
        .zip(other)
        .map(|((what, unit, anon_vmas), (_, _, families))| Line { what, unit, found: [anon_vmas, families] })
        .collect()
}

type Found = (String, Unit, u64);

/// Generations of the endless chain.
const GENERATIONS: u64 = 100_000;

fn all<R: 'static>() -> Vec<Found>
where
    Hosted<Counted<R>>: Machine,
{
    let mut lines = Vec::new();
    let mut note = |what: String, unit, found| lines.push((what, unit, found));
    for (what, bytes) in World::<R>::new().bytes() {
        note(what.to_string(), Unit::Bytes, bytes);
    }
    for vmas in [1, 10, 100, 1000] {
        let (steps, bytes) = World::<R>::new().fork(vmas, 1);
        note(format!("fork of {vmas} VMAs of a page"), Unit::Steps, steps);
        note(format!("what that leaves: {vmas} VMAs"), Unit::Bytes, bytes);
    }
    for pages in [100, 10_000] {
        let (steps, _) = World::<R>::new().fork(1, pages);
        note(format!("fork of one VMA of {pages} pages"), Unit::Steps, steps);
    }
    for generations in [1, 10] {
        let (steps, bytes) = World::<R>::new().deep_fork(generations);
        note(format!("fork of 10 VMAs in generation {generations} of living ancestors"), Unit::Steps, steps);
        note(format!("what that leaves: generation {generations}"), Unit::Bytes, bytes);
    }
    for sharers in [1, 10, 100, 1000] {
        note(format!("walk of a page that {sharers} share"), Unit::Steps, World::<R>::new().shared(sharers));
    }
    for relatives in [10, 100, 1000] {
        let steps = World::<R>::new().private(relatives);
        note(format!("walk of a child's own page among {relatives} siblings"), Unit::Steps, steps);
    }
    for children in [10, 100, 1000] {
        let [copied, unmapped] = World::<R>::new().left_alone(children);
        note(format!("walk of a parent's page that {children} children have copied"), Unit::Steps, copied);
        note(format!("walk of a parent's page that {children} children unmapped"), Unit::Steps, unmapped);
    }
    let (bytes, steps) = World::<R>::new().chain(GENERATIONS);
    note(format!("{GENERATIONS} generations of fork and exit leave"), Unit::Bytes, bytes);
    note("walk of the last one's page".into(), Unit::Steps, steps);
    for remaps in [0, 1, 16, 256] {
        let found = World::<R>::new().remapped(remaps);
        note(format!("{remaps} single pages moved away: in all"), Unit::Bytes, found.bytes);
        note(format!("walk of a page that stayed, {remaps} moved"), Unit::Steps, found.stayed);
        note(format!("walk of a page that moved, {remaps} moved"), Unit::Steps, found.moved);
        note(format!("fork, {remaps} moved"), Unit::Steps, found.fork);
    }
    lines
}
