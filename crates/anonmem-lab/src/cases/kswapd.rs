//! The background task that keeps memory free.

use super::{
    Case, Extent, Mutant, Run,
    kernel::{Kernel, boxed, scenario},
};
use crate::{Model, Sim};
use anonmem::{LockMode, Prot};

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// The page of the case.
pub const CASE: Case = Case {
    name: "kswapd-wakes-works-ends",
    title: "the background task misses that it is needed, or that it is to end",
    happened: "Linux, prepare_kswapd_sleep and kthread_should_stop: the order of going to sleep and of asking for the last time was wrong more \
               than once (2009, 2011).",
    environment: "Memory is low. CPU0 faults, which wakes the task, and then ends it. CPU1 is the task.",
    rule: "The task ends; what it made leave comes back.",
    mutants: &[
        Mutant::Patch { name: "kswapd-stop-silent", what: "the task is not woken to end" },
        Mutant::Patch {
            name: "wait-queue-sleeper-unannounced",
            what: "a sleeper of a wait queue is not counted",
        },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        boxed(
            scenario("kswapd-wakes-works-ends", 2, world)
                .cpu("faults, ends it", |k| {
                    assert_eq!(k.store(0, 1, 8), Ok(()));
                    k.vm.kswapd_stop();
                })
                .cpu("kswapd", |k| k.vm.kswapd())
                .check(|k| {
                    k.give_back();
                    match (k.load(0, 0), k.load(0, 1)) {
                        (Ok(7), Ok(8)) => k.check(),
                        found => Err(format!("7 and 8 were stored, found {found:?}")),
                    }
                }),
        )
    },
};

/// The page of the case.
pub const ENDS: Case = Case {
    name: "kswapd-ends",
    title: "the background task, which has work to do, misses that it is to end",
    happened: "As in kswapd-wakes-works-ends.",
    environment: "The task has been woken and has not begun. CPU0 ends it, CPU1 is the task.",
    rule: "The task ends.",
    mutants: &[
        Mutant::Patch { name: "kswapd-forgets-end", what: "a round of work overwrites the request to end" },
        Mutant::Patch { name: "kswapd-stop-silent", what: "the task is not woken to end" },
    ],
    runs: &[Run::new(Model::Sc, Extent::Bound(2)), Run::new(Model::C11, Extent::Bound(2))],
    program: |_| {
        let world = || {
            let kernel = world();
            Sim::on_cpu(0, || kernel.store_here(0, 1, 0, 8)).expect("frames");
            kernel
        };
        boxed(
            scenario("kswapd-ends", 1, world)
                .cpu("ends it", |k| k.vm.kswapd_stop())
                .cpu("kswapd", |k| k.vm.kswapd()),
        )
    },
};

/// The page of the case.
pub const TWO: Case = Case {
    name: "kswapd-two-end",
    title: "one of two background tasks misses that both are to end",
    happened: "As in kswapd-wakes-works-ends: with one task for each node, each of them is stopped by itself.",
    environment: "One wake-up was given. CPU0 ends both tasks, CPU1 and CPU2 are the tasks.",
    rule: "Both end.",
    mutants: &[Mutant::Patch { name: "kswapd-stop-wakes-one", what: "one task is woken to end" }],
    runs: &[Run::new(Model::Sc, Extent::Bound(1))],
    program: |_| {
        let world = || {
            let kernel = world();
            Sim::on_cpu(0, || kernel.store_here(0, 1, 0, 8)).expect("frames");
            kernel
        };
        boxed(
            scenario("kswapd-two-end", 3, world)
                .cpu("ends them", |k| k.vm.kswapd_stop())
                .cpu("kswapd", |k| k.vm.kswapd())
                .cpu("kswapd", |k| k.vm.kswapd()),
        )
    },
};

/// Enough that there is a low watermark.
const FRAMES: u64 = 64;

/// All memory is in use but for what this CPU has on its list, so that the next fault wakes the task. Three
/// pages can leave: more than the reserve.
fn world() -> Kernel {
    let kernel = Kernel::new(FRAMES, LockMode::Mmap);
    kernel.swap_on(0, 4);
    kernel.spawn(0, &[0]);
    kernel.map(0, 0, 4, RW);
    for n in [0, 2, 3] {
        Sim::on_cpu(0, || kernel.store_here(0, n, 0, 7)).expect("frames");
    }
    kernel.eat_until(|| kernel.vm.frames().below_low());
    kernel
}
