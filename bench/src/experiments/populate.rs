//! Filling, dropping and unmapping a region with one call each.

use super::Experiment;
use crate::{
    REGION, REGION_PAGES,
    clock::time,
    host::{Folios, Region, folios},
    ours::{Active, map_region, region},
    peer::{Space, space::Filled},
    run::{Bench, Samples, Side},
};
use anonmem::{Advice, Populate};
use std::io;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "populate",
    rows: &["populate-4k", "dontneed", "munmap"],
    threads: 1,
    ours: Some(ours),
    host: Some(host),
    peer: Some(peer),
    folios: folios::ALL,
};

const PAGES: f64 = REGION_PAGES as f64;

fn ours(bench: &Bench, samples: &mut Samples) {
    let world = &bench.world;
    let _cpu = world.enter(0);
    let mm = world.new_mm();
    let _active = Active::on(&mm, 0);
    let mut add = |row, ns: f64| samples.add(row, Side::Ours, ns / PAGES);
    let populate = |range| mm.populate(range, Populate::Write).expect("memory for the region");

    world.warm();
    let range = map_region(&mm, 0, REGION);
    add("populate-4k", time(|| populate(range)));
    let dont_need = || mm.madvise(range.start, range.len(), Advice::DontNeed).expect("mapped");
    add("dontneed", time(dont_need));
    populate(range);
    add("munmap", time(|| mm.munmap(range).expect("mapped")));
}

fn peer(bench: &Bench, samples: &mut Samples) {
    let world = &bench.world;
    let _cpu = world.enter(0);
    let space = Space::new(world);
    let mut add = |row, ns: f64| samples.add(row, Side::Peer, ns / PAGES);
    world.warm();
    let range = region(0, REGION);
    add("populate-4k", time(|| space.map(range, Filled::Now)));
    add("munmap", time(|| space.unmap(range)));
}

fn host(_bench: &Bench, samples: &mut Samples, folios: Folios) -> io::Result<()> {
    let mut add = |row, ns: f64| samples.add(row, Side::Host(folios), ns / PAGES);
    Region::warm(REGION, folios)?;
    let region = Region::new(REGION, folios)?;
    let mut done = Ok(());
    add("populate-4k", time(|| done = region.populate()));
    done?;
    let mut done = Ok(());
    add("dontneed", time(|| done = region.dont_need()));
    done?;
    region.populate()?;
    let mut done = Ok(());
    add("munmap", time(|| done = region.unmap()));
    done
}
