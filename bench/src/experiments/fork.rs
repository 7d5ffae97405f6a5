//! fork, the child's exit, and the COW faults after it.

use super::{
    Experiment,
    setup::{Holds, in_host, in_ours},
};
use crate::{
    PAGE,
    clock::{cpu_ns, time},
    host::{
        Folios,
        child::{self, Word},
        folios,
    },
    ours::{Active, fault_folios, has_all},
    outcome::{Bench, Samples, Side},
};
use anonmem::FaultAccess;
use std::io;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "fork, COW",
    rows: &["fork", "fork-again", "exit-shared", "cow-copy", "cow-reuse"],
    ours: Some(ours),
    host: Some(host),
    folios: folios::ALL,
    ours_large: folios::LARGE,
    ..Experiment::NONE
};

fn ours(bench: &Bench, samples: &mut Samples) {
    let pages = samples.ours.pages();
    // A write copies a folio of 64 KiB at most, and a page where policy has no order as small as that.
    let copied = if samples.ours == Folios::Kib64 { pages } else { 1 };
    let mut add = samples.per_page(Side::Ours);
    in_ours(&bench.world, Holds::Pages, |parent, range| {
        let mut child = None;
        add("fork", time(|| child = parent.fork().ok()));
        add("exit-shared", time(|| drop(child.take().expect("memory for a fork"))));
        add("fork-again", time(|| child = parent.fork().ok()));
        drop(child.take().expect("memory for a fork"));
        add("cow-reuse", time(|| fault_folios(parent, range, pages, FaultAccess::Write)));
        assert!(has_all(parent, range), "a fault took less than a folio for its own");

        let child = parent.fork().expect("memory for a fork");
        {
            let _active = Active::on(&child, 0);
            add("cow-copy", time(|| fault_folios(&child, range, copied, FaultAccess::Write)));
            assert!(has_all(&child, range), "a fault copied less than it could");
        }
    });
}

fn host(bench: &Bench, samples: &mut Samples, folios: Folios) -> io::Result<()> {
    let mut add = samples.per_page(Side::Host(folios));
    let region = in_host(folios, Holds::Pages)?;
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
