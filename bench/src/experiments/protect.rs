//! mprotect of a populated region.

use super::Experiment;
use crate::{
    REGION, REGION_PAGES,
    clock::time,
    host::{Folios, Region, folios},
    ours::{Active, map_region, region},
    peer::{
        Space,
        space::{self, Filled},
    },
    run::{Bench, Samples, Side},
};
use anonmem::{Populate, mmap::Prot};
use std::io;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "mprotect",
    rows: &["mprotect-ro", "mprotect-rw"],
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
    world.warm();
    let range = map_region(&mm, 0, REGION);
    mm.populate(range, Populate::Write).expect("memory for the region");
    for (row, prot) in [("mprotect-ro", Prot::READ), ("mprotect-rw", Prot::READ | Prot::WRITE)] {
        let ns = time(|| mm.mprotect(range, prot).expect("mapped"));
        samples.add(row, Side::Ours, ns / PAGES);
    }
}

fn peer(bench: &Bench, samples: &mut Samples) {
    let world = &bench.world;
    let _cpu = world.enter(0);
    let space = Space::new(world);
    world.warm();
    let range = region(0, REGION);
    space.map(range, Filled::Now);
    for (row, flags) in [("mprotect-ro", space::R), ("mprotect-rw", space::RW)] {
        let ns = time(|| space.protect(range, flags));
        samples.add(row, Side::Peer, ns / PAGES);
    }
}

fn host(_bench: &Bench, samples: &mut Samples, folios: Folios) -> io::Result<()> {
    Region::warm(REGION, folios)?;
    let region = Region::new(REGION, folios)?;
    region.populate()?;
    let both = libc::PROT_READ | libc::PROT_WRITE;
    for (row, prot) in [("mprotect-ro", libc::PROT_READ), ("mprotect-rw", both)] {
        let mut done = Ok(());
        let ns = time(|| done = region.protect(prot));
        done?;
        samples.add(row, Side::Host(folios), ns / PAGES);
    }
    Ok(())
}
