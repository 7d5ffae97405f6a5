//! The tree against a plain map.

use super::{find::Entry, *};
use anonmem_frame::Handle;
use anonmem_hal::{CpuId, NrPages, Va, VaRange};
use anonmem_hosted::{Checked, FailurePlan, Failures, Hosted};
use std::{
    collections::BTreeMap,
    println,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
    vec::Vec,
};

type M = Hosted<Checked>;
type Model = BTreeMap<u64, (u64, u32, u64)>;

/// What the trees of these tests map to; never looked at.
enum Area {}

struct World {
    frames: Frames<M>,
    slab: Slab<M, TreeNode<M>>,
    tree: VmaTree<M, Area>,
    failures: Arc<Failures>,
}

impl World {
    fn new() -> Self {
        let machine = M::new(1 << 15);
        let failures = machine.failures().clone();
        let frames = Frames::new(machine).unwrap();
        let slab = Slab::new(&frames);
        Self { frames, slab, tree: VmaTree::new(), failures }
    }

    fn run(f: impl FnOnce(&Self)) {
        let world = Self::new();
        let cpus = world.frames.machine().cpus().clone();
        cpus.run_on(CpuId(0), || {
            f(&world);
            world.tree.clear(world.nodes());
            assert_eq!(world.live_nodes(), 0, "clearing returns every node");
        });
    }

    fn nodes(&self) -> Nodes<'_, M> {
        Nodes { slab: &self.slab, frames: &self.frames }
    }

    fn live_nodes(&self) -> u64 {
        let mut live = 0;
        self.slab.for_each_live(&self.frames, |_, _| live += 1);
        live
    }

    fn insert(&self, start: u64, end: u64, value: u32) {
        let mut prealloc = self.tree.prealloc(self.nodes(), 1).unwrap();
        prealloc.write().insert(range(start, end), handle(value));
    }

    fn erase(&self, start: u64, end: u64) -> u32 {
        self.tree.prealloc_none(self.nodes()).write().erase(range(start, end)).raw().get()
    }

    fn check(&self, model: &Model) {
        let owned = self.tree.validate(self.nodes()).unwrap();
        assert_eq!(owned, self.live_nodes());
        let mut found = Vec::new();
        self.tree.for_each(self.nodes(), |range, value| found.push((pages(range), value.raw().get())));
        assert!(found.into_iter().eq(model.iter().map(|(&s, &(e, v, _))| ((s, e), v))));
    }

    fn check_lookups(&self, model: &Model, page: u64) {
        let (nodes, va) = (self.nodes(), Va::from_page(page));
        let plain = |e: Option<Entry<Area>>| e.map(|(range, value)| (range.start.page(), value.raw().get()));
        let pick = |e: Option<(&u64, &(u64, u32, u64))>| e.map(|(&s, &(_, v, _))| (s, v));
        let expected = pick(entry_above(model, page));
        assert_eq!(plain(self.tree.find(nodes, va)), expected);
        assert_eq!(plain(self.tree.try_find(nodes, va).unwrap()), expected);
        let containing = expected.filter(|&(start, _)| start <= page);
        assert_eq!(plain(self.tree.find_containing(nodes, va)), containing);
        assert_eq!(plain(self.tree.try_find_containing(nodes, va).unwrap()), containing);
        let before = model.range(..page).rev().find(|&(_, &(end, _, _))| end <= page);
        assert_eq!(plain(self.tree.prev(nodes, va)), pick(before));
        assert_eq!(plain(self.tree.next(nodes, va)), pick(model.range(page..).next()));
        assert_eq!(plain(self.tree.last(nodes)), pick(model.last_key_value()));
    }

    fn check_gaps(&self, model: &Model, len: u64, low: u64, high: u64, align: u64) {
        let want = |page: u64| page.is_multiple_of(align) && page >= low && page + len <= high;
        let ask = |f: fn(&_, _, _, _, _) -> Option<Va>| {
            f(&self.tree, self.nodes(), NrPages(len), range(low, high), NrPages(align)).map(Va::page)
        };
        let (top, bottom) = (ask(VmaTree::gap_topdown), ask(VmaTree::gap_bottomup));
        let mut fits = Vec::new();
        let mut end = 0;
        for (start, limit) in model
            .iter()
            .map(|(&s, &(e, _, guard))| (s.saturating_sub(guard), e))
            .chain([(high.max(end), u64::MAX)])
        {
            let (from, to) = (end.max(low).next_multiple_of(align), start.min(high));
            if from + len <= to {
                fits.push((from, (to - len) & !(align - 1)));
            }
            end = limit;
        }
        if align == 1 {
            assert_eq!(top, fits.last().map(|f| f.1), "topdown {len} in {low}..{high}");
            assert_eq!(bottom, fits.first().map(|f| f.0), "bottomup {len} in {low}..{high}");
        } else {
            for found in [top, bottom] {
                assert_eq!(found.is_some(), !fits.is_empty(), "{len} in {low}..{high} by {align}");
                assert!(
                    found.is_none_or(|page| want(page) && fits.iter().any(|f| f.0 <= page && page <= f.1))
                );
            }
        }
    }
}

fn range(start: u64, end: u64) -> VaRange {
    VaRange::new(Va::from_page(start), Va::from_page(end))
}

fn pages(range: VaRange) -> (u64, u64) {
    (range.start.page(), range.end.page())
}

fn handle(value: u32) -> Handle<Area> {
    Handle::from_raw(anonmem_frame::RawHandle::new(value).unwrap())
}

fn entry_above(model: &Model, page: u64) -> Option<(&u64, &(u64, u32, u64))> {
    let below = model.range(..=page).next_back().filter(|(_, e)| e.0 > page);
    below.or_else(|| model.range(page..).next())
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 ^ self.0 >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) % n
    }
}

/// Every way to fill `n` pages: each page is free, starts an entry, or goes on with the one before it.
fn for_each_layout(n: u32, mut f: impl FnMut(&[(u64, u64)])) {
    for code in 0..3_u64.pow(n) {
        let mut layout: Vec<(u64, u64)> = Vec::new();
        let legal = (0..u64::from(n)).all(|page| match code / 3_u64.pow(page as u32) % 3 {
            0 => true,
            1 => {
                layout.push((page, page + 1));
                true
            }
            _ => match layout.last_mut() {
                Some(last) if last.1 == page => {
                    last.1 += 1;
                    true
                }
                _ => false,
            },
        });
        if legal {
            f(&layout);
        }
    }
}

#[test]
fn every_layout_of_seven_pages_is_found_and_its_holes_too() {
    World::run(|w| {
        // Entries below make the layout lie at each place of a leaf, and across two.
        for below in [0, 1, 11, 13, 15, 16, 40] {
            for_each_layout(7, |layout| {
                let mut model = Model::new();
                let mut prealloc = w.tree.prealloc(w.nodes(), 64).unwrap();
                for i in 0..below {
                    model.insert(i, (i + 1, 1 + i as u32, 0));
                    prealloc.write().insert(range(i, i + 1), handle(1 + i as u32));
                }
                for (i, &(start, end)) in layout.iter().enumerate() {
                    let (start, end, guard) = (start + below + 1, end + below + 1, i as u64 % 3);
                    model.insert(start, (end, 100 + i as u32, guard));
                    prealloc.write().insert_guarded(
                        range(start, end),
                        handle(100 + i as u32),
                        NrPages(guard),
                    );
                }
                drop(prealloc);
                w.check(&model);
                for page in below..below + 9 {
                    w.check_lookups(&model, page);
                    for (len, align) in [(1, 1), (2, 1), (4, 1), (1, 2), (2, 4)] {
                        w.check_gaps(&model, len, page, below + 9, align);
                        w.check_gaps(&model, len, 0, page + 1, align);
                    }
                }
                w.tree.clear(w.nodes());
            });
        }
    });
}

#[test]
fn every_order_of_seven_insertions_and_erasures_gives_the_same_map() {
    World::run(|w| {
        for code in 0..5040_u64 {
            let mut left: Vec<u64> = (0..7).collect();
            let mut order = Vec::new();
            let mut rest = code;
            while !left.is_empty() {
                order.push(left.remove((rest % left.len() as u64) as usize));
                rest /= left.len() as u64 + 1;
            }
            let mut model: Model = (0..14).map(|i| (100 + 2 * i, (101 + 2 * i, 50 + i as u32, 0))).collect();
            model.iter().for_each(|(&s, &(e, v, _))| w.insert(s, e, v));
            for &page in &order {
                w.insert(110 + 2 * page + 1, 110 + 2 * page + 2, 1 + page as u32);
                model.insert(110 + 2 * page + 1, (110 + 2 * page + 2, 1 + page as u32, 0));
            }
            w.check(&model);
            for &page in order.iter().rev().take(5) {
                assert_eq!(w.erase(110 + 2 * page + 1, 110 + 2 * page + 2), 1 + page as u32);
                model.remove(&(110 + 2 * page + 1));
            }
            w.check(&model);
            w.tree.clear(w.nodes());
        }
    });
}

/// Random operations on a space of `space` pages, at most `most` entries.
fn random_operations(seed: u64, space: u64, most: usize, rounds: u64, check_every: u64) {
    World::run(|w| {
        let (mut random, mut model) = (Random(seed), Model::new());
        for round in 0..rounds {
            let page = random.below(space);
            // Grow, then shrink, then grow: nodes split and merge on every level.
            let grow = if (round * 4 / rounds).is_multiple_of(2) { 80 } else { 20 };
            if random.below(100) < grow && model.len() < most {
                let above = model.range(page..).next().map_or(space, |(&s, _)| s);
                let taken = model.range(..=page).next_back().is_some_and(|(_, e)| e.0 > page);
                if !taken && above > page {
                    let end = page + 1 + random.below((above - page).min(8));
                    let guard = if random.below(4) == 0 { random.below(6) } else { 0 };
                    let value = round as u32 + 1;
                    model.insert(page, (end, value, guard));
                    let mut prealloc = w.tree.prealloc(w.nodes(), 1).unwrap();
                    prealloc.write().insert_guarded(range(page, end), handle(value), NrPages(guard));
                }
            } else if let Some((&start, &(end, value, guard))) = entry_above(&model, page) {
                match random.below(4) {
                    0 => change(w, &mut model, &mut random, start, space),
                    1 => {
                        model.insert(start, (end, value ^ 0x4000_0000, guard));
                        let mut prealloc = w.tree.prealloc(w.nodes(), 1).unwrap();
                        let mut writer = prealloc.write();
                        assert_eq!(writer.erase(range(start, end)), handle(value));
                        let new = handle(value ^ 0x4000_0000);
                        writer.insert_guarded(range(start, end), new, NrPages(guard));
                    }
                    _ => {
                        model.remove(&start);
                        assert_eq!(w.erase(start, end), value);
                    }
                }
            }
            if round % check_every == 0 {
                w.check(&model);
            }
            w.check_lookups(&model, random.below(space));
            if model.len() < 500 || round % 256 == 0 {
                let (a, b) = (random.below(space), random.below(space));
                let align = 1 << random.below(4);
                w.check_gaps(&model, 1 + random.below(12), a.min(b), a.max(b), align);
                w.check_gaps(&model, 1 + random.below(12), 0, space, 1);
            }
        }
        w.check(&model);
    });
}

/// Moves both ends of the entry at `start` within the holes around it.
fn change(w: &World, model: &mut Model, random: &mut Random, start: u64, space: u64) {
    let (end, value, guard) = model.remove(&start).unwrap();
    let low = model.range(..start).next_back().map_or(0, |(_, e)| e.0);
    let high = model.range(start..).next().map_or(space, |(&s, _)| s);
    let new_start = low + random.below(high - low);
    let new_end = new_start + 1 + random.below(high - new_start);
    model.insert(new_start, (new_end, value, guard));
    let mut none = w.tree.prealloc_none(w.nodes());
    none.write().resize(range(start, end), range(new_start, new_end));
}

#[test]
fn random_operations_on_a_few_entries_agree_with_a_plain_map() {
    for seed in 0..8 {
        random_operations(seed, 64, 30, 4_000, 1);
    }
}

#[test]
fn random_operations_on_hundreds_of_entries_agree_with_a_plain_map() {
    for seed in 0..4 {
        random_operations(seed, 4_000, 1_000, 30_000, 50);
    }
}

#[test]
fn random_operations_on_a_hundred_thousand_entries_agree_with_a_plain_map() {
    random_operations(1, 4_000_000, 100_000, 600_000, 100_000);
}

#[test]
fn maps_that_grow_in_one_direction_fill_their_nodes() {
    World::run(|w| {
        for direction in [1_i64, -1] {
            for i in 0..10_000_i64 {
                let start = (1_000_000 + direction * 2 * i) as u64;
                w.insert(start, start + 1, 1 + i as u32);
            }
            let owned = w.tree.validate(w.nodes()).unwrap();
            assert!(owned < 10_000 / 11, "{owned} nodes for 10,000 entries");
            w.tree.clear(w.nodes());
        }
    });
}

#[test]
fn one_reservation_serves_its_insertions_wherever_they_are() {
    World::run(|w| {
        for seed in 0..200 {
            let (mut random, mut model) = (Random(seed), Model::new());
            let count = random.below(2_000);
            for _ in 0..count {
                let page = random.below(10_000);
                if model.insert(page, (page + 1, 7, 0)).is_none() {
                    w.insert(page, page + 1, 7);
                }
            }
            let batch = 1 + random.below(40);
            let mut prealloc = w.tree.prealloc(w.nodes(), batch as u32).unwrap();
            let mut writer = prealloc.write();
            for _ in 0..batch {
                // An erasure in between may merge nodes that the insertion splits again.
                if let Some((start, _)) = model.pop_first() {
                    writer.erase(range(start, start + 1));
                }
                let page = random.below(10_000);
                if model.insert(page, (page + 1, 8, 0)).is_some() {
                    writer.erase(range(page, page + 1));
                }
                writer.insert(range(page, page + 1), handle(8));
            }
            drop(writer);
            drop(prealloc);
            w.check(&model);
            w.tree.clear(w.nodes());
        }
    });
}

#[test]
fn a_refused_reservation_changes_nothing() {
    World::run(|w| {
        let (mut model, mut random, mut refused) = (Model::new(), Random(3), 0);
        for round in 0..4_000 {
            w.failures.set(FailurePlan::Random { one_in: 2, seed: round });
            let page = random.below(20_000);
            let insertions = 1 + random.below(30) as u32;
            match w.tree.prealloc(w.nodes(), insertions) {
                Ok(mut prealloc) => {
                    if model.insert(page, (page + 1, 9, 0)).is_none() {
                        prealloc.write().insert(range(page, page + 1), handle(9));
                    }
                }
                Err(OutOfMemory) => refused += 1,
            }
            if round % 16 == 0 {
                w.check(&model);
            }
        }
        w.failures.set(FailurePlan::Off);
        w.check(&model);
        assert!(refused > 0, "memory was short at least once");
    });
}

#[test]
#[should_panic(expected = "overlaps an entry")]
fn inserting_over_an_entry_panics() {
    World::run(|w| {
        w.insert(10, 20, 1);
        w.insert(5, 11, 2);
    });
}

#[test]
#[should_panic(expected = "more insertions than nodes were reserved for")]
fn inserting_without_a_reserve_panics() {
    World::run(|w| {
        w.tree.prealloc_none(w.nodes()).write().insert(range(0, 1), handle(1));
    });
}

#[test]
#[should_panic(expected = "overlaps an entry other than")]
fn growing_into_the_next_entry_panics() {
    World::run(|w| {
        w.insert(10, 20, 1);
        w.insert(20, 30, 2);
        w.tree.prealloc_none(w.nodes()).write().resize(range(10, 20), range(10, 21));
    });
}

#[test]
fn a_cursor_goes_on_after_the_tree_has_changed() {
    World::run(|w| {
        (0..100).for_each(|i| w.insert(10 * i, 10 * i + 5, 1 + i as u32));
        let mut cursor = w.tree.cursor(range(103, 500));
        let mut seen = Vec::new();
        while let Some((found, value)) = cursor.next(&w.tree, w.nodes()) {
            seen.push(value.raw().get());
            w.erase(found.start.page(), found.end.page());
        }
        assert!(seen.into_iter().eq(11..=50));
        assert_eq!(w.tree.len(), 60);
        w.tree.validate(w.nodes()).unwrap();
    });
}

/// The value of an entry in the test of concurrent readers: no other range has it.
fn sealed(start: u64, end: u64) -> Handle<Area> {
    handle((start as u32) << 8 | (end - start) as u32)
}

#[test]
fn lock_free_readers_never_see_a_torn_or_half_changed_map() {
    const SPACE: u64 = 3_000;
    let (w, done, found, busy) = (World::new(), AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let cpus = w.frames.machine().cpus().clone();
    // Every tenth page starts a block of ten that is always mapped: whole, or in two parts. What lies
    // between comes and goes.
    cpus.run_on(CpuId(0), || {
        let mut prealloc = w.tree.prealloc(w.nodes(), SPACE as u32 / 20).unwrap();
        let mut writer = prealloc.write();
        (0..SPACE).step_by(20).for_each(|s| writer.insert(range(s, s + 10), sealed(s, s + 10)));
    });
    std::thread::scope(|scope| {
        for reader in 1..4 {
            let (w, cpus, done, found, busy) = (&w, &cpus, &done, &found, &busy);
            scope.spawn(move || {
                let _cpu = cpus.enter(CpuId(reader));
                let mut random = Random(u64::from(reader));
                while !done.load(Ordering::Relaxed) {
                    let page = random.below(SPACE);
                    match w.tree.try_find(w.nodes(), Va::from_page(page)) {
                        Ok(Some((range, value))) => {
                            let (start, end) = pages(range);
                            assert_eq!(value, sealed(start, end), "{range:?} is torn");
                            assert!(page < end && start < page / 20 * 20 + 40);
                            assert!(page % 20 >= 10 || start <= page, "page {page} is always mapped");
                            found.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(None) => assert!(page >= SPACE - 10),
                        Err(Busy) => _ = busy.fetch_add(1, Ordering::Relaxed),
                    }
                }
            });
        }
        cpus.run_on(CpuId(0), || {
            write_until_read(&w, &found);
            done.store(true, Ordering::Relaxed);
            w.tree.validate(w.nodes()).unwrap();
        });
    });
    println!("{} lookups, {} gave up", found.into_inner(), busy.into_inner());
}

fn write_until_read(w: &World, found: &AtomicU64) {
    let mut random = Random(99);
    let mut rounds = 0_u64;
    while rounds < 100_000 || found.load(Ordering::Relaxed) < 100_000 {
        rounds += 1;
        let block = random.below(150) * 20;
        let mut prealloc = w.tree.prealloc(w.nodes(), 8).unwrap();
        let (first, _) = w.tree.find(w.nodes(), Va::from_page(block)).unwrap();
        let mut writer = prealloc.write();
        if random.below(2) == 0 {
            // Split, or merge, the block.
            let (start, end) = pages(first);
            let whole = range(block, block + 10);
            if end == block + 10 {
                let cut = block + 1 + random.below(9);
                writer.resize(whole, range(start, cut));
                writer.erase(range(start, cut));
                writer.insert(range(start, cut), sealed(start, cut));
                writer.insert(range(cut, end), sealed(cut, end));
            } else {
                writer.erase(range(end, block + 10));
                writer.erase(first);
                writer.insert(whole, sealed(block, block + 10));
            }
        } else {
            // Fill the space behind it, or empty it.
            for page in block + 10..block + 20 {
                match w.tree.find_containing(w.nodes(), Va::from_page(page)) {
                    Some((range, _)) => _ = writer.erase(range),
                    None if random.below(8) != 0 && page % 20 < 18 => {
                        writer.insert(range(page, page + 1), sealed(page, page + 1));
                    }
                    None => {}
                }
            }
        }
        drop(writer);
    }
}

#[test]
fn lookups_are_timed() {
    World::run(|w| {
        for count in [10_u64, 1_000, 100_000] {
            let mut pages: Vec<u64> = (0..count).map(|i| i * 4).collect();
            let mut random = Random(count);
            (1..pages.len()).rev().for_each(|i| pages.swap(i, random.below(i as u64 + 1) as usize));
            let start = Instant::now();
            pages.iter().for_each(|&page| w.insert(page, page + 3, page as u32 + 1));
            let insert = start.elapsed().as_nanos() as u64 / count;
            let picks: Vec<Va> = (0..1 << 16).map(|_| Va::from_page(random.below(count) * 4 + 1)).collect();
            let time = |f: &dyn Fn(Va)| {
                let start = Instant::now();
                (0..8).for_each(|_| picks.iter().for_each(|&va| f(va)));
                start.elapsed().as_nanos() as u64 / (8 * picks.len() as u64)
            };
            let find = time(&|va| assert!(w.tree.find(w.nodes(), va).is_some()));
            let try_find = time(&|va| assert!(w.tree.try_find(w.nodes(), va).unwrap().is_some()));
            let high = count * 4 + 100;
            let gap = time(&|_| {
                let found = w.tree.gap_topdown(w.nodes(), NrPages(2), range(0, high - 100), NrPages(1));
                assert!(found.is_none());
            });
            println!(
                "{count} entries: insert {insert} ns, find {find} ns, without lock {try_find} ns, no hole {gap} ns"
            );
            w.tree.clear(w.nodes());
        }
    });
}
