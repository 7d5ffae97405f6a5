//! mremap of a populated region: whole page tables, then entry by entry.

use super::Experiment;
use crate::{
    PAGE, REGION, REGION_PAGES,
    clock::time,
    host::{Folios, Region, folios},
    ours::{Active, map_region},
    run::{Bench, Samples, Side},
};
use anonmem::{Populate, RemapFlags};
use anonmem_hal::Va;
use std::io;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "mremap",
    rows: &["mremap-tables", "mremap-entries"],
    threads: 1,
    ours: Some(ours),
    host: Some(host),
    peer: None,
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
    let aligned = Va(range.start.0 + 4 * REGION as u64);
    // The offset of a page: no table of the source covers what one of the target covers.
    let shifted = Va(range.start.0 + 8 * REGION as u64 + PAGE as u64);
    let (mut at, len, flags) = (range.start, REGION as u64, RemapFlags::MAYMOVE | RemapFlags::FIXED);
    for (row, to) in [("mremap-tables", aligned), ("mremap-entries", shifted)] {
        let ns = time(|| at = mm.mremap(at, len, len, flags, to).expect("memory for a move"));
        samples.add(row, Side::Ours, ns / PAGES);
    }
}

fn host(_bench: &Bench, samples: &mut Samples, folios: Folios) -> io::Result<()> {
    Region::warm(REGION, folios)?;
    let mut region = Region::new(REGION, folios)?;
    region.populate()?;
    let targets = [Region::new(REGION, folios)?, Region::new(REGION + 2 * PAGE, folios)?];
    let places = [targets[0].start(), targets[1].start().wrapping_add(PAGE)];
    for (row, to) in ["mremap-tables", "mremap-entries"].into_iter().zip(places) {
        let mut done = Ok(());
        // SAFETY: the target is a region of ours that nobody touches.
        let ns = time(|| done = unsafe { region.move_to(to) });
        done?;
        samples.add(row, Side::Host(folios), ns / PAGES);
    }
    Ok(())
}
