//! mremap of a populated region: whole page tables, then entry by entry.

use super::{
    Experiment,
    setup::{Holds, in_host, in_ours, time_ok},
};
use crate::{
    PAGE, REGION,
    clock::time,
    host::{Folios, Region, folios},
    outcome::{Bench, Samples, Side},
};
use anonmem::RemapFlags;
use anonmem_hal::Va;
use std::io;

const ROWS: [&str; 2] = ["mremap-tables", "mremap-entries"];

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "mremap",
    rows: &ROWS,
    ours: Some(ours),
    host: Some(host),
    folios: folios::ALL,
    ours_large: folios::LARGE,
    ..Experiment::NONE
};

fn ours(bench: &Bench, samples: &mut Samples) {
    let mut add = samples.per_page(Side::Ours);
    in_ours(&bench.world, Holds::Pages, |mm, range| {
        let aligned = Va(range.start.0 + 4 * REGION as u64);
        // The offset of a page: no table of the source covers what one of the target covers.
        let shifted = Va(range.start.0 + 8 * REGION as u64 + PAGE as u64);
        let (mut at, len, flags) = (range.start, REGION as u64, RemapFlags::MAYMOVE | RemapFlags::FIXED);
        for (row, to) in ROWS.into_iter().zip([aligned, shifted]) {
            add(row, time(|| at = mm.mremap(at, len, len, flags, to).expect("memory for a move")));
        }
    });
}

fn host(_bench: &Bench, samples: &mut Samples, folios: Folios) -> io::Result<()> {
    let mut add = samples.per_page(Side::Host(folios));
    let mut region = in_host(folios, Holds::Pages)?;
    let targets = [Region::new(REGION, folios)?, Region::new(REGION + 2 * PAGE, folios)?];
    let places = [targets[0].start(), targets[1].start().wrapping_add(PAGE)];
    for (row, to) in ROWS.into_iter().zip(places) {
        // SAFETY: the target is a region of ours that nobody touches.
        add(row, time_ok(|| unsafe { region.move_to(to) })?);
    }
    Ok(())
}
