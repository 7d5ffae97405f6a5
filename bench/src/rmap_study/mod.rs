//! `anonmem bench --rmap-study`: what each reverse map costs, in memory, in steps, and in time.
//!
//! A *step* is an access of the memory manager to a word that it shares: a load, a store, or a
//! read-modify-write. A probe counts them, so that a busy machine changes nothing. Steps are not time: they
//! weigh a word in a cache like one in memory. *Nanoseconds* are CPU time of the one thread that measures, on
//! a machine without the probe; a median of many. Rows about waiting are by the clock on the wall.
//!
//! Bytes are those of the objects, without what a slab adds to them, and without VMAs, tables and pages.

#[cfg(feature = "rmap-family")]
mod cow_context;
mod line;
mod meter;
mod table;
mod waiting;
mod world;

use self::{
    meter::{Counted, Meter},
    world::World,
};
use crate::ours::Kind;
use anonmem::Machine;
use anonmem_hosted::Hosted;

pub use line::{Line, Size};
pub use table::markdown;

/// Does all the work over the reverse map of this bench.
pub fn study(size: Size) -> Vec<Line> {
    let mut lines = bytes::<Kind>(size);
    let (steps, ns) = (costs::<Counted>(size), costs::<Kind>(size));
    lines.extend(steps.into_iter().zip(ns).flat_map(|(steps, ns)| [steps, ns]));
    lines.extend(waiting::rows::<Kind>(size.waiting_ms));
    lines
}

/// What a structure like Linux's proposed CoW contexts would cost, in the lines that it has.
#[cfg(feature = "rmap-family")]
pub fn cow_context(size: Size) -> Vec<Line> {
    let mut lines = cow_context::bytes::<Kind>(size);
    lines.extend(cow_context::rows::<Counted>(size));
    lines.extend(cow_context::rows::<Kind>(size));
    lines
}

/// What objects come to.
fn bytes<C: Meter>(size: Size) -> Vec<Line>
where
    Hosted<C>: Machine,
{
    let mut lines = Vec::new();
    let mut note = |what: String, bytes| lines.push(Line { what, unit: "bytes", found: bytes });
    for (what, bytes) in World::<C>::new().bytes() {
        note(what.to_string(), bytes);
    }
    for vmas in size.up_to([1, 10, 100, 1000]) {
        note(format!("what a fork of {vmas} VMAs leaves"), World::<C>::new().fork_leaves(vmas));
    }
    for generation in [1, 10] {
        let (_, bytes) = World::<C>::new().deep_fork(generation);
        note(format!("what it leaves with 10 VMAs in generation {generation} of living ancestors"), bytes);
    }
    let (bytes, ..) = World::<C>::new().chain(size.generations);
    note(format!("{} generations of fork and exit leave", size.generations), bytes);
    for remaps in size.up_to([0, 1, 16, 256]) {
        note(format!("{remaps} single pages moved away: in all"), World::<C>::new().remapped(remaps).bytes);
    }
    lines
}

/// What calls and walks cost.
fn costs<C: Meter>(size: Size) -> Vec<Line>
where
    Hosted<C>: Machine,
{
    let mut lines = Vec::new();
    let mut note = |what: String, cost| lines.push(Line { what, unit: C::UNIT, found: cost });
    for vmas in size.up_to([1, 10, 100, 1000]) {
        note(format!("fork of {vmas} VMAs without a page"), World::<C>::new().fork(vmas, 0));
        note(format!("fork of {vmas} VMAs of a page"), World::<C>::new().fork(vmas, 1));
    }
    for (vmas, pages) in
        [(1, size.pages / 1000), (1, size.pages / 10), (1, size.pages), (100, size.pages / 100)]
    {
        let cost = World::<C>::with_room_for(vmas * pages).fork(vmas, pages);
        note(format!("fork of {} pages in {vmas} VMAs", vmas * pages), cost);
    }
    for generation in [1, 10] {
        let (cost, _) = World::<C>::new().deep_fork(generation);
        note(format!("fork of 10 VMAs in generation {generation} of living ancestors"), cost);
    }
    for sharers in size.up_to([1, 10, 100, 1000]) {
        note(format!("walk of a page that {sharers} share"), World::<C>::new().shared(sharers));
    }
    for relatives in size.up_to([1, 10, 100, 1000]) {
        let cost = World::<C>::new().private(relatives);
        note(format!("walk of a child's own page among {relatives} siblings"), cost);
    }
    for children in size.up_to([1, 10, 100, 1000]) {
        let [copied, unmapped] = World::<C>::new().left_alone(children);
        note(format!("walk of a parent's page that {children} children have copied"), copied);
        note(format!("walk of a parent's page that {children} children unmapped"), unmapped);
    }
    let (_, each, [own, first]) = World::<C>::new().chain(size.generations);
    note(format!("one of {} generations: fork, store, exit of the parent", size.generations), each);
    note("walk of the last one's page".into(), own);
    note("walk of the first one's page, which the last one has".into(), first);
    for remaps in size.up_to([0, 1, 16, 256]) {
        let found = World::<C>::new().remapped(remaps);
        note(format!("walk of a page that stayed, {remaps} moved"), found.stayed);
        note(format!("walk of a page that moved, {remaps} moved"), found.moved);
        note(format!("fork, {remaps} moved"), found.fork);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_study_has_a_number_in_each_line() {
        let lines = study(Size { most: 10, pages: 1000, generations: 50, waiting_ms: 20 });
        let of = |what: &str, unit| {
            let line = lines.iter().find(|line| line.what == what && line.unit == unit);
            line.unwrap_or_else(|| panic!("no line: {what}")).found
        };
        let each = of("each further VMA with a page", "bytes");
        assert_eq!(each > 0, !cfg!(feature = "rmap-family"));
        assert!(of("fork of 10 VMAs of a page", "steps") > of("fork of 1 VMAs of a page", "steps"));
        assert!(of("walk of a page that 10 share", "ns") > 0);
        let table = markdown(&[("this", &lines), ("the same", &lines)]);
        assert_eq!(table.lines().count(), lines.len() + 2);
    }
}
