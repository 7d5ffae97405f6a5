//! fork, the child's exit, and the COW faults after it.

use super::Experiment;
use crate::{
    PAGE, REGION, REGION_PAGES,
    clock::{cpu_ns, time},
    host::{
        Folios, Region,
        child::{self, Word},
        folios,
    },
    ours::{Active, fault_all, map_region},
    run::{Bench, Samples, Side},
};
use anonmem::{FaultAccess, Populate};
use std::io;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "fork, COW",
    rows: &["fork", "fork-again", "exit-shared", "cow-copy", "cow-reuse"],
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
    let parent = world.new_mm();
    let _active = Active::on(&parent, 0);
    let mut add = |row, ns: f64| samples.add(row, Side::Ours, ns / PAGES);

    world.warm();
    let range = map_region(&parent, 0, REGION);
    parent.populate(range, Populate::Write).expect("memory for the region");
    let mut child = None;
    add("fork", time(|| child = parent.fork().ok()));
    add("exit-shared", time(|| drop(child.take().expect("memory for a fork"))));
    add("fork-again", time(|| child = parent.fork().ok()));
    drop(child.take().expect("memory for a fork"));
    add("cow-reuse", time(|| fault_all(&parent, range, FaultAccess::Write)));

    let child = parent.fork().expect("memory for a fork");
    {
        let _active = Active::on(&child, 0);
        add("cow-copy", time(|| fault_all(&child, range, FaultAccess::Write)));
    }
}

fn host(bench: &Bench, samples: &mut Samples, folios: Folios) -> io::Result<()> {
    let mut add = |row, ns: f64| samples.add(row, Side::Host(folios), ns / PAGES);
    Region::warm(REGION, folios)?;
    let region = Region::new(REGION, folios)?;
    region.populate()?;
    let first = child::run(&bench.board, || {})?;
    add("fork", first.fork);
    add("exit-shared", first.exit);
    add("fork-again", child::run(&bench.board, || {})?.fork);
    add("cow-reuse", time(|| region.touch_write(0, PAGE)));

    let board = &bench.board;
    child::run(board, || {
        let start = cpu_ns();
        region.touch_write(0, PAGE);
        board.set(Word::Took, cpu_ns() - start);
    })?;
    add("cow-copy", board.get(Word::Took) as f64);
    Ok(())
}
