//! The background task that keeps memory free.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Model, Sim};
use anonmem::{LockMode, Prot};

/// The page of the case.
pub static CASE: Case = Case {
    name: "kswapd-wakes-works-ends",
    title: "the background task misses that it is needed, or that it is to end",
    happened: "Linux, prepare_kswapd_sleep and kthread_should_stop: the order of going to sleep and of asking for the last time was wrong more \
               than once (2009, 2011).",
    environment: "CPU0 faults until memory runs low, which wakes the task, and then ends it. CPU1 is the task.",
    rule: "The task ends; what it made leave comes back.",
    mutants: &[
        Mutant::Patch { name: "kswapd-forgets-end", what: "a round of work overwrites the request to end" },
        Mutant::Patch { name: "kswapd-stop-silent", what: "the task is not woken to end" },
        Mutant::Patch {
            name: "wait-queue-sleeper-unannounced",
            what: "a sleeper of a wait queue is not counted",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("kswapd-wakes-works-ends", 1, || world(FRAMES - left_over()))
                .cpu("faults, ends it", |k| {
                    assert_eq!(k.store(0, 1, 8), Ok(()));
                    k.vm.kswapd_stop();
                })
                .cpu("kswapd", |k| k.vm.kswapd())
                .check(|k| match (k.load(0, 0), k.load(0, 1)) {
                    (Ok(7), Ok(8)) => k.check(),
                    found => Err(format!("7 and 8 were stored, found {found:?}")),
                }),
        )
    },
};

const FRAMES: u64 = 64;
/// Free frames that the program begins with: one fault more, and memory is low.
const SPARE: u64 = 1;

/// How many frames a world of `FRAMES` leaves free, but for the program's.
fn left_over() -> u64 {
    let kernel = world(FRAMES);
    let free = kernel.vm.stats().free;
    kernel.exit(0);
    free - SPARE
}

/// A program with a page that can leave, in a table that has room for another.
fn world(nr_frames: u64) -> Kernel {
    let kernel = Kernel::new(nr_frames, LockMode::Mmap);
    kernel.swap_on(0, 4);
    kernel.spawn(0, &[0]);
    kernel.map(0, 0, 2, Prot::READ | Prot::WRITE);
    Sim::on_cpu(0, || kernel.store_here(0, 0, 0, 7)).expect("frames");
    kernel
}
