//! The physical limit: zeroing and copying pages in the memory that our side uses, by the functions that it
//! uses.

use super::Experiment;
use crate::{
    REGION, REGION_PAGES,
    clock::time,
    outcome::{Bench, Samples, Side},
};
use anonmem_hal::{Order, Pfn, PhysMem};

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "limits",
    rows: &["limit-zeroing", "limit-zeroing-cached", "limit-copying", "limit-copying-cached"],
    ours: Some(ours),
    ..Experiment::NONE
};

/// Pages that fit in a first-level cache together with their copies.
const CACHED: usize = 4;

fn ours(bench: &Bench, samples: &mut Samples) {
    let world = &bench.world;
    let _cpu = world.enter(0);
    world.warm();
    let machine = world.vm.machine();
    let block = world.block(REGION);
    let pages: Vec<_> = block.frames().collect();
    let (low, high) = pages.split_at(pages.len() / 2);
    // SAFETY: the frames are the block's.
    let zero = |page: Pfn| unsafe { machine.zero(page, Order::ZERO) };
    // SAFETY: the frames are the block's, and different ones.
    let copy = |to: Pfn, from: Pfn| unsafe { machine.copy(to, from, Order::ZERO) };
    let mut add = |row, ns: f64, pages: usize| samples.add(row, Side::Ours, ns / pages as f64);

    add("limit-zeroing", time(|| pages.iter().for_each(|&p| zero(p))), REGION_PAGES);
    let copy_all = || low.iter().zip(high).for_each(|(&to, &from)| copy(to, from));
    add("limit-copying", time(copy_all), low.len());
    let cached = || pages[..CACHED].iter().cycle().take(REGION_PAGES);
    add("limit-zeroing-cached", time(|| cached().for_each(|&p| zero(p))), REGION_PAGES);
    let copies = || cached().for_each(|&p| copy(p, p.offset(CACHED as u64)));
    add("limit-copying-cached", time(copies), REGION_PAGES);
}
