//! The interval tree against a plain list.

use super::*;
use anonmem_frame::{Frames, Slab, SlabItem};
use anonmem_hal::CpuId;
use anonmem_hosted::{Checked, Hosted};
use std::{println, time::Instant, vec::Vec};

type M = Hosted<Checked>;
type Id = Handle<Chain>;

/// What is linked: an interval and its links.
struct Chain {
    first: Plain<u64, M>,
    last: Plain<u64, M>,
    links: IntervalLinks<M, Chain>,
}

impl SlabItem<M> for Chain {
    type Tag = Self;
    const NAME: &'static str = "test_chain";
    fn new() -> Self {
        Self { first: Plain::new(0), last: Plain::new(0), links: IntervalLinks::new() }
    }
}

struct World {
    frames: Frames<M>,
    chains: Slab<M, Chain>,
    tree: IntervalTree<M, Chain>,
}

impl IntervalNodes<M, Chain> for World {
    fn links(&self, node: Id) -> &IntervalLinks<M, Chain> {
        &self.chains.get(&self.frames, node).links
    }

    fn interval(&self, node: Id) -> (u64, u64) {
        let chain = self.chains.get(&self.frames, node);
        (chain.first.get(), chain.last.get())
    }
}

impl World {
    fn run(f: impl FnOnce(&Self)) {
        let frames = Frames::new(M::new(1 << 15)).unwrap();
        let chains = Slab::new(&frames);
        let world = Self { frames, chains, tree: IntervalTree::new() };
        world.frames.machine().cpus().clone().run_on(CpuId(0), || f(&world));
    }

    fn insert(&self, first: u64, last: u64) -> Id {
        let id = self.chains.alloc(&self.frames).unwrap();
        self.set(id, first, last);
        self.tree.insert(self, id);
        id
    }

    fn set(&self, id: Id, first: u64, last: u64) {
        let chain = self.chains.get(&self.frames, id);
        chain.first.set(first);
        chain.last.set(last);
    }

    fn remove(&self, id: Id) {
        self.tree.remove(self, id);
        self.chains.free(&self.frames, id);
    }

    /// The steps from a node to the root.
    fn depth(&self, id: Id) -> usize {
        core::iter::successors(Some(id), |&id| self.links(id).parent.get().get()).count()
    }

    fn check(&self, model: &[(u64, u64, Id)], first: u64, last: u64) {
        let found: Vec<Id> = self.tree.overlaps(self, first, last).collect();
        let firsts = found.iter().map(|&id| self.interval(id).0);
        assert!(firsts.is_sorted(), "by first index");
        let mut expected: Vec<Id> =
            model.iter().filter(|(f, l, _)| *f <= last && first <= *l).map(|c| c.2).collect();
        let mut found = found;
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{first} to {last}");
    }
}

fn random(state: &mut u64, n: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % n
}

#[test]
fn equals_come_in_the_order_in_which_they_were_linked() {
    World::run(|w| {
        let linked: Vec<_> = (0..40).map(|_| w.insert(5, 9)).collect();
        w.insert(1, 2);
        assert_eq!(w.tree.overlaps(w, 5, 5).collect::<Vec<_>>(), linked);
        w.remove(linked[7]);
        let left: Vec<_> = linked.iter().copied().filter(|&id| id != linked[7]).collect();
        assert_eq!(w.tree.overlaps(w, 0, 9).skip(1).collect::<Vec<_>>(), left);
    });
}

#[test]
fn every_pair_of_intervals_of_four_pages_is_searched_right() {
    World::run(|w| {
        let intervals: Vec<(u64, u64)> = (0..4).flat_map(|f| (f..4).map(move |l| (f, l))).collect();
        for &a in &intervals {
            for &b in &intervals {
                for &c in &intervals {
                    let model = [a, b, c].map(|(f, l)| (f, l, w.insert(f, l)));
                    assert_eq!(w.tree.validate(w).unwrap(), 3);
                    intervals.iter().for_each(|&(f, l)| w.check(&model, f, l));
                    model.iter().for_each(|m| w.remove(m.2));
                    assert!(w.tree.is_empty());
                }
            }
        }
    });
}

#[test]
fn random_intervals_agree_with_a_plain_list() {
    World::run(|w| {
        for seed in 0..20_u64 {
            let (mut state, mut model) = (seed, Vec::new());
            let space = 1 << (3 + seed % 12);
            for round in 0..3_000 {
                let grow = if round < 1_500 { 70 } else { 35 };
                if model.is_empty() || random(&mut state, 100) < grow {
                    let first = random(&mut state, space);
                    let last = first + random(&mut state, 1 + space / 4);
                    model.push((first, last, w.insert(first, last)));
                } else {
                    let i = random(&mut state, model.len() as u64) as usize;
                    w.remove(model.swap_remove(i).2);
                }
                if round % 100 == 0 {
                    assert_eq!(w.tree.validate(w).unwrap(), model.len() as u64);
                }
                if round % 10 == 0 {
                    let first = random(&mut state, space);
                    let last = first + random(&mut state, space);
                    w.check(&model, first, first);
                    w.check(&model, first, last);
                }
            }
            model.drain(..).for_each(|m| w.remove(m.2));
            assert!(w.tree.is_empty());
        }
    });
}

#[test]
fn a_million_equal_intervals_are_linked_walked_and_unlinked_in_reasonable_time() {
    const COUNT: usize = 1_000_000;
    World::run(|w| {
        let start = Instant::now();
        let mut ids: Vec<Id> = (0..COUNT).map(|_| w.insert(7, 9)).collect();
        let insert = start.elapsed();
        let start = Instant::now();
        assert_eq!(w.tree.overlaps(w, 8, 8).count(), COUNT);
        let walk = start.elapsed();
        assert_eq!(w.tree.overlaps(w, 10, 20).count(), 0);
        assert_eq!(w.tree.validate(w).unwrap(), COUNT as u64);
        let deepest = ids.iter().map(|&id| w.depth(id)).max().unwrap();
        assert!(deepest < 80, "the tree is {deepest} deep");
        let mut state = 1;
        (1..COUNT).rev().for_each(|i| ids.swap(i, random(&mut state, i as u64 + 1) as usize));
        let start = Instant::now();
        ids.into_iter().for_each(|id| w.remove(id));
        assert!(w.tree.is_empty());
        let each = |time: std::time::Duration| time.as_nanos() / COUNT as u128;
        println!(
            "insert {} ns, walk {} ns, remove {} ns, deepest {deepest}",
            each(insert),
            each(walk),
            each(start.elapsed())
        );
    });
}

#[test]
fn an_interval_that_changed_while_linked_is_found() {
    World::run(|w| {
        let ids = [w.insert(0, 3), w.insert(5, 6), w.insert(2, 9)];
        w.set(ids[1], 5, 7);
        assert_eq!(w.tree.validate(w).unwrap_err().what, "its interval changed while it was linked");
        w.tree.remove(w, ids[1]);
        w.tree.insert(w, ids[1]);
        assert_eq!(w.tree.validate(w).unwrap(), 3);
        w.check(&[(0, 3, ids[0]), (5, 7, ids[1]), (2, 9, ids[2])], 7, 7);
    });
}

#[test]
fn priorities_are_well_mixed_handles() {
    // Known values of MurmurHash3's 32-bit finalizer.
    let known = [(1, 0x514e_28b7), (2, 0x30f4_c306), (0xdead_beef, 0x0de5_c6a9), (u32::MAX, 0x81f1_6f39)];
    for (raw, expected) in known {
        assert_eq!(mix(raw), expected, "of {raw:#x}");
    }
}

#[test]
#[should_panic(expected = "is in an interval tree already")]
fn linking_twice_panics() {
    World::run(|w| {
        let id = w.insert(1, 2);
        w.tree.insert(w, id);
    });
}

#[test]
#[should_panic(expected = "is in no interval tree")]
fn unlinking_twice_panics() {
    World::run(|w| {
        let id = w.insert(1, 2);
        w.tree.remove(w, id);
        w.tree.remove(w, id);
    });
}
