//! Two programs need memory, and one has everything in hand that could leave.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Inject, Model, Program, Sim};
use anonmem::{FaultOutcome, LockMode, Prot};

/// The page of the case.
pub const CASE: Case = Case {
    name: "reclaim-gives-up-too-early",
    title: "a program runs out of memory while another's reclaim is about to free some",
    happened: "Linux has met it in many forms (\"too_many_isolated\", \"should_reclaim_retry\"): reclaimers take pages off their lists \
               in batches. With little memory one of them holds all there is; the others find nothing and kill a process.",
    environment: "No frame is free, two pages can be swapped out. CPU0 and CPU1 fault, each in an address space of its own.",
    rule: "Both faults succeed, one after the other if need be. In the second run a transfer may fail, and only then may one of \
           the faults find no memory.",
    mutants: &[Mutant::Patch {
        name: "reclaim-does-not-wait",
        what: "who finds nothing to reclaim does not wait for those who have it",
    }],
    runs: &[
        Run::new(Model::Sc, Extent::Bound(1)),
        Run::new(Model::Sc, Extent::Bound(1)).with(Inject { at_most: 1, device: true, ..Inject::NONE }),
    ],
    program,
};

fn program(_: Option<&str>) -> Box<dyn Program> {
    boxed(
        scenario("reclaim-gives-up-too-early", 1, || world(48 - left_over(48)))
            .cpu("faults", |k| stores(k, 0))
            .cpu("faults", |k| stores(k, 1))
            .check(|k| match (k.load(0, 0), k.load(1, 0)) {
                (Ok(7), Ok(7)) => k.check(),
                found => Err(format!("7 was stored in both, found {found:?}")),
            }),
    )
}

fn stores(k: &Kernel, mm: usize) {
    match k.store(mm, 1, 1) {
        Ok(()) => {}
        Err(FaultOutcome::Oom) if k.sim.misfortunes() == 1 => {}
        other => panic!("a fault ends with {other:?}"),
    }
}

/// How many frames a world of `nr_frames` leaves free.
fn left_over(nr_frames: u64) -> u64 {
    let kernel = world(nr_frames);
    let free = kernel.vm.stats().free;
    (0..2).for_each(|mm| kernel.exit(mm));
    free
}

/// Two programs with a page each, in tables that have room for another.
fn world(nr_frames: u64) -> Kernel {
    let kernel = Kernel::new(nr_frames, LockMode::Mmap);
    kernel.swap_on(0, 4);
    for mm in 0..2 {
        kernel.spawn(mm, &[mm as u32]);
        kernel.map(mm, 0, 2, Prot::READ | Prot::WRITE);
        Sim::on_cpu(mm, || kernel.store_here(mm, 0, 0, 7)).expect("frames");
    }
    kernel
}
