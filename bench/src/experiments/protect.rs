//! mprotect of a populated region.

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
    peer::space::{self, Filled},
};
use anonmem::Prot;
use std::io;

const ROWS: [&str; 2] = ["mprotect-ro", "mprotect-rw"];

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "mprotect",
    rows: &ROWS,
    ours: Some(ours),
    host: Some(host),
    peer: Some(peer),
    folios: folios::ALL,
    ours_large: folios::LARGE,
    ..Experiment::NONE
};

fn ours(bench: &Bench, samples: &mut Samples) {
    let mut add = samples.per_page(Side::Ours);
    in_ours(&bench.world, Holds::Pages, |mm, range| {
        for (row, prot) in ROWS.into_iter().zip([Prot::READ, Prot::READ | Prot::WRITE]) {
            add(row, time(|| mm.mprotect(range, prot).expect("mapped")));
        }
    });
}

fn peer(bench: &Bench, samples: &mut Samples) {
    let mut add = samples.per_page(Side::Peer);
    in_peer(&bench.world, |space| {
        let range = region(0, REGION);
        space.map(range, Filled::Now);
        for (row, flags) in ROWS.into_iter().zip([space::R, space::RW]) {
            add(row, time(|| space.protect(range, flags)));
        }
    });
}

fn host(_bench: &Bench, samples: &mut Samples, folios: Folios) -> io::Result<()> {
    let mut add = samples.per_page(Side::Host(folios));
    let region = in_host(folios, Holds::Pages)?;
    for (row, prot) in ROWS.into_iter().zip([libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE]) {
        add(row, time_ok(|| region.protect(prot))?);
    }
    Ok(())
}
