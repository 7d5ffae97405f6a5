//! From an address to its VMA.

use super::Experiment;
use crate::{
    PAGE,
    clock::time,
    ours::Machine,
    outcome::{Bench, Samples, Side},
    peer::{Space, space::Filled},
};
use anonmem::{MapBacking, MapFlags, Mm, MmapRequest, Prot};
use anonmem_hal::{Va, VaRange};
use std::hint::black_box;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "VMA lookup",
    rows: &["lookup-10", "lookup-1000", "lookup-100000"],
    ours: Some(ours),
    peer: Some(peer),
    ..Experiment::NONE
};

const LOOKUPS: usize = 200_000;
const FIRST: u64 = 1 << 39;
/// A VMA of one page every three pages: nothing merges.
const STEP: u64 = 3 * PAGE as u64;

/// Maps `n` VMAs that do not touch.
///
/// # Panics
/// Without memory.
pub(crate) fn map_many(mm: &Mm<'_, Machine>, n: u64) {
    for i in 0..n {
        let request = MmapRequest {
            addr: Va(FIRST + i * STEP),
            len: PAGE as u64,
            prot: Prot::READ,
            flags: MapFlags::FIXED,
            backing: MapBacking::Anonymous,
        };
        mm.mmap(request).expect("a mapping");
    }
}

/// Addresses in the `n` VMAs, in an order that no cache foresees.
pub(crate) fn addresses(n: u64, count: usize) -> Vec<Va> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count).map(|_| Va(FIRST + random() % n * STEP)).collect()
}

fn ours(bench: &Bench, samples: &mut Samples) {
    let _cpu = bench.world.enter(0);
    for (row, n) in [("lookup-10", 10), ("lookup-1000", 1000), ("lookup-100000", 100_000)] {
        let mm = bench.world.new_mm();
        map_many(&mm, n);
        let wanted = addresses(n, LOOKUPS);
        let ns = time(|| {
            for &va in &wanted {
                let found = mm.try_vma_range(va);
                assert!(matches!(black_box(found), Ok(Some(range)) if range.contains(va)));
            }
        });
        samples.add(row, Side::Ours, ns / LOOKUPS as f64);
    }
}

fn peer(bench: &Bench, samples: &mut Samples) {
    let _cpu = bench.world.enter(0);
    for (row, n) in [("lookup-10", 10), ("lookup-1000", 1000), ("lookup-100000", 100_000)] {
        let space = Space::new(&bench.world);
        for i in 0..n {
            let start = Va(FIRST + i * STEP);
            space.map(VaRange { start, end: start.next_page() }, Filled::Lazily);
        }
        let wanted = addresses(n, LOOKUPS);
        let ns = time(|| wanted.iter().for_each(|&va| assert!(black_box(space.contains(va)))));
        samples.add(row, Side::Peer, ns / LOOKUPS as f64);
    }
}
