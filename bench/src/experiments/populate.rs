//! Filling, dropping and unmapping a region with one call each.

use super::{
    Experiment,
    setup::{Holds, in_host, in_ours, in_peer, time_ok},
};
use crate::{
    REGION,
    clock::time,
    host::{Folios, folios},
    ours::region,
    outcome::{Bench, Samples, Side},
    peer::space::Filled,
};
use anonmem::{Advice, Populate};
use std::io;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "populate",
    rows: &["populate-4k", "dontneed", "munmap"],
    ours: Some(ours),
    host: Some(host),
    peer: Some(peer),
    folios: folios::ALL,
    ours_large: folios::LARGE,
    ..Experiment::NONE
};

fn ours(bench: &Bench, samples: &mut Samples) {
    let mut add = samples.per_page(Side::Ours);
    in_ours(&bench.world, Holds::Nothing, |mm, range| {
        let populate = || mm.populate(range, Populate::Write).expect("memory for the region");
        add("populate-4k", time(populate));
        let dont_need = || mm.madvise(range.start, range.len(), Advice::DontNeed).expect("mapped");
        add("dontneed", time(dont_need));
        populate();
        add("munmap", time(|| mm.munmap(range).expect("mapped")));
    });
}

fn peer(bench: &Bench, samples: &mut Samples) {
    let mut add = samples.per_page(Side::Peer);
    in_peer(&bench.world, |space| {
        let range = region(0, REGION);
        add("populate-4k", time(|| space.map(range, Filled::Now)));
        add("munmap", time(|| space.unmap(range)));
    });
}

fn host(_bench: &Bench, samples: &mut Samples, folios: Folios) -> io::Result<()> {
    let mut add = samples.per_page(Side::Host(folios));
    let region = in_host(folios, Holds::Nothing)?;
    add("populate-4k", time_ok(|| region.populate())?);
    add("dontneed", time_ok(|| region.dont_need())?);
    region.populate()?;
    add("munmap", time_ok(|| region.unmap())?);
    Ok(())
}
