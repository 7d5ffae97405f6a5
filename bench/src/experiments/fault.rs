//! One fault after the other: first writes, first reads, and writes over the zero page.

use super::{
    Experiment,
    setup::{Holds, in_host, in_ours, in_peer},
};
use crate::{
    PAGE, REGION, REGION_PAGES,
    clock::time,
    host::{Folios, folios},
    ours::{fault_all, fault_folios, has_all, region},
    outcome::{Bench, Samples, Side},
    peer::space::Filled,
};
use anonmem::{FaultAccess, LockMode};
use std::io;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "faults",
    rows: &["fault-write", "fault-write.vma", "fault-write.spec", "fault-read", "fault-zero-write"],
    ours: Some(ours),
    host: Some(host),
    peer: Some(peer),
    folios: folios::ALL,
    ours_large: folios::LARGE,
    ..Experiment::NONE
};

/// The row of a write fault in each lock mode.
const MODES: [(&str, LockMode); 3] = [
    ("fault-write", LockMode::Mmap),
    ("fault-write.vma", LockMode::Vma),
    ("fault-write.spec", LockMode::Speculative),
];

fn ours(bench: &Bench, samples: &mut Samples) {
    let pages = samples.ours.pages();
    for (row, mode) in MODES {
        let world = bench.world_in(mode);
        in_ours(world, Holds::Nothing, |mm, range| {
            let faults = || fault_folios(mm, range, pages, FaultAccess::Write);
            samples.add_with_faults(row, world, || time(faults) / REGION_PAGES as f64);
            assert!(has_all(mm, range), "a fault took less than a folio");
        });
    }
    let mut add = samples.per_page(Side::Ours);
    in_ours(&bench.world, Holds::Nothing, |mm, range| {
        add("fault-read", time(|| fault_all(mm, range, FaultAccess::Read)));
        add("fault-zero-write", time(|| fault_folios(mm, range, pages, FaultAccess::Write)));
        assert!(has_all(mm, range), "a fault took less than a folio");
    });
}

fn peer(bench: &Bench, samples: &mut Samples) {
    let mut add = samples.per_page(Side::Peer);
    in_peer(&bench.world, |space| {
        let range = region(0, REGION);
        space.map(range, Filled::Lazily);
        add("fault-write", time(|| range.iter_pages().for_each(|va| space.fault_write(va))));
    });
}

fn host(_bench: &Bench, samples: &mut Samples, folios: Folios) -> io::Result<()> {
    let mut add = samples.per_page(Side::Host(folios));
    let region = in_host(folios, Holds::Nothing)?;
    let ns = time(|| region.touch_write(0, PAGE));
    if folios != Folios::Base {
        add("fault-write", ns);
        return Ok(());
    }
    MODES.iter().for_each(|(row, _)| add(row, ns));
    drop(region);

    let region = in_host(folios, Holds::Nothing)?;
    add("fault-read", time(|| region.touch_read()));
    add("fault-zero-write", time(|| region.touch_write(0, PAGE)));
    Ok(())
}
