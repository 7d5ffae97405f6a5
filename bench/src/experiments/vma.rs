//! Calls that change VMAs and touch no page.

use super::{Experiment, setup::time_per_ok};
use crate::{
    PAGE,
    clock::time_per,
    host::{Folios, Region, region},
    ours::{Active, map_anywhere, map_region, region},
    outcome::{Bench, Samples, Side},
    peer::Space,
};
use anonmem::Prot;
use anonmem_hal::{Va, VaRange};
use std::io;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "mmap, mprotect",
    rows: &["mmap-munmap", "mprotect-split"],
    ours: Some(ours),
    host: Some(host),
    peer: Some(peer),
    ..Experiment::NONE
};

const PAIRS: u32 = 20_000;
const SMALL: usize = 16 * PAGE;
const WHOLE: usize = 64 * PAGE;
/// Offset and length of the part in the middle.
const PART: usize = 8 * PAGE;

fn ours(bench: &Bench, samples: &mut Samples) {
    let world = &bench.world;
    let _cpu = world.enter(0);
    let mm = world.new_mm();
    let _active = Active::on(&mm, 0);
    let pair = || {
        let start = map_anywhere(&mm, SMALL);
        mm.munmap(VaRange { start, end: Va(start.0 + SMALL as u64) }).expect("mapped");
    };
    samples.add("mmap-munmap", Side::Ours, time_per(PAIRS, pair));

    let whole = map_region(&mm, 0, WHOLE);
    let start = Va(whole.start.0 + PART as u64);
    let part = VaRange { start, end: Va(start.0 + PART as u64) };
    let pair = || {
        mm.mprotect(part, Prot::READ).expect("mapped");
        mm.mprotect(part, Prot::READ | Prot::WRITE).expect("mapped");
    };
    samples.add("mprotect-split", Side::Ours, time_per(PAIRS, pair));
}

/// Only the first row: the peer's areas split and never merge.
fn peer(bench: &Bench, samples: &mut Samples) {
    let world = &bench.world;
    let _cpu = world.enter(0);
    let space = Space::new(world);
    let hint = region(0, PAGE).start;
    let pair = || {
        let range = space.map_anywhere(hint, SMALL);
        space.unmap(range);
    };
    samples.add("mmap-munmap", Side::Peer, time_per(PAIRS, pair));
}

fn host(_: &Bench, samples: &mut Samples, _: Folios) -> io::Result<()> {
    let pair = || region::map_anywhere(SMALL).and_then(|at| region::unmap(at, SMALL));
    samples.add("mmap-munmap", Side::Host(Folios::Base), time_per_ok(PAIRS, pair)?);

    let region = Region::new(WHOLE, Folios::Base)?;
    let both = [libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE];
    let pair = || both.into_iter().try_for_each(|prot| region.protect_part(PART, PART, prot));
    samples.add("mprotect-split", Side::Host(Folios::Base), time_per_ok(PAIRS, pair)?);
    Ok(())
}
