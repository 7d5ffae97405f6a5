//! One fault after the other: first writes, first reads, and writes over the zero page.

use super::Experiment;
use crate::{
    PAGE, REGION, REGION_PAGES,
    clock::time,
    host::{Folios, Region, folios},
    ours::{Active, fault_all, map_region, region},
    peer::{Space, space::Filled},
    run::{Bench, Samples, Side},
};
use anonmem::{FaultAccess, LockMode};
use std::io;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "faults",
    rows: &["fault-write", "fault-write.vma", "fault-write.spec", "fault-read", "fault-zero-write"],
    threads: 1,
    ours: Some(ours),
    host: Some(host),
    peer: Some(peer),
    folios: folios::ALL,
};

const PAGES: f64 = REGION_PAGES as f64;

/// The row of a write fault in each lock mode.
const MODES: [(&str, LockMode); 3] = [
    ("fault-write", LockMode::Mmap),
    ("fault-write.vma", LockMode::Vma),
    ("fault-write.spec", LockMode::Speculative),
];

fn ours(bench: &Bench, samples: &mut Samples) {
    for (row, mode) in MODES {
        let world = bench.world_in(mode);
        let _cpu = world.enter(0);
        let mm = world.new_mm();
        let _active = Active::on(&mm, 0);
        world.warm();
        let range = map_region(&mm, 0, REGION);
        let measure = || time(|| fault_all(&mm, range, FaultAccess::Write)) / PAGES;
        samples.add_with_faults(row, world, measure);
    }
    let world = &bench.world;
    let _cpu = world.enter(0);
    let mm = world.new_mm();
    let _active = Active::on(&mm, 0);
    world.warm();
    let range = map_region(&mm, 0, REGION);
    let mut add = |row, ns: f64| samples.add(row, Side::Ours, ns / PAGES);
    add("fault-read", time(|| fault_all(&mm, range, FaultAccess::Read)));
    add("fault-zero-write", time(|| fault_all(&mm, range, FaultAccess::Write)));
}

fn peer(bench: &Bench, samples: &mut Samples) {
    let world = &bench.world;
    let _cpu = world.enter(0);
    let space = Space::new(world);
    world.warm();
    let range = region(0, REGION);
    space.map(range, Filled::Lazily);
    let ns = time(|| range.iter_pages().for_each(|va| space.fault_write(va)));
    samples.add("fault-write", Side::Peer, ns / PAGES);
}

fn host(_bench: &Bench, samples: &mut Samples, folios: Folios) -> io::Result<()> {
    let mut add = |row, ns: f64| samples.add(row, Side::Host(folios), ns / PAGES);
    Region::warm(REGION, folios)?;
    let region = Region::new(REGION, folios)?;
    let ns = time(|| region.touch_write(0, PAGE));
    if folios != Folios::Base {
        add("fault-write", ns);
        return Ok(());
    }
    MODES.iter().for_each(|(row, _)| add(row, ns));
    drop(region);

    Region::warm(REGION, folios)?;
    let region = Region::new(REGION, folios)?;
    add("fault-read", time(|| region.touch_read()));
    add("fault-zero-write", time(|| region.touch_write(0, PAGE)));
    Ok(())
}
